//! Listeners: a line for each filter chain.

use serde_json::Value;

use super::{Filter, is, items, lines, list, route, text, texts};
use crate::{show::rows::Rows, table::Table};

/// Istio's cluster that refuses everything: a chain that leads there is no destination.
const BLACK_HOLE: &str = "BlackHoleCluster";
/// Lists of protocols that Istio's chains are for, and what it calls them.
const PROTOCOLS: [(&str, &[&str]); 4] = [
    ("App: HTTP TLS", &["http/1.0", "http/1.1", "h2c", "istio-http/1.0", "istio-http/1.1", "istio-h2"]),
    ("App: Istio HTTP Plain", &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"]),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
];

pub(super) fn resources(dump: &Value, filter: &Filter) -> Vec<Value> {
    let dynamic = items(dump, "Listeners", &["dynamic_listeners"]).map(|item| &item["active_state"]["listener"]);
    let fixed = items(dump, "Listeners", &["static_listeners"]).map(|item| &item["listener"]);
    let wanted = |listener: &&Value| {
        listener.is_object()
            && (filter.address.is_none()
                || addresses(listener).iter().any(|address| is(filter.address.as_ref(), address)))
            && filter.port.is_none_or(|wanted| port(listener) == u64::from(wanted))
            && is(filter.kind.as_ref(), kind(listener))
    };
    let mut listeners: Vec<Value> = dynamic.chain(fixed).filter(wanted).cloned().collect();
    listeners.sort_by_cached_key(|listener| (port(listener), addresses(listener).join(","), kind(listener)));
    listeners
}

fn addresses(listener: &Value) -> Vec<&str> {
    let further = list(&listener["additional_addresses"]).iter().map(|further| &further["address"]);
    std::iter::once(&listener["address"])
        .chain(further)
        .map(|address| {
            let ip = address["socket_address"]["address"].as_str();
            ip.or(address["pipe"]["path"].as_str()).unwrap_or_default()
        })
        .collect()
}

fn port(listener: &Value) -> u64 {
    listener["address"]["socket_address"]["port_value"].as_u64().unwrap_or_default()
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    let default = &listener["default_filter_chain"];
    list(&listener["filter_chains"]).iter().chain(default.is_object().then_some(default))
}

/// What a chain leads to.
enum Terminal<'a> {
    Http(&'a Value),
    Tcp(&'a Value),
    Other,
}

fn terminal(chain: &Value) -> Terminal<'_> {
    let filters = list(&chain["filters"]).iter().map(|filter| &filter["typed_config"]);
    for config in filters {
        let type_url = text(&config["@type"]);
        if type_url.ends_with(".HttpConnectionManager") {
            return Terminal::Http(config);
        }
        if type_url.ends_with(".TcpProxy") && config["cluster"] != BLACK_HOLE {
            return Terminal::Tcp(config);
        }
    }
    Terminal::Other
}

fn kind(listener: &Value) -> &'static str {
    let any = |wanted: fn(&Terminal<'_>) -> bool| chains(listener).any(|chain| wanted(&terminal(chain)));
    let (http, tcp) = (any(|of| matches!(of, Terminal::Http(_))), any(|of| matches!(of, Terminal::Tcp(_))));
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

pub(super) fn table(rows: &Rows<Value>) -> Table {
    lines(rows, ["ADDRESSES", "PORT", "MATCH", "DESTINATION"], |listener| {
        let (addresses, port) = (addresses(listener).join(","), port(listener).to_string());
        let chains = chains(listener).map(|chain| (matched(&chain["filter_chain_match"]), destination(chain)));
        let mut chains: Vec<_> = chains.collect();
        chains.sort_by(|(_, one), (_, other)| other.cmp(one));
        let line = |(matched, destination)| [addresses.clone(), port.clone(), matched, destination];
        chains.into_iter().map(line).collect()
    })
}

fn matched(of: &Value) -> String {
    let mut conditions = Vec::new();
    let names = texts(&of["server_names"]);
    if !names.is_empty() {
        conditions.push(format!("SNI: {}", names.join(",")));
    }
    if let Some(transport) = of["transport_protocol"].as_str() {
        conditions.push(format!("Trans: {transport}"));
    }
    let protocols = texts(&of["application_protocols"]);
    if !protocols.is_empty() {
        let known = PROTOCOLS.iter().find(|(_, list)| *list == protocols);
        conditions.push(known.map_or_else(|| format!("App: {}", protocols.join(",")), |(name, _)| (*name).to_owned()));
    }
    let port = of["destination_port"].as_u64().map(|port| format!(":{port}"));
    let ranges: Vec<_> = list(&of["prefix_ranges"]).iter().map(range).collect();
    if !ranges.is_empty() {
        conditions.push(format!("Addr: {}{}", ranges.join(","), port.unwrap_or_default()));
    } else if let Some(port) = port {
        conditions.push(format!("Addr: *{port}"));
    }
    if conditions.is_empty() { "ALL".to_owned() } else { conditions.join("; ") }
}

fn range(of: &Value) -> String {
    format!("{}/{}", text(&of["address_prefix"]), of["prefix_len"].as_u64().unwrap_or_default())
}

fn destination(chain: &Value) -> String {
    match terminal(chain) {
        Terminal::Http(manager) => {
            let (routes, name) = (&manager["route_config"], &manager["rds"]["route_config_name"]);
            if routes.is_object() {
                inline(routes)
            } else if let Some(name) = name.as_str() {
                format!("Route: {name}")
            } else {
                "HTTP".to_owned()
            }
        }
        Terminal::Tcp(proxy) => match list(&proxy["weighted_clusters"]["clusters"]) {
            [] => cluster(text(&proxy["cluster"])),
            several => several.iter().map(|one| cluster(text(&one["name"]))).collect::<Vec<_>>().join(", "),
        },
        Terminal::Other => "Non-HTTP/Non-TCP".to_owned(),
    }
}

/// Clusters that are no services are called what they are called.
fn cluster(name: &str) -> String {
    if name.contains("Cluster") { name.to_owned() } else { format!("Cluster: {name}") }
}

fn inline(routes: &Value) -> String {
    let hosts = list(&routes["virtual_hosts"]);
    if let [host] = hosts
        && texts(&host["domains"]) == ["*"]
        && let [only] = list(&host["routes"])
        && only["match"]["prefix"] == "/"
        && let Some(name) = only["route"]["cluster"].as_str()
    {
        return cluster(name);
    }
    let host = |host: &Value| {
        let routes = list(&host["routes"]).iter().map(|one| route::matched(&one["match"]));
        let routes = routes.collect::<Vec<_>>().join(", ");
        match texts(&host["domains"])[..] {
            ["*"] => routes,
            ref domains => format!("{} {routes}", domains.join("/")),
        }
    };
    format!("Inline Route: {}", hosts.iter().map(host).collect::<Vec<_>>().join("; "))
}
