//! Choosing among the endpoints of one cluster, as Envoy does: a priority by health, perhaps a locality, then a host.
//!
//! A `Balancer` is one worker's view of one version of a cluster's endpoints and their health. It is made anew when
//! either changes, so that a choice looks at no host but the chosen ones. The tables of consistent hashing are the same
//! for all workers.

mod aggregate;
mod edf;
mod load;
mod turn;
mod zone;

use std::sync::Arc;

pub(super) use self::{
    aggregate::{Aggregated, Chosen},
    load::Available,
};
use self::{
    edf::Edf,
    load::Shares,
    turn::Group,
    zone::{Routing, Why},
};
use super::pick::PickContext;
use crate::{
    config::cluster::{
        Cluster, Consistent, Endpoint, EndpointSet, Hashed, Health, Priority, Tally, Weighted, Zones,
        balancing::{LoadBalancing, Localities},
        stats::ClusterStats,
    },
    telemetry::stats::Shard,
};

/// One worker's state for one version of a cluster.
#[derive(Debug)]
pub(super) struct Balancer {
    version: u64,
    local_version: u64,
    endpoints: Arc<EndpointSet>,
    tallies: Vec<Tally>,
    shares: Shares,
    levels: Vec<Level>,
    local: Option<Arc<Zones>>,
    hashed: Option<Arc<Hashed>>,
}

/// One priority.
#[derive(Debug, Default)]
struct Level {
    all: Group,
    healthy: Group,
    degraded: Group,
    localities: Vec<(Group, Group)>,
    /// Turns of localities by weight: with healthy hosts, and with degraded ones.
    weighted: Option<(Weights, Weights)>,
    zones: Option<Routing>,
}

#[derive(Debug, Default)]
struct Weights {
    weights: Vec<f64>,
    edf: Edf,
}

impl Balancer {
    /// The state for the cluster as it is now.
    pub fn new(cluster: &Cluster, stats: &Shard) -> Self {
        let version = cluster.version();
        let endpoints = cluster.endpoints.load_full();
        let config = &cluster.balancing;
        let tallies: Vec<_> =
            endpoints.priorities().iter().map(|priority| Tally::of(priority, &endpoints.policy)).collect();
        let shares = Shares::of(&tallies, config.panic_threshold);
        // Consistent hashing knows no zones.
        let (local_version, local) = match &cluster.zones {
            Some(zones) if !config.hashes() => (zones.version(), Some(zones.load())),
            _ => (0, None),
        };
        let hashed = config.hashes().then(|| hashed(cluster, version, &endpoints, &shares));
        let levels = match hashed {
            Some(_) => Vec::new(),
            None => endpoints
                .priorities()
                .iter()
                .enumerate()
                .map(|(index, priority)| {
                    // Zones count in the first priority only.
                    let local = local.as_deref().filter(|_| index == 0);
                    Level::new(priority, config, endpoints.policy.overprovisioning, local)
                })
                .collect(),
        };
        if local.is_some() {
            stats.inc(cluster.stats.lb_recalculate_zone_structures);
        }
        for level in &levels {
            match &level.zones {
                Some(Routing::Off(Why::TooSmall)) => stats.inc(cluster.stats.lb_zone_cluster_too_small),
                Some(Routing::Off(Why::NotLocal)) => stats.inc(cluster.stats.lb_local_cluster_not_ok),
                _ => {}
            }
        }
        Self { version, local_version, endpoints, tallies, shares, levels, local, hashed }
    }

    /// Whether the cluster is still as it was.
    pub fn is_current(&self, cluster: &Cluster) -> bool {
        self.version == cluster.version()
            && (self.local.is_none()
                || cluster.zones.as_ref().is_some_and(|zones| zones.version() == self.local_version))
    }

    /// An endpoint; one that the context rejects only if every try brought such a one. `level`: the priority and which of
    /// its hosts, where that has been chosen. With it, whether no priority was left but previous ones.
    pub fn pick(
        &mut self,
        cluster: &Cluster,
        context: &PickContext<'_>,
        level: Option<(usize, Available)>,
        stats: &Shard,
    ) -> Option<(Arc<Endpoint>, bool)> {
        if let Some(hashed) = &self.hashed {
            return self.pick_hashed(hashed, cluster, context, stats).map(|endpoint| (endpoint, false));
        }
        let shares = match context.previous_priorities {
            [] => None,
            previous => Shares::without(&self.tallies, previous),
        };
        let mut picked = None;
        for _ in 0..=context.repicks {
            let (priority, available) = match level {
                Some(level) => level,
                None => shares.as_ref().unwrap_or(&self.shares).choose(fastrand::u64(..))?,
            };
            // An aggregate may have chosen a priority that is gone by now.
            let panic = *self.shares.panic.get(priority)?;
            let local = self.local.as_deref();
            let endpoints = &self.endpoints.priorities().get(priority)?.endpoints;
            let index = self.levels.get_mut(priority)?.next(
                endpoints,
                &cluster.balancing,
                available,
                panic,
                local,
                &cluster.stats,
                stats,
            );
            picked = index.map(|index| &endpoints[index]);
            if picked.is_none_or(|endpoint| !context.rejects(endpoint)) {
                break;
            }
        }
        let anew = shares.is_none() && !context.previous_priorities.is_empty();
        picked.cloned().map(|endpoint| (endpoint, anew))
    }

