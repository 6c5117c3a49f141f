//! The limits of a response that is under way. Whoever drives the response drives them beside it: they pass also while
//! the client takes nothing, when the response's body is not asked for more.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll, ready},
};

use super::timers::{Expired, Timers};

/// What the body of a response and its driver share: the one tells when something moves, the other when a limit passes.
#[derive(Debug, Default)]
pub(in crate::http) struct Running {
    timers: RefCell<Option<Timers>>,
    expired: Cell<Option<Expired>>,
    cut: Cell<bool>,
}

impl Running {
    /// A response is under way within limits.
    pub fn begin(&self, timers: Timers) {
        *self.timers.borrow_mut() = Some(timers);
        self.expired.set(None);
    }

    /// A part of it moved.
    pub fn moved(&self) {
        if let Some(timers) = &mut *self.timers.borrow_mut() {
            timers.moved();
        }
    }

    /// It is over.
    pub fn end(&self) {
        *self.timers.borrow_mut() = None;
        self.expired.set(None);
    }

    /// Which of its limits has passed, if one has.
    pub fn expired(&self) -> Option<Expired> {
        self.expired.get()
    }

    /// What became of the stream breaks off: hyper is not to end it in order.
    pub fn cut(&self) {
        self.cut.set(true);
    }

    /// Whether it is to be dropped as it is.
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Drives what brings the response to its client, beside the limits. When one of them passes, it has one more turn to
    /// end the response in its own way. Ready without an output: it did not ask for more of the response, and is to be
    /// dropped.
    pub fn poll_beside<T>(
        &self,
        cx: &mut Context<'_>,
        mut drive: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        if let Poll::Ready(output) = drive(cx) {
            return Poll::Ready(Some(output));
        }
        let expired = ready!(self.poll(cx));
        self.expired.set(Some(expired));
        Poll::Ready(match drive(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Expired> {
        match &mut *self.timers.borrow_mut() {
            Some(timers) => timers.poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::Instant;

    use super::*;

    fn within(limit: u64) -> Running {
        let running = Running::default();
        running.begin(Timers::new(Instant::now(), None, None, None, Some(Duration::from_secs(limit))));
        running
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_passes_though_nobody_asks_for_the_body() {
        let (running, began) = (within(2), Instant::now());
        let driven = poll_fn(|cx| running.poll_beside(cx, |_| Poll::<()>::Pending)).await;
        assert_eq!((driven, began.elapsed().as_secs()), (None, 2));
        assert_eq!(running.expired(), Some(Expired::MaxDuration));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_once_more_ends_the_response_himself() {
        let running = within(2);
        let asks = |_: &mut Context<'_>| running.expired().map_or(Poll::Pending, Poll::Ready);
        assert_eq!(poll_fn(|cx| running.poll_beside(cx, asks)).await, Some(Expired::MaxDuration));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_has_no_limits() {
        let running = within(2);
        running.end();
        let driven = poll_fn(|cx| running.poll_beside(cx, |_| Poll::<()>::Pending));
        assert!(tokio::time::timeout(Duration::from_secs(9), driven).await.is_err());
    }
}
