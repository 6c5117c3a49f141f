//! The streams of an HTTP/2 connection: a task each, in which hyper asks for the response and passes on its body, beside
//! the limits of that.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{http::stream::running::Running, telemetry::panics};

/// Runs hyper's futures of streams on the thread that they belong to.
#[derive(Clone)]
pub(super) struct Streams {
    /// The connection's number.
    connection: u64,
    /// The limits of the stream that has just come: hyper asks for its answer first and runs what passes that on next.
    newest: Rc<Cell<Option<Rc<Running>>>>,
}

impl Streams {
    pub fn new(connection: u64) -> Self {
        Self { connection, newest: Rc::default() }
    }

    /// A stream has come. Its limits, none of which runs yet.
    pub fn begin(&self) -> Rc<Running> {
        let running = Rc::new(Running::default());
        self.newest.set(Some(running.clone()));
        running
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let running = self.newest.take().unwrap_or_default();
        panics::spawn_for(self.connection, Limited { stream, running, newest: self.newest.clone() });
    }
}

pin_project_lite::pin_project! {
    /// A stream, which is dropped and so reset if a limit passes while nothing of it is asked for.
    struct Limited<F> {
        #[pin]
        stream: F,
        running: Rc<Running>,
        newest: Rc<Cell<Option<Rc<Running>>>>,
    }
}

impl<F: Future<Output = ()>> Future for Limited<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.running.is_cut() {
            return Poll::Ready(());
        }
        let drive = |cx: &mut Context<'_>| {
            // What passes on the bytes of an upgrade is begun here, and belongs to the same stream.
            this.newest.set(Some(this.running.clone()));
            let polled = this.stream.as_mut().poll(cx);
            this.newest.set(None);
            polled
        };
        this.running.poll_beside(cx, drive).map(|_| ())
    }
}
