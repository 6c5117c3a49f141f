//! What routes inherit of where they stand.

use std::sync::Arc;

use crate::{
    config::{retry::RetryPolicy, route::Mirror},
    telemetry::stats::Scope,
};

/// What routes inherit.
pub(super) struct Inherited {
    pub retry: Option<Arc<RetryPolicy>>,
    /// Whether attempts that take too long go on beside the next one.
    pub hedge: bool,
    pub mirrors: Vec<Mirror>,
    pub buffer_limit: Option<usize>,
    pub max_direct_body: usize,
    pub check_clusters: bool,
    /// The virtual host's, `vhost.<name>.`.
    pub stats: Scope,
}
