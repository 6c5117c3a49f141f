//! Descriptors of messages, which every conversion needs: they are kept while updates come, and a while longer.

use std::{cell::RefCell, time::Duration};

use tokio::{sync::Notify, time::timeout};
use weir_proto::Keeping;

use crate::memory;

/// How long after the last update.
const QUIET: Duration = Duration::from_secs(60);

/// Whether they are kept.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    keeping: RefCell<Option<Keeping>>,
    used: Notify,
}

impl Descriptors {
    /// They are about to be used.
    pub(super) fn keep(&self) {
        self.keeping.borrow_mut().get_or_insert_with(weir_proto::keep);
        self.used.notify_one();
    }

    /// Gives them up whenever nothing has come for a while, for ever.
    pub(super) async fn give_up(&self) {
        loop {
            self.used.notified().await;
            while timeout(QUIET, self.used.notified()).await.is_ok() {}
            drop(self.keeping.borrow_mut().take());
            if weir_proto::forget() {
                memory::give_back();
            }
        }
    }
}
