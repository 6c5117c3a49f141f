//! Clusters that come, change and go.
//!
//! A cluster is in force once it is warm: it has its endpoints, or they did not come in time, and they have been checked
//! first. One that is changed replaces the other then; requests that are under way finish on that one, whose connections are
//! closed as they become idle. Clusters of the bootstrap stay what they are.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use bytes::Bytes;
use weir_proto::envoy::config::{cluster::v3 as proto, endpoint::v3::ClusterLoadAssignment};

use super::{
    acts::Act,
    common::Common,
    endpoints::{self, Assigned},
    read,
    stats::ClusterCounts,
    status::Version,
    tls_files::{self, Followed},
    wait::{Unsettled, Wait},
};
use crate::{
    cluster::{Kept, Start},
    config::{
        cell::{Feed, Source},
        cluster::{Assignments, Cluster, Discovery},
        snapshot::{self, Snapshot},
    },
    telemetry::stats::Store as Stats,
    xds::{
        kind::Kind,
        stats::SubscriptionStats,
        update::{Origin, Refused, Resource, Update},
        wishes::{Handle, Hold, Options, Subscription},
    },
};

/// What a cluster waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Endpoints from a management server.
    Endpoints,
    /// What runs beside it: names, files, first health checks.
    Running,
    /// Nothing.
    Warm,
}

/// One cluster.
#[derive(Debug)]
struct One {
    number: u64,
    cluster: Arc<Cluster>,
    /// None: it is of the bootstrap.
    version: Option<Version>,
    stage: Stage,
    /// The endpoints that it was given last, encoded: its successor has them if none come for that.
    given: Option<Bytes>,
    /// What it names and comes by itself.
    cells: Vec<Arc<dyn Feed>>,
    _endpoints: Option<Subscription>,
    _running: Option<Kept>,
    _files: Option<Followed>,
}

/// What there is of one name.
#[derive(Debug, Default)]
struct Known {
    active: Option<One>,
    warming: Option<One>,
}

impl Known {
    fn latest(&self) -> Option<&One> {
        self.warming.as_ref().or(self.active.as_ref())
    }

    fn numbered(&mut self, number: u64) -> Option<&mut One> {
        [&mut self.warming, &mut self.active].into_iter().flatten().find(|one| one.number == number)
    }
}

/// The clusters of a view.
#[derive(Debug)]
pub(super) struct Clusters {
    /// In force.
    all: snapshot::Clusters,
    /// Of the bootstrap.
    fixed: Arc<Snapshot>,
    /// Those that are followed, by name.
    known: HashMap<Arc<str>, Known>,
    names: HashMap<u64, Arc<str>>,
    assigned: Assigned,
    numbers: u64,
    warming: usize,
    /// Clusters of the bootstrap that wait for endpoints.
    cold_fixed: usize,
    /// Where they come from.
    handle: Option<Handle>,
    hold: Option<Hold>,
    changed: bool,
    /// No longer in force once what has changed is.
    retired: Vec<One>,
    /// Of which something is known once what has changed is in force.
    told: Vec<Arc<str>>,
    /// Asked for on behalf of requests.
    on_demand: HashMap<Arc<str>, Vec<(Source, Subscription)>>,
    counts: ClusterCounts,
}

impl Clusters {
    pub(super) fn new(fixed: &Arc<Snapshot>, stats: &Stats) -> Self {
        Self {
            all: fixed.clusters().map(|cluster| (cluster.name.clone(), cluster.clone())).collect(),
            fixed: fixed.clone(),
            known: HashMap::new(),
            names: HashMap::new(),
            assigned: Assigned::default(),
            numbers: 0,
            warming: 0,
            cold_fixed: 0,
            handle: None,
            hold: None,
            changed: false,
            retired: Vec::new(),
            told: Vec::new(),
            on_demand: HashMap::new(),
            counts: ClusterCounts::new(stats),
        }
    }

