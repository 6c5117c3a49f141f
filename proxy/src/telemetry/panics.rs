//! Panics: faults of this program, each of which is counted and told in one line.
//!
//! A panic ends the task that it happens in, and no other: the runtime catches it there. A connection is a task, a stream
//! of HTTP/2 is one, and so are an upstream connection, a mirrored request and whatever follows a cluster. Accepting goes
//! on after one ([`caught`]).

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use super::stats::{Shared, process};

thread_local! {
    /// The connection whose task runs on this thread.
    static CONNECTION: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on counts and logs the panics of every thread, instead of having them written to standard error.
pub fn watch(stats: Shared) {
    panic::set_hook(Box::new(move |panic| {
        stats.inc(process::PANICS);
        tell(panic);
    }));
}

fn tell(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message").replace('\n', "\\n");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let (thread, connection) = (thread::current(), CONNECTION.get());
    let thread = thread.name().unwrap_or_default();
    tracing::error!(connection, thread, at, "panicked: {message}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        for line in backtrace.to_string().lines() {
            tracing::error!(target: "backtrace", connection, "{line}");
        }
    }
}

/// What a future gives; none: it panicked, and is over.
pub async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        // It is not polled again, and what it shares with others they survive, as they do if its task ends.
        match panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Spawns a task of this thread that works for a connection: a panic of it names the connection.
pub fn spawn_for<F>(connection: impl Into<Option<u64>>, future: F)
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(For { connection: connection.into(), future });
}

pin_project_lite::pin_project! {
    /// What [`spawn_for`] runs.
    struct For<F> {
        connection: Option<u64>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for For<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _reset = Reset(CONNECTION.replace(*this.connection));
        this.future.poll(cx)
    }
}

/// Names the connection of before again, also when what was polled panics.
struct Reset(Option<u64>);

impl Drop for Reset {
    fn drop(&mut self) {
        CONNECTION.set(self.0);
    }
}
