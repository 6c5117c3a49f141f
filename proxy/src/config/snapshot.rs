//! One configuration in force, and which of its listeners has a redirected connection.

use std::{net::SocketAddr, sync::Arc};

use hashbrown::HashMap;

use super::{
    cluster::Cluster,
    listener::{Listener, TrafficDirection},
    reload::Reload,
    tls::Transport,
};
use crate::pod::Direction;

/// One configuration, immutable. What changes while it is in force (endpoints found by DNS) is behind cells of its own.
#[derive(Debug, Default)]
pub struct Snapshot {
    listeners: Vec<Arc<Listener>>,
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
    outbound: DestinationIndex,
    inbound: DestinationIndex,
}

/// Listeners by the original destination of a redirected connection.
#[derive(Debug, Default)]
struct DestinationIndex {
    exact: HashMap<SocketAddr, Arc<Listener>>,
    any: Option<Arc<Listener>>,
}

impl DestinationIndex {
    fn add(&mut self, listener: &Arc<Listener>) {
        for address in &listener.addresses {
            self.exact.entry(*address).or_insert_with(|| listener.clone());
        }
        if listener.use_original_destination && self.any.is_none() {
            self.any = Some(listener.clone());
        }
    }

    /// Exact address, then the wildcard address with that port, then the catch-all.
    fn find(&self, destination: SocketAddr) -> Option<Arc<Listener>> {
        self.by_address(destination).or(self.any.as_ref()).cloned()
    }

    fn by_address(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let port = destination.port();
        self.exact.get(&destination).or_else(|| {
            // A listener on [::] accepts IPv4 as well, unless it says otherwise.
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            match destination {
                SocketAddr::V4(_) => {
                    self.exact.get(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).or_else(|| self.exact.get(&v6))
                }
                SocketAddr::V6(_) => self.exact.get(&v6),
            }
        })
    }
}

impl Snapshot {
    /// A snapshot of `listeners` and `clusters`, whose names are unique and whose references hold. Aggregate clusters among
    /// them, also those of an earlier snapshot, are of these clusters from now on.
    pub fn new(listeners: Vec<Arc<Listener>>, clusters: Vec<Arc<Cluster>>) -> Self {
        let mut snapshot = Self {
            clusters: clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect(),
            ..Self::default()
        };
        for cluster in snapshot.clusters.values() {
            cluster.link(|name| snapshot.clusters.get(name));
        }
        for listener in &listeners {
            match listener.direction {
                TrafficDirection::Inbound => snapshot.inbound.add(listener),
                TrafficDirection::Outbound | TrafficDirection::Unspecified => {
                    snapshot.outbound.add(listener);
                }
            }
        }
        snapshot.listeners = listeners;
        snapshot
    }

    /// All listeners, in the order of the configuration.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// All clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// What is made from files that may change.
    pub fn reloadable(&self) -> impl Iterator<Item = Arc<dyn Reload>> + '_ {
        let chains = self
            .listeners
            .iter()
            .flat_map(|listener| listener.filter_chains.iter().chain(&listener.default_filter_chain));
        let downstream = chains.filter_map(|chain| chain.tls.clone().map(|tls| tls as Arc<dyn Reload>));
        let transports = self.clusters.values().flat_map(|cluster| cluster.transports.iter());
        let upstream = transports.filter_map(Transport::tls).map(|tls| tls.clone() as Arc<dyn Reload>);
        downstream.chain(upstream)
    }

    /// A cluster by name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// The listener for a redirected connection: by original destination ip:port, then by wildcard address and port,
    /// then the one with `use_original_dst`. None: pass through.
    pub fn listener_for(&self, direction: Direction, destination: SocketAddr) -> Option<Arc<Listener>> {
        match direction {
            Direction::Outbound => self.outbound.find(destination),
            Direction::Inbound => self.inbound.find(destination),
        }
    }

    /// The listener that a bound listener with `use_original_dst` hands a connection over to.
    pub fn listener_by_address(&self, listener: &Listener, destination: SocketAddr) -> Option<Arc<Listener>> {
        let index = match listener.direction {
            TrafficDirection::Inbound => &self.inbound,
            _ => &self.outbound,
        };
        index.by_address(destination).filter(|found| found.name != listener.name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, address: &str, direction: TrafficDirection, catch_all: bool) -> Arc<Listener> {
        Arc::new(Listener {
            addresses: vec![address.parse().unwrap()],
            direction,
            bind: false,
            use_original_destination: catch_all,
            ..Listener::named(name)
        })
    }

    #[test]
    fn exact_then_wildcard_then_catch_all() {
        let snapshot = Snapshot::new(
            vec![
                listener("catch", "0.0.0.0:15001", TrafficDirection::Outbound, true),
                listener("wildcard", "0.0.0.0:80", TrafficDirection::Unspecified, false),
                listener("exact", "10.0.0.1:80", TrafficDirection::Outbound, false),
                listener("six", "[::]:81", TrafficDirection::Outbound, false),
                listener("in", "0.0.0.0:15006", TrafficDirection::Inbound, true),
            ],
            Vec::new(),
        );
        let find =
            |direction, to: &str| snapshot.listener_for(direction, to.parse().unwrap()).map(|l| l.name.to_string());
        assert_eq!(find(Direction::Outbound, "10.0.0.1:80").as_deref(), Some("exact"));
        assert_eq!(find(Direction::Outbound, "10.0.0.2:80").as_deref(), Some("wildcard"));
        assert_eq!(find(Direction::Outbound, "10.0.0.2:81").as_deref(), Some("six"));
        assert_eq!(find(Direction::Outbound, "10.0.0.2:82").as_deref(), Some("catch"));
        assert_eq!(find(Direction::Outbound, "[fd00::1]:80").as_deref(), Some("catch"));
        assert_eq!(find(Direction::Inbound, "10.0.0.1:80").as_deref(), Some("in"));
        assert!(Snapshot::default().listener_for(Direction::Inbound, "10.0.0.1:80".parse().unwrap()).is_none());
    }
}
