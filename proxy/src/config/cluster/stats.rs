//! The names under which a cluster is counted: Envoy's, below `cluster.<name>.`.

mod late;
mod responses;
mod tracked;

use std::{fmt, ops::Deref};

use self::late::LateResponses;
pub use self::{
    responses::{Response, Responses},
    tracked::{Budgets, Sizes, Tracked},
};
use crate::telemetry::stats::{CodecStats, Counter, Gauge, Scope, Shard, Shared, Store, TextReadout, handles};

handles! {
    /// What every cluster has.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Traffic {
        counters {
            assignment_stale
            assignment_timeout_received
            assignment_use_cached
            bind_errors
            lb_healthy_panic
            lb_local_cluster_not_ok
            lb_recalculate_zone_structures
            lb_subsets_created
            lb_subsets_fallback
            lb_subsets_fallback_panic
            lb_subsets_removed
            lb_subsets_selected
            lb_zone_cluster_too_small
            lb_zone_no_capacity_left
            lb_zone_routing_all_directly
            lb_zone_routing_cross_zone
            lb_zone_routing_sampled
            membership_change
            original_dst_host_invalid
            retry_or_shadow_abandoned
            update_attempt
            update_empty
            update_failure
            update_no_rebuild
            update_success
            upstream_cx_close_notify
            upstream_cx_connect_attempts_exceeded
            upstream_cx_connect_fail
            upstream_cx_connect_timeout
            upstream_cx_connect_with_0_rtt
            upstream_cx_destroy
            upstream_cx_destroy_local
            upstream_cx_destroy_local_with_active_rq
            upstream_cx_destroy_remote
            upstream_cx_destroy_remote_with_active_rq
            upstream_cx_destroy_with_active_rq
            upstream_cx_http1_total
            upstream_cx_http2_total
            upstream_cx_http3_total
            upstream_cx_idle_timeout
            upstream_cx_max_duration_reached
            upstream_cx_max_requests
            upstream_cx_none_healthy
            upstream_cx_overflow
            upstream_cx_pool_overflow
            upstream_cx_preconnect_skipped
            upstream_cx_protocol_error
            upstream_cx_rx_bytes_total
            upstream_cx_total
            upstream_cx_tx_bytes_total
            upstream_flow_control_backed_up_total
            upstream_flow_control_drained_total
            upstream_flow_control_paused_reading_total
            upstream_flow_control_resumed_reading_total
            upstream_http3_broken
            upstream_internal_redirect_failed_total
            upstream_internal_redirect_succeeded_total
            upstream_rq_0rtt
            upstream_rq_active_overflow
            upstream_rq_cancelled
            upstream_rq_completed
            upstream_rq_maintenance_mode
            upstream_rq_max_duration_reached
            upstream_rq_pending_failure_eject
            upstream_rq_pending_overflow
            upstream_rq_pending_total
            upstream_rq_per_try_idle_timeout
            upstream_rq_per_try_timeout
            upstream_rq_retry
            upstream_rq_retry_backoff_exponential
            upstream_rq_retry_backoff_ratelimited
            upstream_rq_retry_limit_exceeded
            upstream_rq_retry_overflow
            upstream_rq_retry_success
            upstream_rq_rx_reset
            upstream_rq_rx_reset_no_error
            upstream_rq_timeout
            upstream_rq_total
            upstream_rq_tx_reset
        }
        gauges {
            lb_subsets_active
            max_host_weight
            membership_degraded
            membership_excluded
            membership_healthy
            membership_total
            upstream_cx_active
            upstream_cx_rx_bytes_buffered
            upstream_cx_tx_bytes_buffered
            upstream_queue_overloaded
            upstream_rq_active
            upstream_rq_pending_active
            version
            warming_state
        }
        histograms {
            upstream_cx_connect_ms: Milliseconds
            upstream_cx_length_ms: Milliseconds
            upstream_rq_per_cx: Unspecified
        }
    }
}

handles! {
    /// What a circuit breaker has; the `remaining` ones only with `track_remaining`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    BreakerGauges {
        counters {}
        gauges {
            cx_open
            cx_pool_open
            rq_open
            rq_pending_open
            rq_retry_open
        }
        histograms {}
    }
}

handles! {
    /// What is left of a circuit breaker's limits.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    RemainingGauges {
        counters {}
        gauges {
            remaining_cx
            remaining_cx_pools
            remaining_pending
            remaining_retries
            remaining_rq
        }
        histograms {}
    }
}

/// The size of a consistent hashing table.
#[derive(Debug)]
pub struct HashedGauges {
    /// `ring_hash_lb.size`.
    pub size: Option<Gauge>,
    /// Of the host with the fewest entries.
    pub least: Gauge,
    /// Of the host with the most.
    pub most: Gauge,
}

handles! {
    /// How changes of all clusters' hosts have reached the workers: below `cluster_manager.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    ManagerCounters {
        counters {
            cluster_updated
            cluster_updated_via_merge
            update_merge_cancelled
            update_out_of_merge_window
        }
        gauges {}
        histograms {}
    }
}

