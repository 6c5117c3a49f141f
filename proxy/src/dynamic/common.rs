//! What all parts of a view need.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{acts::Act, sources::Sources, status::Status, wait::Wait};
use crate::{
    cluster,
    config::{cell::Registry, convert::Converter, snapshot::Snapshot},
    queue::Queue,
    telemetry::stats::Store as Stats,
    view::ViewId,
};

/// What all parts of a view need.
pub(super) struct Common {
    pub(super) view: ViewId,
    pub(super) sources: Sources,
    pub(super) converter: Converter,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) status: Arc<Status>,
    pub(super) stats: Stats,
    /// To whoever tells workers.
    pub(super) acts: Queue<Act>,
    /// To whoever runs what clusters have running.
    pub(super) starts: Queue<cluster::Start>,
    pub(super) cells: Arc<Registry>,
    /// To who waits on behalf of the view.
    pub(super) waits: Queue<Wait>,
}
