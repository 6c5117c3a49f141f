//! What routes and groups of requests are counted under: Envoy's names, below `vhost.<name>.vcluster.<name>.` and
//! `vhost.<name>.route.<prefix>.`.

use std::fmt;

use crate::{
    config::cluster::stats::Responses,
    telemetry::stats::{Scope, handles},
};

handles! {
    /// What is there from the beginning.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    RequestHandles {
        counters {
            upstream_rq_retry
            upstream_rq_retry_limit_exceeded
            upstream_rq_retry_overflow
            upstream_rq_retry_success
            upstream_rq_timeout
            upstream_rq_total
        }
        gauges {}
        histograms {}
    }
}

/// The statistics of a route, or of a virtual cluster.
#[derive(Default)]
pub struct RequestStats {
    /// Attempts and retries.
    pub handles: RequestHandles,
    /// Responses by code.
    pub responses: Responses,
    _scope: Scope,
}

impl fmt::Debug for RequestStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("RequestStats").field(&self._scope).finish()
    }
}

impl RequestStats {
    /// Below `scope`, which is its own.
    pub fn new(scope: Scope) -> Self {
        Self { handles: RequestHandles::register(&scope), responses: Responses::new(&scope, ""), _scope: scope }
    }
}

handles! {
    /// What the router counts of requests that no client has sent: copies.
    CopyHandles {
        counters {
            no_cluster
            no_route
            passthrough_internal_redirect_bad_location
            passthrough_internal_redirect_no_route
            passthrough_internal_redirect_predicate
            passthrough_internal_redirect_too_many_redirects
            passthrough_internal_redirect_unsafe_scheme
            rq_direct_response
            rq_overload_local_reply
            rq_redirect
            rq_reset_after_downstream_response_started
            rq_total
        }
        gauges {}
        histograms {}
    }
}

/// `http.async-client.*`.
pub struct CopyStats {
    /// What is counted.
    pub handles: CopyHandles,
    _scope: Scope,
}

impl fmt::Debug for CopyStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("CopyStats").field(&self._scope).finish()
    }
}

impl CopyStats {
    /// Below the root: everybody counts together.
    pub fn new(root: &Scope) -> Self {
        let scope = root.scope("http.async-client");
        Self { handles: CopyHandles::register(&scope), _scope: scope }
    }
}
