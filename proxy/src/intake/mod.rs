//! Where connections come from: sockets bound here, or handed off by the agent.

pub mod bound;
pub mod handoff;
pub mod maps;
pub mod pods;
pub mod seqpacket;
pub mod stash;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use tokio::net::TcpStream;

use crate::{
    intake::{maps::Maps, stash::Stash},
    telemetry::stats::Shard,
    wire::dial::Dialer,
    worker::drain::{Drain, DrainWatch},
};

/// Which way a connection goes, as its pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The pod connects.
    Outbound,
    /// The pod is connected to.
    Inbound,
}

/// A pod of this node that the agent enrolled.
#[derive(Debug)]
pub struct Pod {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
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
    /// Begins with the pod's withdrawal; its watches are the pod's connections.
    pub drain: Drain,
    /// Counters for what happens on no worker in particular.
    pub stats: Arc<Shard>,
    open: AtomicUsize,
    ceiling: usize,
}

impl PodLocal {
    /// Nothing open yet; at most `ceiling` connections at a time.
    pub fn new(stash: Stash, maps: Arc<ArcSwapOption<Maps>>, stats: Arc<Shard>, ceiling: usize) -> Self {
        Self { stash, maps, drain: Drain::new(), stats, open: AtomicUsize::new(0), ceiling }
    }

    /// Counts a connection in, or says that the pod has its fill.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let admitted = Admitted(self.clone());
        // Counted before it is compared: two workers cannot both take the last place.
        (self.open.fetch_add(1, Ordering::Relaxed) < self.ceiling).then_some(admitted)
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

/// What a connection was accepted on.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A listener that this process bound.
    Bound {
        /// The listener's name in the configuration.
        listener: Arc<str>,
    },
    /// A listening socket of a pod.
    Pod {
        /// The pod.
        pod: Arc<Pod>,
        /// Which of its sockets.
        direction: Direction,
    },
}

/// An accepted connection.
#[derive(Debug)]
pub struct Downstream {
    /// The connection.
    pub stream: TcpStream,
    /// The client, IPv4-mapped addresses as IPv4.
    pub peer: SocketAddr,
    /// The address that it was accepted on.
    pub local: SocketAddr,
    /// The original destination of a redirected connection; `local` for others.
    pub destination: SocketAddr,
    /// What it was accepted on.
    pub origin: Origin,
    /// When.
    pub accepted: Instant,
    /// Follows the drain of what it was accepted on: the process's, and its pod's withdrawal.
    pub drain: DrainWatch,
}

impl Downstream {
    /// How upstream connections on behalf of this one are dialled: from the pod that it belongs to, and, towards the
    /// pod's application, as its real client.
    pub fn dialer(&self) -> Dialer {
        match &self.origin {
            Origin::Bound { .. } => Dialer::Host,
            Origin::Pod { pod, direction: Direction::Outbound } => Dialer::Pod { pod: pod.clone(), client: None },
            Origin::Pod { pod, direction: Direction::Inbound } => {
                Dialer::Pod { pod: pod.clone(), client: Some(self.peer) }
            }
        }
    }
}
