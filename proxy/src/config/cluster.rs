//! Clusters and their endpoints.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::config::http::Http2;

/// A cluster. Immutable but for its endpoints and the counters of its circuit breakers, which workers share.
#[derive(Debug)]
pub struct Cluster {
    /// Unique.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub policy: LoadBalancing,
    /// The current endpoints. Discovery stores new ones; workers load.
    pub endpoints: ArcSwap<EndpointSet>,
    /// A connection must be made within.
    pub connect_timeout: Duration,
    /// Which HTTP it speaks.
    pub protocol: UpstreamProtocol,
    /// HTTP/2 settings.
    pub http2: Http2,
    /// Trailers of HTTP/1 responses are passed on.
    pub http1_trailers: bool,
    /// Close a pooled connection unused for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// Requests per connection, 0: any number.
    pub max_requests_per_connection: u32,
    /// Below this share of healthy endpoints, in percent, health does not count.
    pub panic_threshold: f64,
    /// Limits.
    pub breakers: Thresholds,
    /// What is in use of the limits.
    pub usage: Usage,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// The configuration.
    Static,
    /// DNS.
    Dns(Dns),
    /// The connection's original destination.
    OriginalDestination {
        /// `x-envoy-original-dst-host` (or another header) overrides it.
        header: Option<http::HeaderName>,
        /// Port instead of the destination's.
        port: Option<u16>,
    },
}

/// How endpoints are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// All addresses are endpoints; else (`LOGICAL_DNS`) only the first one of the latest answer.
    pub strict: bool,
    /// Names, and where their addresses go.
    pub names: Vec<DnsName>,
    /// Which addresses.
    pub family: DnsFamily,
    /// Between refreshes.
    pub refresh: Duration,
    /// Refresh when the answer's TTL ends instead.
    pub respect_ttl: bool,
    /// Between tries while resolution fails: base and maximum.
    pub failure_refresh: (Duration, Duration),
    /// Random addition to the refresh, at most.
    pub jitter: Duration,
}

/// A name to resolve.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsName {
    /// The name.
    pub host: Box<str>,
    /// What its addresses become.
    pub port: u16,
    /// Weight, priority and health of each.
    pub template: EndpointTemplate,
}

/// What an endpoint has besides its address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EndpointTemplate {
    /// `load_balancing_weight`, at least 1.
    pub weight: u32,
    /// 0 first.
    pub priority: u32,
    /// May be chosen.
    pub healthy: bool,
}

/// Which addresses DNS gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6, and IPv4 if there is none.
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How an endpoint is chosen. Other policies than these are refused for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancing {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Any, by weight.
    Random,
    /// The less busy of two. Until requests are counted per endpoint it takes turns.
    LeastRequest,
    /// The connection's own destination.
    ClusterProvided,
}

/// Which HTTP an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    Downstream,
}

/// Limits of the default priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    /// Requests.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024, max_requests: 1024, max_retries: 3 }
    }
}

/// What is in use of [`Thresholds`], over all workers.
#[derive(Debug, Default)]
pub struct Usage {
    /// Connections.
    pub connections: Gauge,
    /// Requests that wait for a connection.
    pub pending: Gauge,
    /// Requests.
    pub requests: Gauge,
    /// Retries under way.
    pub retries: Gauge,
}

/// A number in use.
pub type Gauge = Arc<AtomicU32>;

/// An endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name, for `auto_host_rewrite`; empty: none.
    pub hostname: Arc<str>,
    /// Weight, priority, health.
    pub template: EndpointTemplate,
}

/// Endpoints, immutable.
#[derive(Debug, Default)]
pub struct EndpointSet {
    priorities: Vec<Priority>,
}

/// The endpoints of one priority.
#[derive(Debug, Default)]
pub struct Priority {
    /// All of them.
    pub all: Vec<Endpoint>,
    /// Indices of those that may be chosen.
    pub healthy: Vec<usize>,
    /// The weights differ.
    pub weighted: bool,
}

impl EndpointSet {
    /// A set of endpoints, by priority.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut priorities: Vec<Priority> = Vec::new();
        for endpoint in endpoints {
            let index = usize::try_from(endpoint.template.priority).unwrap_or_default();
            if priorities.len() <= index {
                priorities.resize_with(index + 1, Priority::default);
            }
            let priority = &mut priorities[index];
            if endpoint.template.healthy {
                priority.healthy.push(priority.all.len());
            }
            priority.weighted |=
                priority.all.first().is_some_and(|first| first.template.weight != endpoint.template.weight);
            priority.all.push(endpoint);
        }
        Self { priorities }
    }

    /// The priorities, the most preferred first.
    pub fn priorities(&self) -> &[Priority] {
        &self.priorities
    }

    /// Every endpoint.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.priorities.iter().flat_map(|priority| &priority.all)
    }
}

impl Cluster {
    /// Envoy's default of `connect_timeout`.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Envoy's default of `healthy_panic_threshold`, percent.
    pub const DEFAULT_PANIC_THRESHOLD: f64 = 50.0;
    /// Envoy's default idle timeout of upstream connections.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

    /// A static cluster with Envoy's defaults.
    pub fn fixed(name: &str, endpoints: EndpointSet) -> Self {
        Self {
            name: name.into(),
            discovery: Discovery::Static,
            policy: LoadBalancing::RoundRobin,
            endpoints: ArcSwap::from_pointee(endpoints),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            protocol: UpstreamProtocol::Http1,
            http2: Http2::default(),
            http1_trailers: false,
            idle_timeout: Some(Self::DEFAULT_IDLE),
            max_requests_per_connection: 0,
            panic_threshold: Self::DEFAULT_PANIC_THRESHOLD,
            breakers: Thresholds::default(),
            usage: Usage::default(),
        }
    }
}
