//! Where the hosts of this proxy's own kind are, for zone-aware routing.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
};

use arc_swap::ArcSwap;

use super::{
    endpoint::{EndpointSet, Locality},
    host::Health,
    tally::Tally,
};

/// The zones of the cluster that this proxy is itself part of (`local_cluster_name`), as its hosts are now.
#[derive(Debug, Default)]
pub struct LocalZones {
    current: ArcSwap<Zones>,
    version: AtomicU64,
}

/// Healthy hosts by locality.
#[derive(Debug, Default)]
pub struct Zones {
    /// Localities, and how many healthy hosts each has.
    pub localities: Vec<(Arc<Locality>, u64)>,
    /// The first of them is the proxy's own.
    pub own_first: bool,
    /// All of them.
    pub tally: Tally,
}

impl LocalZones {
    /// Replaces them.
    pub fn publish(&self, zones: Zones) {
        self.current.store(Arc::new(zones));
        self.version.fetch_add(1, AcqRel);
    }

    /// Changes when they do.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// As they are now.
    pub fn load(&self) -> Arc<Zones> {
        self.current.load_full()
    }
}

impl Zones {
    /// Those of a cluster's first priority.
    pub fn of(endpoints: &EndpointSet) -> Self {
        let Some(first) = endpoints.priorities().first() else { return Self::default() };
        let healthy = |members: &[usize]| {
            members.iter().filter(|index| first.endpoints[**index].host.health() == Health::Healthy).count() as u64
        };
        Self {
            localities: first.localities.iter().map(|one| (one.locality.clone(), healthy(&one.members))).collect(),
            own_first: first.local,
            tally: Tally::of(first, &endpoints.policy),
        }
    }
}
