//! What changes in a cluster while it is in force: its endpoints, and their health.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering},
};

use hashbrown::{HashMap, HashSet};

use super::clock;
use crate::config::cluster::{
    AssignmentPolicy, Cluster, Discovery, Drops, Endpoint, EndpointSet, Health, HealthFlags, Host, LocalityWeights,
    Template, Told, Zones, health::HealthCheck,
};

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// All are.
    All,
    /// It is one of the share that is.
    Share,
}

impl Cluster {
    /// Replaces the endpoints. Hosts whose address stays keep their health and counters. Whether anything changed.
    pub fn replace(&self, endpoints: Vec<Endpoint>, weights: &LocalityWeights, policy: AssignmentPolicy) -> bool {
        let current = self.endpoints.load_full();
        let (mut known, mut leaving) = self.by_place(&current);
        let mut endpoints = endpoints;
        let mut seen = HashSet::new();
        endpoints.retain(|endpoint| seen.insert(self.place(endpoint)));
        let mut health_changed = false;
        // Priorities that hosts have come to or left.
        let mut changed = BTreeSet::new();
        for endpoint in &mut endpoints {
            self.count_match(endpoint);
            let priority = endpoint.template.priority;
            match known.remove(&self.place(endpoint)) {
                Some(known) if self.is_same(known, endpoint) => {
                    endpoint.host = Arc::clone(&known.host);
                    let owned = HealthFlags::OF_EDS.and(HealthFlags::PENDING_REMOVAL);
                    health_changed |= endpoint.host.assign(owned, endpoint.template.health);
                    if known.template.priority != priority {
                        changed.extend([known.template.priority, priority]);
                    }
                }
                other => {
                    endpoint.host = Arc::new(self.new_host(endpoint));
                    let gone = other.and_then(|other| self.supersede(other, endpoint, &mut leaving));
                    changed.extend(gone.map(|gone| gone.template.priority));
                    changed.insert(priority);
                }
            }
        }
        if self.discovery.weighs() {
            let most = endpoints.iter().map(|endpoint| endpoint.template.weight).max().unwrap_or(1);
            self.stats.set(self.stats.max_host_weight, u64::from(most));
        }
        for endpoint in known.into_values().chain(leaving.into_values()) {
            if self.outlives(endpoint) {
                endpoint.host.set(HealthFlags::PENDING_REMOVAL);
                endpoints.push(Endpoint::clone(endpoint));
            } else {
                self.forget(endpoint);
                changed.insert(endpoint.template.priority);
            }
        }
        let set = EndpointSet::with(endpoints, weights, self.local.as_deref(), policy);
        if changed.is_empty() && !health_changed && same(&current, &set) {
            return false;
        }
        self.drops.store(drops(&set), Ordering::Relaxed);
        self.endpoints.store(Arc::new(set));
        // Counted by priority, as in Envoy.
        changed.iter().for_each(|_| self.stats.inc(self.stats.membership_change));
        // What an assignment says of hosts that stay is told at once, too, as in Envoy.
        self.changed_now(changed.len().max(1));
        self.membership.send_replace(());
        true
    }

