//! `/config_dump`: the configuration as it was given, as proto3 JSON with the field names of the `.proto` files.
//! Secrets are redacted.

use serde_json::{Map, Value, json};
use weir_proto::envoy::{
    config::bootstrap::v3::bootstrap::StaticResources,
    extensions::filters::network::http_connection_manager::v3::{
        http_connection_manager, scoped_routes::ConfigSpecifier,
    },
};

use super::{
    clusters, discovered, dynamic,
    managers::managers,
    mask::Mask,
    query::Query,
    reply::{Reply, Status},
    shown::{any, shown, time},
    state::{Admin, View},
};
use crate::{matcher::Regex, xds::kind::Kind};

const ADMIN: &str = "envoy.admin.v3";
/// One message of the dump.
struct Part {
    /// Its type in `envoy.admin.v3`.
    name: &'static str,
    fields: Map<String, Value>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self { name, fields: Map::new() }
    }

    fn list(mut self, field: &str, items: Vec<Value>) -> Self {
        if !items.is_empty() {
            self.fields.insert(field.to_owned(), items.into());
        }
        self
    }

    fn fields(mut self, fields: Map<String, Value>) -> Self {
        self.fields.extend(fields);
        self
    }

    fn value(&self) -> Value {
        let mut all = Map::new();
        all.insert("@type".into(), format!("type.googleapis.com/{ADMIN}.{}", self.name).into());
        all.extend(self.fields.clone());
        all.into()
    }
}

pub(super) fn answer(admin: &Admin, view: &View, query: &Query) -> Reply {
    let names = match query.get("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => {
            let pattern = query.get("name_regex").unwrap_or_default();
            let text = format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}");
            return Reply { insists: false, ..plain(Status::BAD_REQUEST, text) };
        }
    };
    let mask = query.get("mask").filter(|mask| !mask.is_empty());
    let parts = parts(admin, view, query.get("include_eds").is_some(), names.as_ref());
    let configs = match (query.get("resource"), mask) {
        (Some(resource), mask) => match elements(&parts, resource, mask) {
            Ok(elements) => elements,
            Err(refusal) => return refusal,
        },
        (None, Some(text)) => {
            let mask = Mask::parse(text);
            let fitting = parts.iter().filter(|part| mask.fits(&format!("{ADMIN}.{}", part.name)));
            let masked: Vec<_> = fitting.map(|part| mask.apply(&part.value())).collect();
            if masked.is_empty() {
                let text = format!("FieldMask {text} could not be successfully applied to any configs.");
                return plain(Status::BAD_REQUEST, text);
            }
            masked
        }
        (None, None) => parts.iter().map(Part::value).collect(),
    };
    let mut dump = Map::new();
    if !configs.is_empty() {
        dump.insert("configs".into(), configs.into());
    }
    Reply::pretty(&dump.into())
}

fn plain(status: Status, text: String) -> Reply {
    Reply { status, content_type: "text/plain", body: text, counted: false, insists: true }
}

/// The items of the list `resource` of the dump.
fn elements(parts: &[Part], resource: &str, mask: Option<&str>) -> Result<Vec<Value>, Reply> {
    let pool = weir_proto::pool();
    for part in parts {
        let Some(message) = pool.get_message_by_name(&format!("{ADMIN}.{}", part.name)) else { continue };
        let Some(field) = message.get_field_by_name(resource) else { continue };
        let kind = field.kind();
        let Some(element) = kind.as_message().filter(|_| field.is_list()) else {
            let text = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field");
            return Err(plain(Status::BAD_REQUEST, text));
        };
        let typed = |item: &Value| {
            let mut all = Map::new();
            all.insert("@type".into(), format!("type.googleapis.com/{}", element.full_name()).into());
            all.extend(item.as_object().cloned().unwrap_or_default());
            Value::Object(all)
        };
        let items = part.fields.get(resource).and_then(Value::as_array);
        let mut items: Vec<_> = items.into_iter().flatten().map(typed).collect();
        if let Some(text) = mask {
            let mask = Mask::parse(text);
            if !mask.fits(element.full_name()) && !items.is_empty() {
                return Err(plain(Status::BAD_REQUEST, format!("FieldMask {text} could not be successfully used.")));
            }
            items = items.iter().map(|item| mask.apply(item)).collect();
        }
        return Ok(items);
    }
    Err(plain(Status::NOT_FOUND, format!("{resource} not found in config dump")))
}

