//! What has become of resources, for `/config_dump` and `/ready`. The thread that follows writes; others read copies, which
//! share names and bodies.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::xds::{
    kind::Kind,
    store::{Missing, OfKind, Store},
};

/// A message that something was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The encoded message.
    pub body: Bytes,
    /// The version under which it came.
    pub version: Arc<str>,
    /// When that was.
    pub at: SystemTime,
}

/// What there is of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// In force.
    pub active: Option<Version>,
    /// To be in force once it is warm.
    pub warming: Option<Version>,
    /// No longer in force, and connections are left to it; the latest.
    pub draining: Option<Version>,
}

/// What has become of resources.
#[derive(Debug, Default)]
pub struct Status(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    clusters: BTreeMap<Arc<str>, Shown>,
    listeners: BTreeMap<Arc<str>, Shown>,
    /// By the name of their source.
    stores: Vec<(Arc<str>, Arc<Store>)>,
    /// Where clusters and listeners come from.
    of_clusters: Option<Arc<Store>>,
    of_listeners: Option<Arc<Store>>,
}

impl Known {
    fn shown(&mut self, kind: Kind) -> &mut BTreeMap<Arc<str>, Shown> {
        if kind == Kind::Listener { &mut self.listeners } else { &mut self.clusters }
    }
}

impl Status {
    /// Every cluster that did not come from the bootstrap, by name.
    pub fn clusters(&self) -> BTreeMap<Arc<str>, Shown> {
        self.0.lock().clusters.clone()
    }

    /// Every listener that did not come from the bootstrap, by name.
    pub fn listeners(&self) -> BTreeMap<Arc<str>, Shown> {
        self.0.lock().listeners.clone()
    }

    /// What is known of clusters, or of listeners, where they come from.
    pub fn of(&self, kind: Kind) -> Option<OfKind> {
        let known = self.0.lock();
        let store = if kind == Kind::Listener { &known.of_listeners } else { &known.of_clusters };
        store.as_ref().map(|store| store.of(kind))
    }

    /// Every source by name, with its resources.
    pub fn stores(&self) -> Vec<(Arc<str>, Arc<Store>)> {
        self.0.lock().stores.clone()
    }

    /// What was asked for and has not come.
    pub fn missing(&self) -> Vec<Missing> {
        self.stores().iter().flat_map(|(_, store)| store.missing()).collect()
    }

    /// There is a source, of clusters, of listeners or of neither.
    pub(super) fn source(&self, name: Arc<str>, store: &Arc<Store>) {
        let mut known = self.0.lock();
        if !known.stores.iter().any(|(_, other)| Arc::ptr_eq(other, store)) {
            known.stores.push((name, store.clone()));
        }
    }

    /// It is not followed any more.
    pub(super) fn forget(&self, store: &Arc<Store>) {
        self.0.lock().stores.retain(|(_, other)| !Arc::ptr_eq(other, store));
    }

    /// Clusters, or listeners, come from there.
    pub(super) fn come_from(&self, kind: Kind, store: &Arc<Store>) {
        let mut known = self.0.lock();
        let of = if kind == Kind::Listener { &mut known.of_listeners } else { &mut known.of_clusters };
        *of = Some(store.clone());
    }

    /// Changes what is shown of a name. One of which there is nothing is not shown.
    pub(super) fn show(&self, kind: Kind, name: &Arc<str>, change: impl FnOnce(&mut Shown)) {
        let mut known = self.0.lock();
        let shown = known.shown(kind);
        let entry = shown.entry(name.clone()).or_default();
        change(entry);
        if *entry == Shown::default() {
            shown.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_as_long_as_there_is_something_of_it() {
        let status = Status::default();
        let name: Arc<str> = "c".into();
        let version = Version { body: Bytes::new(), version: "1".into(), at: SystemTime::UNIX_EPOCH };
        status.show(Kind::Cluster, &name, |shown| shown.warming = Some(version.clone()));
        status.show(Kind::Cluster, &name, |shown| shown.active = shown.warming.take());
        assert_eq!(status.clusters()["c"], Shown { active: Some(version), ..Shown::default() });
        assert!(status.listeners().is_empty());
        status.show(Kind::Cluster, &name, |shown| shown.active = None);
        assert!(status.clusters().is_empty());
    }
}
