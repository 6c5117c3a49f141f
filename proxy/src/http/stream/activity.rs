//! What a client's connection is doing: its limits (idleness, slow heads) read it, its requests count themselves in.

use std::{cell::Cell, rc::Rc};

use tokio::time::Instant;

/// The requests of one connection.
#[derive(Debug)]
pub(in crate::http) struct Activity {
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    requests: Cell<u32>,
    head_began: Cell<Option<Instant>>,
    head_begins: tokio::sync::Notify,
    blocked_since: Cell<Option<Instant>>,
    blocks: tokio::sync::Notify,
    /// The client ended the connection, with so many requests under way.
    left: Cell<Option<usize>>,
    /// Bytes came since the connection was last driven, or a request from what had come before.
    came: Cell<bool>,
    /// The last request ended before it was driven again.
    ended_as_it_came: Cell<bool>,
}

/// A request under way on a connection.
#[derive(Debug)]
pub(in crate::http) struct Active(Rc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.active.set(activity.active.get() - 1);
        activity.idle_since.set(Instant::now());
        activity.ended_as_it_came.set(activity.came.get());
    }
}

impl Activity {
    /// None yet.
    pub fn new() -> Self {
        Self {
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            requests: Cell::new(0),
            head_began: Cell::new(None),
            head_begins: tokio::sync::Notify::new(),
            blocked_since: Cell::new(None),
            blocks: tokio::sync::Notify::new(),
            left: Cell::new(None),
            came: Cell::new(false),
            ended_as_it_came: Cell::new(false),
        }
    }

    /// Counts a request in.
    pub fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get().saturating_add(1));
        self.came.set(true);
        Active(self.clone())
    }

    /// Part of a head has come, and more is waited for.
    pub fn head_comes(&self) {
        if self.head_began.get().is_none() {
            self.head_began.set(Some(Instant::now()));
            self.head_begins.notify_one();
        }
    }

    /// It is complete.
    pub fn head_came(&self) {
        self.head_began.set(None);
    }

    /// The client takes no bytes just now.
    pub fn write_blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(Instant::now()));
            self.blocks.notify_one();
        }
    }

    /// The client took bytes.
    pub fn written(&self) {
        self.blocked_since.set(None);
    }

    /// Since when the client has taken no bytes, while there are some for it.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since.get()
    }

    /// Resolves when [`Self::blocked_since`] changes from none.
    pub async fn blocks(&self) {
        self.blocks.notified().await;
    }

    /// The client has ended the connection, or had it end, with so many requests under way.
    pub fn client_ended_during(&self, requests: usize) {
        if self.left.get().is_none() {
            self.left.set(Some(requests));
        }
    }

    /// How many requests were under way when the client ended the connection; none: it has not.
    pub fn left(&self) -> Option<usize> {
        self.left.get()
    }

    /// The connection is driven: nothing has come yet. Said before each turn of what reads it: until then the client's end is
    /// held back.
    pub fn driven(&self) {
        self.came.set(false);
    }

    /// Whether something has come since: it is handled before the client's end is seen.
    pub fn has_come(&self) -> bool {
        self.came.get()
    }

    /// Bytes came, or a request out of what had come before.
    pub fn comes(&self) {
        self.came.set(true);
    }

    /// Whether the last request ended while what came with it was being read: nothing was waited for.
    pub fn ended_as_it_came(&self) -> bool {
        self.ended_as_it_came.get()
    }

    /// Requests under way.
    pub fn active(&self) -> usize {
        self.active.get()
    }

    /// When the last request ended, or the connection began.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Requests so far.
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// When part of a request's head had come, while the rest has not.
    pub fn head_began(&self) -> Option<Instant> {
        self.head_began.get()
    }

    /// Resolves when [`Self::head_began`] changes from none.
    pub async fn head_begins(&self) {
        self.head_begins.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_as_it_comes_or_is_waited_for() {
        let activity = Rc::new(Activity::new());
        activity.driven();
        activity.comes();
        drop(activity.begin());
        assert!(activity.ended_as_it_came());

        activity.driven();
        activity.comes();
        let waits = activity.begin();
        activity.driven();
        drop(waits);
        assert!(!activity.ended_as_it_came());

        // From what had come with the one before.
        activity.driven();
        drop(activity.begin());
        assert!(activity.ended_as_it_came());
    }
}
