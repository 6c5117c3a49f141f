//! One configuration in force, and which of its listeners has a redirected connection.

use std::{net::SocketAddr, sync::Arc};

use hashbrown::HashMap;
use weir_abi::map::{INBOUND_PORT, OUTBOUND_PORT};

use super::{
    cluster::Cluster,
    listener::{Listener, ListenerFilterKind, TrafficDirection},
    reload::Reload,
    tls::Transport,
};
use crate::pod::Direction;

/// One configuration, immutable. What changes while it is in force (endpoints, health) is behind cells of its own. Its
/// successor shares with it what has not changed.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    listeners: Arc<Listeners>,
    clusters: Arc<Clusters>,
    lacks: Lacks,
}

/// In which directions there is to be a listener that was refused, so that none is in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Of connections that pods open.
    pub outbound: bool,
    /// Of connections to them.
    pub inbound: bool,
}

impl Lacks {
    /// Adds what another one lacks.
    pub fn and(self, other: Self) -> Self {
        Self { outbound: self.outbound || other.outbound, inbound: self.inbound || other.inbound }
    }
}

/// Clusters by name.
pub type Clusters = HashMap<Arc<str>, Arc<Cluster>>;

#[derive(Debug, Default)]
struct Listeners {
    all: Vec<Arc<Listener>>,
    by_name: HashMap<Arc<str>, Arc<Listener>>,
    outbound: DestinationIndex,
    inbound: DestinationIndex,
}

impl Listeners {
    fn new(all: Vec<Arc<Listener>>) -> Self {
        let mut listeners = Self {
            by_name: all.iter().map(|listener| (listener.name.clone(), listener.clone())).collect(),
            ..Self::default()
        };
        for listener in &all {
            match listener.direction {
                TrafficDirection::Inbound => listeners.inbound.add(listener, INBOUND_PORT),
                TrafficDirection::Outbound | TrafficDirection::Unspecified => {
                    listeners.outbound.add(listener, OUTBOUND_PORT);
                }
            }
        }
        Self { all, ..listeners }
    }
}

/// Listeners by the original destination of a redirected connection.
#[derive(Debug, Default)]
struct DestinationIndex {
    exact: HashMap<SocketAddr, Arc<Listener>>,
    any: Option<Arc<Listener>>,
}

impl DestinationIndex {
    /// `redirected`: the port that redirected connections come to. A listener there that restores where they went would
    /// have them all, were they redirected by packet filters.
    fn add(&mut self, listener: &Arc<Listener>, redirected: u16) {
        for address in &listener.addresses {
            self.exact.entry(*address).or_insert_with(|| listener.clone());
        }
        let restores =
            || listener.filters.iter().any(|filter| matches!(filter.kind, ListenerFilterKind::OriginalDestination));
        let there =
            listener.addresses.iter().any(|address| address.port() == redirected && address.ip().is_unspecified());
        if self.any.is_none() && (listener.use_original_destination || there && restores()) {
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
    /// A snapshot of `listeners` and `clusters`, whose names are unique and whose references hold.
    pub fn new(listeners: Vec<Arc<Listener>>, clusters: Vec<Arc<Cluster>>) -> Self {
        let clusters = clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect();
        Self { listeners: Arc::new(Listeners::new(listeners)), ..Self::default() }.with_clusters(clusters)
    }

    /// The same with these clusters. Aggregate ones among them, also those that it shares with its predecessor, are of
    /// these from now on: it is to be in force at once.
    pub fn with_clusters(&self, clusters: Clusters) -> Self {
        for cluster in clusters.values() {
            cluster.link(|name| clusters.get(name));
        }
        Self { clusters: Arc::new(clusters), ..self.clone() }
    }

    /// The same with these listeners, and without those that were refused.
    pub fn with_listeners(&self, listeners: Vec<Arc<Listener>>, lacks: Lacks) -> Self {
        Self { listeners: Arc::new(Listeners::new(listeners)), lacks, ..self.clone() }
    }

    /// Whether a listener that is not there might have had a redirected connection that no other one has: then nobody knows
    /// what it may do.
    pub fn lacks(&self, direction: Direction) -> bool {
        match direction {
            Direction::Outbound => self.lacks.outbound,
            Direction::Inbound => self.lacks.inbound,
        }
    }

    /// All listeners, in the order of the configuration.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners.all
    }

    /// A listener by name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.by_name.get(name)
    }

