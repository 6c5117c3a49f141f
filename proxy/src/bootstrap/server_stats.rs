//! What the process tells of itself as a whole: `server.*`, `listener_manager.*`, `cluster_manager.*`, `runtime.*`.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::{
    admin::certs,
    config::{route::CopyStats, snapshot::Snapshot, views::Views},
    lifecycle::Lifecycle,
    memory,
    runtime::Runtime,
    telemetry::stats::{Counter, Gauge, Scope, Store, Unit, process},
};

/// What Envoy shows while no certificate is known.
const NO_CERTIFICATE: u64 = u32::MAX as u64;

/// The gauges that the control thread keeps up, and the names of all.
#[derive(Debug)]
pub(super) struct ServerStats {
    store: Store,
    /// Keeps the names.
    _scopes: Vec<Scope>,
    _copies: CopyStats,
    _of_view: ViewStats,
    started: Instant,
    live: Gauge,
    state: Gauge,
    uptime: Gauge,
    certificate_expires: Gauge,
    memory_allocated: Gauge,
    memory_heap_size: Gauge,
    memory_physical_size: Gauge,
    runtime_keys: Gauge,
    runtime_overrides: Gauge,
    listener_stopped: Counter,
    stopped: Cell<u64>,
}

impl ServerStats {
    /// Registers all of them for `workers` workers.
    pub(super) fn new(store: &Store, snapshot: &Snapshot, runtime: &Runtime, workers: usize, started: Instant) -> Self {
        let root = store.root();
        let server = root.scope("server");
        let set = |scope: &Scope, name: &str, value: u64| store.set(scope.gauge(name), value);
        let mut scopes = Vec::new();
        counters(
            &server,
            &["debug_assertion_failures", "dropped_stat_flushes", "envoy_bug_failures", "envoy_notifications"],
        );
        // Envoy adds what it found before its statistics were there, though it be nothing.
        for name in ["dynamic_unknown_fields", "static_unknown_fields", "wip_protos"] {
            store.show_unused(server.counter(name));
        }
        for (name, value) in [
            ("compilation_settings.fips_mode", 0),
            ("concurrency", workers as u64),
            ("stats_recent_lookups", 0),
            ("version", version()),
        ] {
            set(&server, name, value);
        }
        for name in ["hot_restart_epoch", "parent_connections", "seconds_until_first_ocsp_response_expiring"] {
            server.gauge(name);
        }
        store.control().gauge_add(process::OPEN_CONNECTIONS, 0);
        let threads = (0..workers).map(|index| format!("server.worker_{index}"));
        let fixed = ["main_thread", "workers", "server.main_thread"].map(str::to_owned);
        for name in threads.chain(fixed) {
            let scope = root.scope(&name);
            counters(&scope, &["watchdog_mega_miss", "watchdog_miss"]);
            scopes.push(scope);
        }
        scopes.extend(unused(&root));
        let clusters = snapshot.clusters().count() as u64;
        for thread in (0..workers).map(|index| format!("worker_{index}")).chain(["main_thread".to_owned()]) {
            let scope = root.scope("thread_local_cluster_manager").scope(&thread);
            set(&scope, "clusters_inflated", clusters);
            scopes.push(scope);
        }
        let of_view = ViewStats::new(store, snapshot, workers);
        let listener_stopped = of_view.listener_stopped();
        let layers = root.scope("runtime");
        let (count, _, _) = runtime.sizes();
        counters(&layers, &["deprecated_feature_use", "load_error", "override_dir_exists"]);
        // Envoy loads twice until it serves.
        store.control().add(layers.counter("load_success"), 2);
        store.control().add(layers.counter("override_dir_not_exists"), 2);
        layers.gauge("deprecated_feature_seen_since_process_start");
        set(&layers, "num_layers", count as u64);
        let gauge = |name: &str| server.gauge(name);
        let this = Self {
            store: store.clone(),
            _copies: CopyStats::new(&root),
            _of_view: of_view,
            started,
            live: gauge("live"),
            state: gauge("state"),
            uptime: gauge("uptime"),
            certificate_expires: gauge("days_until_first_cert_expiring"),
            memory_allocated: gauge("memory_allocated"),
            memory_heap_size: gauge("memory_heap_size"),
            memory_physical_size: gauge("memory_physical_size"),
            listener_stopped,
            stopped: Cell::new(0),
            runtime_keys: layers.gauge("num_keys"),
            runtime_overrides: layers.gauge("admin_overrides_active"),
            _scopes: {
                scopes.extend([server.clone(), layers]);
                scopes
            },
        };
        this.store
            .control()
            .record(server.histogram("initialization_time_ms", Unit::Milliseconds), millis(started.elapsed()));
        this
    }

    /// So many listeners accept no more, those before among them. As in Envoy they stay among the active ones.
    pub(super) fn listeners_stopped(&self, count: u64) {
        let before = self.stopped.get();
        self.store.control().add(self.listener_stopped, count.saturating_sub(before));
        self.stopped.set(count.max(before));
    }

