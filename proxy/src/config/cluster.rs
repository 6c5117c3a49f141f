//! Clusters and their endpoints.

pub mod balancing;
mod consistent;
mod dns;
pub mod dns_cache;
mod endpoint;
mod errors;
mod forward;
mod hash;
pub mod health;
mod host;
pub mod limits;
mod merge;
mod original;
pub mod outlier;
mod policies;
pub mod stats;
mod tally;
mod zones;

use std::{
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

pub(crate) use self::original::MEETINGS;
use self::{balancing::LoadBalancing, health::HealthCheck, outlier::Detector, stats::ClusterStats};
pub use self::{
    consistent::{Consistent, Hashed, Weighted},
    dns::{Dns, DnsFamily, DnsName, NameServers, Resolver},
    dns_cache::{Ask, Authority, CachedName, DnsCache, DnsCacheSettings, DnsCaches, Load, Resolution},
    endpoint::{
        AssignmentPolicy, CheckAddress, Drops, Endpoint, EndpointSet, Locality, LocalityEndpoints, LocalityWeights,
        Priority, Template,
    },
    errors::ErrorMatcher,
    forward::{DYNAMIC_HOST_KEY, DYNAMIC_PORT_KEY, ForwardHost, ForwardProxy},
    host::{Admitted, Health, HealthFlags, Host, HostStats, Monitor, Rate, Spell},
    limits::{Breaker, Gauge, InUse, RetryBudget, RoutingPriority, Thresholds, Usage},
    merge::{MergeWindow, Told},
    original::{DESTINATION_KEY, NotedDestination, OriginalHosts},
    policies::RoutePolicies,
    tally::Tally,
    zones::{LocalZones, Zones},
};
use super::{cell::Source, heads::HeadLimits, http1::Http1, http2::Http2};
use crate::{
    access_log::ClusterNames,
    config::tls::Transports,
    tls::client::Asked,
    view::ViewId,
    wire::{race::Preference, socket::SocketSettings},
};

/// A cluster. Immutable but for its endpoints and the counters of its circuit breakers, which workers share.
#[derive(Debug)]
pub struct Cluster {
    /// Unique in its view.
    pub name: Arc<str>,
    /// Whose it is.
    pub view: ViewId,
    /// What logs say of it.
    pub logged: Arc<ClusterNames>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub balancing: LoadBalancing,
    /// The current endpoints. Discovery stores new ones ([`Cluster::replace`]); workers load.
    pub endpoints: ArcSwap<EndpointSet>,
    /// How many of [`Drops::ALL`] requests are turned away, by the policy of the current endpoints.
    pub drops: AtomicU32,
    /// Tables of consistent hashing.
    pub hashed: ArcSwapOption<Hashed>,
    /// Where this proxy's own kind is, for zone-aware routing.
    pub zones: Option<Arc<LocalZones>>,
    /// This cluster is this proxy's own kind: its hosts go there.
    pub local_zones: Option<Arc<LocalZones>>,
    /// The proxy's own locality.
    pub local: Option<Arc<Locality>>,
    /// What it is counted under.
    pub stats: ClusterStats,
    /// A connection must be made within.
    pub connect_timeout: Duration,
    /// How its connections are secured.
    pub transports: Transports,
    /// Names that TLS takes from the request; none: it takes none.
    pub auto_names: Option<AutoNames>,
    /// What it says instead of the routes that lead to it.
    pub policies: RoutePolicies,
    /// Which responses are errors to outlier detection; none: those of 5xx.
    pub errors: Option<ErrorMatcher>,
    /// Which HTTP it speaks.
    pub protocol: UpstreamProtocol,
    /// HTTP/2 settings.
    pub http2: Http2,
    /// HTTP/1 settings.
    pub http1: Http1,
    /// Close a pooled connection unused for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// Take a pooled connection out of use after so long; none: never.
    pub max_connection_duration: Option<Duration>,
    /// A request and its response may last so long, from when there is a connection for it; none: any time.
    pub max_stream_duration: Option<Duration>,
    /// How large the heads of its responses may be.
    pub response_heads: HeadLimits,
    /// What sockets are given before they connect.
    pub socket: SocketSettings,
    /// Which of an endpoint's addresses are tried first.
    pub preference: Preference,
    /// Requests per connection, 0: any number.
    pub max_requests_per_connection: u32,
    /// Limits of the priority DEFAULT.
    pub breakers: Thresholds,
    /// What is in use of the limits.
    pub usage: Usage,
    /// The same of the priority HIGH.
    pub high: Breaker,
    /// Outlier detection.
    pub outlier: Option<Detector>,
    /// Active health checks.
    pub health: Option<HealthCheck>,
    /// Hosts that leave the configuration leave at once, whatever active health checks say.
    pub ignore_health_on_removal: bool,
    /// It has been warm.
    pub in_force: AtomicBool,
    /// Connections that carry TCP end when their host becomes unhealthy.
    pub closes_on_failure: bool,
    /// Serving waits for the endpoints and for their first health checks.
    pub wait_for_warm: bool,
    /// There has been a connection.
    pub has_traffic: AtomicBool,
    /// Changes with the endpoints and their health.
    pub changes: AtomicU64,
    /// Holds changes of health back for a moment.
    pub merge: MergeWindow,
    /// Told when endpoints come or go.
    pub membership: watch::Sender<()>,
}

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// The configuration.
    Static,
    /// DNS.
    Dns(Dns),
    /// Load assignments that come by themselves.
    Eds(Assignments),
    /// The connection's original destination.
    OriginalDestination {
        /// `x-envoy-original-dst-host` (or another header) overrides it.
        header: Option<http::HeaderName>,
        /// Dynamic metadata that overrides it, where no header does.
        metadata: Option<NotedDestination>,
        /// Port instead of the destination's.
        port: Option<u16>,
        /// Those that were connected to.
        hosts: Arc<OriginalHosts>,
    },
    /// Whatever host a request, or a connection, names.
    ForwardProxy(Arc<ForwardProxy>),
    /// Other clusters, the most preferred first.
    Aggregate {
        /// Their names; one that does not exist is left out.
        names: Box<[Box<str>]>,
        /// Those that exist.
        members: Members,
    },
}

