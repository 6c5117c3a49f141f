//! Which filter chain takes a connection.
//!
//! Criteria are looked at in Envoy's order: destination port, destination address, server name, transport protocol,
//! application protocol, directly connected source address, source type, source address, source port. At each the most
//! specific match wins and the search does not go back: of the chains that are left, only those that match best stay.
//! A listener with a matcher of its own asks that one instead.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    config::listener::{FilterChain, FilterChainMatch, Listener, SourceType},
    filter_state::FilterState,
    matcher::tree::{self, Input, Value},
};

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub destination: SocketAddr,
    pub source: SocketAddr,
    /// The peer of the socket, where a PROXY header names another client.
    pub direct_source: SocketAddr,
    /// Empty: none.
    pub server_name: &'a str,
    pub transport_protocol: &'a str,
    /// The client's, the most preferred first.
    pub application_protocols: Protocols<'a>,
    /// What was passed on with it; none: nothing.
    pub filter_state: Option<&'a FilterState>,
}

impl Facts<'_> {
    fn is_local(&self) -> bool {
        // Of 127.0.0.0/8 Envoy takes only this one for the loopback address.
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        loopback.contains(&self.source.ip()) || self.source.ip() == self.destination.ip()
    }
}

/// What the client may speak after this, the most preferred first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocols<'a> {
    /// What the HTTP inspector found.
    Found(&'static [&'static str]),
    /// What the ClientHello offers.
    Offered(&'a [String]),
}

impl Protocols<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Found(names) => names.len(),
            Self::Offered(names) => names.len(),
        }
    }

    /// As matchers see them: `'h2','http/1.1'`.
    fn quoted(&self) -> String {
        let quote = |name: &str| format!("'{name}'");
        match self {
            Self::Found(names) => names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(","),
            Self::Offered(names) => names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(","),
        }
    }

    fn position(&self, wanted: &[Box<str>]) -> Option<usize> {
        let is_wanted = |name: &str| wanted.iter().any(|wanted| **wanted == *name);
        match self {
            Self::Found(names) => names.iter().position(|name| is_wanted(name)),
            Self::Offered(names) => names.iter().position(|name| is_wanted(name)),
        }
    }
}

impl tree::Facts for Facts<'_> {
    fn value(&self, input: &Input) -> Option<Value<'_>> {
        match input {
            Input::DestinationIp => Some(Value::Address(self.destination.ip())),
            Input::DestinationPort => Some(Value::Port(self.destination.port())),
            Input::SourceIp => Some(Value::Address(self.source.ip())),
            Input::SourcePort => Some(Value::Port(self.source.port())),
            Input::DirectSourceIp => Some(Value::Address(self.direct_source.ip())),
            Input::SourceType => self.is_local().then_some(Value::Text(Cow::Borrowed(b"local"))),
            Input::ServerName => Value::some(self.server_name),
            Input::TransportProtocol => Value::some(self.transport_protocol),
            Input::ApplicationProtocols => {
                let quoted = self.application_protocols.quoted();
                (!quoted.is_empty()).then(|| Value::Text(quoted.into_bytes().into()))
            }
            Input::FilterState(key) => {
                let object = self.filter_state?.get(key)?;
                Some(Value::Text(object.to_string().into_bytes().into()))
            }
            Input::Header(_) | Input::QueryParameter(_) => None,
        }
    }
}

