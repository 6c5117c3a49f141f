//! Route configurations.

use serde_json::Value;

use super::{Filter, is, items, lines, list, rule, text, texts};
use crate::{show::rows::Rows, table::Table};

/// Domains that are shown; of more, how many.
const DOMAINS: usize = 2;
/// Istio's cluster that passes everything on: no route worth a line.
const PASSTHROUGH: &str = "PassthroughCluster";

pub(super) fn resources(dump: &Value, filter: &Filter) -> Vec<Value> {
    let routes = items(dump, "Routes", &["dynamic_route_configs", "static_route_configs"]);
    let routes = routes.map(|item| &item["route_config"]).filter(|routes| routes.is_object());
    let mut routes: Vec<Value> =
        routes.filter(|routes| is(filter.name.as_ref(), text(&routes["name"]))).cloned().collect();
    // Istio calls many by their port.
    routes.sort_by_cached_key(|routes| {
        let name = text(&routes["name"]).to_owned();
        (name.parse::<u32>().unwrap_or(u32::MAX), name)
    });
    routes
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    lines(rows, ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"], |routes| {
        let line = |host: &Value, matched: String, of: String| {
            let domains = domains(&texts(&host["domains"]));
            [text(&routes["name"]).to_owned(), text(&host["name"]).to_owned(), domains, matched, of]
        };
        let hosts = list(&routes["virtual_hosts"]).iter();
        let lines = hosts.flat_map(|host| {
            let all = list(&host["routes"]);
            if all.is_empty() {
                return vec![line(host, "/*".to_owned(), "404".to_owned())];
            }
            let all = all.iter().filter(|route| route["route"]["cluster"] != PASSTHROUGH);
            all.map(|route| line(host, matched(&route["match"]), rule(&route["metadata"]))).collect()
        });
        lines.collect()
    })
}

/// The path that a route is for.
pub(super) fn matched(of: &Value) -> String {
    let paths = [
        of["prefix"].as_str().map(|prefix| format!("{prefix}*")),
        of["path_separated_prefix"].as_str().map(|prefix| format!("PathPrefix:{prefix}")),
        of["path"].as_str().map(str::to_owned),
        of["safe_regex"]["regex"].as_str().map(|regex| format!("regex {regex}")),
    ];
    paths.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Domains without their ports, and without the longer spellings of one name.
fn domains(all: &[&str]) -> String {
    if let [only] = all {
        return (*only).to_owned();
    }
    let without_port =
        |domain: &&&str| !domain.contains(':') || (domain.matches(':').count() > 2 && domain.ends_with(']'));
    let names: Vec<&str> = all.iter().filter(without_port).copied().collect();
    let spelled_shorter = |name: &str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|short| names.contains(&short)))
    };
    let names: Vec<&str> = names.iter().filter(|name| !spelled_shorter(name)).copied().collect();
    match names.len().checked_sub(DOMAINS) {
        Some(more @ 1..) => format!("{} + {more} more...", names[..DOMAINS].join(", ")),
        _ => names.join(", "),
    }
}
