//! What following needs of the process.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::resources::Resources;
use crate::{
    cluster,
    config::{cell::Registry, convert::Converter, snapshot::Snapshot},
    intake::listening::Listening,
    lifecycle::Lifecycle,
    queue::Queue,
    telemetry::stats::Store,
    view::{Gate, ViewId},
    xds::{budget::Budget, shared::Bodies},
};

/// What goes with it.
pub struct Setup {
    /// Whose it is.
    pub view: ViewId,
    /// What that is called; none: it is the process's own.
    pub name: Option<Arc<str>>,
    /// What is followed.
    pub resources: Resources,
    /// Makes things of messages.
    pub converter: Converter,
    /// What the configuration names and comes by itself.
    pub cells: Arc<Registry>,
    /// The configuration in force, which is that of the bootstrap so far.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Told once its server has said which listeners there are.
    pub gate: Arc<Gate>,
    /// The listeners.
    pub listening: Arc<Listening>,
    /// Which state the process is in.
    pub lifecycle: Arc<Lifecycle>,
    /// Where things are counted.
    pub stats: Store,
    /// To whoever runs what clusters have running.
    pub clusters: Queue<cluster::Start>,
    /// How long connections go on that are of what is no longer in force.
    pub drain_time: Duration,
    /// What the resources of one source may take, in bytes.
    pub discovery_memory: Budget,
    /// What it has in common with other views; none: there are no others.
    pub bodies: Option<Bodies>,
    /// Where what is accepted is kept; none: nowhere.
    pub state_dir: Option<PathBuf>,
}
