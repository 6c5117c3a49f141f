//! What is counted of values that change.

use std::time::SystemTime;

use crate::telemetry::stats::{Counter, Gauge, Scope, Shared, Store};

/// `config_reload`, and what else Envoy counts of a kind of cells.
#[derive(Debug)]
pub struct Reloads {
    shared: Shared,
    store: Option<Store>,
    reload: Counter,
    time: Option<Gauge>,
    empty: Option<Counter>,
    fail: Option<Counter>,
    /// What is the same counts as well.
    always: bool,
    /// Of what it is a part of, where that counts as other, too.
    whole: Option<Box<Reloads>>,
}

impl Reloads {
    /// Of route configurations, below the scope of one.
    pub fn of_routes(scope: &Scope) -> Self {
        let (time, empty) = (scope.gauge("config_reload_time_ms"), scope.counter("update_empty"));
        Self { time: Some(time), empty: Some(empty), ..Self::new(scope) }
    }

    /// Of scopes of routes.
    pub fn of_scopes(scope: &Scope) -> Self {
        Self { always: true, ..Self::of_routes(scope) }
    }

    /// Of virtual hosts, with the route configuration that they are of, where that came by itself.
    pub fn of_hosts(scope: &Scope, routes: Option<&Scope>) -> Self {
        // Never counted: what a server does not know of is no update.
        scope.counter("update_empty");
        Self { always: true, whole: routes.map(|scope| Box::new(Self::of_routes(scope))), ..Self::new(scope) }
    }

    /// Of a filter's configuration, below the scope of one.
    pub fn of_extension(scope: &Scope) -> Self {
        // Never counted, in Envoy neither.
        scope.counter("config_conflict");
        Self { fail: Some(scope.counter("config_fail")), ..Self::new(scope) }
    }

    fn new(scope: &Scope) -> Self {
        let store = Store::of(scope);
        let shared = store.as_ref().map(Store::shared).unwrap_or_default();
        Self {
            shared,
            store,
            reload: scope.counter("config_reload"),
            time: None,
            empty: None,
            fail: None,
            always: false,
            whole: None,
        }
    }

    /// The same value came again.
    pub(super) fn repeated(&self, now: SystemTime) {
        if self.always {
            self.reloaded(now);
        }
    }

    /// There is another value.
    pub(super) fn reloaded(&self, now: SystemTime) {
        self.shared.inc(self.reload);
        if let (Some(store), Some(time)) = (&self.store, self.time) {
            let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            store.set(time, u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(whole) = &self.whole {
            whole.reloaded(now);
        }
    }

    /// What came was no good, or late.
    pub(super) fn failed(&self) {
        if let Some(fail) = self.fail {
            self.shared.inc(fail);
        }
    }

    /// Nothing came.
    pub(super) fn empty(&self) {
        if let Some(empty) = self.empty {
            self.shared.inc(empty);
        }
    }
}
