//! What of `/config_dump` came by itself: cells of the configuration.

use std::sync::Arc;

use prost::{Message, Name};
use serde_json::{Map, Value, json};
use weir_proto::envoy::{
    config::{
        core::v3::{TypedExtensionConfig, data_source::Specifier},
        route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
    },
    extensions::transport_sockets::tls::v3::{Secret, secret::Type},
    service::discovery::v3::DiscoveryResponse,
};

use super::shown::{any, time};
use crate::config::cell::{Accepted, Feed, Kind, Refused, Registry};

/// The cells of a kind whose names are wanted.
fn cells(registry: &Registry, kind: Kind, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = Arc<dyn Feed>> {
    let all = registry.all().into_iter();
    all.filter(move |cell| cell.subject().kind == kind && wanted(&cell.subject().name))
}

/// `ecds_filters`; none: no filter's configuration comes by itself.
pub(super) fn filters(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Option<Vec<Value>> {
    cells(registry, Kind::Extension, |_| true).next()?;
    Some(told::<TypedExtensionConfig>(registry, Kind::Extension, "ecds_filter", wanted))
}

/// `dynamic_route_configs`.
pub(super) fn routes(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let item = |cell: Arc<dyn Feed>| {
        let told = cell.told();
        let accepted = with_hosts(told.accepted?, &*cell);
        let mut item = in_force::<RouteConfiguration>(&accepted, "route_config");
        item.extend(told.refused.as_ref().map(error_state));
        Some(Value::from(item))
    };
    cells(registry, Kind::Routes, wanted).filter_map(item).collect()
}

/// A route configuration of a listener with its virtual hosts that have come by themselves.
pub(super) fn with_all_hosts(registry: &Registry, mut routes: RouteConfiguration) -> RouteConfiguration {
    if routes.vhds.is_some() {
        let mut cells = cells(registry, Kind::Hosts, |name| name == routes.name);
        let came = cells.find_map(|cell| cell.told().accepted);
        routes.virtual_hosts.extend(came.iter().flat_map(hosts));
    }
    routes
}

/// Virtual hosts as their cell has them.
fn hosts(came: &Accepted) -> impl Iterator<Item = VirtualHost> + use<> {
    let came = DiscoveryResponse::decode(came.body.clone()).unwrap_or_default();
    came.resources.into_iter().filter_map(|any| VirtualHost::decode(&*any.value).ok())
}

/// A route configuration with its virtual hosts that have come by themselves, of the version that changed it last.
fn with_hosts(routes: Accepted, cell: &dyn Feed) -> Accepted {
    let came = cell.further().into_iter().find_map(|cell| cell.told().accepted);
    let Some(hosts) = came else { return routes };
    let Ok(mut message) = RouteConfiguration::decode(routes.body.clone()) else { return routes };
    message.virtual_hosts.extend(self::hosts(&hosts));
    let latest = if hosts.at > routes.at { (hosts.version, hosts.at) } else { (routes.version, routes.at) };
    Accepted { body: message.encode_to_vec().into(), version: latest.0, at: latest.1 }
}

/// `dynamic_scoped_route_configs`.
pub(super) fn scopes(registry: &Registry, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let item = |cell: Arc<dyn Feed>| {
        let told = cell.told();
        let accepted = told.accepted?;
        let scopes = DiscoveryResponse::decode(accepted.body).unwrap_or_default().resources;
        let scopes = scopes.into_iter().filter_map(|any| ScopedRouteConfiguration::decode(&*any.value).ok());
        let mut item = Map::new();
        item.insert("name".into(), (&*cell.subject().name).into());
        item.insert("version_info".into(), (&*accepted.version).into());
        item.insert("scoped_route_configs".into(), scopes.map(|scope| any(&scope)).collect());
        item.insert("last_updated".into(), time(accepted.at).into());
        item.extend(told.refused.as_ref().map(error_state));
        Some(Value::from(item))
    };
    cells(registry, Kind::ScopedRoutes, wanted).filter_map(item).collect()
}

fn told<M: Message + Name + Default>(
    registry: &Registry,
    kind: Kind,
    field: &str,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Value> {
    let item = |cell: Arc<dyn Feed>| {
        let told = cell.told();
        let mut item = in_force::<M>(&told.accepted?, field);
        item.extend(told.refused.as_ref().map(error_state));
        Some(Value::from(item))
    };
    cells(registry, kind, wanted).filter_map(item).collect()
}

/// `dynamic_active_secrets` and `dynamic_warming_secrets`.
pub(super) fn secrets(registry: &Registry, wanted: impl Fn(&str) -> bool) -> (Vec<Value>, Vec<Value>) {
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    for cell in cells(registry, Kind::Secret, wanted) {
        let (told, name) = (cell.told(), &cell.subject().name);
        let (list, version, at, secret) = match &told.accepted {
            Some(accepted) => {
                let secret = Secret::decode(accepted.body.clone()).unwrap_or_default();
                (&mut active, &*accepted.version, accepted.at, read(secret))
            }
            None => {
                let nothing = Secret { name: name.to_string(), ..Secret::default() };
                (&mut warming, "uninitialized", cell.since(), nothing)
            }
        };
        let mut item = Map::new();
        item.insert("name".into(), (&**name).into());
        item.insert("version_info".into(), version.into());
        item.insert("last_updated".into(), time(at).into());
        item.insert("secret".into(), any(&secret));
        item.extend(told.refused.as_ref().map(error_state));
        list.push(item.into());
    }
    (active, warming)
}

/// A secret with what is in its files, as Envoy shows it.
fn read(mut secret: Secret) -> Secret {
    let sources = match &mut secret.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            [certificate.certificate_chain.as_mut(), certificate.private_key.as_mut()]
        }
        Some(Type::ValidationContext(context)) => [context.trusted_ca.as_mut(), None],
        _ => [None, None],
    };
    for source in sources.into_iter().flatten() {
        if let Some(Specifier::Filename(path)) = &source.specifier
            && let Ok(bytes) = std::fs::read(path)
        {
            source.specifier = Some(Specifier::InlineBytes(bytes.into()));
        }
    }
    secret
}

fn in_force<M: Message + Name + Default>(accepted: &Accepted, field: &str) -> Map<String, Value> {
    let mut item = Map::new();
    item.insert("version_info".into(), (&*accepted.version).into());
    if let Ok(message) = M::decode(accepted.body.clone()) {
        item.insert(field.into(), any(&message));
    }
    item.insert("last_updated".into(), time(accepted.at).into());
    item
}

/// `UpdateFailureState`.
fn error_state(refused: &Refused) -> (String, Value) {
    let state = json!({
        "last_update_attempt": time(refused.at),
        "details": refused.why,
        "version_info": &*refused.version,
    });
    ("error_state".into(), state)
}
