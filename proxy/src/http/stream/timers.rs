//! The limits that run while a request waits for its response and while the response's body passes. They share one
//! timer, which is armed only when there is something to wait for.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::http::body::progress::Progress;

/// Which limit has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Expired {
    /// The route's timeout.
    Global,
    /// The timeout of this attempt.
    PerTry,
    /// Nothing moved in this attempt.
    PerTryIdle,
    /// Nothing moved.
    Idle,
    /// The stream is too old.
    MaxDuration,
    /// The attempt's own stream is too old.
    StreamDuration,
    /// The request is not complete.
    Request,
}

impl Expired {
    /// Whether the upstream has taken too long: the stream's own limits say nothing of it.
    pub fn is_of_upstream(self) -> bool {
        matches!(self, Self::Global | Self::PerTry | Self::PerTryIdle)
    }
}

/// See the module.
#[derive(Debug)]
pub(in crate::http) struct Timers {
    /// Runs from the end of the request.
    global: Option<Duration>,
    /// Runs from the end of the request, or from the attempt's start if that is later.
    per_try: Option<(Duration, Instant)>,
    idle: Option<Duration>,
    /// Like `idle`, for this attempt.
    per_try_idle: Option<(Duration, Instant)>,
    /// Both, of an attempt that has no connection yet.
    awaited: (Option<Duration>, Option<Duration>),
    max_duration: Option<Instant>,
    /// Until when this attempt and its response may last.
    stream_by: Option<Instant>,
    /// The request must be complete by then.
    request_by: Option<Instant>,
    start: Instant,
    /// When the request was complete; or how to learn it.
    request: Request,
    moved: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Request {
    Complete(Instant),
    Coming(Rc<Progress>),
}

impl Timers {
    /// Limits of a request that began at `start` and whose body, if any, is watched by `progress`.
    pub fn new(
        start: Instant,
        progress: Option<&Rc<Progress>>,
        global: Option<Duration>,
        idle: Option<Duration>,
        max_duration: Option<Duration>,
    ) -> Self {
        Self {
            global,
            per_try: None,
            per_try_idle: None,
            awaited: (None, None),
            idle,
            max_duration: max_duration.map(|limit| start + limit),
            stream_by: None,
            request_by: None,
            start,
            request: match progress {
                None => Request::Complete(start),
                Some(progress) => Request::Coming(progress.clone()),
            },
            moved: start,
            sleep: None,
        }
    }

    /// The same, and the request must be complete within `limit`.
    pub fn with_request_timeout(self, limit: Option<Duration>) -> Self {
        Self { request_by: limit.map(|limit| self.start + limit), ..self }
    }

    /// The response must be complete so long after the request.
    pub fn respond_within(&mut self, limit: Option<Duration>) {
        self.global = limit;
    }

    /// The request has no end: nothing waits for it to be complete, and what would run from there runs from its beginning.
    pub fn endless(&mut self) {
        self.request_by = None;
        self.request = Request::Complete(self.start);
    }

    /// What limits a tunnel: how long it may idle, and until when it may last.
    pub fn of_tunnel(&self) -> (Option<Duration>, Option<Instant>) {
        (self.idle, self.max_duration)
    }

    /// An attempt begins, with timeouts of its own, which run once it has a connection.
    pub fn attempt(&mut self, timeout: Option<Duration>, idle: Option<Duration>) {
        self.forget_attempt();
        self.awaited = (timeout, idle);
        self.stream_by = None;
    }

    /// The attempt has its connection.
    pub fn attached(&mut self) {
        let (timeout, idle) = self.awaited;
        self.per_try = timeout.map(|timeout| (timeout, Instant::now()));
        self.per_try_idle = idle.map(|idle| (idle, Instant::now()));
    }

    /// The attempt has had its time, and goes on.
    pub fn forget_attempt(&mut self) {
        (self.per_try, self.per_try_idle, self.awaited) = (None, None, (None, None));
    }

    /// The attempt that has begun may last so long, with its response.
    pub fn stream_may_last(&mut self, limit: Option<Duration>) {
        self.stream_by = limit.map(|limit| Instant::now() + limit);
    }