    /// An endpoint by consistent hashing: the priority too is the hash's affair, as in Envoy.
    fn pick_hashed(
        &self,
        hashed: &Hashed,
        cluster: &Cluster,
        context: &PickContext<'_>,
        stats: &Shard,
    ) -> Option<Arc<Endpoint>> {
        let hash = context.hash.unwrap_or_else(|| fastrand::u64(..));
        let (priority, _) = self.shares.choose(hash)?;
        if self.shares.panic[priority] {
            stats.inc(cluster.stats.lb_healthy_panic);
        }
        let active = cluster.usage.requests.load().saturating_add(cluster.high.usage.requests.load());
        let mut picked = None;
        for attempt in 0..=context.repicks {
            picked = hashed.levels[priority].choose(hash, attempt, u64::from(active));
            if picked.is_none_or(|endpoint| !context.rejects(endpoint)) {
                break;
            }
        }
        picked.cloned()
    }
}

impl Level {
    fn new(priority: &Priority, config: &LoadBalancing, overprovisioning: u32, local: Option<&Zones>) -> Self {
        let select = |members: &mut dyn Iterator<Item = usize>, health: Health| {
            Group::new(members.filter(|index| priority.endpoints[*index].host.health() == health).collect())
        };
        let everyone = 0..priority.endpoints.len();
        let mut level = Self {
            all: Group::new(everyone.clone().collect()),
            healthy: select(&mut everyone.clone(), Health::Healthy),
            degraded: select(&mut everyone.clone(), Health::Degraded),
            ..Self::default()
        };
        if config.localities == Localities::Together {
            return level;
        }
        level.localities = priority
            .localities
            .iter()
            .map(|locality| {
                let members = || locality.members.iter().copied();
                (select(&mut members(), Health::Healthy), select(&mut members(), Health::Degraded))
            })
            .collect();
        if config.localities == Localities::Weighted {
            level.weigh(priority, overprovisioning);
        }
        if let Some(local) = local {
            let upstream: Vec<_> = priority
                .localities
                .iter()
                .zip(&level.localities)
                .map(|(locality, (healthy, _))| (locality.locality.clone(), healthy.len() as u64))
                .collect();
            level.zones = Some(Routing::of(&config.zone_aware(), &upstream, priority.local, local));
        }
        level
    }

