//! What is wanted of a source, from whichever thread: subscriptions that last as long as they are kept.
//!
//! Who drops a part of a configuration may be a worker. It leaves a note; the thread that follows the server reads it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{kind::Kind, stats::SubscriptionStats, store::Store};
use crate::config::cell::INITIAL_FETCH_TIMEOUT;

/// What is noted.
#[derive(Debug)]
pub(super) enum Wish {
    Subscribe { number: u64, kind: Kind, name: Option<Arc<str>>, options: Options },
    Unsubscribe(u64),
    Hold(Kind),
    Release(Kind),
}

/// What goes with a subscription.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whoever waits is told if nothing came within; none: never.
    pub timeout: Option<Duration>,
    /// Where it is counted.
    pub stats: Option<SubscriptionStats>,
    /// Only what is named below this (`NAME/...`) is counted, of a subscription to everything.
    pub within: Option<Arc<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Some(INITIAL_FETCH_TIMEOUT), stats: None, within: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Wishes {
    noted: Mutex<Vec<Wish>>,
    news: Notify,
    numbers: AtomicU64,
    /// How many subscriptions there are.
    subscribed: AtomicUsize,
    /// Told when there is none left.
    emptied: Notify,
}

impl Wishes {
    fn note(&self, wish: Wish) {
        self.noted.lock().push(wish);
        self.news.notify_one();
    }

    /// What was noted since.
    pub(super) fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut *self.noted.lock())
    }

    /// Resolves when something was noted.
    pub(super) async fn noted(&self) {
        self.news.notified().await;
    }
}

/// A source of resources: what subscriptions are made of. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) wishes: Arc<Wishes>,
    pub(super) store: Arc<Store>,
}

impl Handle {
    /// A source that nobody follows yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self { wishes: Arc::default(), store }
    }

    /// Subscribes to a name; none: to everything of the type. What somebody else has subscribed to already does not come
    /// again: it is in the [`store`](Self::store).
    pub fn subscribe(&self, kind: Kind, name: Option<Arc<str>>, options: Options) -> Subscription {
        let number = self.wishes.numbers.fetch_add(1, Ordering::Relaxed);
        self.wishes.subscribed.fetch_add(1, Ordering::Relaxed);
        self.wishes.note(Wish::Subscribe { number, kind, name, options });
        Subscription { number, wishes: self.wishes.clone() }
    }

    /// Requests of a type, its acknowledgements among them, wait for as long as this is kept.
    pub fn hold(&self, kind: Kind) -> Hold {
        self.wishes.note(Wish::Hold(kind));
        Hold { kind, wishes: self.wishes.clone() }
    }

    /// Whether there is a subscription.
    pub fn is_wanted(&self) -> bool {
        self.wishes.subscribed.load(Ordering::Relaxed) > 0
    }

    /// Resolves once there has been no subscription for so long.
    pub async fn unwanted(&self, patience: Duration) {
        loop {
            while self.is_wanted() {
                self.wishes.emptied.notified().await;
            }
            tokio::time::sleep(patience).await;
            if !self.is_wanted() {
                return;
            }
        }
    }

    /// What is known of its resources.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

/// Ends when dropped.
pub struct Subscription {
    number: u64,
    wishes: Arc<Wishes>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.number).finish()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.wishes.note(Wish::Unsubscribe(self.number));
        if self.wishes.subscribed.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.wishes.emptied.notify_one();
        }
    }
}

/// Ends when dropped.
pub struct Hold {
    kind: Kind,
    wishes: Arc<Wishes>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.kind).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.wishes.note(Wish::Release(self.kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_is_unwanted_once_there_was_no_subscription_for_a_while() {
        let handle = Handle::new(Arc::default());
        let patience = Duration::from_secs(10);
        let subscribe = || handle.subscribe(Kind::Secret, Some("a".into()), Options::default());
        let first = subscribe();
        let unwanted = tokio::time::timeout(2 * patience, handle.unwanted(patience));
        assert!(unwanted.await.is_err() && handle.is_wanted());
        drop(first);
        let again = async {
            tokio::time::sleep(patience / 2).await;
            let second = subscribe();
            tokio::time::sleep(patience).await;
            drop(second);
            tokio::time::Instant::now()
        };
        let unwanted = async {
            handle.unwanted(patience).await;
            tokio::time::Instant::now()
        };
        let (dropped, over) = tokio::join!(again, unwanted);
        assert_eq!(over - dropped, patience);
    }
}
