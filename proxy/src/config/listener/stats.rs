//! The names under which a listener is counted: Envoy's, below `listener.<address or stat_prefix>.`.

use std::{ops::Deref, time::Duration};

use crate::telemetry::stats::{Counter, Gauge, Scope, Shard, Store, handles};

handles! {
    /// What whoever accepts connections counts: listeners and the admin server.
    Accepted {
        counters {
            downstream_cx_destroy
            downstream_cx_overflow
            downstream_cx_overload_reject
            downstream_cx_total
            downstream_cx_transport_socket_connect_timeout
            downstream_global_cx_overflow
            downstream_listener_filter_error
            downstream_listener_filter_remote_close
            downstream_pre_cx_timeout
            no_filter_chain_match
        }
        gauges {
            downstream_cx_active
            downstream_pre_cx_active
        }
        histograms {
            connections_accepted_per_socket_event: Unspecified
            downstream_cx_length_ms: Milliseconds
        }
    }
}

handles! {
    /// What every listener counts.
    Handles: Accepted {
        counters { extension_config_missing network_extension_config_missing }
        gauges {}
        histograms {}
    }
}

/// What a listener counts.
#[derive(Debug, Default)]
pub struct ListenerStats {
    handles: Handles,
    /// `worker_<n>.downstream_cx_total` and `worker_<n>.downstream_cx_active`.
    workers: Vec<(Counter, Gauge)>,
    /// Keep the names.
    _scopes: Vec<Scope>,
}

impl Deref for ListenerStats {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl ListenerStats {
    /// Below `scope`, which is the listener's own.
    pub fn new(scope: Scope) -> Self {
        let handles = Handles::register(&scope);
        let workers = Store::of(&scope).as_ref().map_or(0, Store::workers);
        let mut scopes: Vec<_> = (0..workers).map(|index| scope.scope(&format!("worker_{index}"))).collect();
        let workers =
            scopes.iter().map(|scope| (scope.counter("downstream_cx_total"), scope.gauge("downstream_cx_active")));
        Self {
            handles,
            workers: workers.collect(),
            _scopes: {
                scopes.push(scope);
                scopes
            },
        }
    }

    /// A connection has a filter chain.
    pub fn opened(&self, shard: &Shard, worker: usize) {
        shard.inc(self.downstream_cx_total);
        shard.gauge_add(self.downstream_cx_active, 1);
        if let Some((total, active)) = self.workers.get(worker) {
            shard.inc(*total);
            shard.gauge_add(*active, 1);
        }
    }

    /// It is gone after so long.
    pub fn closed(&self, shard: &Shard, worker: usize, lasted: Duration) {
        shard.inc(self.downstream_cx_destroy);
        shard.gauge_add(self.downstream_cx_active, -1);
        shard.record(self.downstream_cx_length_ms, u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
        if let Some((_, active)) = self.workers.get(worker) {
            shard.gauge_add(*active, -1);
        }
    }
}
