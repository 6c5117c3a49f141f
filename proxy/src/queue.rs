//! What is left for somebody else to do, in order: as much as there are things to be done something with, so that it is
//! bounded by the configuration. Who leaves it never waits.

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A queue for one who takes; clones are the same.
pub struct Queue<T>(Arc<Inner<T>>);

struct Inner<T> {
    left: Mutex<VecDeque<T>>,
    news: Notify,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Arc::new(Inner { left: Mutex::default(), news: Notify::new() }))
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.0.left.lock().len()).finish()
    }
}

impl<T> Queue<T> {
    /// Leaves something.
    pub fn leave(&self, thing: T) {
        self.0.left.lock().push_back(thing);
        self.0.news.notify_one();
    }

    /// What was left first, once there is something.
    pub async fn take(&self) -> T {
        loop {
            let first = self.0.left.lock().pop_front();
            match first {
                Some(first) => return first,
                None => self.0.news.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_left_is_taken_in_order_whoever_waits() {
        let queue = Queue::default();
        queue.leave(1);
        queue.leave(2);
        assert_eq!((queue.take().await, queue.take().await), (1, 2));
        let other = queue.clone();
        let taking = tokio::spawn(async move { other.take().await });
        tokio::task::yield_now().await;
        queue.leave(3);
        assert_eq!(taking.await.unwrap(), 3);
    }
}