    /// Asks for endpoints of the bootstrap's clusters.
    pub(super) fn begin(&mut self, common: &mut Common) {
        let fixed: Vec<_> = self.fixed.clusters().cloned().collect();
        for cluster in fixed {
            let Discovery::Eds(assignments) = &cluster.discovery else { continue };
            if matches!(assignments.source, Source::File(_)) {
                continue;
            }
            let (name, assignments) = (cluster.name.clone(), assignments.clone());
            self.cold_fixed += 1;
            let number = self.number(&name);
            let subscription = self.subscribe(common, &assignments, number, &cluster);
            let one = One {
                number,
                cluster,
                version: None,
                stage: Stage::Endpoints,
                given: None,
                _endpoints: Some(subscription),
                cells: Vec::new(),
                _running: None,
                _files: None,
            };
            self.known.insert(name, Known { active: Some(one), warming: None });
        }
    }

    /// They come from there: what comes is acknowledged once it is warm.
    pub(super) fn come_from(&mut self, handle: Handle) {
        self.handle = Some(handle);
    }

    /// Asks for one on behalf of a request.
    pub(super) fn ask(&mut self, common: &mut Common, source: &Source, name: Arc<str>) {
        let asked = self.on_demand.entry(name.clone()).or_default();
        if asked.iter().any(|(other, _)| other == source) {
            return;
        }
        let handle = common.sources.handle(source, Kind::Cluster, None);
        let stats = Some(SubscriptionStats::register(&common.stats.root().scope("cluster_manager.odcds")));
        // Requests wait as long as their filter says.
        let options = Options { timeout: None, stats, ..Options::default() };
        asked.push((source.clone(), handle.subscribe(Kind::Cluster, Some(name), options)));
    }

    /// Requests need this one no more. One that has come meanwhile is followed on.
    pub(super) fn forget(&mut self, name: &str) {
        if !self.known.contains_key(name) {
            self.on_demand.remove(name);
        }
    }

    /// How many are not warm.
    pub(super) fn cold(&self) -> usize {
        self.warming + self.cold_fixed
    }

    /// Takes what it can of an update.
    pub(super) fn update(&mut self, common: &mut Common, update: &Update) -> Result<(), Refused> {
        let mut refused = Vec::new();
        let mut reloaded = false;
        for (resource, message) in read::messages::<proto::Cluster>(&update.added)? {
            let name = &resource.name;
            if self.fixed.cluster(name).is_some() {
                tracing::debug!(cluster = %name, "is of the bootstrap and stays what it is");
                continue;
            }
            let latest = self.known.get(name).and_then(Known::latest).and_then(|one| one.version.as_ref());
            if latest.is_some_and(|latest| latest.body == resource.body) {
                continue;
            }
            let made =
                message.and_then(|message| common.converter.cluster(&message).map_err(|error| error.to_string()));
            match made {
                Ok((cluster, cells)) => {
                    reloaded = true;
                    self.came(common, resource, cluster, cells);
                }
                Err(why) => refused.push((name.clone(), why)),
            }
        }
        for name in &update.removed {
            reloaded |= self.remove(common, name);
            self.told.push(name.clone());
        }
        if reloaded {
            self.counts.reloaded(SystemTime::now());
        }
        // What is taken from disk is not acknowledged, and requests are not to wait for it.
        if self.warming > 0 && self.hold.is_none() && update.origin == Origin::Server {
            self.hold = self.handle.as_ref().map(|handle| handle.hold(Kind::Cluster));
        }
        read::verdict(refused)
    }

    fn number(&mut self, name: &Arc<str>) -> u64 {
        self.numbers += 1;
        self.names.insert(self.numbers, name.clone());
        self.numbers
    }

    fn subscribe(
        &mut self,
        common: &mut Common,
        assignments: &Assignments,
        number: u64,
        cluster: &Cluster,
    ) -> Subscription {
        let Assignments { source, service, timeout, .. } = assignments;
        self.assigned.add(source, service, number);
        let handle = common.sources.handle(source, Kind::LoadAssignment, None);
        let stats = Some(SubscriptionStats::register(&cluster.stats.scope));
        handle.subscribe(
            Kind::LoadAssignment,
            Some(service.clone()),
            Options { timeout: *timeout, stats, ..Options::default() },
        )
    }