    /// Another host comes to the address of one that is known: that leaves, perhaps later. Which one has left.
    fn supersede<'a>(
        &self,
        known: &'a Arc<Endpoint>,
        heard: &Endpoint,
        leaving: &mut ByPlace<'a>,
    ) -> Option<&'a Arc<Endpoint>> {
        if self.is_checked_alike(known, heard) {
            heard.host.clear(HealthFlags::OF_CHECKS);
            heard.host.set(known.host.flags().only(HealthFlags::OF_CHECKS));
        }
        let stays = known.template.locality == heard.template.locality;
        let gone = if stays { leaving.insert(self.place(known), known) } else { Some(known) };
        if let Some(gone) = gone {
            self.forget(gone);
        }
        gone
    }

    /// Whether a host that is known is the one that is heard of at its address: in another place it is another, and so
    /// it is where it is checked elsewhere, or is no longer, or is now.
    fn is_same(&self, known: &Endpoint, heard: &Endpoint) -> bool {
        known.template.locality == heard.template.locality && self.is_checked_alike(known, heard)
    }

    /// Whether what checks say of the one is true of the other.
    fn is_checked_alike(&self, known: &Endpoint, heard: &Endpoint) -> bool {
        self.health.is_none()
            || HealthCheck::address(known) == HealthCheck::address(heard)
                && known.template.check.disabled == heard.template.check.disabled
    }

    /// What tells an endpoint from others.
    fn place(&self, endpoint: &Endpoint) -> Place {
        let resolved = matches!(self.discovery, Discovery::Dns(_));
        (endpoint.address, resolved.then_some(Arc::as_ptr(&endpoint.template)))
    }

    /// The endpoints, and those in the place of another that are on their way out.
    fn by_place<'a>(&self, set: &'a EndpointSet) -> (ByPlace<'a>, ByPlace<'a>) {
        let leaves = |endpoint: &Endpoint| endpoint.host.flags().any(HealthFlags::PENDING_REMOVAL);
        let (mut known, mut leaving) = (HashMap::new(), HashMap::new());
        for endpoint in set.iter() {
            let place = self.place(endpoint);
            let one = match known.insert(place, endpoint) {
                Some(other) if leaves(endpoint) => known.insert(place, other),
                other => other,
            };
            if let Some(one) = one {
                leaving.insert(place, one);
            }
        }
        (known, leaving)
    }

    /// Whether the next request is to be turned away (`drop_overloads`).
    pub fn drops_one(&self) -> Option<Dropped> {
        match self.drops.load(Ordering::Relaxed) {
            0 => None,
            Drops::ALL => Some(Dropped::All),
            share => (fastrand::u32(0..Drops::ALL) < share).then_some(Dropped::Share),
        }
    }

    /// Makes these the hosts, as they are. Those that are gone have no connections left.
    pub(super) fn set_hosts(&self, endpoints: Vec<Endpoint>) {
        self.endpoints.store(Arc::new(EndpointSet::new(endpoints)));
        self.stats.inc(self.stats.membership_change);
        self.changed_now(1);
        self.membership.send_replace(());
    }

    /// The same hosts have other addresses.
    pub(super) fn move_hosts(&self, endpoints: Vec<Endpoint>) {
        self.endpoints.store(Arc::new(EndpointSet::new(endpoints)));
        self.tell();
    }

    /// Counts an endpoint that is heard of by how it is secured.
    pub(super) fn count_match(&self, endpoint: &Endpoint) {
        self.stats.inc(self.transports.counter(endpoint.template.metadata.as_deref()));
    }

    /// Makes the endpoints of the configuration the first ones.
    pub(crate) fn begin(&self) {
        let endpoints = self.endpoints.load();
        self.drops.store(drops(&endpoints), Ordering::Relaxed);
        for endpoint in endpoints.iter() {
            self.count_match(endpoint);
            endpoint.host.set(self.new_host(endpoint).flags());
        }
        // Envoy counts the priorities one by one.
        for _ in endpoints.priorities().iter().filter(|priority| !priority.endpoints.is_empty()) {
            self.stats.inc(self.stats.membership_change);
        }
        self.count_members();
        self.tell();
    }

    /// What is assumed of a host that has just come: where there are health checks, nothing good.
    pub(crate) fn new_host(&self, endpoint: &Endpoint) -> Host {
        let mut flags = endpoint.template.health;
        if let Some(check) = &self.health
            && !endpoint.template.check.disabled
        {
            flags = flags.and(HealthFlags::FAILED_ACTIVE);
            if check.ignore_new_hosts {
                flags = flags.and(HealthFlags::PENDING_ACTIVE);
            }
        }
        Host::new(flags)
    }

    /// A host's response says that it fails: where it is checked, that is as good as a check.
    pub fn admits_failure(&self, endpoint: &Endpoint) {
        if self.health.is_some() && !endpoint.template.check.disabled {
            endpoint.host.set(HealthFlags::EXCLUDED_IMMEDIATE);
            endpoint.host.admitted.add();
        }
    }

    /// Whether a host that has left the configuration stays because it passes its health checks.
    fn outlives(&self, endpoint: &Endpoint) -> bool {
        self.health.is_some()
            && !self.ignore_health_on_removal
            && !endpoint.template.check.disabled
            && !endpoint.host.flags().any(HealthFlags::FAILED_ACTIVE)
    }

    /// A host has left: its pooled connections are of no use.
    pub(super) fn forget(&self, endpoint: &Endpoint) {
        endpoint.host.failed.notify_waiters();
        if let Some(detector) = &self.outlier
            && endpoint.host.clear(HealthFlags::FAILED_OUTLIER)
        {
            let left = detector.ejected.fetch_sub(1, Ordering::AcqRel) - 1;
            self.stats.set(detector.stats.active, u64::from(left));
        }
    }

    /// Removes hosts that have left the configuration and now fail their health checks too.
    pub(super) fn drop_pending(&self) {
        let current = self.endpoints.load_full();
        let stays = |endpoint: &&Arc<Endpoint>| {
            let flags = endpoint.host.flags();
            !(flags.any(HealthFlags::PENDING_REMOVAL) && flags.any(HealthFlags::FAILED_ACTIVE))
        };
        let left: Vec<Endpoint> = current.iter().filter(stays).map(|endpoint| Endpoint::clone(endpoint)).collect();
        if left.len() == current.iter().count() {
            return;
        }
        current.iter().filter(|endpoint| !stays(endpoint)).for_each(|endpoint| self.forget(endpoint));
        let weights: Vec<_> = (0_u32..)
            .zip(current.priorities())
            .flat_map(|(priority, level)| {
                level.localities.iter().map(move |one| (priority, one.locality.clone(), one.weight))
            })
            .collect();
        let set = EndpointSet::with(left, &weights, self.local.as_deref(), current.policy.clone());
        self.endpoints.store(Arc::new(set));
        self.stats.inc(self.stats.membership_change);
        self.changed_now(1);
        self.membership.send_replace(());
    }

    /// Tells workers and statistics that health has changed: workers perhaps a little later, with other such changes.
    pub fn changed(&self) {
        self.count_members();
        if !self.in_force.load(Ordering::Relaxed) {
            return self.tell();
        }
        let told = self.merge.decide(clock::now());
        // Envoy has every priority anew.
        let priorities = self.endpoints.load().priorities().len();
        let manager = &self.stats.manager;
        if let Told::Outside { cancelled } = told {
            self.stats.add(manager.update_out_of_merge_window, priorities as u64);
            if cancelled {
                self.stats.add(manager.update_merge_cancelled, priorities as u64);
            }
        }
        if told != Told::Later {
            self.stats.add(manager.cluster_updated, priorities as u64);
            self.tell();
        }
    }

    /// Tells workers and statistics at once that hosts of so many priorities have come or gone.
    pub(super) fn changed_now(&self, priorities: usize) {
        self.count_members();
        // What there is at first is no change: as in Envoy, neither counts nor windows begin before it is in force.
        if self.in_force.load(Ordering::Relaxed) {
            let manager = &self.stats.manager;
            self.stats.add(manager.cluster_updated, priorities as u64);
            if self.merge.tell_all(clock::now()) {
                self.stats.add(manager.update_merge_cancelled, priorities as u64);
            }
        }
        self.tell();
    }

    /// Makes workers look again.
    fn tell(&self) {
        if let Some(zones) = &self.local_zones {
            zones.publish(Zones::of(&self.endpoints.load()));
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn count_members(&self) {
        let endpoints = self.endpoints.load();
        let now = clock::now();
        let (mut healthy, mut degraded, mut excluded, mut all) = (0, 0, 0, 0);
        for endpoint in endpoints.iter() {
            let flags = endpoint.host.flags();
            all += 1;
            excluded += u64::from(flags.excluded());
            match flags.health() {
                Health::Healthy => {
                    healthy += 1;
                    // Without active health checks slow start counts from when a host is first seen.
                    let _ = endpoint.host.healthy_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                }
                Health::Degraded => degraded += 1,
                Health::Unhealthy => {}
            }
        }
        let stats = &self.stats;
        // Of a cluster that is only ever found out, nothing is known before there is a host.
        let unknown = matches!(self.discovery, Discovery::OriginalDestination { .. } | Discovery::ForwardProxy(_))
            && stats.level(stats.membership_total) == 0;
        if !unknown || all > 0 {
            stats.set(stats.membership_healthy, healthy);
            stats.set(stats.membership_degraded, degraded);
            stats.set(stats.membership_excluded, excluded);
            stats.set(stats.membership_total, all);
        }
        if let Some(check) = &self.health {
            let count = |flags: HealthFlags, set: bool| {
                let checked = endpoints.iter().filter(|endpoint| !endpoint.template.check.disabled);
                checked.filter(|endpoint| endpoint.host.flags().any(flags) == set).count() as u64
            };
            self.stats.set(check.stats.healthy, count(HealthFlags::FAILED_ACTIVE, false));
            self.stats.show(check.stats.degraded, count(HealthFlags::DEGRADED_ACTIVE, true));
        }
    }
}

/// Tells workers what was held back, until the cluster is gone.
pub(super) async fn merge(cluster: Weak<Cluster>) {
    loop {
        // While it waits, the cluster is kept: a task of a cluster that is gone ends at the next change.
        let Some(cluster) = cluster.upgrade() else { return };
        if cluster.merge.elapsed().await {
            cluster.merge.tell_all(clock::now());
            let priorities = cluster.endpoints.load().priorities().len();
            cluster.stats.add(cluster.stats.manager.cluster_updated_via_merge, priorities as u64);
            cluster.tell();
        }
    }
}

/// What tells endpoints apart: the address, and in DNS the name that it is of, by what all its endpoints share.
type Place = (SocketAddr, Option<*const Template>);

/// Endpoints by what tells them apart.
type ByPlace<'a> = HashMap<Place, &'a Arc<Endpoint>>;

/// How many of [`Drops::ALL`] requests a set of endpoints has turned away.
fn drops(set: &EndpointSet) -> u32 {
    set.policy.drops.as_ref().map_or(0, |drops| drops.share)
}

/// Whether two sets have the same endpoints in the same order, with the same weights.
fn same(a: &EndpointSet, b: &EndpointSet) -> bool {
    let localities = |set: &EndpointSet| -> Vec<_> {
        let all = set.priorities().iter().flat_map(|priority| &priority.localities);
        all.map(|one| (one.locality.clone(), one.weight)).collect()
    };
    a.policy == b.policy
        && a.iter().count() == b.iter().count()
        && a.iter().zip(b.iter()).all(|(a, b)| {
            a.address == b.address
                && a.hostname == b.hostname
                && (Arc::ptr_eq(&a.template, &b.template) || a.template == b.template)
        })
        && localities(a) == localities(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::at(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn hosts_survive_an_update() {
        let cluster = Cluster::fixed("c", EndpointSet::new([endpoint(1), endpoint(2)]));
        let host = cluster.endpoints.load().iter().next().unwrap().host.clone();
        host.stats.rq_total.store(7, Ordering::Relaxed);
        let version = cluster.version();
        assert!(cluster.replace(vec![endpoint(3), endpoint(1)], &[], AssignmentPolicy::default()));
        let set = cluster.endpoints.load();
        let kept = set.iter().find(|endpoint| endpoint.address.port() == 1).unwrap();
        assert!(Arc::ptr_eq(&kept.host, &host));
        assert_ne!(cluster.version(), version);
        assert!(!cluster.replace(vec![endpoint(3), endpoint(1)], &[], AssignmentPolicy::default()));
    }

    #[test]
    fn what_is_dropped_follows_the_assignment() {
        let cluster = Cluster::fixed("c", EndpointSet::new([endpoint(1)]));
        assert_eq!(cluster.drops_one(), None);
        let drops = |share| Some(Drops { category: "overload".into(), share });
        let policy = |share| AssignmentPolicy { drops: drops(share), ..AssignmentPolicy::default() };
        assert!(cluster.replace(vec![endpoint(1)], &[], policy(Drops::ALL)));
        assert_eq!(cluster.drops_one(), Some(Dropped::All));
        assert!(cluster.replace(vec![endpoint(1)], &[], policy(Drops::ALL / 2)));
        let dropped = (0..1_000).filter(|_| cluster.drops_one() == Some(Dropped::Share)).count();
        assert!((400..600).contains(&dropped), "{dropped}");
    }
}
