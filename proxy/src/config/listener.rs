//! Listeners, filter chains and network filters.

mod ceiling;
mod filter;
mod socket;
mod stats;

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ipnet::IpNet;

pub use self::{
    ceiling::{Ceiling, Seat},
    filter::{
        HttpInspectorStats, ListenerFilter, ListenerFilterKind, Predicate, ProxyProtocol, ProxyProtocolStats, TlvRule,
    },
    socket::{AddressOptions, ListenerSockets, Pipe},
    stats::{Accepted, ListenerStats},
};
use crate::{
    access_log::{AccessLog, Place},
    config::{
        cell::{Feed, Slot},
        http::HttpConnectionManager,
        network::NetworkFilter,
        tcp::TcpProxy,
        tls::DownstreamTls,
    },
    drain::Drain,
    matcher::tree::Tree,
};

/// Which way a listener's connections go, as the workload sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// Towards the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// Unique.
    pub name: Arc<str>,
    /// What it listens on; `addresses[0]` is the main one, the others are `additional_addresses`.
    pub addresses: Vec<SocketAddr>,
    /// Those of the addresses that are Unix sockets.
    pub pipes: Vec<Pipe>,
    /// It is inside of this process (`internal_listener`), and has no address but its name.
    pub internal: bool,
    /// Bound by this process; else reached through redirection or hand-over only.
    pub bind: bool,
    /// How.
    pub sockets: ListenerSockets,
    /// Which way its connections go.
    pub direction: TrafficDirection,
    /// Hand connections over to the listener of their original destination; on a node, the catch-all.
    pub use_original_destination: bool,
    /// What looks at a connection first, in this order.
    pub filters: Vec<ListenerFilter>,
    /// How long the listener filters may take; none: for ever.
    pub listener_filters_timeout: Option<Duration>,
    /// On that timeout, go on without what they would have found.
    pub continue_on_listener_filters_timeout: bool,
    /// Bytes that may be buffered per connection, soft.
    pub buffer_limit: usize,
    /// Filter chains.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Chooses among them instead of what they match. `Some(None)`: of a name that none of them has.
    pub filter_chain_matcher: Option<Tree<Option<Arc<FilterChain>>>>,
    /// The filter chain for connections that none of the others matches.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Written per connection.
    pub access_log: Vec<AccessLog>,
    /// Connections that it may have open.
    pub ceiling: Ceiling,
    /// Connections that the process may have open; none: this listener's do not count.
    pub process_ceiling: Option<Arc<Ceiling>>,
    /// What is done under pressure is not done here.
    pub bypasses_overload: bool,
    /// What it counts.
    pub stats: ListenerStats,
    /// What it names and comes by itself: a new listener waits for it.
    pub waits: Vec<Arc<dyn Feed>>,
}

impl Listener {
    /// The addresses that it is bound at, but for those whose port the kernel chooses.
    pub fn bound_at(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().copied().filter(|address| self.bind && address.port() != 0)
    }

    /// All its filter chains.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }

    /// Bytes that may be buffered per connection when the configuration does not say.
    pub const DEFAULT_BUFFER_LIMIT: usize = 1 << 20;
    /// Envoy's default of `listener_filters_timeout`.
    pub const DEFAULT_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

    /// A listener without addresses or filter chains, with Envoy's defaults.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            addresses: Vec::new(),
            pipes: Vec::new(),
            internal: false,
            bind: true,
            sockets: ListenerSockets::default(),
            direction: TrafficDirection::Unspecified,
            use_original_destination: false,
            filters: Vec::new(),
            listener_filters_timeout: Some(Self::DEFAULT_FILTERS_TIMEOUT),
            continue_on_listener_filters_timeout: false,
            buffer_limit: Self::DEFAULT_BUFFER_LIMIT,
            filter_chains: Vec::new(),
            filter_chain_matcher: None,
            default_filter_chain: None,
            access_log: Vec::new(),
            ceiling: Ceiling::unlimited(&format!("envoy.resource_limits.listener.{name}.connection_limit")),
            process_ceiling: None,
            bypasses_overload: false,
            stats: ListenerStats::default(),
            waits: Vec::new(),
        }
    }
}

/// Where a connection comes from, for `source_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// This host: loopback, or the same address at both ends.
    SameIpOrLoopback,
    /// Another host.
    External,
}

/// Which connections a filter chain takes. Empty means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination address.
    pub prefix_ranges: Vec<IpNet>,
    /// SNI, exact in lower case or `*.suffix`.
    pub server_names: Vec<Box<str>>,
    /// `raw_buffer` or `tls`; empty: any.
    pub transport_protocol: Box<str>,
    /// ALPN, or what the HTTP inspector found.
    pub application_protocols: Vec<Box<str>>,
    /// The peer's address, before any PROXY protocol.
    pub direct_source_prefix_ranges: Vec<IpNet>,
    /// Local or not.
    pub source_type: SourceType,
    /// The client's address.
    pub source_prefix_ranges: Vec<IpNet>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

/// A filter chain; it ends in one terminal network filter.
#[derive(Debug)]
pub struct FilterChain {
    /// For logs; may be empty.
    pub name: Arc<str>,
    /// What logs say of it and its listener.
    pub place: Arc<Place>,
    /// What it takes.
    pub matches: FilterChainMatch,
    /// TLS that ends here; none: its bytes are taken as they come.
    pub tls: Option<Arc<DownstreamTls>>,
    /// The TLS handshake must be done within.
    pub handshake_timeout: Option<Duration>,
    /// What is asked first, in this order.
    pub filters: Vec<Arc<NetworkFilter>>,
    /// What it does.
    pub terminal: Terminal,
    /// What it names and comes by itself.
    pub waits: Vec<Arc<dyn Feed>>,
    /// Started when it is no longer in force; none: it always is.
    pub drain: Option<Drain>,
}

/// What a filter chain ends in: the terminal network filters.
#[derive(Debug)]
pub enum Terminal {
    /// `http_connection_manager`.
    Http(Arc<HttpConnectionManager>),
    /// `tcp_proxy`.
    Tcp(Arc<TcpProxy>),
    /// `echo`: the client gets back what it sends.
    Echo,
    /// `direct_response`: the client gets this, and that is all.
    DirectResponse(Bytes),
    /// What it is comes by itself (`config_discovery`).
    Discovered(Arc<Slot<Terminal>>),
}

impl FilterChain {
    /// What is asked first, as it is now. None: not all of it has come.
    pub fn current_filters(&self) -> Option<Cow<'_, [Arc<NetworkFilter>]>> {
        let current = |filter: &Arc<NetworkFilter>| match &**filter {
            NetworkFilter::Discovered(slot) => slot.current(),
            _ => Some(filter.clone()),
        };
        match self.filters.iter().any(|filter| matches!(**filter, NetworkFilter::Discovered(_))) {
            false => Some(Cow::Borrowed(&self.filters)),
            true => self.filters.iter().map(current).collect::<Option<_>>().map(Cow::Owned),
        }
    }
}