/// A criterion: how well a match fits, the higher the better; none: not at all.
type Criterion = fn(&FilterChainMatch, &Facts<'_>) -> Option<usize>;

const CRITERIA: [Criterion; 9] = [
    |matches, facts| one_of(matches.destination_port.as_slice(), facts.destination.port()),
    |matches, facts| longest_prefix(&matches.prefix_ranges, facts.destination),
    |matches, facts| server_name(matches, facts.server_name),
    |matches, facts| match &*matches.transport_protocol {
        "" => Some(0),
        wanted => (wanted == facts.transport_protocol).then_some(1),
    },
    application_protocol,
    |matches, facts| longest_prefix(&matches.direct_source_prefix_ranges, facts.direct_source),
    |matches, facts| source_type(matches.source_type, facts),
    |matches, facts| longest_prefix(&matches.source_prefix_ranges, facts.source),
    |matches, facts| one_of(&matches.source_ports, facts.source.port()),
];

/// The filter chain for a connection.
pub(super) fn find<'a>(listener: &'a Listener, facts: &Facts<'_>) -> Option<&'a Arc<FilterChain>> {
    if let Some(tree) = &listener.filter_chain_matcher {
        return match tree.find(facts) {
            Some(chain) => chain.as_ref(),
            None => listener.default_filter_chain.as_ref(),
        };
    }
    // The usual case needs no search.
    if let [only] = listener.filter_chains.as_slice()
        && only.matches == FilterChainMatch::default()
    {
        return Some(only);
    }
    let mut left: Vec<&Arc<FilterChain>> = listener.filter_chains.iter().collect();
    for criterion in CRITERIA {
        let best = left.iter().filter_map(|chain| criterion(&chain.matches, facts)).max();
        left.retain(|chain| best.is_some() && criterion(&chain.matches, facts) == best);
        if left.is_empty() {
            break;
        }
    }
    left.first().copied().or(listener.default_filter_chain.as_ref())
}

fn one_of(wanted: &[u16], port: u16) -> Option<usize> {
    if wanted.is_empty() { Some(0) } else { wanted.contains(&port).then_some(1) }
}

/// 0: not restricted; else one more than the length of the longest prefix that matches.
fn longest_prefix(ranges: &[IpNet], address: SocketAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges.iter().filter(|range| range.contains(&address.ip())).map(|range| usize::from(range.prefix_len()) + 1).max()
}

/// An exact name beats any wildcard, and a longer wildcard a shorter one.
fn server_name(matches: &FilterChainMatch, name: &str) -> Option<usize> {
    if matches.server_names.is_empty() {
        return Some(0);
    }
    matches
        .server_names
        .iter()
        .filter_map(|wanted| match wanted.strip_prefix('*') {
            None => (**wanted == *name).then_some(usize::MAX),
            Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len()),
        })
        .max()
}

/// The client's preference counts: its first protocol that some chain has.
fn application_protocol(matches: &FilterChainMatch, facts: &Facts<'_>) -> Option<usize> {
    if matches.application_protocols.is_empty() {
        return Some(0);
    }
    let offered = facts.application_protocols;
    offered.position(&matches.application_protocols).map(|position| offered.len() - position)
}

