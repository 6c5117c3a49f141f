//! Filter-chain matches for fuzzing: a configuration and a connection, both made of the input.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::matching::{self, Facts, Protocols};
use crate::config;

const NAMES: [&str; 6] = ["a.test", "*.a.test", "*.test", "b.a.test", "test", "c.b.a.test"];
const PROTOCOLS: [&str; 4] = ["h2", "http/1.1", "h2c", "other"];
const SOURCE_TYPES: [&str; 3] = ["ANY", "SAME_IP_OR_LOOPBACK", "EXTERNAL"];

/// Takes bytes off the input; zero when there are none left.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// An address in 10.0.0.0/8, or loopback.
    fn address(&mut self) -> SocketAddr {
        let (one, two) = (self.next(), self.next());
        let ip = if one == 127 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(10, one, 0, two & 3) };
        SocketAddr::new(IpAddr::V4(ip), u16::from(self.next() & 3) + 80)
    }

    fn ranges(&mut self, field: &str) -> String {
        match self.next() {
            choice @ 1..=32 => {
                let network =
                    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, self.next(), 0, 1)) & (u32::MAX << (32 - choice)));
                format!("{field}: [{{ address_prefix: {network}, prefix_len: {choice} }}], ")
            }
            _ => String::new(),
        }
    }

    fn matches(&mut self) -> String {
        let mut text = String::new();
        if let port @ 1..=3 = self.next() & 7 {
            text.push_str(&format!("destination_port: {}, ", 80 + port));
        }
        text.push_str(&self.ranges("prefix_ranges"));
        if let Some(name) = NAMES.get(usize::from(self.next() & 15)) {
            text.push_str(&format!("server_names: [\"{name}\"], "));
        }
        match self.next() & 7 {
            1 => text.push_str("transport_protocol: tls, "),
            2 => text.push_str("transport_protocol: raw_buffer, "),
            _ => {}
        }
        if let Some(protocol) = PROTOCOLS.get(usize::from(self.next() & 15)) {
            text.push_str(&format!("application_protocols: [\"{protocol}\"], "));
        }
        text.push_str(&self.ranges("direct_source_prefix_ranges"));
        if let Some(kind) = SOURCE_TYPES.get(usize::from(self.next() & 7)) {
            text.push_str(&format!("source_type: {kind}, "));
        }
        text.push_str(&self.ranges("source_prefix_ranges"));
        if let port @ 1..=3 = self.next() & 7 {
            text.push_str(&format!("source_ports: [{}], ", 80 + port));
        }
        text
    }
}

/// Up to eight chains and a connection: what is found is always the same, and the only chain that matches everything
/// is found when nothing else is there.
pub fn filter_chain(input: &[u8]) {
    let mut bytes = Bytes(input);
    let count = usize::from(bytes.next() & 7) + 1;
    let default = bytes.next() & 1 == 1;
    let filters = r#"filters: [{ name: t, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c } }]"#;
    let chains: Vec<String> = (0..count)
        .map(|number| format!("{{ name: chain{number}, filter_chain_match: {{ {} }}, {filters} }}", bytes.matches()))
        .collect();
    let default_chain =
        if default { format!("default_filter_chain: {{ name: default, {filters} }},") } else { String::new() };
    let text = format!(
        "{{ static_resources: {{ clusters: [{{ name: c }}], listeners: [{{ name: l, {default_chain} address: {{ \
         socket_address: {{ address: 127.0.0.1, port_value: 1 }} }}, filter_chains: [{}] }}] }} }}",
        chains.join(", ")
    );
    let bootstrap: Bootstrap = weir_proto::from_yaml(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    // Two chains that match the same are refused.
    let Ok(built) = config::from_bootstrap(&bootstrap, &Default::default()) else { return };
    let listener = &built.snapshot.listeners()[0];
    let name = NAMES.get(usize::from(bytes.next() & 7)).copied().unwrap_or_default().trim_start_matches("*.");
    let offered: Vec<String> =
        PROTOCOLS.get(usize::from(bytes.next() & 7)).into_iter().map(|name| (*name).to_owned()).collect();
    let source = bytes.address();
    let facts = Facts {
        destination: bytes.address(),
        source,
        direct_source: source,
        server_name: name,
        transport_protocol: if bytes.next() & 1 == 1 { "tls" } else { "raw_buffer" },
        application_protocols: Protocols::Offered(&offered),
        filter_state: None,
    };
    let found = matching::find(listener, &facts).map(|chain| chain.name.clone());
    let again = matching::find(listener, &facts).map(|chain| chain.name.clone());
    assert_eq!(found, again);
    // A chain that the connection could not have alone is not found among others either.
    if let Some(found) = found.filter(|found| &**found != "default") {
        let mut alone = config::Listener::named("l");
        alone.filter_chains = listener.filter_chains.iter().filter(|chain| chain.name == found).cloned().collect();
        assert!(matching::find(&alone, &facts).is_some(), "{found} does not match {facts:?}: {text}");
    }
    if default {
        assert!(matching::find(listener, &facts).is_some(), "there is a default chain");
    }
}
