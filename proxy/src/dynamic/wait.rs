//! What is waited for on behalf of a view.

use std::{sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};

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

/// Cells that are waited for, as long as somebody else keeps them.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Vec<watch::Receiver<State>>);

impl Unsettled {
    /// Those of these for which nothing has come yet.
    pub(super) fn of(cells: &[Arc<dyn Feed>]) -> Self {
        let states = cells.iter().map(|cell| cell.state());
        Self(states.filter(|state| *state.borrow() == State::Waiting).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Resolves once none of them is waited for any longer.
    pub(super) async fn settle(self) {
        for mut state in self.0 {
            // One that is gone is not waited for.
            let _ = state.wait_for(|state| *state != State::Waiting).await;
        }
    }
}