fn source_type(wanted: SourceType, facts: &Facts<'_>) -> Option<usize> {
    match wanted {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => facts.is_local().then_some(1),
        SourceType::External => (!facts.is_local()).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        listener::Terminal,
        tcp::{Settings, TcpProxy, TcpStats},
    };

    fn chain(name: &str, matches: FilterChainMatch) -> Arc<FilterChain> {
        let proxy = TcpProxy {
            tunnel: None,
            settings: Settings::passthrough("c"),
            access_log: Vec::new(),
            stats: TcpStats::default(),
        };
        let terminal = Terminal::Tcp(Arc::new(proxy));
        Arc::new(FilterChain {
            waits: Vec::new(),
            name: name.into(),
            place: Arc::default(),
            matches,
            tls: None,
            handshake_timeout: None,
            filters: Vec::new(),
            terminal,
            drain: None,
        })
    }

    fn listener(chains: Vec<(&str, FilterChainMatch)>, default: bool) -> Listener {
        let mut listener = Listener::named("l");
        listener.filter_chains = chains.into_iter().map(|(name, matches)| chain(name, matches)).collect();
        listener.default_filter_chain = default.then(|| chain("default", FilterChainMatch::default()));
        listener
    }

    fn chain_name(listener: &Listener, facts: &Facts<'_>) -> Option<String> {
        find(listener, facts).map(|chain| chain.name.to_string())
    }

    fn facts() -> Facts<'static> {
        Facts {
            destination: "10.1.2.3:80".parse().unwrap(),
            source: "10.9.9.9:4000".parse().unwrap(),
            direct_source: "10.9.9.9:4000".parse().unwrap(),
            server_name: "",
            transport_protocol: "raw_buffer",
            application_protocols: Protocols::Found(&[]),
            filter_state: None,
        }
    }

    fn any() -> FilterChainMatch {
        FilterChainMatch::default()
    }

    fn nets(text: &str) -> Vec<IpNet> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn the_longest_prefix_wins_and_there_is_no_way_back() {
        let listener = listener(
            vec![
                ("any", any()),
                ("eight", FilterChainMatch { prefix_ranges: nets("10.0.0.0/8"), ..any() }),
                (
                    "sixteen, other source",
                    FilterChainMatch {
                        prefix_ranges: nets("10.1.0.0/16"),
                        source_prefix_ranges: nets("192.168.0.0/16"),
                        ..any()
                    },
                ),
            ],
            true,
        );
        // The /16 is chosen first; that its source does not match leads to the default chain, not back to the /8.
        assert_eq!(chain_name(&listener, &facts()).as_deref(), Some("default"));
        let elsewhere = Facts { destination: "10.2.0.1:80".parse().unwrap(), ..facts() };
        assert_eq!(chain_name(&listener, &elsewhere).as_deref(), Some("eight"));
    }

    #[test]
    fn the_port_counts_first() {
        let listener = listener(
            vec![
                ("net", FilterChainMatch { prefix_ranges: nets("10.1.2.3/32"), ..any() }),
                ("port", FilterChainMatch { destination_port: Some(80), ..any() }),
            ],
            false,
        );
        assert_eq!(chain_name(&listener, &facts()).as_deref(), Some("port"));
        let other = Facts { destination: "10.1.2.3:81".parse().unwrap(), ..facts() };
        assert_eq!(chain_name(&listener, &other).as_deref(), Some("net"));
    }

    #[test]
    fn application_protocols_and_source_type() {
        let http = FilterChainMatch { application_protocols: vec!["http/1.1".into(), "h2c".into()], ..any() };
        let local = FilterChainMatch { source_type: SourceType::SameIpOrLoopback, ..any() };
        let listener = listener(vec![("tcp", any()), ("http", http), ("local", local)], false);
        assert_eq!(chain_name(&listener, &facts()).as_deref(), Some("tcp"));
        let h2 = Facts { application_protocols: Protocols::Found(&["h2c"]), ..facts() };
        assert_eq!(chain_name(&listener, &h2).as_deref(), Some("http"));
        let loopback = Facts { source: "127.0.0.1:1".parse().unwrap(), ..facts() };
        assert_eq!(chain_name(&listener, &loopback).as_deref(), Some("local"));
    }

    #[test]
    fn server_names() {
        let names = |names: &[&str]| FilterChainMatch {
            server_names: names.iter().map(|name| (*name).into()).collect(),
            ..any()
        };
        let listener = listener(
            vec![("exact", names(&["a.b.test"])), ("long", names(&["*.b.test"])), ("short", names(&["*.test"]))],
            false,
        );
        for (name, expected) in
            [("a.b.test", Some("exact")), ("x.b.test", Some("long")), ("x.test", Some("short")), ("", None)]
        {
            let facts = Facts { server_name: name, ..facts() };
            assert_eq!(chain_name(&listener, &facts).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn nothing_matches_without_a_default() {
        let listener = listener(vec![("port", FilterChainMatch { destination_port: Some(81), ..any() })], false);
        assert!(chain_name(&listener, &facts()).is_none());
    }
}
