//! How far the request's body has come, seen by the request's timers while hyper drives the body.

use std::{
    cell::{Cell, RefCell},
    task::Waker,
};

use tokio::time::Instant;

/// Shared by a request body and the one who waits for the response.
#[derive(Debug)]
pub(in crate::http) struct Progress {
    received: Cell<u64>,
    last: Cell<Instant>,
    complete: Cell<Option<Instant>>,
    waiting: RefCell<Option<Waker>>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            received: Cell::new(0),
            last: Cell::new(Instant::now()),
            complete: Cell::new(None),
            waiting: RefCell::new(None),
        }
    }

    /// Body bytes received.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// When something last came.
    pub fn last(&self) -> Instant {
        self.last.get()
    }

    /// When the request was complete.
    pub fn completed(&self) -> Option<Instant> {
        self.complete.get()
    }

    /// Wakes `waker` when the request is complete.
    pub fn wake_on_completion(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *waiting = Some(waker.clone());
        }
    }

    pub fn add(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        self.last.set(Instant::now());
    }

    pub fn complete(&self) {
        if self.complete.get().is_none() {
            self.complete.set(Some(Instant::now()));
            if let Some(waker) = self.waiting.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}
