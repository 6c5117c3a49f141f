//! Statistics of subscriptions and of the stream to a management server, under Envoy's names.

use std::time::{Duration, SystemTime};

use xxhash_rust::xxh64::xxh64;

use crate::telemetry::stats::{Counter, Gauge, Histogram, Scope, Shared, Store, TextReadout, Unit, process};

/// What happened to one subscription, under a scope such as `cluster_manager.cds.`, `cluster.NAME.` or
/// `http.PREFIX.rds.NAME.`.
#[derive(Clone, Debug)]
pub struct SubscriptionStats {
    shared: Shared,
    store: Option<Store>,
    attempt: Counter,
    success: Counter,
    failure: Counter,
    rejected: Counter,
    timeout: Counter,
    version: Gauge,
    time: Gauge,
    duration: Histogram,
    version_text: TextReadout,
    /// What the handles belong to.
    _scope: Scope,
}

impl SubscriptionStats {
    /// Registers them.
    pub fn register(scope: &Scope) -> Self {
        let store = Store::of(scope);
        Self {
            shared: store.as_ref().map(Store::shared).unwrap_or_default(),
            store,
            attempt: scope.counter("update_attempt"),
            success: scope.counter("update_success"),
            failure: scope.counter("update_failure"),
            rejected: scope.counter("update_rejected"),
            timeout: scope.counter("init_fetch_timeout"),
            version: scope.gauge("version"),
            time: scope.gauge("update_time"),
            duration: scope.histogram("update_duration", Unit::Milliseconds),
            version_text: scope.text_readout("version_text"),
            _scope: scope.clone(),
        }
    }

    /// Something was asked for.
    pub fn attempted(&self) {
        self.shared.inc(self.attempt);
    }

    /// An update was taken, within `took`; of a file, nobody counts that.
    pub fn succeeded(&self, version: &str, now: SystemTime, took: Option<Duration>) {
        self.shared.inc(self.attempt);
        self.shared.inc(self.success);
        if let Some(took) = took {
            self.shared.record(self.duration, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(store) = &self.store {
            let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            store.set(self.time, u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
            store.set(self.version, xxh64(version.as_bytes(), 0));
            store.set_text(self.version_text, version);
        }
    }

    /// An update was refused.
    pub fn rejected(&self) {
        self.shared.inc(self.attempt);
        self.shared.inc(self.rejected);
    }

    /// There is no connection to the server.
    pub fn failed(&self) {
        self.shared.inc(self.attempt);
        self.shared.inc(self.failure);
    }

    /// Nothing came in time.
    pub fn timed_out(&self) {
        self.shared.inc(self.attempt);
        self.shared.inc(self.timeout);
    }
}

/// The stream to a management server, under `control_plane.`.
#[derive(Clone, Debug)]
pub struct ControlPlaneStats {
    shared: Shared,
    store: Option<Store>,
    rate_limited: Counter,
    connected: Gauge,
    pending: Gauge,
    identifier: TextReadout,
    /// What the handles belong to.
    _scope: Scope,
}

impl ControlPlaneStats {
    /// Registers them under `scope`, which is the root's `control_plane.`, or a cluster's.
    pub fn register(scope: &Scope) -> Self {
        let store = Store::of(scope);
        Self {
            shared: store.as_ref().map(Store::shared).unwrap_or_default(),
            store,
            rate_limited: scope.counter("rate_limit_enforced"),
            connected: scope.gauge("connected_state"),
            pending: scope.gauge("pending_requests"),
            identifier: scope.text_readout("identifier"),
            _scope: scope.clone(),
        }
    }

    /// There is a stream, or not.
    pub(super) fn connected(&self, connected: bool) {
        if let Some(store) = &self.store {
            store.set(self.connected, u64::from(connected));
        }
    }

    /// So many requests could not be sent yet.
    pub(super) fn pending(&self, requests: usize) {
        if let Some(store) = &self.store {
            store.set(self.pending, requests as u64);
        }
    }

    /// A request had to wait for its turn.
    pub(super) fn rate_limited(&self) {
        self.shared.inc(self.rate_limited);
    }

    /// What was accepted of a type can't be saved.
    pub(super) fn save_failed(&self) {
        self.shared.inc(process::STATE_SAVE_FAILED);
    }

    /// What the server calls itself.
    pub(super) fn identifier(&self, identifier: &str) {
        if let Some(store) = &self.store {
            store.set_text(self.identifier, identifier);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Kind, Value};

    #[test]
    fn what_happens_is_counted_under_envoys_names() {
        let store = Store::new(1);
        let stats = SubscriptionStats::register(&store.root().scope("cluster_manager.cds"));
        stats.attempted();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        stats.succeeded("v1", now, Some(Duration::from_millis(3)));
        stats.rejected();
        stats.failed();
        stats.timed_out();
        let control = ControlPlaneStats::register(&store.root().scope("control_plane"));
        control.connected(true);
        control.pending(2);
        control.rate_limited();
        control.identifier("istiod");
        let read = |kind| {
            let metrics = store
                .read(kind, |_| true)
                .into_iter()
                .filter(|metric| ["cluster_manager.", "control_plane."].iter().any(|of| metric.name().starts_with(of)));
            let mut metrics: Vec<_> = metrics
                .map(|metric| match &metric.value {
                    Value::Counter(value) | Value::Gauge(value) => format!("{}={value}", metric.name()),
                    Value::Text(value) => format!("{}={value}", metric.name()),
                    _ => metric.name().to_string(),
                })
                .collect();
            metrics.sort();
            metrics
        };
        assert_eq!(
            read(Kind::Counter),
            [
                "cluster_manager.cds.init_fetch_timeout=1",
                "cluster_manager.cds.update_attempt=5",
                "cluster_manager.cds.update_failure=1",
                "cluster_manager.cds.update_rejected=1",
                "cluster_manager.cds.update_success=1",
                "control_plane.rate_limit_enforced=1",
            ]
        );
        assert_eq!(
            read(Kind::Gauge),
            [
                "cluster_manager.cds.update_time=1700000000123".to_owned(),
                format!("cluster_manager.cds.version={}", xxh64(b"v1", 0)),
                "control_plane.connected_state=1".to_owned(),
                "control_plane.pending_requests=2".to_owned(),
            ]
        );
        assert_eq!(read(Kind::TextReadout), ["cluster_manager.cds.version_text=v1", "control_plane.identifier=istiod"]);
    }
}
