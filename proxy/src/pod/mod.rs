//! A pod, and what this process holds for it: sockets to dial with (`stash`), the agent's maps (`maps`), how many
//! connections it has open and how they end, or go on elsewhere (`passing`). Workers see it through their connections.

mod direction;
pub mod maps;
pub mod passing;
pub mod stash;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;

pub use self::direction::Direction;
use self::{maps::Maps, passing::Passing, stash::Stash};
use crate::{drain::Drain, telemetry::stats::Shared, view::ViewId};

/// A pod of this node that the agent enrolled.
#[derive(Debug)]
pub struct Pod {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// By whose configuration its connections are served: that of its namespace.
    pub view: ViewId,
    /// Service account.
    pub service_account: String,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// What this process holds for it.
    pub local: Arc<PodLocal>,
}

/// What this process holds for a pod, also while the description of the pod changes.
#[derive(Debug)]
pub struct PodLocal {
    /// Upstream sockets in its network namespace.
    pub stash: Stash,
    /// The agent's maps, once it has sent them.
    pub maps: Arc<ArcSwapOption<Maps>>,
    /// Where its connections go on when another proxy accepts.
    pub passing: Passing,
    /// Its watches are the connections that the pod opened. Begins with the pod's withdrawal, and when the process is to
    /// end.
    pub outbound: Drain,
    /// Its watches are the connections that were opened to the pod. Begins with the pod's withdrawal, and, when the
    /// process is to end, once those that pods opened need it no more: they may lead to a pod of the same process.
    pub inbound: Drain,
    /// Counters for what happens on no worker in particular.
    pub stats: Shared,
    open: AtomicUsize,
    ceiling: usize,
}

impl PodLocal {
    /// Nothing open yet; at most `ceiling` connections at a time.
    pub fn new(stash: Stash, maps: Arc<ArcSwapOption<Maps>>, passing: Passing, stats: Shared, ceiling: usize) -> Self {
        let (outbound, inbound) = (Drain::new(), Drain::new());
        Self { stash, maps, passing, outbound, inbound, stats, open: AtomicUsize::new(0), ceiling }
    }

    /// Counts a connection in, or says that the pod has its fill.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let admitted = Admitted(self.clone());
        // Counted before it is compared: two workers cannot both take the last place.
        (self.open.fetch_add(1, Ordering::Relaxed) < self.ceiling).then_some(admitted)
    }

    /// The drain of the connections that come in by sockets of this direction.
    pub fn drain(&self, direction: Direction) -> &Drain {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// An open connection of a pod, counted out when dropped.
#[derive(Debug)]
pub struct Admitted(Arc<PodLocal>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
