//! Clusters at run time: which endpoint a request goes to, and where endpoints come from.

mod balance;
pub mod discovery;

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use hashbrown::HashMap;

use self::balance::Balancer;
use crate::config::cluster::{Cluster, Discovery, Endpoint, EndpointTemplate, LoadBalancing};

/// The load balancing state of one worker.
#[derive(Debug, Default)]
pub struct Local {
    balancers: RefCell<HashMap<Arc<str>, Balancer>>,
}

/// What a choice depends on besides the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// The connection's original destination.
    pub destination: Option<SocketAddr>,
    /// What an `ORIGINAL_DST` cluster's header says.
    pub destination_header: Option<&'a str>,
    /// Endpoints to avoid, by picking again.
    pub avoid: &'a [SocketAddr],
    /// How often to pick again.
    pub repicks: u32,
}

impl Local {
    /// An endpoint of `cluster`, or none if there is none (healthy).
    pub fn pick(&self, cluster: &Cluster, context: &PickContext<'_>) -> Option<Endpoint> {
        if let Discovery::OriginalDestination { port, .. } = &cluster.discovery {
            return original_destination(*port, context);
        }
        let endpoints = cluster.endpoints.load();
        let mut balancers = self.balancers.borrow_mut();
        let balancer = match balancers.get_mut(&cluster.name) {
            Some(balancer) if balancer.is_for(&endpoints) => balancer,
            _ => {
                let balancer = Balancer::new(endpoints.clone(), cluster.panic_threshold);
                balancers.entry(cluster.name.clone()).insert(balancer).into_mut()
            }
        };
        let random = cluster.policy == LoadBalancing::Random;
        let mut picked = balancer.pick(random)?;
        for _ in 0..context.repicks {
            if !context.avoid.contains(&picked.address) {
                break;
            }
            picked = balancer.pick(random)?;
        }
        Some(picked.clone())
    }
}

fn original_destination(port: Option<u16>, context: &PickContext<'_>) -> Option<Endpoint> {
    let mut address = match context.destination_header {
        Some(header) => header.parse().ok()?,
        None => context.destination?,
    };
    if let Some(port) = port {
        address.set_port(port);
    }
    Some(Endpoint {
        address,
        hostname: Arc::from(""),
        template: EndpointTemplate { weight: 1, priority: 0, healthy: true },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::EndpointSet;

    fn endpoint(port: u16, weight: u32, priority: u32, healthy: bool) -> Endpoint {
        Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            hostname: Arc::from(""),
            template: EndpointTemplate { weight, priority, healthy },
        }
    }

    fn counts(cluster: &Cluster, picks: usize) -> Vec<(u16, usize)> {
        let local = Local::default();
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..picks {
            let picked = local.pick(cluster, &PickContext::default()).unwrap();
            *counts.entry(picked.address.port()).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        let cluster = Cluster::fixed("c", EndpointSet::new((1..=3).map(|port| endpoint(port, 1, 0, true))));
        assert_eq!(counts(&cluster, 30), [(1, 10), (2, 10), (3, 10)]);
    }

    #[test]
    fn weights_are_exact() {
        let cluster = Cluster::fixed("c", EndpointSet::new([endpoint(1, 1, 0, true), endpoint(2, 4, 0, true)]));
        assert_eq!(counts(&cluster, 50), [(1, 10), (2, 40)]);
    }

    #[test]
    fn unhealthy_endpoints_are_left_out_until_panic() {
        let endpoints = [endpoint(1, 1, 0, true), endpoint(2, 1, 0, true), endpoint(3, 1, 0, false)];
        let cluster = Cluster::fixed("c", EndpointSet::new(endpoints));
        assert_eq!(counts(&cluster, 30), [(1, 15), (2, 15)]);
        let endpoints = [endpoint(1, 1, 0, true), endpoint(2, 1, 0, false), endpoint(3, 1, 0, false)];
        let cluster = Cluster::fixed("c", EndpointSet::new(endpoints));
        assert_eq!(counts(&cluster, 30), [(1, 10), (2, 10), (3, 10)]);
    }

    #[test]
    fn a_lower_priority_takes_what_the_higher_cannot() {
        let mut endpoints = vec![endpoint(1, 1, 0, true), endpoint(2, 1, 0, false), endpoint(3, 1, 1, true)];
        let half = Cluster::fixed("c", EndpointSet::new(endpoints.clone()));
        let spilled = counts(&half, 10_000);
        assert!(spilled.iter().any(|(port, n)| *port == 1 && (6_700..7_300).contains(n)), "70/30, not {spilled:?}");
        endpoints[0].template.healthy = false;
        assert_eq!(counts(&Cluster::fixed("c", EndpointSet::new(endpoints)), 10), [(3, 10)]);
    }

    #[test]
    fn no_endpoints() {
        let cluster = Cluster::fixed("c", EndpointSet::default());
        assert!(Local::default().pick(&cluster, &PickContext::default()).is_none());
    }

    #[test]
    fn new_endpoints_are_seen_and_tried_ones_avoided() {
        let cluster = Cluster::fixed("c", EndpointSet::new([endpoint(1, 1, 0, true)]));
        let local = Local::default();
        let context = PickContext::default();
        assert_eq!(local.pick(&cluster, &context).unwrap().address.port(), 1);
        cluster.endpoints.store(Arc::new(EndpointSet::new([endpoint(1, 1, 0, true), endpoint(2, 1, 0, true)])));
        let avoid = [SocketAddr::from(([127, 0, 0, 1], 1))];
        for _ in 0..10 {
            let context = PickContext { avoid: &avoid, repicks: 3, ..PickContext::default() };
            assert_eq!(local.pick(&cluster, &context).unwrap().address.port(), 2);
        }
    }

    #[test]
    fn the_original_destination() {
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        cluster.discovery = Discovery::OriginalDestination { header: None, port: Some(81) };
        let context = PickContext { destination: Some("10.0.0.1:80".parse().unwrap()), ..PickContext::default() };
        let picked = Local::default().pick(&cluster, &context).unwrap();
        assert_eq!(picked.address, "10.0.0.1:81".parse().unwrap());
    }
}
