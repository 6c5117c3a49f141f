//! Policies for requests.

use std::sync::Arc;

use crate::config::rbac::Rules;

/// `RBAC` of the HTTP filter.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    /// In force.
    pub rules: Option<Rules>,
    /// Evaluated, noted and without effect.
    pub shadow: Option<Rules>,
    /// Prefix of the metadata and statistics of `shadow`.
    pub shadow_prefix: Arc<str>,
    /// Prefix of the statistics of `rules`.
    pub prefix: Arc<str>,
}
