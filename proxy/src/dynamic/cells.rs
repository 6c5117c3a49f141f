//! Cells that are fed from management servers: routes, secrets, configurations of filters.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::SystemTime,
};

use bytes::Bytes;

use super::{common::Common, files::wire, hosts::Hosts, read, wait::Unsettled};
use crate::{
    config::cell::{self, Feed, Feeder, Note, Registry, Source, State},
    xds::{
        kind::Kind,
        stats::SubscriptionStats,
        update::{Refused, Resource, Update},
        wishes::{Options, Subscription},
    },
};

/// The cells of a view.
#[derive(Debug)]
pub(super) struct Cells {
    registry: Arc<Registry>,
    followed: HashMap<u64, Followed>,
    named: HashMap<(Source, Kind, Arc<str>), u64>,
    /// Scopes of routes, encoded: they are offered all together.
    scopes: HashMap<Source, BTreeMap<Arc<str>, Bytes>>,
    hosts: Hosts,
    /// Clusters that have come to be wanted, or are no more.
    clusters: Vec<OnDemand>,
    /// Only secrets and runtime values are asked for until the first clusters are there.
    begun: bool,
    /// What is to be asked for then.
    later: Vec<Weak<dyn Feed>>,
}

#[derive(Debug)]
struct Followed {
    cell: Weak<dyn Feed>,
    key: (Source, Kind, Arc<str>),
    _subscription: Subscription,
}

/// A cluster that requests ask for.
#[derive(Debug)]
pub(super) enum OnDemand {
    /// One does, from there.
    Wanted(Source, Arc<str>),
    /// None does any more.
    Forgotten(Arc<str>),
}