    /// A cluster is there that is new, or another than the one of its name.
    fn came(&mut self, common: &mut Common, resource: &Resource, cluster: Cluster, cells: Vec<Arc<dyn Feed>>) {
        let (name, cluster) = (resource.name.clone(), Arc::new(cluster));
        let version = Version { body: resource.body.clone(), version: resource.version.clone(), at: SystemTime::now() };
        let number = self.number(&name);
        let assignments = match &cluster.discovery {
            Discovery::Eds(assignments) if !matches!(assignments.source, Source::File(_)) => Some(assignments.clone()),
            _ => None,
        };
        let subscription =
            assignments.as_ref().map(|assignments| self.subscribe(common, assignments, number, &cluster));
        let one = One {
            number,
            version: Some(version.clone()),
            stage: if assignments.is_some() { Stage::Endpoints } else { Stage::Running },
            given: None,
            _endpoints: subscription,
            cells,
            _running: None,
            _files: tls_files::of_cluster(&cluster),
            cluster,
        };
        let known = self.known.entry(name.clone()).or_default();
        self.counts.came(known.latest().is_some());
        let superseded = known.warming.replace(one);
        self.warming += 1;
        common.converter.has_cluster(&name);
        common.status.show(Kind::Cluster, &name, |shown| shown.warming = Some(version));
        if let Some(superseded) = superseded {
            self.warming -= 1;
            self.retire(superseded);
        }
        match assignments {
            None => self.run(common, number),
            Some(assignments) => self.take_known(common, number, &assignments),
        }
    }

    /// Endpoints that have come on behalf of another cluster do not come again.
    fn take_known(&mut self, common: &mut Common, number: u64, assignments: &Assignments) {
        if !common.sources.is_usable(&assignments.source) {
            return self.has_endpoints(common, number);
        }
        let handle = common.sources.handle(&assignments.source, Kind::LoadAssignment, None);
        let Some(accepted) = handle.store().accepted(Kind::LoadAssignment, &assignments.service) else { return };
        // They were good for another; if they are not for this one, better ones are waited for.
        if self.give_encoded(number, &accepted.body) {
            self.has_endpoints(common, number);
        }
    }

    /// Whether they were taken.
    fn give_encoded(&mut self, number: u64, body: &Bytes) -> bool {
        let message = read::message::<ClusterLoadAssignment>(body);
        message.is_ok_and(|message| self.give(number, body, &message).is_ok())
    }

    fn one(&mut self, number: u64) -> Option<&mut One> {
        let name = self.names.get(&number)?;
        self.known.get_mut(name)?.numbered(number)
    }

    fn give(&mut self, number: u64, body: &Bytes, message: &ClusterLoadAssignment) -> Result<(), String> {
        let Some(one) = self.one(number) else { return Ok(()) };
        endpoints::apply(&one.cluster, message)?;
        one.given = Some(body.clone());
        Ok(())
    }

    /// Takes endpoints.
    pub(super) fn assign(&mut self, common: &mut Common, source: &Source, update: &Update) -> Result<(), Refused> {
        let mut refused = Vec::new();
        for (resource, message) in read::messages::<ClusterLoadAssignment>(&update.added)? {
            let numbers = self.assigned.of(source, &resource.name);
            let given = message
                .and_then(|message| numbers.iter().try_for_each(|number| self.give(*number, &resource.body, &message)));
            if let Err(why) = given {
                refused.push((resource.name.clone(), why));
            }
            numbers.iter().for_each(|number| self.has_endpoints(common, *number));
        }
        for resource in &update.unchanged {
            for number in self.assigned.of(source, &resource.name) {
                let Some(one) = self.one(number) else { continue };
                one.cluster.stats.inc(one.cluster.stats.update_no_rebuild);
                if one.stage == Stage::Endpoints && self.give_encoded(number, &resource.body) {
                    self.has_endpoints(common, number);
                }
            }
        }
        for name in &update.removed {
            // As in Envoy, the cluster keeps those that it has.
            for number in self.assigned.of(source, name) {
                if let Some(one) = self.one(number) {
                    one.cluster.stats.inc(one.cluster.stats.update_empty);
                }
                self.has_endpoints(common, number);
            }
        }
        read::verdict(refused)
    }

    /// Endpoints did not come in time: a cluster that takes the place of another has those of that one.
    pub(super) fn unassigned(&mut self, common: &mut Common, source: &Source, name: &Arc<str>) {
        for number in self.assigned.of(source, name) {
            if let Some(body) = self.given_before(number, name) {
                self.give_encoded(number, &body);
            }
            self.has_endpoints(common, number);
        }
    }

