//! TCP proxying.

use std::{sync::Arc, time::Duration};

/// Where a TCP connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its original destination, logged as this cluster (`PassthroughCluster`, `InboundPassthroughCluster`).
    OriginalDestination(Arc<str>),
    /// Hosts of one of these clusters, drawn by weight.
    Clusters(Arc<[WeightedCluster]>),
}

/// A cluster by name, and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: Arc<str>,
    /// Its share of the sum of all weights; a single cluster's does not matter.
    pub weight: u32,
}

/// Envoy's default for `tcp_proxy.idle_timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to proxy a TCP connection (Envoy's `tcp_proxy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub target: Target,
    /// Close when no byte moved either way for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// Hosts to try, at least 1.
    pub max_connect_attempts: u32,
}

impl Settings {
    /// To the original destination, with Envoy's defaults.
    pub fn passthrough(cluster: &str) -> Self {
        Self {
            target: Target::OriginalDestination(cluster.into()),
            idle_timeout: Some(IDLE_TIMEOUT),
            max_connect_attempts: 1,
        }
    }
}