impl Cells {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            followed: HashMap::new(),
            named: HashMap::new(),
            scopes: HashMap::new(),
            hosts: Hosts::default(),
            clusters: Vec::new(),
            begun: false,
            later: Vec::new(),
        }
    }

    /// Layers of runtime values for which nothing has come yet.
    pub(super) fn runtime(&self) -> Unsettled {
        let layers = self.registry.all().into_iter().filter(|cell| cell.subject().kind == cell::Kind::Runtime);
        Unsettled::of(&layers.collect::<Vec<_>>())
    }

    /// The first clusters are there.
    pub(super) fn begin(&mut self, common: &mut Common) {
        self.begun = true;
        for cell in std::mem::take(&mut self.later) {
            self.follow(common, cell);
        }
        self.heed(common);
    }

    /// Asks for what is wanted since, and no more for what is not.
    pub(super) fn heed(&mut self, common: &mut Common) {
        for note in self.registry.take(Feeder::Servers) {
            match note {
                Note::Wanted(cell) => self.follow(common, cell),
                Note::Asked(number, name) => {
                    if let Some(followed) = self.followed.get(&number) {
                        let handle = common.sources.handle(&followed.key.0, followed.key.1, None);
                        self.hosts.ask(number, name, &handle);
                    }
                }
                Note::Forgotten(number, names) => self.hosts.forget(number, &names),
                Note::Cluster(source, name) => self.clusters.push(OnDemand::Wanted(source, name)),
                Note::ForgottenClusters(names) => self.clusters.extend(names.into_iter().map(OnDemand::Forgotten)),
                Note::Gone(number) => {
                    self.hosts.end(number);
                    if let Some(followed) = self.followed.remove(&number)
                        && self.named.get(&followed.key) == Some(&number)
                    {
                        self.named.remove(&followed.key);
                    }
                }
            }
        }
    }

    /// Clusters that have come to be wanted, or are no more, in order.
    pub(super) fn take_clusters(&mut self) -> Vec<OnDemand> {
        std::mem::take(&mut self.clusters)
    }

    fn follow(&mut self, common: &mut Common, weak: Weak<dyn Feed>) {
        let Some(cell) = weak.upgrade() else { return };
        let subject = cell.subject();
        let at_once = matches!(subject.kind, cell::Kind::Secret | cell::Kind::Runtime);
        if !self.begun && !at_once {
            self.later.push(weak);
            return;
        }
        let kind = wire(subject.kind);
        let handle = common.sources.handle(&subject.source, kind, None);
        let name = (!has_all(kind)).then(|| subject.name.clone());
        let stats = Some(SubscriptionStats::register(cell.scope()));
        let within = (kind == Kind::VirtualHost).then(|| subject.name.clone());
        let options = Options { timeout: cell.timeout(), stats, within };
        let subscription = handle.subscribe(kind, name, options);
        let key = (subject.source.clone(), kind, subject.name.clone());
        self.named.insert(key.clone(), cell.number());
        self.followed.insert(cell.number(), Followed { cell: weak, key, _subscription: subscription });
        if !common.sources.is_usable(&subject.source) {
            cell.time_out();
        }
        // What has come on behalf of another cell does not come again.
        if kind == Kind::VirtualHost {
            self.hosts.begin(&*cell, &handle);
        } else if let Some(scopes) = self.scopes.get(&subject.source).filter(|_| kind == Kind::ScopedRoutes) {
            let version = handle.store().version(kind).unwrap_or_default();
            let _ = cell.offer(&together(scopes), &version, SystemTime::now());
        } else if let Some(accepted) = handle.store().accepted(kind, &subject.name) {
            let _ = cell.offer(&accepted.body, &accepted.version, SystemTime::now());
        }
    }

    fn cell(&self, source: &Source, kind: Kind, name: &Arc<str>) -> Option<Arc<dyn Feed>> {
        let number = self.named.get(&(source.clone(), kind, name.clone()))?;
        self.followed.get(number)?.cell.upgrade()
    }

    /// Takes what it can of an update.
    pub(super) fn update(&mut self, source: &Source, update: &Update) -> Result<(), Refused> {
        let now = SystemTime::now();
        if update.kind == Kind::ScopedRoutes {
            return self.update_scopes(source, update, now);
        }
        if update.kind == Kind::VirtualHost {
            let cells: Vec<_> = self.of_kind(source, Kind::VirtualHost).collect();
            return self.hosts.update(cells.into_iter(), update, now);
        }
        let mut refused = Vec::new();
        let of = |resource: &Resource| self.cell(source, update.kind, &resource.name);
        for resource in &update.added {
            let Some(cell) = of(resource) else { continue };
            if let Err(why) = cell.offer(&resource.body, &resource.version, now) {
                refused.push((resource.name.clone(), why));
            }
        }
        for resource in &update.unchanged {
            let Some(cell) = of(resource).filter(|cell| *cell.state().borrow() == State::Waiting) else { continue };
            if let Err(why) = cell.offer(&resource.body, &resource.version, now) {
                refused.push((resource.name.clone(), why));
            }
        }
        for name in &update.removed {
            if let Some(cell) = self.cell(source, update.kind, name) {
                cell.withdraw();
            }
        }
        read::verdict(refused)
    }

    fn update_scopes(&mut self, source: &Source, update: &Update, now: SystemTime) -> Result<(), Refused> {
        let mut scopes = self.scopes.get(source).cloned().unwrap_or_default();
        for name in &update.removed {
            scopes.remove(name);
        }
        let came = update.added.iter().chain(&update.unchanged);
        scopes.extend(came.map(|resource| (resource.name.clone(), resource.body.clone())));
        let body = together(&scopes);
        for cell in self.of_kind(source, Kind::ScopedRoutes) {
            cell.offer(&body, &update.version, now).map_err(Refused::All)?;
        }
        self.scopes.insert(source.clone(), scopes);
        Ok(())
    }

    fn of_kind(&self, source: &Source, kind: Kind) -> impl Iterator<Item = Arc<dyn Feed>> {
        let of = self.followed.values().filter(move |followed| followed.key.0 == *source && followed.key.1 == kind);
        of.filter_map(|followed| followed.cell.upgrade())
    }

    /// Nothing came in time; of everything, if there is no name.
    pub(super) fn timed_out(&self, source: &Source, kind: Kind, name: Option<&Arc<str>>) {
        match name {
            Some(name) => self.cell(source, kind, name).iter().for_each(|cell| cell.time_out()),
            None => self.of_kind(source, kind).for_each(|cell| cell.time_out()),
        }
    }
}

/// All scopes as one resource.
fn together(scopes: &BTreeMap<Arc<str>, Bytes>) -> Bytes {
    read::together(Kind::ScopedRoutes, scopes.values())
}

/// Whether a cell has all of its source, or of a part of that: names are not known beforehand.
fn has_all(kind: Kind) -> bool {
    matches!(kind, Kind::ScopedRoutes | Kind::VirtualHost)
}
