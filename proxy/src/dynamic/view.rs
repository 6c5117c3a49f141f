//! What one node follows, and what is in force of it.

use std::{collections::HashSet, rc::Rc, sync::Arc};

use tokio::sync::{Notify, watch};

use super::{
    acts::Act,
    cells::{Cells, OnDemand},
    clusters::Clusters,
    common::Common,
    init::{Init, Next},
    listeners::Listeners,
    resources::Everything,
    setup::Setup,
    sources::{Follow, Key, Sources},
    status::Status,
    wait::Wait,
};
use crate::{
    config::cell::{Registry, Source},
    intake::listening::Listening,
    lifecycle::Lifecycle,
    queue::Queue,
    view::Gate,
    xds::{
        kind::Kind,
        stats::SubscriptionStats,
        update::{Refused, Update},
        wishes::{Options, Subscription},
    },
};

/// What goes on around a view.
pub(super) struct Around {
    /// To be followed.
    pub(super) follow: Queue<Follow>,
    /// To be told to workers.
    pub(super) acts: Queue<Act>,
    /// To be waited for.
    pub(super) waits: Queue<Wait>,
    /// Told when clusters have become warm.
    pub(super) publish: Rc<Notify>,
    pub(super) cells: Arc<Registry>,
    pub(super) listening: Arc<Listening>,
}

/// What one node follows.
pub(super) struct View {
    common: Common,
    clusters: Clusters,
    listeners: Listeners,
    cells: Cells,
    init: Init,
    lifecycle: Arc<Lifecycle>,
    /// Told once it is known which listeners there are.
    gate: Arc<Gate>,
    initialized: watch::Sender<bool>,
    /// Subscriptions to everything of a type.
    everything: Vec<Subscription>,
    /// Told when the clusters in force are to be others.
    publish: Rc<Notify>,
}

impl View {
    /// One that has asked for nothing yet, and what goes on around it.
    pub(super) fn new(setup: Setup, status: Arc<Status>, initialized: watch::Sender<bool>) -> (Self, Around) {
        let Setup { view, resources, converter, cells, snapshot, listening, .. } = setup;
        let Setup { lifecycle, stats, clusters, drain_time, discovery_memory, bodies, gate, .. } = setup;
        let fixed = snapshot.load_full();
        let around = Around {
            follow: Queue::default(),
            acts: Queue::default(),
            waits: Queue::default(),
            publish: Rc::default(),
            cells: cells.clone(),
            listening: listening.clone(),
        };
        let init = Init::new(resources.clusters.is_some(), resources.listeners.is_some());
        let common = Common {
            view,
            sources: Sources::new(
                resources,
                around.follow.clone(),
                status.clone(),
                fixed.clone(),
                discovery_memory,
                bodies,
            ),
            converter,
            snapshot,
            status,
            stats: stats.clone(),
            acts: around.acts.clone(),
            starts: clusters,
            waits: around.waits.clone(),
            cells: cells.clone(),
        };
        let view = Self {
            common,
            clusters: Clusters::new(&fixed, &stats),
            listeners: Listeners::new(&fixed, &stats, listening, drain_time),
            cells: Cells::new(cells),
            init,
            lifecycle,
            gate,
            initialized,
            everything: Vec::new(),
            publish: around.publish.clone(),
        };
        (view, around)
    }

    /// Asks for what there is to begin with: runtime values first of all, as what follows may depend on them.
    pub(super) fn begin(&mut self) {
        let runtime = self.cells.runtime();
        if runtime.is_empty() {
            return self.begin_clusters();
        }
        self.cells.heed(&mut self.common);
        self.common.waits.leave(Wait::Runtime(runtime));
    }

    /// Asks for clusters.
    pub(super) fn begin_clusters(&mut self) {
        self.clusters.begin(&mut self.common);
        if let Some(clusters) = self.common.sources.resources().clusters.clone() {
            self.follow_all_of(Kind::Cluster, &clusters);
        }
        self.go_on();
    }