    /// The response has begun: the attempt's own timeout has served.
    pub fn responded(&mut self) {
        self.per_try = None;
        self.moved();
    }

    /// Something moved.
    pub fn moved(&mut self) {
        if let Some((_, moved)) = &mut self.per_try_idle {
            *moved = Instant::now();
        }
        if self.idle.is_some() {
            self.moved = Instant::now();
        }
    }

    /// Runs `future` until it is done or a limit passes.
    pub async fn during<F: Future>(&mut self, future: F) -> Result<F::Output, Expired> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }

    /// Ready when a limit has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let Some((next, which)) = self.next(cx) else { return Poll::Pending };
            if next <= Instant::now() {
                return Poll::Ready(which);
            }
            let sleep = match &mut self.sleep {
                Some(sleep) => {
                    if sleep.deadline() != next {
                        sleep.as_mut().reset(next);
                    }
                    sleep
                }
                none => none.insert(Box::pin(tokio::time::sleep_until(next))),
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// The limit that passes first.
    fn next(&self, cx: &mut Context<'_>) -> Option<(Instant, Expired)> {
        let (complete, moved) = match &self.request {
            Request::Complete(at) => (Some(*at), self.moved),
            Request::Coming(progress) => {
                if progress.completed().is_none() {
                    progress.wake_on_completion(cx.waker());
                }
                (progress.completed(), self.moved.max(progress.last()))
            }
        };
        [
            complete.zip(self.global).map(|(at, limit)| (at + limit, Expired::Global)),
            complete.zip(self.per_try).map(|(at, (limit, start))| (at.max(start) + limit, Expired::PerTry)),
            complete.zip(self.per_try_idle).map(|(at, (limit, moved))| (at.max(moved) + limit, Expired::PerTryIdle)),
            self.idle.map(|limit| (moved + limit, Expired::Idle)),
            self.max_duration.map(|at| (at, Expired::MaxDuration)),
            self.stream_by.map(|at| (at, Expired::StreamDuration)),
            self.request_by.filter(|_| complete.is_none()).map(|at| (at, Expired::Request)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(timers: &mut Timers) -> (Expired, u128) {
        let start = Instant::now();
        let which = std::future::poll_fn(|cx| timers.poll(cx)).await;
        (which, start.elapsed().as_millis())
    }

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_limit_passes() {
        let now = Instant::now();
        let mut timers = Timers::new(now, None, seconds(15), seconds(300), None);
        assert_eq!(passed(&mut timers).await, (Expired::Global, 15_000));
        let mut timers = Timers::new(Instant::now(), None, None, seconds(300), seconds(400));
        timers.attempt(seconds(2), None);
        tokio::time::advance(Duration::from_secs(3)).await;
        timers.attached();
        assert_eq!(passed(&mut timers).await, (Expired::PerTry, 2_000));
        timers.responded();
        assert_eq!(passed(&mut timers).await, (Expired::Idle, 300_000));
    }

    #[tokio::test(start_paused = true)]
    async fn timeouts_run_from_the_end_of_the_request() {
        let progress = Rc::new(Progress::new());
        let mut timers = Timers::new(Instant::now(), Some(&progress), seconds(5), seconds(60), None);
        let (passed, ()) = tokio::join!(passed(&mut timers), async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            progress.complete();
        });
        assert_eq!(passed, (Expired::Global, 35_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_has_its_own_limit() {
        let progress = Rc::new(Progress::new());
        let mut timers = Timers::new(Instant::now(), Some(&progress), seconds(1), seconds(60), None)
            .with_request_timeout(seconds(10));
        let (passed, ()) = tokio::join!(passed(&mut timers), async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            progress.add(1);
        });
        assert_eq!(passed, (Expired::Request, 10_000));
    }

    #[tokio::test(start_paused = true)]
    async fn activity_puts_idleness_off() {
        let progress = Rc::new(Progress::new());
        let mut timers = Timers::new(Instant::now(), Some(&progress), None, seconds(10), None);
        let (passed, ()) = tokio::join!(passed(&mut timers), async {
            tokio::time::sleep(Duration::from_secs(8)).await;
            progress.add(1);
        });
        assert_eq!(passed, (Expired::Idle, 18_000));
    }
}
