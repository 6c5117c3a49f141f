//! Changes of health reach the workers at once if there was none for a while; else together, after a pause.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire},
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

impl MergeWindow {
    /// Envoy's default.
    pub const DEFAULT: Duration = Duration::from_secs(1);

    /// A window of this length; zero: every change is told at once.
    pub fn new(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    /// Whether a change of health at `now` (milliseconds) is to be told at once. If not, it is pending.
    pub fn admits(&self, now: u64) -> bool {
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let last = self.last.load(Acquire);
        if window == 0 || last == 0 || now.saturating_sub(last) > window {
            self.told(now);
            return true;
        }
        if !self.pending.swap(true, AcqRel) {
            self.wake.notify_one();
        }
        false
    }

    /// Everything up to `now` has been told.
    pub fn told(&self, now: u64) {
        self.last.store(now, std::sync::atomic::Ordering::Release);
        self.pending.store(false, std::sync::atomic::Ordering::Release);
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
        assert!(window.admits(1));
        assert!(!window.admits(50) && window.pending.load(Acquire));
        assert!(window.admits(200) && !window.pending.load(Acquire));
        assert!(MergeWindow::default().admits(1) && MergeWindow::default().admits(1));
    }
}
