//! What changes in a cluster while it is in force: its endpoints, and their health.

use std::sync::{Arc, atomic::Ordering};

use hashbrown::HashMap;

use super::{balance, clock};
use crate::config::cluster::{
    AssignmentPolicy, Cluster, Endpoint, EndpointSet, Health, HealthFlags, Host, LocalityWeights,
};

impl Cluster {
    /// Replaces the endpoints. Hosts whose address stays keep their health and counters. Whether anything changed.
    pub fn replace(&self, endpoints: Vec<Endpoint>, weights: &LocalityWeights, policy: AssignmentPolicy) -> bool {
        let current = self.endpoints.load_full();
        let known: HashMap<_, _> = current.iter().map(|known| (known.address, &known.host)).collect();
        let mut endpoints = endpoints;
        let mut health_changed = false;
        let mut added = 0;
        for endpoint in &mut endpoints {
            match known.get(&endpoint.address) {
                Some(host) => {
                    endpoint.host = Arc::clone(host);
                    health_changed |= endpoint.host.assign(HealthFlags::OF_EDS, endpoint.template.health);
                }
                None => {
                    endpoint.host = Arc::new(Host::new(endpoint.template.health));
                    added += 1;
                }
            }
        }
        let set = EndpointSet::with(endpoints, weights, self.local.as_deref(), policy);
        let removed = current.iter().count() + added - set.iter().count();
        let same = added == 0 && removed == 0 && !health_changed && same(&current, &set);
        if same {
            return false;
        }
        self.endpoints.store(Arc::new(set));
        if added > 0 || removed > 0 {
            self.stats.inc(self.stats.membership_change);
        }
        self.changed();
        true
    }

    /// Tells workers and statistics that endpoints or their health have changed.
    pub fn changed(&self) {
        let endpoints = self.endpoints.load();
        let now = clock::now();
        let (mut healthy, mut degraded, mut excluded, mut all, mut most) = (0, 0, 0, 0, 0);
        for endpoint in endpoints.iter() {
            let flags = endpoint.host.flags();
            all += 1;
            excluded += u64::from(flags.excluded());
            most = most.max(endpoint.template.weight);
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
        self.stats.set(self.stats.membership_healthy, healthy);
        self.stats.set(self.stats.membership_degraded, degraded);
        self.stats.set(self.stats.membership_excluded, excluded);
        self.stats.set(self.stats.membership_total, all);
        self.stats.set(self.stats.max_host_weight, u64::from(most));
        if let Some(zones) = &self.local_zones {
            zones.publish(balance::zones(&endpoints));
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
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
}
