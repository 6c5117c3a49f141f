//! What a cluster says instead of the routes that lead to it (`HttpProtocolOptions`).

use std::sync::Arc;

use crate::config::{
    retry::RetryPolicy,
    route::{HashPolicy, Mirror},
};

/// Policies that go before those of routes, each as a whole.
#[derive(Clone, Debug, Default)]
pub struct RoutePolicies {
    /// When to try again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What consistent hashing goes by; none: what the route says.
    pub hash: Vec<HashPolicy>,
    /// Where copies go; none: where the route says.
    pub mirrors: Vec<Mirror>,
}