/// Every handle of a cluster.
#[derive(Default)]
pub struct ClusterStats {
    /// Below which all of them are: `cluster.<name>.`.
    pub scope: Scope,
    traffic: Traffic,
    /// Of the priorities DEFAULT and HIGH.
    pub breakers: [BreakerGauges; 2],
    /// The same, where they are tracked.
    pub remaining: [Option<RemainingGauges>; 2],
    /// With consistent hashing.
    pub hashed: Option<HashedGauges>,
    /// All responses.
    pub all: Responses,
    /// Those to internal clients.
    pub internal: Responses,
    /// Those to others.
    pub external: Responses,
    /// Those of canaries.
    pub canary: Responses,
    /// Responses that were retried: `retry.upstream_rq_503`.
    pub retry: Responses,
    /// All responses by their zone, if this proxy knows its own.
    zones: Option<LateResponses>,
    /// What requests want counted apart.
    alternatives: Option<LateResponses>,
    shared: Shared,
    store: Option<Store>,
    /// What all clusters count together.
    pub manager: ManagerCounters,
    /// What its connections count by what they speak.
    pub codecs: CodecStats,
    /// What is tracked of its requests.
    pub tracked: Tracked,
    /// Keep names that are registered in scopes of their own.
    _scopes: Vec<Scope>,
}

impl fmt::Debug for ClusterStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterStats").field(&self.scope).finish()
    }
}

impl Deref for ClusterStats {
    type Target = Traffic;

    fn deref(&self) -> &Traffic {
        &self.traffic
    }
}

/// Which hashing a cluster has, for the names of its gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashedBy {
    /// `ring_hash_lb`.
    Ring,
    /// `maglev_lb`.
    Maglev,
}

impl ClusterStats {
    /// Registers the names of a cluster below `scope`, which is its own, and of all clusters below `root`, its view's. `zone` is
    /// this proxy's.
    pub fn new(
        root: &Scope,
        scope: Scope,
        hashed: Option<HashedBy>,
        track_remaining: [bool; 2],
        zone: Option<&str>,
    ) -> Self {
        let breakers = ["circuit_breakers.default", "circuit_breakers.high"].map(|name| scope.scope(name));
        let store = Store::of(&scope);
        let traffic = Traffic::register(&scope);
        let manager = root.scope("cluster_manager");
        if let Some(store) = &store {
            store.set(traffic.warming_state, 0);
        }
        Self {
            traffic,
            remaining: [0, 1].map(|index| track_remaining[index].then(|| RemainingGauges::register(&breakers[index]))),
            breakers: [0, 1].map(|index| BreakerGauges::register(&breakers[index])),
            hashed: hashed.map(|hashed| match hashed {
                HashedBy::Ring => HashedGauges {
                    size: Some(scope.gauge("ring_hash_lb.size")),
                    least: scope.gauge("ring_hash_lb.min_hashes_per_host"),
                    most: scope.gauge("ring_hash_lb.max_hashes_per_host"),
                },
                HashedBy::Maglev => HashedGauges {
                    size: None,
                    least: scope.gauge("maglev_lb.min_entries_per_host"),
                    most: scope.gauge("maglev_lb.max_entries_per_host"),
                },
            }),
            all: Responses::new(&scope, ""),
            internal: Responses::new(&scope, "internal."),
            external: Responses::new(&scope, "external."),
            canary: Responses::new(&scope, "canary."),
            retry: Responses::new(&scope, "retry."),
            zones: zone
                .filter(|zone| !zone.is_empty())
                .map(|zone| LateResponses::new(&scope, &format!("zone.{zone}."))),
            alternatives: Some(LateResponses::new(&scope, "")),
            shared: store.as_ref().map(Store::shared).unwrap_or_default(),
            store,
            manager: ManagerCounters::register(&manager),
            codecs: CodecStats::new(&scope),
            tracked: Tracked::default(),
            scope,
            _scopes: breakers.into_iter().chain([manager]).collect(),
        }
    }

    /// Sets a gauge, from any thread.
    pub fn set(&self, gauge: Gauge, value: u64) {
        if let Some(store) = &self.store {
            store.set(gauge, value);
        }
    }

    /// Sets a gauge that is in use once it has not been 0.
    pub fn show(&self, gauge: Gauge, value: u64) {
        if value > 0 || self.level(gauge) > 0 {
            self.set(gauge, value);
        }
    }

    /// Sets a text, from any thread.
    pub fn set_text(&self, readout: TextReadout, text: &str) {
        if let Some(store) = &self.store {
            store.set_text(readout, text);
        }
    }

    /// A gauge as it is.
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.store.as_ref().map_or(0, |store| store.level(gauge))
    }

    /// Counts one, from any thread: for what is rare. Workers have shards of their own.
    pub fn inc(&self, counter: Counter) {
        self.shared.inc(counter);
    }

    /// Counts `n`, as [`inc`](Self::inc).
    pub fn add(&self, counter: Counter, n: u64) {
        self.shared.add(counter, n);
    }

    /// The shard of the control thread, for use there.
    pub fn control(&self) -> Shard {
        self.store.as_ref().map(Store::control).unwrap_or_default()
    }

    /// Counts the response that a client got.
    pub fn charge(&self, shard: &Shard, response: Response<'_>) {
        self.each(response, |responses| responses.charge(shard, response.code));
    }

    /// Records how long the upstream took for it, in milliseconds.
    pub fn charge_time(&self, shard: &Shard, response: Response<'_>, millis: u64) {
        self.each(response, |responses| shard.record(responses.time(), millis));
    }

    fn each(&self, response: Response<'_>, count: impl Fn(&Responses)) {
        count(&self.all);
        count(if response.internal { &self.internal } else { &self.external });
        if response.canary {
            count(&self.canary);
        }
        if let (Some(alternatives), Some(name)) = (&self.alternatives, response.alternative) {
            count(&alternatives.of(name));
            let side = if response.internal { "internal" } else { "external" };
            count(&alternatives.of(&format!("{name}.{side}")));
        }
        if let (Some(zones), false) = (&self.zones, response.zone.is_empty()) {
            count(&zones.of(response.zone));
        }
    }
}