/// The clusters of an aggregate one, as the latest snapshot with it has them.
#[derive(Clone, Debug, Default)]
pub struct Members(Arc<ArcSwap<Vec<Weak<Cluster>>>>);

impl Members {
    /// Those that there are now. They are the same as before as long as this is the same list.
    pub fn load(&self) -> Arc<Vec<Weak<Cluster>>> {
        self.0.load_full()
    }

    /// Whether they still are those that were loaded.
    pub fn is(&self, loaded: &Arc<Vec<Weak<Cluster>>>) -> bool {
        Arc::ptr_eq(&self.0.load(), loaded)
    }

    fn set(&self, members: Vec<Weak<Cluster>>) {
        let known = self.0.load();
        if known.len() != members.len() || known.iter().zip(&members).any(|(known, member)| !known.ptr_eq(member)) {
            self.0.store(Arc::new(members));
        }
    }
}

impl Discovery {
    /// Whether `max_host_weight` is that of all endpoints: as in Envoy, where they come and go together.
    pub fn weighs(&self) -> bool {
        match self {
            Self::Eds(_) => true,
            Self::Static
            | Self::Dns(_)
            | Self::OriginalDestination { .. }
            | Self::ForwardProxy(_)
            | Self::Aggregate { .. } => false,
        }
    }
}

/// Load assignments that come by themselves (`eds_cluster_config`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignments {
    /// Where from.
    pub source: Source,
    /// The resource's name.
    pub service: Arc<str>,
    /// It is configured, not just the cluster's.
    pub named: bool,
    /// How long the cluster waits for the first; none: for ever.
    pub timeout: Option<Duration>,
}

/// Names that TLS takes from the request (`upstream_http_protocol_options`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoNames {
    /// SNI is the request's host (`auto_sni`).
    pub server_name: bool,
    /// The certificate must be for it (`auto_san_validation`).
    pub validate: bool,
    /// This header's value instead of the host (`override_auto_sni_header`).
    pub header: Option<http::HeaderName>,
}

impl AutoNames {
    /// What TLS asks for because of a host without its port.
    pub fn asked<'a>(&self, host: &'a str) -> Asked<'a> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // Of an address there is no SNI.
        let address = host.parse::<IpAddr>().is_ok();
        let server_name = Some(host).filter(|host| self.server_name && !host.is_empty() && !address);
        Asked { server_name, validate: self.validate.then_some(host), ..Asked::default() }
    }
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
    /// What ALPN settles on: HTTP/2 or HTTP/1.1.
    Negotiated,
}

impl Cluster {
    /// Envoy's default of `connect_timeout`.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// Envoy's default idle timeout of upstream connections.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

    /// A static cluster with Envoy's defaults.
    pub fn fixed(name: &str, endpoints: EndpointSet) -> Self {
        Self {
            name: name.into(),
            view: ViewId::OWN,
            logged: ClusterNames::of(name.into()),
            discovery: Discovery::Static,
            balancing: LoadBalancing::default(),
            endpoints: ArcSwap::from_pointee(endpoints),
            drops: AtomicU32::new(0),
            hashed: ArcSwapOption::empty(),
            zones: None,
            local_zones: None,
            local: None,
            stats: ClusterStats::default(),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            transports: Transports::default(),
            auto_names: None,
            policies: RoutePolicies::default(),
            errors: None,
            protocol: UpstreamProtocol::Http1,
            http2: Http2::default(),
            http1: Http1::default(),
            idle_timeout: Some(Self::DEFAULT_IDLE),
            max_connection_duration: None,
            max_stream_duration: None,
            response_heads: HeadLimits::default(),
            socket: SocketSettings::default(),
            preference: Preference::default(),
            max_requests_per_connection: 0,
            breakers: Thresholds::default(),
            usage: Usage::default(),
            high: Breaker::default(),
            outlier: None,
            health: None,
            ignore_health_on_removal: false,
            closes_on_failure: false,
            in_force: AtomicBool::new(false),
            wait_for_warm: true,
            has_traffic: AtomicBool::new(false),
            changes: AtomicU64::new(1),
            merge: MergeWindow::default(),
            membership: watch::Sender::new(()),
        }
    }

    /// The limits that requests of a priority count against, and what is in use of them.
    pub fn limits(&self, priority: RoutingPriority) -> (&Thresholds, &Usage) {
        match priority {
            RoutingPriority::Default => (&self.breakers, &self.usage),
            RoutingPriority::High => (&self.high.limits, &self.high.usage),
        }
    }

    /// Tells an aggregate cluster which clusters there are from now on.
    pub fn link<'a>(&self, find: impl Fn(&str) -> Option<&'a Arc<Self>>) {
        if let Discovery::Aggregate { names, members } = &self.discovery {
            members.set(names.iter().filter_map(|name| find(name).map(Arc::downgrade)).collect());
        }
    }

    /// Whether load balancing goes by a request's hash.
    pub fn hashes(&self) -> bool {
        let hashes = |member: &Weak<Self>| member.upgrade().is_some_and(|member| member.balancing.hashes());
        let of_members = match &self.discovery {
            Discovery::Aggregate { members, .. } => members.0.load().iter().any(hashes),
            _ => false,
        };
        of_members || self.balancing.hashes()
    }

    /// Which state the endpoints and their health are in. A reader that loads it before them misses no change.
    pub fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}
