//! Who waits for a stream of HTTP/2.

use std::cell::Cell;

/// Requests that wait for a stream of HTTP/2, in their order.
#[derive(Debug, Default)]
pub(super) struct Streams {
    waiting: Cell<usize>,
    woken: tokio::sync::Notify,
}

impl Streams {
    /// Whether somebody waits, who is to have what becomes free before who comes now.
    pub fn are_waited_for(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Lets one who waits look for a stream, or for room for another connection.
    pub fn wake_one(&self) {
        if self.are_waited_for() {
            self.woken.notify_one();
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// A place among those who wait.
    pub fn queue(&self) -> Place<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Place(self)
    }
}

/// A place among those who wait for a stream.
pub(super) struct Place<'a>(&'a Streams);

impl Place<'_> {
    /// Waits for a turn. One that is not taken, as who waited is gone, goes to the next.
    pub async fn turn(&self) {
        self.0.woken.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
