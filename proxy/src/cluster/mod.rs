//! Clusters at run time: which endpoint a request goes to, and where endpoints come from.

pub mod account;
mod balance;
mod breakers;
pub mod clock;
pub mod dial;
pub mod discovery;
mod health;
mod outlier;
mod pick;
mod reach;
mod running;
mod update;

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use hashbrown::HashMap;

use self::balance::{Aggregated, Available, Balancer, Chosen};
pub use self::{
    discovery::forward::keep_caches,
    outlier::Outcome,
    pick::{PickContext, Picked},
    reach::{Reach, Resolving},
    running::{FollowFile, Kept, Running, Start, start, start_later},
    update::Dropped,
};
use crate::{
    config::cluster::{Cluster, DESTINATION_KEY, Discovery, Endpoint, Members, NotedDestination, OriginalHosts},
    telemetry::stats::Shard,
    wire::named::NamedAddress,
};

/// The load balancing state of one worker.
#[derive(Debug, Default)]
pub struct Local {
    /// By the cluster's address, which is its own while it is referred to from here.
    balancers: RefCell<HashMap<usize, (Weak<Cluster>, Balancer)>>,
    /// The same for aggregate clusters.
    aggregates: RefCell<HashMap<usize, (Weak<Cluster>, Aggregated)>>,
    /// Hosts of original destinations that their clusters may not know yet, by the cluster's address and theirs.
    made: RefCell<HashMap<(usize, SocketAddr), Made>>,
    stats: Shard,
}

/// A host of an original destination, made here.
#[derive(Debug)]
struct Made {
    /// Which version of the cluster did not know it when it was told; 0: it was not told.
    told: u64,
    endpoint: Weak<Endpoint>,
}

impl Local {
    /// The state of the worker whose counters these are.
    pub fn new(stats: Shard) -> Self {
        Self { stats, ..Self::default() }
    }

    /// An endpoint of `cluster`, or none if there is none (healthy).
    pub fn pick(&self, cluster: &Arc<Cluster>, context: &PickContext<'_>) -> Option<Picked> {
        let Discovery::Aggregate { members, .. } = &cluster.discovery else {
            let (endpoint, anew) = self.endpoint(cluster, context, None)?;
            let priority = endpoint.template.priority;
            return Some(Picked { endpoint, member: None, priority, anew });
        };
        let Chosen { member, level, priority, anew } = self.member(cluster, members, context)?;
        let (endpoint, _) = self.endpoint(&member, context, Some(level))?;
        // Consistent hashing has its own mind about priorities.
        let own = endpoint.template.priority;
        let key = Arc::as_ptr(cluster) as usize;
        let priority = match self.aggregates.borrow().get(&key) {
            Some((_, aggregated)) if usize::try_from(own) != Ok(level.0) => {
                aggregated.position(&member, own).unwrap_or(priority)
            }
            _ => priority,
        };
        Some(Picked { endpoint, member: Some(member), priority, anew })
    }

    /// Which of an aggregate's clusters.
    fn member(&self, cluster: &Arc<Cluster>, members: &Members, context: &PickContext<'_>) -> Option<Chosen> {
        let mut aggregates = self.aggregates.borrow_mut();
        let key = Arc::as_ptr(cluster) as usize;
        let aggregated = match aggregates.get_mut(&key) {
            Some((_, aggregated)) if aggregated.is_current(members) => aggregated,
            _ => {
                aggregates.retain(|_, (cluster, _)| cluster.strong_count() > 0);
                let aggregated = Aggregated::new(members, cluster.balancing.panic_threshold);
                &mut aggregates.entry(key).insert((Arc::downgrade(cluster), aggregated)).into_mut().1
            }
        };
        aggregated.choose(context)
    }

