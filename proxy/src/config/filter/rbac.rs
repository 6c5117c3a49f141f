//! Policies for requests.

use std::sync::Arc;

use crate::config::{
    filter::stats::{self, Counted},
    rbac::Engine,
};

/// `RBAC` of the HTTP filter.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    /// In force.
    pub rules: Option<Engine>,
    /// Evaluated, noted and without effect.
    pub shadow: Option<Engine>,
    /// Prefix of the metadata and statistics of `shadow`.
    pub shadow_prefix: Arc<str>,
    /// Prefix of the statistics of `rules`.
    pub prefix: Arc<str>,
    /// Count by policy, too.
    pub track_policies: bool,
    /// What `rules` decided. Those of the filter count, also where a route has other rules.
    pub stats: Counted<stats::Rbac>,
    /// What `shadow` would have decided.
    pub shadow_stats: Counted<stats::ShadowRbac>,
}
