//! Names as endpoints, and who is asked for them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::endpoint::{AssignmentPolicy, LocalityWeights, Template};

/// How endpoints are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// All addresses are endpoints; else (`LOGICAL_DNS`) only the first one of the latest answer.
    pub strict: bool,
    /// Names, and where their addresses go.
    pub names: Vec<DnsName>,
    /// Weights of localities, by priority.
    pub weights: Box<LocalityWeights>,
    /// How the endpoints are to be used.
    pub policy: AssignmentPolicy,
    /// Which addresses.
    pub family: DnsFamily,
    /// Who is asked.
    pub servers: NameServers,
    /// Between refreshes.
    pub refresh: Duration,
    /// Refresh when the answer's TTL ends instead.
    pub respect_ttl: bool,
    /// Between tries while resolution fails: base and maximum.
    pub failure_refresh: (Duration, Duration),
    /// Random addition to the refresh, at most.
    pub jitter: Duration,
}

/// Who is asked for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameServers {
    /// These; none: those of `/etc/resolv.conf`.
    pub addresses: Vec<SocketAddr>,
    /// By TCP only.
    pub tcp: bool,
    /// Names are complete: no search domain is tried.
    pub no_search: bool,
    /// Whose words are used where a name can't be resolved.
    pub resolver: Resolver,
}

/// The resolver that Envoy would use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// c-ares.
    #[default]
    Cares,
    /// The system's own.
    GetAddrInfo,
}

/// A name to resolve.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsName {
    /// The name.
    pub host: Box<str>,
    /// What its hosts are called: the endpoint's `hostname`, or the name.
    pub hostname: Arc<str>,
    /// What its addresses become.
    pub port: u16,
    /// Weight, priority and health of each.
    pub template: Arc<Template>,
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