fn parts(admin: &Admin, view: &View, endpoints: bool, names: Option<&Regex>) -> Vec<Part> {
    let updated = time(admin.loaded);
    let none = StaticResources::default();
    let resources = view.bootstrap.static_resources.as_ref().unwrap_or(&none);
    let wanted = |name: &str| names.is_none_or(|names| names.is_match(name.as_bytes()));
    let mut bootstrap = Part::new("BootstrapConfigDump");
    bootstrap.fields.insert("bootstrap".into(), shown(&*view.bootstrap));
    bootstrap.fields.insert("last_updated".into(), updated.clone().into());
    let item = |field: &str, value: Value| json!({field: value, "last_updated": updated});
    let static_clusters =
        resources.clusters.iter().filter(|cluster| wanted(&cluster.name)).map(|cluster| item("cluster", any(cluster)));
    let static_listeners = resources
        .listeners
        .iter()
        .filter(|listener| wanted(&listener.name))
        .map(|listener| item("listener", any(listener)));
    let routes = resources.listeners.iter().flat_map(managers).filter_map(|manager| match manager.route_specifier {
        Some(http_connection_manager::RouteSpecifier::RouteConfig(routes)) => Some(routes),
        _ => None,
    });
    let routes = routes.filter(|routes| wanted(&routes.name));
    let static_routes =
        routes.map(|routes| item("route_config", any(&discovered::with_all_hosts(&view.cells, routes))));
    let inline = dynamic::inline_routes(view).into_iter().filter(|(routes, _)| wanted(&routes.name));
    let inline = inline.map(|(routes, at)| {
        let routes = discovered::with_all_hosts(&view.cells, routes);
        json!({ "route_config": any(&routes), "last_updated": time(at) })
    });
    let static_secrets = resources
        .secrets
        .iter()
        .filter(|secret| wanted(&secret.name))
        .map(|secret| json!({"name": secret.name, "last_updated": updated, "secret": any(secret)}));
    let clusters = Part::new("ClustersConfigDump").fields(dynamic::version(view, Kind::Cluster));
    let clusters = clusters.list("static_clusters", static_clusters.collect());
    let mut parts = vec![bootstrap, clusters.fields(dynamic::clusters(view, &wanted))];
    if let Some(filters) = discovered::filters(&view.cells, wanted) {
        parts.push(Part::new("EcdsConfigDump").list("ecds_filters", filters));
    }
    if endpoints {
        let views = clusters::views(view).into_iter().filter(|cluster| wanted(&cluster.name));
        let (added, fixed): (Vec<_>, Vec<_>) = views.partition(|cluster| cluster.added);
        let configs = |views: Vec<clusters::ClusterView>| {
            views.iter().map(|view| json!({"endpoint_config": view.load_assignment()})).collect()
        };
        let endpoints = Part::new("EndpointsConfigDump").list("static_endpoint_configs", configs(fixed));
        parts.push(endpoints.list("dynamic_endpoint_configs", configs(added)));
    }
    let listeners = Part::new("ListenersConfigDump").fields(dynamic::version(view, Kind::Listener));
    let listeners = listeners.list("static_listeners", static_listeners.collect());
    parts.push(listeners.fields(dynamic::listeners(view, &wanted)));
    let scopes =
        Part::new("ScopedRoutesConfigDump").list("inline_scoped_route_configs", inline_scopes(resources, &updated));
    parts.push(scopes.list("dynamic_scoped_route_configs", discovered::scopes(&view.cells, wanted)));
    let routes = Part::new("RoutesConfigDump").list("static_route_configs", static_routes.chain(inline).collect());
    parts.push(routes.list("dynamic_route_configs", discovered::routes(&view.cells, wanted)));
    let (active, warming) = discovered::secrets(&view.cells, wanted);
    let secrets = Part::new("SecretsConfigDump").list("static_secrets", static_secrets.collect());
    parts.push(secrets.list("dynamic_active_secrets", active).list("dynamic_warming_secrets", warming));
    parts
}

/// `inline_scoped_route_configs`.
fn inline_scopes(resources: &StaticResources, updated: &str) -> Vec<Value> {
    let managers = resources.listeners.iter().flat_map(managers);
    let scoped = managers.filter_map(|manager| match manager.route_specifier {
        Some(http_connection_manager::RouteSpecifier::ScopedRoutes(scoped)) => Some(scoped),
        _ => None,
    });
    let inline = scoped.filter_map(|scoped| match scoped.config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
            let scopes: Vec<_> = list.scoped_route_configurations.iter().map(any).collect();
            Some(json!({"name": scoped.name, "scoped_route_configs": scopes, "last_updated": updated}))
        }
        _ => None,
    });
    inline.collect()
}
