//! Answering health checks.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crate::{
    config::filter::stats::{self, Counted},
    matcher::HeaderMatcher,
};

/// `HealthCheck`.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// Requests are passed on, and their answers remembered for `cache_time`.
    pub pass_through: bool,
    /// How long an upstream's answer is given again.
    pub cache_time: Option<Duration>,
    /// Clusters, and the share of their endpoints that must be healthy, in percent.
    pub cluster_minimums: Vec<(Arc<str>, f64)>,
    /// Requests that match all of these are health checks.
    pub headers: Vec<HeaderMatcher>,
    /// The last answer of an upstream.
    pub cached: Arc<Cached>,
    /// What it counts.
    pub stats: Counted<stats::HealthCheck>,
}

/// What an upstream last answered, over all workers.
#[derive(Debug, Default)]
pub struct Cached {
    /// Milliseconds from the process's start until which it holds, and the status.
    pub until_and_status: AtomicU64,
}
