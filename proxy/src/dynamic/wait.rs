//! What is waited for on behalf of a view.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::config::cell::{Feed, State};

/// Something that is waited for.
#[derive(Debug)]
pub(super) enum Wait {
    /// The cluster of this number is warm: so are these cells, and whatever else tells.
    Warm(u64, Unsettled, Option<oneshot::Receiver<()>>),
    /// What the listener of this number waits for is settled.
    Settled(u64, Unsettled),
    /// What is no longer in force has drained.
    Drained(u64, Duration),
    /// The first runtime values are there.
    Runtime(Unsettled),
}

/// Cells that are waited for, and those that their values name, as long as somebody else keeps them.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Vec<Weak<dyn Feed>>);

impl Unsettled {
    /// Those of these for which nothing has come yet.
    pub(super) fn of(cells: &[Arc<dyn Feed>]) -> Self {
        Self(cells.iter().filter(|cell| !is_settled(cell)).map(Arc::downgrade).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Resolves once none of them is waited for any longer.
    pub(super) async fn settle(self) {
        for cell in self.0 {
            // One that is gone is not waited for.
            let Some(mut state) = cell.upgrade().map(|cell| cell.state()) else { continue };
            let _ = state.wait_for(|state| *state != State::Waiting).await;
            let further = cell.upgrade().map(|cell| Self::of(&cell.further())).unwrap_or_default();
            Box::pin(further.settle()).await;
        }
    }
}

fn is_settled(cell: &Arc<dyn Feed>) -> bool {
    *cell.state().borrow() != State::Waiting && cell.further().iter().all(is_settled)
}