    /// An endpoint of a cluster that is none; `level`: the priority and which of its hosts, where an aggregate has chosen.
    fn endpoint(
        &self,
        cluster: &Arc<Cluster>,
        context: &PickContext<'_>,
        level: Option<(usize, Available)>,
    ) -> Option<(Arc<Endpoint>, bool)> {
        if let Discovery::OriginalDestination { metadata, port, hosts, .. } = &cluster.discovery {
            let endpoint = self.original_destination(cluster, (hosts, metadata.as_ref(), *port), context)?;
            return Some((endpoint, false));
        }
        if let Discovery::ForwardProxy(proxy) = &cluster.discovery {
            return Some((reach::host(proxy, context)?, false));
        }
        let mut balancers = self.balancers.borrow_mut();
        let key = Arc::as_ptr(cluster) as usize;
        let balancer = match balancers.get_mut(&key) {
            Some((_, balancer)) if balancer.is_current(cluster) => balancer,
            _ => {
                // The cluster is new or has changed. Those that are gone give their place up.
                balancers.retain(|_, (cluster, _)| cluster.strong_count() > 0);
                let balancer = Balancer::new(cluster, &self.stats);
                &mut balancers.entry(key).insert((Arc::downgrade(cluster), balancer)).into_mut().1
            }
        };
        balancer.pick(cluster, context, level, &self.stats)
    }

