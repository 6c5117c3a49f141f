//! Following management servers and files: what their resources become.
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

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::sync::{oneshot, watch};

pub use self::setup::Setup;
use self::status::Status;
use crate::worker;

/// The thread that follows.
#[derive(Debug)]
pub struct Following {
    begin: Option<oneshot::Sender<()>>,
    initialized: watch::Receiver<bool>,
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
    status: Arc<Status>,
}

impl Following {
    /// Starts the thread. It waits until it is told to [`begin`](Self::begin).
    pub fn spawn(setup: Setup) -> io::Result<Self> {
        let (begin, begun) = oneshot::channel();
        let (initialize, initialized) = watch::channel(false);
        let (stop, stopped) = watch::channel(());
        let status = Arc::new(Status::default());
        let shown = status.clone();
        let thread = std::thread::Builder::new().name("xds".into()).spawn(move || {
            let runtime = match worker::local_runtime() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "management servers can't be followed"),
            };
            runtime.block_on(async {
                if begun.await.is_ok() {
                    run::run(setup, shown, initialize, stopped).await;
                }
            });
        })?;
        Ok(Self { begin: Some(begin), initialized, stop, thread, status })
    }

    /// Begins: the clusters of the bootstrap have their endpoints, as far as they are to be had without a server.
    pub fn begin(&mut self) {
        if let Some(begin) = self.begin.take() {
            // The thread is gone if it could not start; then nothing is waited for either.
            let _ = begin.send(());
        }
    }

    /// What resolves once all that the process starts with is there, or was waited for as long as it was to be.
    pub fn initialized(&self) -> impl Future<Output = ()> + use<> {
        let mut initialized = self.initialized.clone();
        async move {
            let _ = initialized.wait_for(|initialized| *initialized).await;
        }
    }

    /// What is in force, for those who look at it.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
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
