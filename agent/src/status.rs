//! What the agent knows of itself, its pods and its proxies, for the API to show.
//!
//! Written by the reconciler and the handoff server, read by the API; never read to decide anything.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::SystemTime};

use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{cni::install, handoff::ProxyState, keeper::Keeper, reason::Reason};

/// Shared by its writers and the API.
pub type SharedBoard = Arc<RwLock<Board>>;

/// Everything that `weirctl status` and `weirctl pod list` show, but for the counters, which live in the maps.
#[derive(Clone, Debug)]
pub struct Board {
    /// Name of the pins' directory.
    pub instance: String,
    /// Node name.
    pub node: String,
    /// Root of cgroup2 that the programs are attached at.
    pub cgroup2: PathBuf,
    /// Directory of this instance's pins: `maps/<NAME>`, `programs/<name>`, `links/<name>`.
    pub pin_path: PathBuf,
    /// Whether pins of an earlier agent were adopted.
    pub adopted: bool,
    /// When this agent started.
    pub started: SystemTime,
    /// Pods of the source, whatever their state.
    pub pods: Vec<PodStatus>,
    /// Connected proxies, oldest first.
    pub proxies: Vec<ProxyStatus>,
    /// Whether the pod source has said which there are.
    pub source_listed: bool,
    /// Last error of the pod source, empty when it is well.
    pub source_error: String,
    /// What the pod source's users should know and what is no fault of the node's.
    pub source_notes: Vec<String>,
    /// The cgroup that holds all pods, while it is known.
    pub pods_cgroup: Option<PathBuf>,
    /// Why it is not known; empty when it is, or when none is configured.
    pub pods_cgroup_error: String,
    /// Where the CNI plugin stands; none where it is off.
    pub cni: Option<install::State>,
    /// What keeps the listening sockets while there is no agent. It knows itself how it is.
    pub keeper: Keeper,
}

/// A pod of the source.
#[derive(Clone, Debug)]
pub struct PodStatus {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Path of its network namespace; none while it is not known.
    pub netns: Option<PathBuf>,
    /// Its cookie, once read.
    pub netns_cookie: Option<u64>,
    /// Its addresses, once read.
    pub ips: Vec<IpAddr>,
    /// Its slot in the maps, while it has one.
    pub slot: Option<u32>,
    /// Where it stands.
    pub state: PodState,
    /// Ports that its probes name.
    pub probe_ports: Vec<u16>,
    /// Outbound ports left alone, the node's and its own.
    pub excluded_outbound_ports: Vec<u16>,
    /// Outbound CIDRs left alone, the node's and its own.
    pub excluded_outbound_cidrs: Vec<IpNet>,
    /// Inbound ports left alone, the node's and its own.
    pub excluded_inbound_ports: Vec<u16>,
    /// Whether it fails open.
    pub fail_open: bool,
    /// Listening sockets that the agent keeps for it.
    pub listeners: u32,
    /// When it was enrolled.
    pub enrolled: Option<SystemTime>,
}

impl PodStatus {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Where a pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Redirected, and the proxy acknowledged it.
    Enrolled,
    /// Not yet.
    Pending {
        /// Why.
        reason: Reason,
        /// Whether it has been so for long enough to count against the node.
        overdue: bool,
    },
    /// On its way out.
    Withdrawing,
    /// Not to be enrolled.
    PassedOver {
        /// Why.
        reason: String,
        /// Whether its containers have ended, and it will run no others.
        ended: bool,
    },
}

impl PodState {
    /// The names of all of them.
    pub const NAMES: [&str; 4] = ["enrolled", "pending", "withdrawing", "passed-over"];

    /// As users read it: one of [`NAMES`](Self::NAMES).
    pub fn name(&self) -> &'static str {
        let [enrolled, pending, withdrawing, passed_over] = Self::NAMES;
        match self {
            Self::Enrolled => enrolled,
            Self::Pending { .. } => pending,
            Self::Withdrawing => withdrawing,
            Self::PassedOver { .. } => passed_over,
        }
    }

    /// Pending from now on.
    pub fn pending(reason: Reason) -> Self {
        Self::Pending { reason, overdue: false }
    }

    /// Why it is not enrolled, where there is more to say than that it leaves.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Pending { reason, .. } => Some(&reason.text),
            Self::PassedOver { reason, .. } => Some(reason),
            Self::Enrolled | Self::Withdrawing => None,
        }
    }
}

/// A connected proxy.
#[derive(Clone, Debug)]
pub struct ProxyStatus {
    /// Its version.
    pub version: String,
    /// When it started, in nanoseconds since the machine did.
    pub generation: u64,
    /// Process id (`SO_PEERCRED`).
    pub pid: i32,
    /// User id (`SO_PEERCRED`).
    pub uid: u32,
    /// Workers.
    pub workers: u32,
    /// Where it stands.
    pub state: ProxyState,
    /// When it connected.
    pub connected: SystemTime,
    /// Open connections, as it last said while draining or standing by.
    pub open: u64,
    /// Since when it has owed an answer, if it does not answer.
    pub unanswered: Option<Instant>,
}
