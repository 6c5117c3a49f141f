//! What the connections of one worker share. The data path needs this of its worker and nothing else.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    cluster::Local,
    config::{snapshot::Snapshot, tcp::Passthrough, views::Views},
    drain::DrainWatch,
    http::pool::Pools,
    lifecycle::Lifecycle,
    overload::Overload,
    runtime::Runtime,
    telemetry::{stats::Shard, writer::LogHandle},
    view::ViewId,
};

/// What the connections of one worker share; each worker has one, in an `Rc`.
#[derive(Debug)]
pub struct Worker {
    /// Which worker, from 0.
    pub index: usize,
    /// The configurations in force.
    pub views: Views,
    /// What serves pods' connections that no listener is for.
    pub passthrough: Arc<Passthrough>,
    /// Upstream HTTP connections of this worker.
    pub pools: Pools,
    /// Load balancing state of this worker.
    pub balancers: Local,
    /// Access log lines go here.
    pub log: LogHandle,
    /// This worker's counters.
    pub stats: Shard,
    /// The process-wide drain. A connection watches [`Downstream::drain`](crate::downstream::Downstream), which also
    /// follows its pod's withdrawal.
    pub drain: DrainWatch,
    /// The process's state: whether health checks are to fail.
    pub lifecycle: Arc<Lifecycle>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// What is being done under pressure.
    pub overload: Arc<Overload>,
    /// Told when connections have given memory up.
    pub rested: Notify,
}

impl Worker {
    /// The configuration in force of a view; load it once per connection or request.
    pub fn snapshot(&self, view: ViewId) -> &ArcSwap<Snapshot> {
        self.views.of(view)
    }
}

#[cfg(test)]
use crate::config::views::InForce;

#[cfg(test)]
impl Worker {
    /// One with nothing but this.
    pub(crate) fn with(index: usize, snapshot: Arc<ArcSwap<Snapshot>>, drain: DrainWatch) -> Self {
        Self {
            index,
            views: Views::new([InForce::at_once(snapshot)]),
            passthrough: Arc::new(Passthrough::new(None)),
            pools: Pools::default(),
            balancers: Local::default(),
            log: LogHandle::discard(),
            stats: Shard::default(),
            drain,
            lifecycle: Arc::default(),
            runtime: Arc::default(),
            overload: Arc::default(),
            rested: Notify::default(),
        }
    }
}
