//! What `track_cluster_stats` adds to a cluster's statistics.

use crate::telemetry::stats::{Scope, handles};

handles! {
    /// How much of the time that they may take requests have taken, and single tries, in percent.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Budgets {
        counters {}
        gauges {}
        histograms {
            upstream_rq_timeout_budget_per_try_percent_used: Unspecified
            upstream_rq_timeout_budget_percent_used: Unspecified
        }
    }
}

handles! {
    /// How large requests and responses are.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Sizes {
        counters {}
        gauges {}
        histograms {
            upstream_rq_body_size: Bytes
            upstream_rq_headers_count: Unspecified
            upstream_rq_headers_size: Bytes
            upstream_rs_body_size: Bytes
            upstream_rs_headers_count: Unspecified
            upstream_rs_headers_size: Bytes
        }
    }
}

/// What is tracked of a cluster's requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracked {
    /// With `timeout_budgets`.
    pub budgets: Option<Budgets>,
    /// With `request_response_sizes`.
    pub sizes: Option<Sizes>,
}

impl Tracked {
    /// Registers what is wanted below a cluster's scope.
    pub fn register(scope: &Scope, budgets: bool, sizes: bool) -> Self {
        Self { budgets: budgets.then(|| Budgets::register(scope)), sizes: sizes.then(|| Sizes::register(scope)) }
    }

    /// Whether there is anything to track.
    pub fn any(&self) -> bool {
        self.budgets.is_some() || self.sizes.is_some()
    }
}
