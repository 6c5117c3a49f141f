//! `cluster_manager.*` and `listener_manager.*`.

use std::time::SystemTime;

use crate::telemetry::stats::{Counter, Gauge, Scope, Shared, Store};

/// What is counted of clusters.
#[derive(Debug)]
pub(super) struct ClusterCounts {
    store: Store,
    shared: Shared,
    added: Counter,
    modified: Counter,
    removed: Counter,
    active: Gauge,
    warming: Gauge,
    reload: Counter,
    reload_time: Gauge,
    /// What the handles belong to.
    _scopes: [Scope; 2],
}

impl ClusterCounts {
    pub(super) fn new(store: &Store) -> Self {
        let scope = store.root().scope("cluster_manager");
        let cds = scope.scope("cds");
        Self {
            store: store.clone(),
            shared: store.shared(),
            added: scope.counter("cluster_added"),
            modified: scope.counter("cluster_modified"),
            removed: scope.counter("cluster_removed"),
            active: scope.gauge("active_clusters"),
            warming: scope.gauge("warming_clusters"),
            reload: cds.counter("config_reload"),
            reload_time: cds.gauge("config_reload_time_ms"),
            _scopes: [scope, cds],
        }
    }

    pub(super) fn came(&self, modified: bool) {
        self.shared.inc(if modified { self.modified } else { self.added });
    }

    pub(super) fn removed(&self) {
        self.shared.inc(self.removed);
    }

    pub(super) fn are(&self, active: usize, warming: usize) {
        self.store.set(self.active, active as u64);
        self.store.set(self.warming, warming as u64);
    }

    /// An update has changed something.
    pub(super) fn reloaded(&self, now: SystemTime) {
        self.shared.inc(self.reload);
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.store.set(self.reload_time, u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }
}

/// What is counted of listeners.
#[derive(Debug)]
pub(super) struct ListenerCounts {
    store: Store,
    shared: Shared,
    added: Counter,
    modified: Counter,
    in_place: Counter,
    removed: Counter,
    create_failure: Counter,
    create_success: Counter,
    active: Gauge,
    warming: Gauge,
    draining: Gauge,
    chains_draining: Gauge,
    /// What the handles belong to.
    _scope: Scope,
}

impl ListenerCounts {
    pub(super) fn new(store: &Store) -> Self {
        let scope = store.root().scope("listener_manager");
        Self {
            store: store.clone(),
            shared: store.shared(),
            added: scope.counter("listener_added"),
            modified: scope.counter("listener_modified"),
            in_place: scope.counter("listener_in_place_updated"),
            removed: scope.counter("listener_removed"),
            create_failure: scope.counter("listener_create_failure"),
            create_success: scope.counter("listener_create_success"),
            active: scope.gauge("total_listeners_active"),
            warming: scope.gauge("total_listeners_warming"),
            draining: scope.gauge("total_listeners_draining"),
            chains_draining: scope.gauge("total_filter_chains_draining"),
            _scope: scope,
        }
    }

    pub(super) fn came(&self, modified: bool) {
        self.shared.inc(if modified { self.modified } else { self.added });
    }

    pub(super) fn updated_in_place(&self) {
        self.shared.inc(self.in_place);
    }

    pub(super) fn removed(&self) {
        self.shared.inc(self.removed);
    }

    /// It could not be bound.
    pub(super) fn failed(&self) {
        self.shared.inc(self.create_failure);
    }

    /// So many workers have it.
    pub(super) fn created(&self, workers: usize) {
        self.shared.add(self.create_success, workers as u64);
    }

    pub(super) fn are(&self, active: usize, warming: usize) {
        self.store.set(self.active, active as u64);
        self.store.set(self.warming, warming as u64);
    }

    /// So many listeners and filter chains drain.
    pub(super) fn drain(&self, listeners: usize, chains: usize) {
        self.store.set(self.draining, listeners as u64);
        self.store.set(self.chains_draining, chains as u64);
    }
}
