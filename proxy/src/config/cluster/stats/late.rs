//! Responses counted under names that are only known when there is one: `zone.<this proxy's>.<the endpoint's>.` for the
//! zone that they come from, or what `x-envoy-upstream-alt-stat-name` says.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::responses::Responses;
use crate::telemetry::stats::Scope;

/// The names of one cluster that begin alike. They are registered when they are first needed.
pub struct LateResponses {
    scope: Scope,
    prefix: Box<str>,
    known: ArcSwap<Vec<Known>>,
    adding: Mutex<()>,
}

type Known = (Box<str>, Arc<Responses>);

impl LateResponses {
    /// Below a cluster's scope.
    pub fn new(scope: &Scope, prefix: &str) -> Self {
        Self { scope: scope.clone(), prefix: prefix.into(), known: ArcSwap::default(), adding: Mutex::new(()) }
    }

    /// Those with this name.
    pub fn of(&self, name: &str) -> Arc<Responses> {
        let find = |known: &[Known]| known.iter().find(|(known, _)| **known == *name).map(|(_, one)| one.clone());
        if let Some(known) = find(&self.known.load()) {
            return known;
        }
        let _adding = self.adding.lock();
        let mut known = Vec::clone(&self.known.load());
        if let Some(known) = find(&known) {
            return known;
        }
        let responses = Arc::new(Responses::new(&self.scope, &format!("{}{name}.", self.prefix)));
        known.push((name.into(), responses.clone()));
        self.known.store(Arc::new(known));
        responses
    }
}

impl fmt::Debug for LateResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateResponses").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Kind, Metric, Store};

    #[test]
    fn zones_are_counted_apart_once_they_answer() {
        let store = Store::new(1);
        let zones = LateResponses::new(&store.root().scope("cluster.c"), "zone.a.");
        zones.of("b").charge(&store.worker(0), 503);
        zones.of("b").charge(&store.worker(0), 503);
        let shown = store.read(Kind::Counter, |name| name.contains(".zone."));
        let names: Vec<_> = shown.iter().map(Metric::name).collect();
        let expected = ["completed", "503", "5xx"].map(|end| format!("cluster.c.zone.a.b.upstream_rq_{end}"));
        assert!(
            names.len() == 3 && expected.iter().all(|name| names.iter().any(|shown| *shown == **name)),
            "{names:?}"
        );
        assert_eq!(zones.known.load().len(), 1);
    }
}
