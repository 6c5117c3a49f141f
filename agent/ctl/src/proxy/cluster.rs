//! Clusters.

use serde_json::Value;

use super::{Filter, Parts, has, items, lines, rule, text};
use crate::{show::rows::Rows, table::Table};

pub(super) fn resources(dump: &Value, filter: &Filter) -> Vec<Value> {
    let clusters = items(dump, "Clusters", &["dynamic_active_clusters", "static_clusters"]);
    let clusters = clusters.map(|item| &item["cluster"]).filter(|cluster| cluster.is_object());
    let wanted = |cluster: &&Value| {
        let name = text(&cluster["name"]);
        let port = filter.port.map(|port| format!("|{port}|"));
        has(filter.fqdn.as_ref(), name)
            && has(filter.direction.as_ref(), name)
            && has(filter.subset.as_ref(), name)
            && has(port.as_ref(), name)
    };
    let mut clusters: Vec<Value> = clusters.filter(wanted).cloned().collect();
    clusters.sort_by_cached_key(|cluster| Parts::of(text(&cluster["name"])).key());
    clusters
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    lines(rows, ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"], |cluster| {
        let Parts { direction, port, subset, fqdn } = Parts::of(text(&cluster["name"]));
        // What is not set is STATIC.
        let kind = match (cluster["type"].as_str(), cluster["cluster_type"]["name"].as_str()) {
            (Some(kind), _) | (None, Some(kind)) => kind,
            (None, None) => "STATIC",
        };
        let rule = rule(&cluster["metadata"]);
        vec![[fqdn.to_owned(), port.to_owned(), subset.to_owned(), direction.to_owned(), kind.to_owned(), rule]]
    })
}
