//! The configurations in force, one for each view.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::snapshot::Snapshot;
use crate::view::ViewId;

/// The configurations in force. Clones share them.
#[derive(Clone, Debug)]
pub struct Views(Arc<[Arc<ArcSwap<Snapshot>>]>);

impl Views {
    /// Those of all views, the process's own first.
    pub fn new(all: impl IntoIterator<Item = Arc<ArcSwap<Snapshot>>>) -> Self {
        Self(all.into_iter().collect())
    }

    /// That of a view.
    pub fn of(&self, view: ViewId) -> &Arc<ArcSwap<Snapshot>> {
        &self.0[view.index()]
    }

    /// All of them, the process's own first.
    pub fn all(&self) -> &[Arc<ArcSwap<Snapshot>>] {
        &self.0
    }
}
