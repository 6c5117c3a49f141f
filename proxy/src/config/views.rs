//! The configurations in force, one for each view.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::snapshot::Snapshot;
use crate::view::{Gate, ViewId};

/// The configurations in force. Clones share them.
#[derive(Clone, Debug)]
pub struct Views(Arc<[InForce]>);

/// That of one view.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The view's name; none: it is the process's own.
    pub name: Option<Arc<str>>,
    /// The configuration.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Whether connections are served by it yet.
    pub gate: Arc<Gate>,
}

impl InForce {
    /// A configuration that connections need not wait for, of the process itself.
    pub fn at_once(snapshot: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { name: None, snapshot, gate: Arc::new(Gate::open()) }
    }
}

impl Views {
    /// Those of all views, the process's own first.
    pub fn new(all: impl IntoIterator<Item = InForce>) -> Self {
        Self(all.into_iter().collect())
    }

    /// That of a view.
    pub fn of(&self, view: ViewId) -> &Arc<ArcSwap<Snapshot>> {
        &self.0[view.index()].snapshot
    }

    /// What a view is called; none: it is the process's own.
    pub fn name(&self, view: ViewId) -> Option<&str> {
        self.0[view.index()].name.as_deref()
    }

    /// What of a view is there.
    pub fn gate(&self, view: ViewId) -> &Arc<Gate> {
        &self.0[view.index()].gate
    }

    /// All of them, the process's own first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ArcSwap<Snapshot>>> {
        self.0.iter().map(|in_force| &in_force.snapshot)
    }
}
