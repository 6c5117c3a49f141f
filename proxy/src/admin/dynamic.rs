//! What of `/config_dump` and `/ready` did not come from the bootstrap: clusters and listeners that a management server, or a
//! file, has sent.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use prost::{Message, Name};
use serde_json::{Map, Value, json};
use weir_proto::envoy::{
    config::{cluster::v3::Cluster, listener::v3::Listener, route::v3::RouteConfiguration},
    extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier,
};

use super::{
    managers::managers,
    shown::{any, time},
    state::{Admin, View},
};
use crate::{
    dynamic::status::{Status, Version},
    xds::{
        kind::Kind,
        store::{OfKind, Rejected},
    },
};

/// `version_info` of all of a type, where it comes from somewhere.
pub(super) fn version(view: &View, kind: Kind) -> Map<String, Value> {
    let of = view.dynamic.as_ref().and_then(|dynamic| dynamic.of(kind));
    of.and_then(|of| of.version).map(|version| ("version_info".to_owned(), (&*version).into())).into_iter().collect()
}

/// `dynamic_active_clusters` and `dynamic_warming_clusters`. One that was refused is shown with what is in force, or else
/// among those that are not.
pub(super) fn clusters(view: &View, wanted: &dyn Fn(&str) -> bool) -> Map<String, Value> {
    let Some(dynamic) = &view.dynamic else { return Map::new() };
    let refused = refused(dynamic, Kind::Cluster);
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    let shown = dynamic.clusters();
    for (name, shown) in shown.iter().filter(|(name, _)| wanted(name)) {
        let error = refused.iter().find(|(of, _)| of == name).map(|(_, rejected)| error_state::<Cluster>(rejected));
        let mut items = [
            shown.active.as_ref().map(|version| version_of::<Cluster>(version, "cluster")),
            shown.warming.as_ref().map(|version| version_of::<Cluster>(version, "cluster")),
        ];
        if let (Some(error), Some(item)) = (error, items.iter_mut().flatten().next()) {
            item.insert("error_state".into(), error);
        }
        let [of_active, of_warming] = items;
        active.extend(of_active.map(Value::from));
        warming.extend(of_warming.map(Value::from));
    }
    let never = refused.iter().filter(|(name, _)| wanted(name) && !shown.contains_key(name));
    warming.extend(never.map(|(_, rejected)| json!({"error_state": error_state::<Cluster>(rejected)})));
    let lists = [("dynamic_active_clusters", active), ("dynamic_warming_clusters", warming)];
    lists
        .into_iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(list, items)| (list.to_owned(), items.into()))
        .collect()
}

/// `dynamic_listeners`.
pub(super) fn listeners(view: &View, wanted: &dyn Fn(&str) -> bool) -> Map<String, Value> {
    let Some(dynamic) = &view.dynamic else { return Map::new() };
    let refused = refused(dynamic, Kind::Listener);
    let shown = dynamic.listeners();
    let mut names: Vec<_> = shown.keys().chain(refused.iter().map(|(name, _)| name)).collect();
    names.sort();
    names.dedup();
    let items = names.into_iter().filter(|name| wanted(name)).map(|name| {
        let mut item = Map::new();
        item.insert("name".into(), (&**name).into());
        let shown = shown.get(name).cloned().unwrap_or_default();
        let states =
            [("active_state", shown.active), ("warming_state", shown.warming), ("draining_state", shown.draining)];
        for (field, version) in states {
            let state = version.map(|version| version_of::<Listener>(&version, "listener"));
            item.extend(state.map(|state| (field.to_owned(), state.into())));
        }
        let error = refused.iter().find(|(of, _)| of == name);
        item.extend(error.map(|(_, rejected)| ("error_state".to_owned(), error_state::<Listener>(rejected))));
        Value::from(item)
    });
    let items: Vec<_> = items.collect();
    if items.is_empty() { Map::new() } else { [("dynamic_listeners".to_owned(), items.into())].into_iter().collect() }
}

/// Route configurations that listeners in force bring with them, and since when.
pub(super) fn inline_routes(view: &View) -> Vec<(RouteConfiguration, SystemTime)> {
    let Some(dynamic) = &view.dynamic else { return Vec::new() };
    let active = dynamic.listeners().into_values().filter_map(|shown| shown.active);
    let of = |version: Version| {
        let listener = Listener::decode(version.body).unwrap_or_default();
        let routes = managers(&listener).filter_map(|manager| match manager.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => Some((routes, version.at)),
            _ => None,
        });
        routes.collect::<Vec<_>>()
    };
    active.flat_map(of).collect()
}

/// What is still waited for, a line each.
pub(super) fn missing(admin: &Admin) -> String {
    let of_view = |view: &View| {
        let of = view.name.as_ref().map(|name| format!("view {name}: ")).unwrap_or_default();
        let missing = view.dynamic.as_ref().map(|dynamic| dynamic.missing()).unwrap_or_default();
        let line = |missing: crate::xds::store::Missing| {
            let late = if missing.timed_out { ", later than it was to" } else { "" };
            format!("{of}waits for {} {}{late}\n", missing.kind.short(), missing.name.as_deref().unwrap_or("*"))
        };
        missing.into_iter().map(line).collect::<String>()
    };
    admin.views.iter().map(of_view).collect()
}

/// What came last of a type and was refused, by name.
fn refused(dynamic: &Status, kind: Kind) -> Vec<(Arc<str>, Arc<Rejected>)> {
    let OfKind { entries, .. } = dynamic.of(kind).unwrap_or_default();
    entries.into_iter().filter_map(|(name, entry)| Some((name, entry.refused?))).collect()
}

fn version_of<M: Message + Name + Default>(version: &Version, field: &str) -> Map<String, Value> {
    let mut item = Map::new();
    item.insert("version_info".into(), (&*version.version).into());
    item.extend(message::<M>(&version.body).map(|message| (field.to_owned(), message)));
    item.insert("last_updated".into(), time(version.at).into());
    item
}

/// `UpdateFailureState`.
fn error_state<M: Message + Name + Default>(rejected: &Rejected) -> Value {
    let mut state = Map::new();
    state.extend(message::<M>(&rejected.body).map(|message| ("failed_configuration".to_owned(), message)));
    state.insert("last_update_attempt".into(), time(rejected.at).into());
    state.insert("details".into(), rejected.why.as_str().into());
    state.insert("version_info".into(), (&*rejected.version).into());
    state.into()
}

fn message<M: Message + Name + Default>(body: &Bytes) -> Option<Value> {
    M::decode(body.clone()).ok().map(|message| any(&message))
}