    /// Asks for everything of a type.
    fn follow_all_of(&mut self, kind: Kind, everything: &Everything) {
        let scope = match kind {
            Kind::Listener => "listener_manager.lds",
            _ => "cluster_manager.cds",
        };
        let stats = SubscriptionStats::register(&self.common.stats.root().scope(scope));
        let handle = self.common.sources.handle(&everything.source, kind, Some(stats.clone()));
        self.common.status.come_from(kind, handle.store());
        if !matches!(everything.source, Source::File(_)) {
            let options = Options { timeout: everything.timeout, stats: Some(stats), ..Options::default() };
            self.everything.push(handle.subscribe(kind, None, options));
        }
        if kind == Kind::Cluster {
            self.clusters.come_from(handle);
        }
    }

    /// Takes what it can of an update.
    pub(super) fn update(&mut self, source: &Source, update: &Update) -> Result<(), Refused> {
        let taken = match update.kind {
            Kind::Cluster => self.clusters.update(&mut self.common, update),
            Kind::LoadAssignment => self.clusters.assign(&mut self.common, source, update),
            Kind::Listener => {
                let taken = self.listeners.update(&mut self.common, update);
                self.gate.hear();
                taken
            }
            _ => self.cells.update(source, update),
        };
        self.clusters.publish(&mut self.common);
        // What was made names more.
        self.heed();
        self.answered(update.kind);
        taken
    }

    /// Nothing came in time.
    pub(super) fn timed_out(&mut self, source: &Source, kind: Kind, name: Option<&Arc<str>>) {
        match (kind, name) {
            (Kind::LoadAssignment, Some(name)) => {
                self.clusters.unassigned(&mut self.common, source, name);
                self.clusters.publish(&mut self.common);
            }
            _ => self.cells.timed_out(source, kind, name),
        }
        self.answered(kind);
    }

    /// Nobody waits for a first answer any more.
    pub(super) fn answered(&mut self, kind: Kind) {
        match kind {
            Kind::Cluster => self.init.answered(false),
            Kind::Listener => self.init.answered(true),
            _ => {}
        }
        self.go_on();
    }

    /// Goes on with the start, if it can.
    pub(super) fn go_on(&mut self) {
        while let Some(next) = self.init.next(self.clusters.cold(), self.listeners.cold()) {
            match next {
                Next::Listeners => {
                    self.lifecycle.initializing();
                    self.cells.begin(&mut self.common);
                    if let Some(listeners) = self.common.sources.resources().listeners.clone() {
                        self.follow_all_of(Kind::Listener, &listeners);
                    }
                }
                Next::Serve => {
                    self.initialized.send_replace(true);
                }
            }
        }
    }

    /// What waits, as whoever waits on its behalf tells it.
    #[cfg(test)]
    pub(super) async fn settle_all(&mut self) {
        let Wait::Settled(number, cells) = self.common.waits.take().await else { return };
        cells.settle().await;
        self.settled(number);
    }

    #[cfg(test)]
    pub(super) fn snapshot(&self) -> Arc<crate::config::snapshot::Snapshot> {
        self.common.snapshot.load_full()
    }

    /// What a listener waited for is settled.
    pub(super) fn settled(&mut self, number: u64) {
        self.listeners.settled(&self.common, number);
        self.go_on();
    }

    /// What all sources are called, once every server among them has answered.
    pub(super) fn answered_sources(&self) -> Option<HashSet<String>> {
        self.common.sources.answered()
    }

    /// What is no longer in force has drained.
    pub(super) fn drained(&mut self, number: u64) {
        self.listeners.drained(&self.common, number);
    }

    /// Asks for what others have come to want.
    pub(super) fn heed(&mut self) {
        self.cells.heed(&mut self.common);
        for on_demand in self.cells.take_clusters() {
            match on_demand {
                OnDemand::Wanted(source, name) => self.clusters.ask(&mut self.common, &source, name),
                OnDemand::Forgotten(name) => self.clusters.forget(&name),
            }
        }
    }

    /// A source is not followed any more: nothing is wanted of it.
    pub(super) fn forget_source(&mut self, key: &Key) {
        self.common.sources.forget(key);
    }

    /// Puts clusters in force that have become warm meanwhile.
    pub(super) fn publish(&mut self) {
        self.clusters.publish(&mut self.common);
        self.go_on();
    }

    /// A cluster is warm. What follows from that is published soon, with others that are.
    pub(super) fn warm(&mut self, number: u64) {
        self.clusters.warm(&mut self.common, number);
        self.publish.notify_one();
    }
}
