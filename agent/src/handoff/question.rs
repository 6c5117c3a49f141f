//! A question for a pod's upstream sockets, while it is open.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

/// A pod's UID and a family, as the handoff protocol says it.
pub(super) type Question = (String, i32);

/// A question is open until this is dropped.
#[derive(Debug)]
pub(super) struct Asked {
    pub question: Question,
    /// The questions that are open.
    pub of: Arc<Mutex<HashSet<Question>>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.of.lock().remove(&self.question);
    }
}

/// An answer on its way, until it is sent.
#[derive(Debug)]
pub(super) struct InFlight {
    pub _asked: Asked,
    pub _made: OwnedSemaphorePermit,
}