    /// All clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// What is made from files that may change.
    pub fn reloadable(&self) -> impl Iterator<Item = Arc<dyn Reload>> + '_ {
        let chains = self.listeners().iter().flat_map(|listener| listener.chains());
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
    /// then the one with `use_original_dst`, or the one at the port that redirected connections come to with the listener
    /// filter `original_dst`. None: pass through.
    pub fn listener_for(&self, direction: Direction, destination: SocketAddr) -> Option<Arc<Listener>> {
        match direction {
            Direction::Outbound => self.listeners.outbound.find(destination),
            Direction::Inbound => self.listeners.inbound.find(destination),
        }
    }

    /// The listener that a bound listener with `use_original_dst` hands a connection over to.
    pub fn listener_by_address(&self, listener: &Listener, destination: SocketAddr) -> Option<Arc<Listener>> {
        let index = match listener.direction {
            TrafficDirection::Inbound => &self.listeners.inbound,
            _ => &self.listeners.outbound,
        };
        index.by_address(destination).filter(|found| found.name != listener.name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::ListenerFilter;

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

    #[test]
    fn a_listener_at_the_redirected_port_has_what_it_would_restore() {
        let at = |address: &str, restores: bool| {
            let mut listener = Arc::into_inner(listener("in", address, TrafficDirection::Inbound, false)).unwrap();
            let kind = ListenerFilterKind::OriginalDestination;
            listener.filters.extend(restores.then_some(ListenerFilter { kind, disabled: None }));
            let snapshot = Snapshot::new(vec![Arc::new(listener)], Vec::new());
            snapshot.listener_for(Direction::Inbound, "10.0.0.1:80".parse().unwrap()).is_some()
        };
        assert!(at("0.0.0.0:15006", true));
        for (address, restores) in [("0.0.0.0:15006", false), ("0.0.0.0:15001", true), ("10.0.0.9:15006", true)] {
            assert!(!at(address, restores), "{address} {restores}");
        }
    }

    #[test]
    fn a_successor_shares_what_has_not_changed_and_aggregates_are_of_what_there_is() {
        use crate::config::cluster::{Discovery, EndpointSet, Members};
        let fixed = |name: &str| Arc::new(Cluster::fixed(name, EndpointSet::default()));
        let mut aggregate = Cluster::fixed("all", EndpointSet::default());
        aggregate.discovery =
            Discovery::Aggregate { names: Box::new(["a".into(), "b".into()]), members: Members::default() };
        let (aggregate, a) = (Arc::new(aggregate), fixed("a"));
        let members = || {
            let Discovery::Aggregate { members, .. } = &aggregate.discovery else { panic!() };
            members.load().iter().filter_map(std::sync::Weak::upgrade).collect::<Vec<_>>()
        };
        let catch = listener("catch", "0.0.0.0:15001", TrafficDirection::Outbound, true);
        let first = Snapshot::new(vec![catch.clone()], vec![aggregate.clone(), a.clone()]);
        assert!(matches!(&members()[..], [only] if Arc::ptr_eq(only, &a)));
        let mut clusters = Clusters::clone(&first.clusters);
        let (other_a, b) = (fixed("a"), fixed("b"));
        clusters.insert("a".into(), other_a.clone());
        clusters.insert("b".into(), b.clone());
        let second = first.with_clusters(clusters);
        assert!(Arc::ptr_eq(second.cluster("a").unwrap(), &other_a) && Arc::ptr_eq(&second.listeners()[0], &catch));
        assert!(matches!(&members()[..], [one, two] if Arc::ptr_eq(one, &other_a) && Arc::ptr_eq(two, &b)));
        let third = second.with_listeners(Vec::new(), Lacks { inbound: true, ..Lacks::default() });
        assert!(third.listener("catch").is_none() && Arc::ptr_eq(&third.clusters, &second.clusters));
        assert!(third.lacks(Direction::Inbound) && !third.lacks(Direction::Outbound));
        assert!(third.with_clusters(Clusters::new()).lacks(Direction::Inbound));
    }
}
