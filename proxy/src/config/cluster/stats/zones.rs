//! Responses by the zone that they come from: `zone.<this proxy's>.<the endpoint's>.upstream_rq_200`.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::responses::Responses;
use crate::telemetry::stats::Scope;

/// The names of one cluster, by the endpoints' zones. They are registered when a zone first answers.
pub struct ZoneResponses {
    scope: Scope,
    own: Box<str>,
    known: ArcSwap<Vec<Known>>,
    adding: Mutex<()>,
}

type Known = (Box<str>, Arc<Responses>);

impl ZoneResponses {
    /// Below a cluster's scope, of a proxy in the zone `own`.
    pub fn new(scope: &Scope, own: &str) -> Self {
        Self { scope: scope.clone(), own: own.into(), known: ArcSwap::default(), adding: Mutex::new(()) }
    }

    /// Those from a zone.
    pub fn from(&self, zone: &str) -> Arc<Responses> {
        let find = |known: &[Known]| known.iter().find(|(name, _)| **name == *zone).map(|(_, one)| one.clone());
        if let Some(known) = find(&self.known.load()) {
            return known;
        }
        let _adding = self.adding.lock();
        let mut known = Vec::clone(&self.known.load());
        if let Some(known) = find(&known) {
            return known;
        }
        let responses = Arc::new(Responses::new(&self.scope, &format!("zone.{}.{zone}.", self.own)));
        known.push((zone.into(), responses.clone()));
        self.known.store(Arc::new(known));
        responses
    }
}

impl fmt::Debug for ZoneResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneResponses").field("own", &self.own).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Kind, Metric, Store};

    #[test]
    fn zones_are_counted_apart_once_they_answer() {
        let store = Store::new(1);
        let zones = ZoneResponses::new(&store.root().scope("cluster.c"), "a");
        zones.from("b").charge(&store.worker(0), 503);
        zones.from("b").charge(&store.worker(0), 503);
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
