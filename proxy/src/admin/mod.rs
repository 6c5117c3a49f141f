//! The admin server: Envoy's paths, texts and status codes.
//!
//! `server` carries requests on a thread of its own; `routes` is the table of paths; each other module renders what
//! one path shows, from what is shared by all threads. What changes the process goes to the control thread as a
//! [`Command`].

mod body;
pub mod certs;
mod clusters;
mod config_dump;
mod listeners;
mod loggers;
mod mask;
pub mod memory;
mod query;
mod reply;
mod routes;
mod runtime;
mod server;
mod server_info;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use http::Method;
use tokio::sync::mpsc;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

pub use self::server::Listener;
use self::{query::Query, reply::Reply};
use crate::{
    bootstrap::options::Options,
    config::{convert::StatsSettings, matcher::StringMatcher, snapshot::Snapshot},
    runtime::Runtime,
    telemetry::{
        access_log::AccessLog,
        stats::Store,
        writer::{LogHandle, Reopener},
    },
    worker::Lifecycle,
};

/// What the control thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End now.
    Quit,
    /// Stop accepting.
    DrainListeners {
        /// Only after the drain time, in which connections are asked to end.
        graceful: bool,
        /// Only listeners of inbound traffic.
        inbound_only: bool,
        /// Have connections end, but go on accepting.
        skip_exit: bool,
    },
}

/// What the answers are made from.
#[derive(Debug)]
pub struct Admin {
    /// The metrics.
    pub stats: Store,
    /// How they are shown.
    pub settings: Arc<StatsSettings>,
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The bootstrap as read.
    pub bootstrap: Arc<Bootstrap>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// The process's state.
    pub lifecycle: Arc<Lifecycle>,
    /// The command line.
    pub options: Options,
    /// Every listener's name with the addresses that it has.
    pub listeners: Vec<(String, Vec<String>)>,
    /// When the process started, for durations.
    pub started: Instant,
    /// When the configuration was loaded.
    pub loaded: SystemTime,
    /// Opens access logs again.
    pub reopener: Reopener,
    /// To the control thread.
    pub commands: mpsc::Sender<Command>,
    /// Paths that are answered; empty: all.
    pub allow_paths: Vec<StringMatcher>,
}

impl Admin {
    /// Starts to answer on `listener`, with a line for each request in `access_log`.
    pub fn start(self, listener: Listener, log: LogHandle, access_log: Vec<AccessLog>) -> io::Result<()> {
        server::spawn(Arc::new(self), listener, log, access_log)
    }

    fn answer(&self, method: &Method, path: &str, query: &Query) -> Reply {
        if !self.allow_paths.is_empty() && !self.allow_paths.iter().any(|allowed| allowed.matches(path.as_bytes())) {
            return Reply::text(reply::Status::FORBIDDEN, format!("Path {path} is not in the allowlist.\n"));
        }
        routes::answer(self, method, path, query)
    }
}
