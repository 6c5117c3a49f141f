//! Changes of health reach the workers at once if there was none for a while; else together, after a pause.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// `update_merge_window` of one cluster.
#[derive(Debug, Default)]
pub struct MergeWindow {
    window: Duration,
    last: AtomicU64,
    pending: AtomicBool,
    wake: Notify,
}

/// What becomes of a change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is told at once, as each is.
    Unmerged,
    /// It is told at once, as there was none for a while.
    Outside {
        /// With one that was pending.
        cancelled: bool,
    },
    /// It is pending.
    Later,
}

impl MergeWindow {
    /// Envoy's default.
    pub const DEFAULT: Duration = Duration::from_secs(1);

    /// A window of this length; zero: every change is told at once.
    pub fn new(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    /// What becomes of a change of health at `now` (milliseconds).
    pub fn decide(&self, now: u64) -> Told {
        if self.window.is_zero() {
            self.tell_all(now);
            return Told::Unmerged;
        }
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let last = self.last.load(Acquire);
        if last == 0 || now.saturating_sub(last) > window {
            return Told::Outside { cancelled: self.tell_all(now) };
        }
        if !self.pending.swap(true, AcqRel) {
            self.wake.notify_one();
        }
        Told::Later
    }

    /// Everything up to `now` is told. Whether something was pending.
    pub fn tell_all(&self, now: u64) -> bool {
        self.last.store(now, Release);
        self.pending.swap(false, AcqRel)
    }

    /// Waits for a change to be pending, and then for the window's length. Whether it is still pending.
    pub async fn elapsed(&self) -> bool {
        self.wake.notified().await;
        tokio::time::sleep(self.window).await;
        self.pending.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_passes_and_the_next_waits() {
        let window = MergeWindow::new(Duration::from_millis(100));
        assert_eq!(window.decide(1), Told::Outside { cancelled: false });
        assert_eq!(window.decide(50), Told::Later);
        assert_eq!(window.decide(200), Told::Outside { cancelled: true });
        assert_eq!(window.decide(250), Told::Later);
        assert!(window.tell_all(260) && !window.tell_all(270));
        assert_eq!(MergeWindow::default().decide(1), Told::Unmerged);
    }
}
