//! Filter chains and what they match.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;
use prost::Name;
use prost_types::Any;
use weir_proto::{envoy::config::listener::v3 as proto, xds::r#type::matcher::v3::Matcher};

use super::{
    context::Context,
    fields::{cidrs, item, limit, sub, type_name, unpack},
    network::{self, Kind},
    tls,
    tree::{self, Inputs},
};
use crate::{
    access_log::Place,
    config::{
        error::Error,
        listener::{FilterChain, FilterChainMatch, SourceType},
    },
    drain::Drain,
    matcher::tree::Tree,
    telemetry::stats::Scope,
};

pub(super) fn filter_chain(
    cx: &mut Context,
    message: &proto::FilterChain,
    place: Arc<Place>,
    buffer_limit: usize,
    stats: &Scope,
    at: &str,
) -> Result<FilterChain, Error> {
    let supported = [
        "filter_chain_match",
        "filters",
        "metadata",
        "name",
        "transport_socket",
        "transport_socket_connect_timeout",
        "use_proxy_proto",
    ];
    cx.only(message, at, &supported, &[])?;
    #[expect(deprecated, reason = "published configurations say that it is off")]
    let proxied = message.use_proxy_proto == Some(true);
    if proxied {
        return Err(Error::at(sub(at, "use_proxy_proto"), "not supported yet: there is a listener filter for it"));
    }
    let tls = tls::downstream(cx, message.transport_socket.as_ref(), stats, &sub(at, "transport_socket"))?;
    let timeout_at = sub(at, "transport_socket_connect_timeout");
    let handshake_timeout = limit(message.transport_socket_connect_timeout.as_ref(), None, &timeout_at)?;
    let matches = match &message.filter_chain_match {
        None => FilterChainMatch::default(),
        Some(matches) => filter_chain_match(cx, matches, &sub(at, "filter_chain_match"))?,
    };
    let mut filters = Vec::new();
    let mut terminal = None;
    for (index, filter) in message.filters.iter().enumerate() {
        let at = item(at, "filters", index);
        if terminal.is_some() {
            return Err(Error::at(item_before(&at, index), "terminal filter is not the last one of its chain"));
        }
        let is_last = index + 1 == message.filters.len();
        match network::filter(cx, filter, buffer_limit, stats, is_last, &at)? {
            Kind::Passing(filter) => filters.push(Arc::new(filter)),
            Kind::Terminal(end) => terminal = Some(end),
        }
    }
    let terminal = terminal.ok_or_else(|| {
        let expected =
            "expected one of http_connection_manager, tcp_proxy, echo and direct_response as the last filter";
        Error::at(sub(at, "filters"), expected)
    })?;
    let name = message.name.as_str().into();
    let drain = cx.changing.then(Drain::new);
    let waits = std::mem::take(&mut cx.waits);
    Ok(FilterChain { name, place, matches, tls, handshake_timeout, filters, terminal, waits, drain })
}

fn item_before(at: &str, index: usize) -> String {
    at.replace(&format!("filters[{index}]"), &format!("filters[{}]", index - 1))
}

fn filter_chain_match(
    cx: &mut Context,
    message: &proto::FilterChainMatch,
    at: &str,
) -> Result<FilterChainMatch, Error> {
    let supported = [
        "destination_port",
        "prefix_ranges",
        "direct_source_prefix_ranges",
        "source_type",
        "source_prefix_ranges",
        "source_ports",
        "server_names",
        "transport_protocol",
        "application_protocols",
    ];
    cx.only(message, at, &supported, &[])?;
    let port = |port: u32, at: String| u16::try_from(port).map_err(|_| Error::at(at, format!("{port} is not a port")));
    let mut server_names = Vec::new();
    for (index, name) in message.server_names.iter().enumerate() {
        let at = item(at, "server_names", index);
        // As in Envoy, which looks no further once it has found the first label.
        if !name.starts_with("*.") && name.contains('*') {
            return Err(Error::at(at, format!("partial wildcards are not supported: \"{name}\"")));
        }
        server_names.push(name.to_ascii_lowercase().into());
    }
    use proto::filter_chain_match::ConnectionSourceType;
    Ok(FilterChainMatch {
        destination_port: message.destination_port.map(|n| port(n, sub(at, "destination_port"))).transpose()?,
        prefix_ranges: cidrs(&message.prefix_ranges, at, "prefix_ranges")?,
        server_names,
        transport_protocol: message.transport_protocol.as_str().into(),
        application_protocols: message.application_protocols.iter().map(|name| name.as_str().into()).collect(),
        direct_source_prefix_ranges: cidrs(&message.direct_source_prefix_ranges, at, "direct_source_prefix_ranges")?,
        source_type: match message.source_type() {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            ConnectionSourceType::External => SourceType::External,
        },
        source_prefix_ranges: cidrs(&message.source_prefix_ranges, at, "source_prefix_ranges")?,
        source_ports: message
            .source_ports
            .iter()
            .enumerate()
            .map(|(index, n)| port(*n, item(at, "source_ports", index)))
            .collect::<Result<_, _>>()?,
    })
}

/// What chooses among filter chains by their names.
pub(super) fn matcher(
    cx: &mut Context,
    message: &Matcher,
    chains: &[Arc<FilterChain>],
    at: &str,
) -> Result<Tree<Option<Arc<FilterChain>>>, Error> {
    let mut named = HashMap::new();
    for (index, chain) in chains.iter().enumerate() {
        let at = item(at, "filter_chains", index);
        if chain.name.is_empty() {
            return Err(Error::at(sub(&at, "name"), "a name is required: filter_chain_matcher chooses by it"));
        }
        if chain.matches != FilterChainMatch::default() {
            cx.ignored.push(format!("{}: filter_chain_matcher goes before it", sub(&at, "filter_chain_match")));
        }
        if named.insert(&*chain.name, chain).is_some() {
            return Err(Error::at(sub(&at, "name"), format!("\"{}\" is the name of another one, too", chain.name)));
        }
    }
    let mut chosen = |_: &mut Context, action: &Any, at: &str| {
        // `google.protobuf.StringValue`.
        if type_name(action) != String::full_name() {
            return Err(Error::at(at, format!("expected {}, not {}", String::full_name(), type_name(action))));
        }
        Ok(named.get(unpack::<String>(action, at)?.as_str()).map(|chain| (*chain).clone()))
    };
    tree::tree(cx, message, Inputs::Listener, &mut chosen, &sub(at, "filter_chain_matcher"))
}

/// No two filter chains may match the same, and none the same twice.
pub(super) fn tell_apart(chains: &[Arc<FilterChain>], at: &str) -> Result<(), Error> {
    let mut matches = HashMap::new();
    for (index, chain) in chains.iter().enumerate() {
        for rules in combinations(&chain.matches) {
            let Some(earlier) = matches.insert(rules, index) else { continue };
            let same = chains.get(earlier).is_some_and(|other| other.matches == chain.matches);
            let message = match same {
                true if earlier == index => "a value that is there twice".to_owned(),
                true => {
                    format!("the same matching rules as filter_chains[{earlier}]: every filter chain needs its own")
                }
                false => format!("matching rules that overlap with those of filter_chains[{earlier}]"),
            };
            return Err(Error::at(sub(&item(at, "filter_chains", index), "filter_chain_match"), message));
        }
    }
    Ok(())
}

/// Every combination of values that a match takes: two filter chains must not have one in common.
fn combinations(matches: &FilterChainMatch) -> Vec<String> {
    fn each<T>(values: &[T], show: impl Fn(&T) -> String) -> Vec<String> {
        if values.is_empty() { vec![String::new()] } else { values.iter().map(show).collect() }
    }
    let networks = |ranges: &[IpNet]| each(ranges, IpNet::to_string);
    let names = |names: &[Box<str>]| each(names, |name| name.to_string());
    let dimensions = [
        each(matches.destination_port.as_slice(), u16::to_string),
        networks(&matches.prefix_ranges),
        names(&matches.server_names),
        vec![matches.transport_protocol.to_string()],
        names(&matches.application_protocols),
        networks(&matches.direct_source_prefix_ranges),
        vec![format!("{:?}", matches.source_type)],
        networks(&matches.source_prefix_ranges),
        each(&matches.source_ports, u16::to_string),
    ];
    dimensions.iter().fold(vec![String::new()], |all, values| {
        all.iter().flat_map(|one| values.iter().map(move |value| format!("{one}{value}\n"))).collect()
    })
}