    /// Brings the gauges up to date.
    pub(super) fn flush(&self, lifecycle: &Lifecycle, runtime: &Runtime, views: &Views) {
        let state = lifecycle.state();
        let (_, keys, overrides) = runtime.sizes();
        for (gauge, value) in [
            (self.live, u64::from(!lifecycle.health_check_failed())),
            (self.state, state as u64),
            (self.certificate_expires, days_until_first_expires(views)),
            (self.uptime, self.started.elapsed().as_secs()),
            (self.memory_allocated, memory::allocated()),
            (self.memory_heap_size, memory::resident()),
            (self.memory_physical_size, memory::resident()),
            (self.runtime_keys, keys as u64),
        ] {
            self.store.set(gauge, value);
        }
        if overrides > 0 || self.store.level(self.runtime_overrides) > 0 {
            self.store.set(self.runtime_overrides, u64::from(overrides > 0));
        }
    }

    /// Ends the histograms' interval.
    pub(super) fn end_interval(&self) {
        self.store.merge_histograms();
    }
}

/// Of any view's certificates.
fn days_until_first_expires(views: &Views) -> u64 {
    let days = views.all().filter_map(|snapshot| certs::days_until_first_expires(&snapshot.load()));
    days.min().unwrap_or(NO_CERTIFICATE)
}

fn counters(scope: &Scope, names: &[&str]) {
    for name in names {
        scope.counter(name);
    }
}

/// The names of a view's `cluster_manager.*` and `listener_manager.*`, with what the bootstrap brings.
#[derive(Debug)]
pub(super) struct ViewStats {
    listeners: Scope,
    _clusters: Scope,
}

impl ViewStats {
    /// Registers them for `workers` workers.
    pub(super) fn new(store: &Store, snapshot: &Snapshot, workers: usize) -> Self {
        let root = store.root();
        let set = |scope: &Scope, name: &str, value: u64| store.set(scope.gauge(name), value);
        let clusters = snapshot.clusters().count() as u64;
        let manager = root.scope("cluster_manager");
        counters(
            &manager,
            &[
                "cluster_modified",
                "cluster_removed",
                "cluster_updated",
                "cluster_updated_via_merge",
                "update_merge_cancelled",
                "update_out_of_merge_window",
            ],
        );
        store.control().add(manager.counter("cluster_added"), clusters);
        set(&manager, "active_clusters", clusters);
        set(&manager, "warming_clusters", 0);
        let of_clusters = manager;
        let listeners = snapshot.listeners().len() as u64;
        let manager = root.scope("listener_manager");
        counters(
            &manager,
            &["listener_create_failure", "listener_in_place_updated", "listener_modified", "listener_removed"],
        );
        store.control().add(manager.counter("listener_added"), listeners);
        store.control().add(manager.counter("listener_create_success"), listeners * workers as u64);
        for (name, value) in
            [("total_listeners_active", listeners), ("total_listeners_warming", 0), ("workers_started", 1)]
        {
            set(&manager, name, value);
        }
        // Registered, and not used until something is set.
        for name in ["total_filter_chains_draining", "total_listeners_draining", "workers_pinned"] {
            manager.gauge(name);
        }
        Self { listeners: manager, _clusters: of_clusters }
    }

    fn listener_stopped(&self) -> Counter {
        self.listeners.counter("listener_stopped")
    }
}

/// Names that dashboards expect also where nothing happens: a stream is never reset for the memory that it takes.
fn unused(root: &Scope) -> [Scope; 2] {
    let (overload, actions) = (root.scope("overload"), root.scope("envoy.overload_actions"));
    overload.histogram("refresh_interval_delay", Unit::Milliseconds);
    actions.counter("reset_high_memory_stream.count");
    [overload, actions]
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// weir's version as one number: two digits for each part.
fn version() -> u64 {
    let parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    parts.fold(0, |version, part| version * 100 + part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Kind;

    #[test]
    fn the_process_tells_of_itself() {
        let store = Store::new(2);
        let (lifecycle, runtime) = (Lifecycle::default(), Runtime::default());
        let stats = ServerStats::new(&store, &Snapshot::default(), &runtime, 2, Instant::now());
        lifecycle.live();
        stats.flush(&lifecycle, &runtime, &Views::new([]));
        let root = store.root();
        let level = |name: &str| store.level(root.gauge(name));
        assert_eq!((level("server.live"), level("server.state"), level("server.concurrency")), (1, 0, 2));
        assert_eq!(level("server.days_until_first_cert_expiring"), 4_294_967_295);
        assert!(level("server.memory_physical_size") > 0);
        lifecycle.fail_health_checks(true);
        stats.flush(&lifecycle, &runtime, &Views::new([]));
        stats.end_interval();
        assert_eq!((level("server.live"), level("server.state")), (0, 1));
        let histograms = store.read(Kind::Histogram, |name| name == "server.initialization_time_ms");
        assert!(histograms[0].used);
        drop(stats);
        assert!(store.read(Kind::Histogram, |_| true).is_empty());
    }
}