    /// The host at the original destination: the one that the cluster knows, or one that this worker has just made.
    fn original_destination(
        &self,
        cluster: &Arc<Cluster>,
        (hosts, noted, port): (&OriginalHosts, Option<&NotedDestination>, Option<u16>),
        context: &PickContext<'_>,
    ) -> Option<Arc<Endpoint>> {
        let parse = |text: &str| {
            let parsed = text.parse().ok();
            if parsed.is_none() {
                self.stats.inc(cluster.stats.original_dst_host_invalid);
            }
            parsed
        };
        // As in Envoy: filter state, a header, metadata, where the connection went.
        let address = context
            .filter_state
            .and_then(|state| state.address(DESTINATION_KEY))
            .or_else(|| context.destination_header.and_then(parse))
            .or_else(|| noted?.find(&context.metadata).and_then(parse));
        let mut address: SocketAddr = address.or(context.destination)?;
        if let Some(port) = port {
            address.set_port(port);
        }
        // What a client says never leads inside of this process.
        if NamedAddress::of(&address).is_some() {
            return None;
        }
        if let Some(known) = hosts.get(address) {
            return Some(known);
        }
        let key = (Arc::as_ptr(cluster) as usize, address);
        let mut made = self.made.borrow_mut();
        let version = cluster.version();
        let own = made.get(&key).and_then(|own| own.endpoint.upgrade().map(|endpoint| (own.told, endpoint)));
        let endpoint = match own {
            Some((told, endpoint)) if told == version => return Some(endpoint),
            // The cluster has changed and still does not know it.
            Some((_, endpoint)) => endpoint,
            None => {
                made.retain(|_, own| own.endpoint.strong_count() > 0);
                let hostname = format!("{}{address}", cluster.name).into();
                Arc::new(Endpoint { hostname, ..Endpoint::at(address) })
            }
        };
        let told = if hosts.meet(&endpoint) { version } else { 0 };
        made.insert(key, Made { told, endpoint: Arc::downgrade(&endpoint) });
        Some(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::{
        AssignmentPolicy, EndpointSet, HealthFlags, Host, LocalZones, Locality, Template,
        balancing::{Hashing, LeastRequest, Localities, Maglev, Policy, SlowStart, ZoneAware},
    };

    fn endpoint(port: u16, weight: u32, priority: u32, healthy: bool) -> Endpoint {
        let health = if healthy { HealthFlags::default() } else { HealthFlags::FAILED_EDS };
        Endpoint {
            template: Arc::new(Template { weight, priority, health, ..Template::default() }),
            host: Arc::new(Host::new(health)),
            ..Endpoint::at(SocketAddr::from(([127, 0, 0, 1], port)))
        }
    }

    fn fixed(endpoints: impl IntoIterator<Item = Endpoint>) -> Arc<Cluster> {
        Arc::new(Cluster::fixed("c", EndpointSet::new(endpoints)))
    }

    fn with(policy: Policy, endpoints: impl IntoIterator<Item = Endpoint>) -> Arc<Cluster> {
        let mut cluster = Cluster::fixed("c", EndpointSet::new(endpoints));
        cluster.balancing.policy = policy;
        Arc::new(cluster)
    }

    fn counts(cluster: &Arc<Cluster>, picks: usize) -> Vec<(u16, usize)> {
        let local = Local::default();
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..picks {
            let picked = local.pick(cluster, &PickContext::default()).unwrap();
            *counts.entry(picked.endpoint.address.port()).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        let cluster = fixed((1..=3).map(|port| endpoint(port, 1, 0, true)));
        assert_eq!(counts(&cluster, 30), [(1, 10), (2, 10), (3, 10)]);
    }

    #[test]
    fn weights_are_exact() {
        let cluster = fixed([endpoint(1, 1, 0, true), endpoint(2, 4, 0, true)]);
        assert_eq!(counts(&cluster, 50), [(1, 10), (2, 40)]);
    }

    #[test]
    fn unhealthy_endpoints_are_left_out_until_panic() {
        let endpoints = [endpoint(1, 1, 0, true), endpoint(2, 1, 0, true), endpoint(3, 1, 0, false)];
        let cluster = fixed(endpoints);
        assert_eq!(counts(&cluster, 30), [(1, 15), (2, 15)]);
        let endpoints = [endpoint(1, 1, 0, true), endpoint(2, 1, 0, false), endpoint(3, 1, 0, false)];
        let cluster = fixed(endpoints);
        assert_eq!(counts(&cluster, 30), [(1, 10), (2, 10), (3, 10)]);
    }

    #[test]
    fn a_lower_priority_takes_what_the_higher_cannot() {
        let endpoint = |port, priority, healthy| endpoint(port, 1, priority, healthy);
        let mut endpoints = [endpoint(1, 0, true), endpoint(2, 0, false), endpoint(3, 1, true)];
        let half = fixed(endpoints.clone());
        let spilled = counts(&half, 10_000);
        assert!(spilled.iter().any(|(port, n)| *port == 1 && (6_700..7_300).contains(n)), "70/30, not {spilled:?}");
        endpoints[0] = endpoint(1, 0, false);
        assert_eq!(counts(&fixed(endpoints), 10), [(3, 10)]);
    }

    #[test]
    fn no_endpoints() {
        let cluster = fixed([]);
        assert!(Local::default().pick(&cluster, &PickContext::default()).is_none());
    }

    #[test]
    fn new_endpoints_are_seen_and_tried_ones_avoided() {
        let cluster = fixed([endpoint(1, 1, 0, true)]);
        let local = Local::default();
        let context = PickContext::default();
        assert_eq!(local.pick(&cluster, &context).unwrap().endpoint.address.port(), 1);
        let endpoints = vec![endpoint(1, 1, 0, true), endpoint(2, 1, 0, true)];
        assert!(cluster.replace(endpoints, &[], AssignmentPolicy::default()));
        let avoid = [SocketAddr::from(([127, 0, 0, 1], 1))];
        for _ in 0..10 {
            let context = PickContext { avoid: &avoid, repicks: 3, ..PickContext::default() };
            assert_eq!(local.pick(&cluster, &context).unwrap().endpoint.address.port(), 2);
        }
    }

    #[test]
    fn the_original_destination() {
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        cluster.discovery =
            Discovery::OriginalDestination { header: None, metadata: None, port: Some(81), hosts: Arc::default() };
        let context = PickContext { destination: Some("10.0.0.1:80".parse().unwrap()), ..PickContext::default() };
        let picked = Local::default().pick(&Arc::new(cluster), &context).unwrap();
        assert_eq!(picked.endpoint.address, "10.0.0.1:81".parse().unwrap());
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let cluster =
            with(Policy::LeastRequest(LeastRequest::default()), [1, 2].map(|port| endpoint(port, 1, 0, true)));
        let endpoints = cluster.endpoints.load_full();
        let busy = endpoints.iter().next().unwrap();
        busy.host.stats.rq_active.store(5, std::sync::atomic::Ordering::Relaxed);
        let counts = counts(&cluster, 1000);
        let idle = counts.iter().find(|(port, _)| *port == 2).map_or(0, |(_, n)| *n);
        assert!((650..850).contains(&idle), "3 of 4, not {counts:?}");
    }

    #[test]
    fn random_does_not_weigh() {
        let cluster = with(Policy::Random, [endpoint(1, 1, 0, true), endpoint(2, 9, 0, true)]);
        let counts = counts(&cluster, 1000);
        assert!(counts.iter().all(|(_, n)| (400..600).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_hash_leads_to_one_host_and_a_retry_elsewhere() {
        let table = Maglev { table_size: 211, hashing: Hashing::default() };
        let cluster = with(Policy::Maglev(table), (1..=5).map(|port| endpoint(port, 1, 0, true)));
        let local = Local::default();
        let context = PickContext { hash: Some(42), ..PickContext::default() };
        let first = local.pick(&cluster, &context).unwrap().endpoint.address;
        for _ in 0..10 {
            assert_eq!(local.pick(&cluster, &context).unwrap().endpoint.address, first);
        }
        let avoid = [first];
        let retry = PickContext { avoid: &avoid, repicks: 5, ..context };
        assert_ne!(local.pick(&cluster, &retry).unwrap().endpoint.address, first);
    }

    #[test]
    fn a_new_host_starts_slowly() {
        let start = SlowStart { window: std::time::Duration::from_secs(3600), aggression: 1.0, least: 0.1 };
        let old = endpoint(1, 1, 0, true);
        old.host.healthy_since.store(1, std::sync::atomic::Ordering::Relaxed);
        let new = endpoint(2, 1, 0, true);
        let long_ago = SlowStart { window: std::time::Duration::from_millis(1), ..start };
        assert_eq!(long_ago.factor(std::time::Duration::from_secs(1)), 1.0);
        new.host.healthy_since.store(clock::now(), std::sync::atomic::Ordering::Relaxed);
        // Both are new: they share evenly.
        let cluster = with(Policy::RoundRobin(Some(start)), [old, new]);
        assert_eq!(counts(&cluster, 100), [(1, 50), (2, 50)]);
    }

    fn in_zone(port: u16, zone: &str) -> Endpoint {
        let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
        let template = Template { locality, ..Template::default() };
        Endpoint { template: Arc::new(template), ..endpoint(port, 1, 0, true) }
    }

    #[test]
    fn localities_share_by_weight() {
        let [a, b] = ["a", "b"].map(|zone| Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
        let set = EndpointSet::with(
            [in_zone(1, "a"), in_zone(2, "b"), in_zone(3, "b")],
            &[(0, a, 1), (0, b, 3)],
            None,
            AssignmentPolicy::default(),
        );
        let mut cluster = Cluster::fixed("c", set);
        cluster.balancing.localities = Localities::Weighted;
        let counts = counts(&Arc::new(cluster), 80);
        assert_eq!(counts[0], (1, 20));
        assert!(counts[1..].iter().all(|(_, n)| (29..=31).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_own_zone_comes_first() {
        let zones = Arc::new(LocalZones::default());
        let own = Locality { zone: "a".into(), ..Locality::default() };
        let set = |endpoints: Vec<Endpoint>| EndpointSet::with(endpoints, &[], Some(&own), AssignmentPolicy::default());
        let mut local = Cluster::fixed("local", set(vec![in_zone(1, "a"), in_zone(2, "b")]));
        local.local_zones = Some(zones.clone());
        local.changed();
        let hosts = (1..=3).map(|port| in_zone(port, "a")).chain((4..=6).map(|port| in_zone(port, "b")));
        let mut cluster = Cluster::fixed("c", set(hosts.collect()));
        cluster.balancing.localities = Localities::ZoneAware(ZoneAware::default());
        cluster.zones = Some(zones);
        assert_eq!(counts(&Arc::new(cluster), 30), [(1, 10), (2, 10), (3, 10)]);
    }
}