    /// Gives localities turns by their weight, reduced by what of their hosts cannot be used.
    fn weigh(&mut self, priority: &Priority, overprovisioning: u32) {
        let weigh = |of: fn(&(Group, Group)) -> &Group| {
            let weights: Vec<f64> = priority
                .localities
                .iter()
                .zip(&self.localities)
                .map(|(locality, groups)| {
                    let excluded = |index: &&usize| priority.endpoints[**index].host.flags().excluded();
                    let all = locality.members.len() - locality.members.iter().filter(excluded).count();
                    if all == 0 {
                        return 0.0;
                    }
                    let able = f64::from(overprovisioning) / 100.0 * of(groups).len() as f64 / all as f64;
                    f64::from(locality.weight) * able.min(1.0)
                })
                .collect();
            let positive: Vec<_> = weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0.0).collect();
            let skip = if positive.is_empty() { 0 } else { fastrand::usize(0..positive.len()) };
            Weights { weights, edf: Edf::new(positive, skip) }
        };
        self.weighted = Some((weigh(|groups| &groups.0), weigh(|groups| &groups.1)));
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what one choice depends on; a struct of it would be made per choice"
    )]
    fn next(
        &mut self,
        endpoints: &[Arc<Endpoint>],
        config: &LoadBalancing,
        available: Available,
        panic: bool,
        local: Option<&Zones>,
        names: &ClusterStats,
        stats: &Shard,
    ) -> Option<usize> {
        let zone_aware = config.zone_aware();
        let fail_on_panic = zone_aware.fail_on_panic;
        if panic {
            stats.inc(names.lb_healthy_panic);
            return if fail_on_panic { None } else { self.all.next(endpoints, &config.policy) };
        }
        if let Some((healthy, degraded)) = &mut self.weighted {
            let Weights { weights, edf } = if available == Available::Healthy { healthy } else { degraded };
            if let Some(locality) = edf.next(|index| weights[index]) {
                return self.of_locality(locality, available).next(endpoints, &config.policy);
            }
        }
        let zone = match &self.zones {
            Some(routing @ (Routing::Direct | Routing::Residual { .. }))
                if zone_aware.enabled >= 100.0 || fastrand::f64() * 100.0 < zone_aware.enabled =>
            {
                if local.is_some_and(|local| local.tally.in_panic(config.panic_threshold)) {
                    stats.inc(names.lb_local_cluster_not_ok);
                    if fail_on_panic {
                        return None;
                    }
                    None
                } else {
                    Some(self.zone(routing, names, stats))
                }
            }
            _ => None,
        };
        match zone {
            Some(zone) => self.of_locality(zone, available).next(endpoints, &config.policy),
            None if available == Available::Healthy => self.healthy.next(endpoints, &config.policy),
            None => self.degraded.next(endpoints, &config.policy),
        }
    }

    fn of_locality(&mut self, locality: usize, available: Available) -> &mut Group {
        let (healthy, degraded) = &mut self.localities[locality];
        if available == Available::Healthy { healthy } else { degraded }
    }

    fn zone(&self, routing: &Routing, names: &ClusterStats, stats: &Shard) -> usize {
        match routing {
            Routing::Direct | Routing::Off(_) => {
                stats.inc(names.lb_zone_routing_all_directly);
                0
            }
            Routing::Residual { stay, .. } if fastrand::u64(0..10_000) < *stay => {
                stats.inc(names.lb_zone_routing_sampled);
                0
            }
            Routing::Residual { capacity, .. } => {
                stats.inc(names.lb_zone_routing_cross_zone);
                Routing::elsewhere(capacity, fastrand::u64(..)).unwrap_or_else(|| {
                    stats.inc(names.lb_zone_no_capacity_left);
                    fastrand::usize(0..self.localities.len())
                })
            }
        }
    }
}

/// The tables of this version of the cluster: the first worker that needs them makes them.
fn hashed(cluster: &Cluster, version: u64, endpoints: &EndpointSet, shares: &Shares) -> Arc<Hashed> {
    if let Some(hashed) = &*cluster.hashed.load()
        && hashed.version == version
    {
        return hashed.clone();
    }
    let levels: Vec<_> = endpoints
        .priorities()
        .iter()
        .zip(&shares.panic)
        .filter_map(|(priority, panic)| Consistent::new(&cluster.balancing.policy, weighted(cluster, priority, *panic)))
        .collect();
    // The last priority with hosts is shown, as in Envoy.
    let shown = levels.iter().rev().find(|level| !level.is_empty());
    if let (Some(shown), Some(names)) = (shown, &cluster.stats.hashed) {
        let (size, least, most) = shown.entries();
        for (gauge, value) in [(names.size, size), (Some(names.least), least), (Some(names.most), most)] {
            if let Some(gauge) = gauge {
                cluster.stats.set(gauge, value);
            }
        }
    }
    let hashed = Arc::new(Hashed { version, levels });
    cluster.hashed.store(Some(hashed.clone()));
    hashed
}

/// Hosts of a priority with their shares of its weight, within shares of their localities where those are weighted.
fn weighted(cluster: &Cluster, priority: &Priority, panic: bool) -> Vec<Weighted> {
    let usable = |index: &usize| panic || priority.endpoints[*index].host.health() == Health::Healthy;
    let mut hosts = Vec::with_capacity(priority.endpoints.len());
    let mut add = |members: Vec<usize>, share: f64| {
        let sum: f64 = members.iter().map(|index| f64::from(priority.endpoints[*index].template.weight)).sum();
        hosts.extend(members.into_iter().map(|index| {
            let endpoint = priority.endpoints[index].clone();
            let share = f64::from(endpoint.template.weight) * share / sum;
            Weighted { endpoint, share }
        }));
    };
    if cluster.balancing.localities != Localities::Weighted {
        add((0..priority.endpoints.len()).filter(usable).collect(), 1.0);
        return hosts;
    }
    let sum: f64 = priority.localities.iter().map(|locality| f64::from(locality.weight)).sum();
    for locality in priority.localities.iter().filter(|locality| locality.weight > 0) {
        add(locality.members.iter().copied().filter(usable).collect(), f64::from(locality.weight) / sum);
    }
    hosts
}
