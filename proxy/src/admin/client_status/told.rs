//! A `ClientStatusResponse` as JSON.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use prost::{Message, Name};
use serde_json::{Map, Value, json};
use weir_proto::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::TypedExtensionConfig,
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener,
        route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
    },
    extensions::transport_sockets::tls::v3::Secret,
};

use crate::{
    admin::{
        query::Query,
        reply::Reply,
        shown::{any, time},
        state::{Admin, View},
    },
    xds::{
        kind::Kind,
        store::{Absence, Entry, OfKind, Status, Store},
        update::Origin,
    },
};

/// Where it is told as JSON.
pub(in crate::admin) const PATH: &str = "/v3/discovery:client_status";
/// Leaves out what resources say.
pub(super) const WITHOUT_CONTENTS: &str = "exclude_resource_contents";
/// Begins the scope of a source of a named view.
const OF_VIEW: &str = "view/";
/// Stands for everything of a type that was asked for without names.
const EVERYTHING: &str = "*";

/// Answers at [`PATH`].
pub(in crate::admin) fn answer(admin: &Admin, query: &Query) -> Reply {
    let without = query.get(WITHOUT_CONTENTS).is_some_and(|value| value != "false");
    Reply::pretty(&response(admin, !without))
}

/// A `ClientStatusResponse`: a `ClientConfig` for each source of each view, with its node. Its scope is the source's name,
/// after that of the view: `view/shop/ads`.
pub(super) fn response(admin: &Admin, contents: bool) -> Value {
    json!({ "config": admin.views.iter().flat_map(|view| of_view(view, contents)).collect::<Vec<_>>() })
}

fn of_view(view: &View, contents: bool) -> Vec<Value> {
    let node = view.bootstrap.node.as_ref();
    let node = node.and_then(|node| weir_proto::to_json(node).ok()).unwrap_or_else(|| json!({}));
    let stores = view.dynamic.as_ref().map(|dynamic| dynamic.stores()).unwrap_or_default();
    let config = |(name, store): &(Arc<str>, Arc<Store>)| {
        let mut config = Map::new();
        config.insert("node".into(), node.clone());
        let scope = match &view.name {
            Some(view) => format!("{OF_VIEW}{view}/{name}"),
            None => name.to_string(),
        };
        config.insert("client_scope".into(), scope.into());
        let resources = store.kinds().into_iter().flat_map(|kind| of_kind(kind, &store.of(kind), store, contents));
        let resources: Vec<_> = resources.collect();
        if !resources.is_empty() {
            config.insert("generic_xds_configs".into(), resources.into());
        }
        Value::from(config)
    };
    stores.iter().map(config).collect()
}

/// A `GenericXdsConfig` for each resource of a type.
fn of_kind(kind: Kind, of: &OfKind, store: &Store, contents: bool) -> Vec<Value> {
    let mut configs: Vec<_> =
        of.entries.iter().map(|(name, entry)| resource(kind, name, entry, store.is_followed(), contents)).collect();
    // What was asked for as a whole, or refused before it was looked at.
    let malformed = of.refused.as_ref().filter(|_| of.entries.values().all(|entry| entry.refused.is_none()));
    if let Some((why, at)) = malformed {
        let mut config = begun(kind, EVERYTHING);
        state(&mut config, "ERROR", "NACKED");
        config.insert("error_state".into(), json!({ "details": why, "last_update_attempt": time(*at) }));
        configs.push(config.into());
    } else if let Some(absence) = of.unanswered {
        let mut config = begun(kind, EVERYTHING);
        state(&mut config, "NOT_SENT", if absence == Absence::TimedOut { "TIMEOUT" } else { "REQUESTED" });
        configs.push(config.into());
    } else if of.entries.is_empty()
        && let (Some(version), Some(updated)) = (&of.version, of.updated)
    {
        // There is nothing, and the server has said so.
        let mut config = begun(kind, EVERYTHING);
        accepted(&mut config, version, updated);
        state(&mut config, if store.is_followed() { "SYNCED" } else { "STALE" }, "ACKED");
        configs.push(config.into());
    }
    configs
}

fn begun(kind: Kind, name: &str) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("type_url".into(), kind.type_url().into());
    config.insert("name".into(), name.into());
    config
}

fn accepted(config: &mut Map<String, Value>, version: &str, at: SystemTime) {
    config.insert("version_info".into(), version.into());
    config.insert("last_updated".into(), time(at).into());
}

fn state(config: &mut Map<String, Value>, config_status: &str, client_status: &str) {
    config.insert("config_status".into(), config_status.into());
    config.insert("client_status".into(), client_status.into());
}

fn resource(kind: Kind, name: &str, entry: &Entry, followed: bool, contents: bool) -> Value {
    let mut config = begun(kind, name);
    if let Some(in_force) = &entry.accepted {
        accepted(&mut config, &in_force.version, in_force.at);
        let message = Some(&in_force.body).filter(|_| contents).and_then(|body| message(kind, body));
        config.extend(message.map(|message| ("xds_config".to_owned(), message)));
    }
    let current = entry.accepted.as_ref().is_some_and(|accepted| match accepted.origin {
        Origin::Server | Origin::Expiry => followed,
        Origin::File => true,
        Origin::Saved => false,
    });
    let status = entry.status();
    let (of_config, of_client) = match status {
        Status::Nacked => ("ERROR", "NACKED"),
        Status::Acked if current => ("SYNCED", "ACKED"),
        Status::Acked => ("STALE", "ACKED"),
        Status::Requested => ("NOT_SENT", "REQUESTED"),
        Status::Timeout => ("NOT_SENT", "TIMEOUT"),
        Status::DoesNotExist => ("NOT_SENT", "DOES_NOT_EXIST"),
    };
    state(&mut config, of_config, of_client);
    if let Some(refused) = &entry.refused {
        let mut error = Map::new();
        let failed = Some(&refused.body).filter(|_| contents).and_then(|body| message(kind, body));
        error.extend(failed.map(|message| ("failed_configuration".to_owned(), message)));
        error.insert("last_update_attempt".into(), time(refused.at).into());
        error.insert("details".into(), refused.why.as_str().into());
        error.insert("version_info".into(), (&*refused.version).into());
        config.insert("error_state".into(), error.into());
    }
    config.into()
}

/// A resource as JSON, its secrets redacted.
fn message(kind: Kind, body: &Bytes) -> Option<Value> {
    fn of<M: Message + Name + Default>(body: &Bytes) -> Option<Value> {
        M::decode(body.clone()).ok().map(|message| any(&message))
    }
    match kind {
        Kind::Cluster => of::<Cluster>(body),
        Kind::LoadAssignment => of::<ClusterLoadAssignment>(body),
        Kind::Listener => of::<Listener>(body),
        Kind::ScopedRoutes => of::<ScopedRouteConfiguration>(body),
        Kind::Routes => of::<RouteConfiguration>(body),
        Kind::VirtualHost => of::<VirtualHost>(body),
        Kind::Secret => of::<Secret>(body),
        Kind::Extension => of::<TypedExtensionConfig>(body),
        // Nothing is made of it yet.
        Kind::Runtime => None,
    }
}
