//! Endpoints.

use serde_json::Value;

use super::{Filter, Parts, has, is, items, lines, list, text};
use crate::{show::rows::Rows, table::Table};

/// Endpoints that are not said to be anything else.
const UNKNOWN: &str = "UNKNOWN";

/// Assignments with those endpoints that are wanted.
pub(super) fn resources(dump: &Value, filter: &Filter) -> Vec<Value> {
    let assignments = items(dump, "Endpoints", &["dynamic_endpoint_configs", "static_endpoint_configs"]);
    let assignments = assignments.map(|item| &item["endpoint_config"]);
    let assignments = assignments.filter(|assignment| has(filter.fqdn.as_ref(), text(&assignment["cluster_name"])));
    let mut wanted: Vec<Value> = assignments.filter_map(|assignment| of(assignment, filter)).collect();
    wanted.sort_by_cached_key(|assignment| Parts::of(text(&assignment["cluster_name"])).key());
    wanted
}

fn of(assignment: &Value, filter: &Filter) -> Option<Value> {
    let mut assignment = assignment.clone();
    let mut left = 0;
    for locality in assignment["endpoints"].as_array_mut()? {
        let Some(endpoints) = locality.get_mut("lb_endpoints").and_then(Value::as_array_mut) else { continue };
        endpoints.retain(|endpoint| {
            let port = endpoint["endpoint"]["address"]["socket_address"]["port_value"].as_u64();
            filter.address.as_ref().is_none_or(|_| {
                let addresses = addresses(endpoint);
                addresses.iter().any(|address| {
                    let ip = address.rsplit_once(':').map_or(address.as_str(), |(ip, _)| ip);
                    is(filter.address.as_ref(), address) || is(filter.address.as_ref(), ip)
                })
            }) && filter.port.is_none_or(|wanted| port == Some(wanted.into()))
                && is(filter.status.as_ref(), status(endpoint))
        });
        left += endpoints.len();
    }
    (left > 0).then_some(assignment)
}

fn status(endpoint: &Value) -> &str {
    endpoint["health_status"].as_str().unwrap_or(UNKNOWN)
}

fn addresses(endpoint: &Value) -> Vec<String> {
    let further = list(&endpoint["endpoint"]["additional_addresses"]).iter().map(|further| &further["address"]);
    let address = |address: &Value| {
        let (socket, internal) = (&address["socket_address"], &address["envoy_internal_address"]);
        if socket.is_object() {
            format!("{}:{}", text(&socket["address"]), socket["port_value"].as_u64().unwrap_or_default())
        } else if let Some(path) = address["pipe"]["path"].as_str() {
            path.to_owned()
        } else if let Some(listener) = internal["server_listener_name"].as_str() {
            format!("envoy://{listener}/{}", text(&internal["endpoint_id"]))
        } else {
            "unknown".to_owned()
        }
    };
    std::iter::once(&endpoint["endpoint"]["address"]).chain(further).map(address).collect()
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    lines(rows, ["NAME", "STATUS", "LOCALITY", "CLUSTER"], |assignment| {
        let localities = list(&assignment["endpoints"]).iter();
        let lines = localities.flat_map(|locality| {
            let place = ["region", "zone", "sub_zone"].map(|part| text(&locality["locality"][part]));
            let place = place.into_iter().take_while(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            list(&locality["lb_endpoints"]).iter().map(move |endpoint| {
                let cluster = text(&assignment["cluster_name"]).to_owned();
                [addresses(endpoint).join(","), status(endpoint).to_owned(), place.clone(), cluster]
            })
        });
        lines.collect()
    })
}
