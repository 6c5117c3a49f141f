//! What filters count: Envoy's names, below `http.<stat_prefix>.` or a prefix of their own.

use std::ops::Deref;

use crate::telemetry::stats::{Scope, handles};

/// Handles, and the scope by which their names live.
#[derive(Clone, Debug, Default)]
pub struct Counted<H> {
    handles: H,
    /// Where names that are known late are registered.
    pub scope: Scope,
}

impl<H> Deref for Counted<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handles
    }
}

handles! {
    /// `http.<prefix>.cors.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Cors {
        counters { origin_invalid origin_valid }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.ext_authz.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    ExtAuthz {
        counters {
            denied
            disabled
            error
            failure_mode_allowed
            filter_state_name_collision
            ignored_dynamic_metadata
            invalid
            ok
            omitted_response_headers
            request_header_limits_reached
            response_header_limits_reached
            shadow_denied
            shadow_error
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.fault.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Fault {
        counters { aborts_injected delays_injected faults_overflow response_rl_injected }
        gauges { active_faults }
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.health_check.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    HealthCheck {
        counters {
            cached_response
            degraded
            failed
            failed_cluster_empty
            failed_cluster_not_found
            failed_cluster_unhealthy
            ok
            request_total
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.jwt_authn.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    JwtAuthn {
        counters {
            allowed
            cors_preflight_bypassed
            denied
            jwks_fetch_failed
            jwks_fetch_success
            jwt_cache_hit
            jwt_cache_miss
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `<prefix>.http_local_rate_limit.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    LocalRateLimit {
        counters { enabled enforced ok rate_limited shadow_mode }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.rbac.<rules_stat_prefix>.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Rbac {
        counters { allowed denied }
        gauges {}
        histograms {}
    }
}

handles! {
    /// `http.<prefix>.rbac.<shadow_rules_stat_prefix>.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    ShadowRbac {
        counters { shadow_allowed shadow_denied }
        gauges {}
        histograms {}
    }
}

macro_rules! counted {
    ($($name:ident)*) => {
        $(impl Counted<$name> {
            /// Below `scope`, which is its own.
            pub fn new(scope: Scope) -> Self {
                Self { handles: $name::register(&scope), scope }
            }
        })*
    };
}

counted! { Cors ExtAuthz Fault HealthCheck JwtAuthn LocalRateLimit Rbac ShadowRbac }
