//! Hosts of `ORIGINAL_DST` clusters: they come with the first connection that wants to go there, and leave once no
//! connection has been left to them for a while.
//!
//! A worker that meets a new destination makes the host and uses it at once. The control thread hears of it, makes it
//! one of the cluster's endpoints, and from then on every worker finds it there.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use hashbrown::HashMap;

use crate::config::cluster::{Cluster, Discovery, Endpoint, MEETINGS, OriginalHosts};

/// Takes hosts that workers have made. Of several for one address the first stays.
fn add(hosts: &OriginalHosts, cluster: &Cluster, met: Vec<Arc<Endpoint>>) {
    let mut known = HashMap::clone(&hosts.known.load());
    let before = known.len();
    for endpoint in met {
        cluster.count_match(&endpoint);
        known.entry(endpoint.address).or_insert(endpoint);
    }
    if known.len() > before {
        store(hosts, cluster, known);
    }
}

/// Lets go of hosts without connections.
fn clean(hosts: &OriginalHosts, cluster: &Cluster) {
    let mut known = HashMap::clone(&hosts.known.load());
    let before = known.len();
    known.retain(|_, endpoint| endpoint.host.stats.cx_active.load(Relaxed) > 0);
    if known.len() < before {
        store(hosts, cluster, known);
    }
}

fn store(hosts: &OriginalHosts, cluster: &Cluster, known: HashMap<SocketAddr, Arc<Endpoint>>) {
    let mut endpoints: Vec<_> = known.values().map(|endpoint| Endpoint::clone(endpoint)).collect();
    endpoints.sort_unstable_by_key(|endpoint| endpoint.address);
    hosts.known.store(Arc::new(known));
    cluster.set_hosts(endpoints);
}

/// Keeps a cluster's hosts, until the cluster is gone.
pub(in crate::cluster) async fn follow(cluster: Weak<Cluster>) {
    let hosts = |cluster: &Cluster| match &cluster.discovery {
        Discovery::OriginalDestination { hosts, .. } => Some(hosts.clone()),
        _ => None,
    };
    let Some(hosts) = cluster.upgrade().as_deref().and_then(hosts) else { return };
    let Some(mut meetings) = hosts.meetings() else { return };
    let mut cleanup = tokio::time::interval(hosts.cleanup);
    loop {
        let mut met = Vec::new();
        let cleaning = tokio::select! {
            _ = meetings.recv_many(&mut met, MEETINGS) => false,
            _ = cleanup.tick() => true,
        };
        let Some(cluster) = cluster.upgrade() else { return };
        if cleaning {
            clean(&hosts, &cluster);
        } else {
            add(&hosts, &cluster, met);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cluster::{Local, PickContext},
        config::cluster::EndpointSet,
    };

    #[tokio::test(start_paused = true)]
    async fn a_host_is_shared_and_leaves_when_it_has_no_connection() {
        let hosts = Arc::new(OriginalHosts::default());
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        cluster.discovery = Discovery::OriginalDestination { header: None, metadata: None, port: None, hosts };
        let cluster = Arc::new(cluster);
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let context = PickContext { destination: Some(to), ..PickContext::default() };
        let (one, other) = (Local::default(), Local::default());
        let first = one.pick(&cluster, &context).unwrap().endpoint;
        assert!(Arc::ptr_eq(&first.host, &one.pick(&cluster, &context).unwrap().endpoint.host));
        first.host.stats.cx_active.store(1, Relaxed);
        let following = async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            assert!(Arc::ptr_eq(&first.host, &other.pick(&cluster, &context).unwrap().endpoint.host));
            assert_eq!(cluster.endpoints.load().iter().count(), 1);
            first.host.stats.cx_active.store(0, Relaxed);
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(cluster.endpoints.load().iter().count(), 0);
        };
        tokio::select! {
            () = following => {}
            () = follow(Arc::downgrade(&cluster)) => panic!("the cluster is there"),
        }
    }
}
