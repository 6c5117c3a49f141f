//! What the answers are made from, and what the control thread is asked to do.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::counts::Counts;
use crate::{
    config::{cell::Registry, convert::StatsSettings, snapshot::Snapshot},
    dynamic::status::Status,
    intake::listening::Listening,
    lifecycle::Lifecycle,
    matcher::StringMatcher,
    options::Options,
    runtime::Runtime,
    telemetry::{stats::Store, writer::Reopener},
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
    /// What the configuration names and comes by itself.
    pub cells: Arc<Registry>,
    /// The bootstrap as read.
    pub bootstrap: Arc<Bootstrap>,
    /// What has become of what is followed; none: nothing is.
    pub dynamic: Option<Arc<Status>>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// The process's state.
    pub lifecycle: Arc<Lifecycle>,
    /// The command line.
    pub options: Options,
    /// The listeners and where they are bound.
    pub listening: Arc<Listening>,
    /// When the process started, for durations.
    pub started: Instant,
    /// When the configuration was loaded.
    pub loaded: SystemTime,
    /// Opens access logs again.
    pub reopener: Reopener,
    /// To the control thread.
    pub commands: mpsc::Sender<Command>,
    /// What is counted of this server itself.
    pub counts: Arc<Counts>,
    /// Paths that are answered; empty: all.
    pub allow_paths: Vec<StringMatcher>,
}