    /// The endpoints of the cluster in force that one which waits for `service` is to replace, if that has the same.
    fn given_before(&self, number: u64, service: &Arc<str>) -> Option<Bytes> {
        let known = self.known.get(self.names.get(&number)?)?;
        let waits = known.warming.as_ref().is_some_and(|one| one.number == number && one.stage == Stage::Endpoints);
        let active = known.active.as_ref().filter(|_| waits)?;
        match &active.cluster.discovery {
            Discovery::Eds(assignments) if assignments.service == *service => active.given.clone(),
            _ => None,
        }
    }

    /// A cluster has its first endpoints, or does without.
    fn has_endpoints(&mut self, common: &mut Common, number: u64) {
        let Some(one) = self.one(number).filter(|one| one.stage == Stage::Endpoints) else { return };
        if one.version.is_some() {
            one.stage = Stage::Running;
            self.run(common, number);
        } else {
            // It has been running since the start.
            one.stage = Stage::Warm;
            self.cold_fixed -= 1;
        }
    }

    /// Has started what a cluster has running.
    fn run(&mut self, common: &mut Common, number: u64) {
        let Some(one) = self.one(number) else { return };
        let (cluster, cells) = (one.cluster.clone(), Unsettled::of(&one.cells));
        let (start, warm, kept) = Start::new(cluster.clone());
        one._running = Some(kept);
        common.starts.leave(start);
        let asks = match &cluster.discovery {
            Discovery::Dns(_) | Discovery::Eds(Assignments { source: Source::File(_), .. }) => true,
            _ => cluster.health.is_some() && cluster.endpoints.load().iter().next().is_some(),
        };
        if (asks || !cells.is_empty()) && cluster.wait_for_warm {
            common.waits.leave(Wait::Warm(number, cells, asks.then_some(warm)));
        } else {
            self.warm(common, number);
        }
    }

    /// A cluster is warm: it is in force once it is [published](Self::publish).
    pub(super) fn warm(&mut self, common: &mut Common, number: u64) {
        let Some(name) = self.names.get(&number).cloned() else { return };
        let Some(known) = self.known.get_mut(&name) else { return };
        let Some(mut one) = known.warming.take_if(|one| one.number == number) else { return };
        one.stage = Stage::Warm;
        self.warming -= 1;
        self.changed = true;
        self.all.insert(name.clone(), one.cluster.clone());
        self.told.push(name.clone());
        let old = known.active.replace(one);
        common.status.show(Kind::Cluster, &name, |shown| shown.active = shown.warming.take());
        tracing::debug!(cluster = %name, modified = old.is_some(), "cluster is warm");
        if let Some(old) = old {
            self.retire(old);
        }
    }

    /// A cluster is gone. Whether there was one.
    fn remove(&mut self, common: &mut Common, name: &Arc<str>) -> bool {
        if self.fixed.cluster(name).is_some() {
            return false;
        }
        let Some(Known { active, warming }) = self.known.remove(name) else { return false };
        self.warming -= usize::from(warming.is_some());
        self.changed |= self.all.remove(name).is_some();
        common.converter.lost_cluster(name);
        common.status.show(Kind::Cluster, name, |shown| *shown = super::status::Shown::default());
        self.counts.removed();
        for one in [active, warming].into_iter().flatten() {
            self.retire(one);
        }
        true
    }

    /// A cluster is not to be in force any more, or never was.
    fn retire(&mut self, one: One) {
        self.names.remove(&one.number);
        if let Discovery::Eds(Assignments { source, service, .. }) = &one.cluster.discovery {
            self.assigned.remove(source, service, one.number);
        }
        self.retired.push(one);
    }

    /// Puts in force what is warm.
    pub(super) fn publish(&mut self, common: &mut Common) {
        if self.warming == 0 {
            self.hold = None;
        }
        if std::mem::take(&mut self.changed) {
            let next = common.snapshot.load().with_clusters(self.all.clone());
            common.snapshot.store(Arc::new(next));
        }
        self.told.drain(..).for_each(|name| common.cells.cluster_is_known(&name, self.all.contains_key(&name)));
        for One { cluster, .. } in self.retired.drain(..) {
            if !cluster.has_traffic.load(Ordering::Relaxed) {
                continue;
            }
            for endpoint in cluster.endpoints.load().iter() {
                endpoint.host.failed.notify_waiters();
            }
            common.acts.leave(Act::Unpool(Arc::downgrade(&cluster)));
        }
        self.counts.are(self.all.len(), self.warming);
    }
}
