//! Following management servers and files, for every view: what their resources become.
//!
//! All of it happens on one thread, `xds`: messages are decoded, validated and converted there, sockets are bound, and what
//! has become of it is put in force by one atomic store. Workers only load. What clusters have running beside the workers
//! (names, health checks) runs on the control thread, where nothing holds it up.
//!
//! A view is what one node follows; `clusters`, `endpoints`, `listeners` and `cells` are what it makes of each type;
//! `sources` is where they come from.

mod acts;
mod cells;
mod clusters;
mod common;
mod descriptors;
pub mod endpoint_files;
mod endpoints;
mod feed;
pub mod files;
mod hosts;
mod init;
mod kept;
mod listeners;
mod read;
pub mod resources;
mod run;
mod setup;
mod sources;
mod stats;
pub mod status;
#[cfg(test)]
mod tests;
mod tls_files;
mod view;
mod wait;
mod way;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::{oneshot, watch};

pub use self::setup::Setup;
use self::status::Status;
use crate::{view::ViewId, worker};

/// What is made of messages that are nested as deep as they may be takes more of a stack than threads have otherwise, bytes.
const STACK: usize = 8 << 20;

/// The thread that follows.
#[derive(Debug)]
pub struct Following {
    begin: Option<oneshot::Sender<()>>,
    views: Vec<One>,
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

/// A view that is followed.
#[derive(Debug)]
struct One {
    view: ViewId,
    status: Arc<Status>,
    initialized: watch::Receiver<bool>,
}

impl Following {
    /// Starts the thread, for views. It waits until it is told to [`begin`](Self::begin).
    pub fn spawn(setups: Vec<Setup>) -> io::Result<Self> {
        let (begin, begun) = oneshot::channel();
        let (stop, stopped) = watch::channel(());
        let (mut views, mut runs, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for setup in setups {
            let (initialize, initialized) = watch::channel(false);
            let status = Arc::new(Status::default());
            names.extend(setup.name.clone());
            views.push(One { view: setup.view, status: status.clone(), initialized });
            runs.push((setup, status, initialize));
        }
        let thread = std::thread::Builder::new().name("xds".into()).stack_size(STACK).spawn(move || {
            let runtime = match worker::local_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "management servers can't be followed"),
            };
            let following = async {
                if begun.await.is_ok() {
                    let names: Rc<[Arc<str>]> = names.into();
                    let runs = runs.into_iter().map(|(setup, shown, initialize)| {
                        run::run(setup, shown, initialize, names.clone(), stopped.clone())
                    });
                    futures_util::future::join_all(runs).await;
                }
            };
            if catch_unwind(AssertUnwindSafe(|| runtime.block_on(following))).is_err() {
                tracing::error!("management servers are followed no more, by a fault: the process ends");
                end();
            }
        })?;
        Ok(Self { begin: Some(begin), views, stop, thread })
    }

    /// Begins: the clusters of the bootstrap have their endpoints, as far as they are to be had without a server.
    pub fn begin(&mut self) {
        if let Some(begin) = self.begin.take() {
            // The thread is gone if it could not start; then nothing is waited for either.
            let _ = begin.send(());
        }
    }

    /// What resolves once all that a view starts with is there, or was waited for as long as it was to be. Never, if nobody
    /// follows it any more.
    pub fn initialized(&self, view: ViewId) -> impl Future<Output = ()> + use<> {
        let one = self.views.iter().find(|one| one.view == view).map(|one| one.initialized.clone());
        async move {
            let Some(mut one) = one else { return };
            if one.wait_for(|initialized| *initialized).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is in force of a view, for those who look at it; none: nothing is followed for it.
    pub fn status(&self, view: ViewId) -> Option<&Arc<Status>> {
        self.views.iter().find(|one| one.view == view).map(|one| &one.status)
    }

    /// Ends the thread, once what it accepted is saved.
    pub fn end(self) {
        drop(self.begin);
        self.stop.send_replace(());
        if self.thread.join().is_err() {
            tracing::error!("the thread that follows management servers panicked");
        }
    }
}

/// Ends the process: one that is not told of changes any more does harm unseen. Whoever supervises it starts another, which
/// begins with what was accepted.
#[expect(clippy::disallowed_methods, reason = "main is not asked: what runs there may never end")]
fn end() -> ! {
    process::exit(1)
}
