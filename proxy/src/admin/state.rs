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
    config::{convert::StatsSettings, snapshot::Snapshot},
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
    /// What is counted of this server itself.
    pub counts: Arc<Counts>,
    /// Paths that are answered; empty: all.
    pub allow_paths: Vec<StringMatcher>,
}
