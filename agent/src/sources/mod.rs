//! Where pods come from. A source says which pods there should be; it knows nothing of how they are enrolled.

pub mod file;
pub mod kubernetes;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer};
use tokio::sync::watch;

use crate::{netns::Netns, reason::Reason};

/// A pod that should be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodSpec {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    #[serde(default = "default_service_account")]
    pub service_account: String,
    /// Its network namespace.
    #[serde(deserialize_with = "netns_path")]
    pub netns: PodNetns,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Ports that its probes name.
    #[serde(default)]
    pub probe_ports: Vec<u16>,
    /// What the source finds wrong with it: it is not enrolled before that is put right, and stays so if it is.
    #[serde(skip)]
    pub problem: Option<String>,
}

impl PodSpec {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether all but the network namespace is the same.
    pub fn described_like(&self, other: &Self) -> bool {
        let Self { uid, name, namespace, service_account, netns: _, labels, annotations, probe_ports, problem: _ } =
            self;
        (uid, name, namespace, service_account) == (&other.uid, &other.name, &other.namespace, &other.service_account)
            && (labels, annotations, probe_ports) == (&other.labels, &other.annotations, &other.probe_ports)
    }
}

fn default_service_account() -> String {
    "default".to_owned()
}

fn netns_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PodNetns, D::Error> {
    PathBuf::deserialize(deserializer).map(PodNetns::Path)
}

/// What a source knows of a pod's network namespace.
#[derive(Clone, Debug)]
pub enum PodNetns {
    /// It is what is at this path, which is looked at again and again.
    Path(PathBuf),
    /// It is this one until the source says otherwise. Holding it keeps a dead one alive, so the source has to say.
    Held(Arc<Netns>),
    /// It is not found yet, and why. A pod that is enrolled stays so.
    Unknown(Reason),
    /// The pod has none now, and why: its sandbox is not made yet, or is over.
    Absent(Reason),
}

impl PodNetns {
    /// A path to show; none while it is not known.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Held(netns) => Some(netns.path()),
            Self::Unknown(_) | Self::Absent(_) => None,
        }
    }
}

/// Two that are held are equal if they are the same namespace, however each was found.
impl PartialEq for PodNetns {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(one), Self::Path(other)) => one == other,
            (Self::Held(one), Self::Held(other)) => one.identity() == other.identity(),
            (Self::Unknown(one), Self::Unknown(other)) | (Self::Absent(one), Self::Absent(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for PodNetns {}

/// A pod of this node that is not to be enrolled, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// The reason to show.
    pub reason: String,
    /// Whether its containers have ended, and it will run no others.
    pub ended: bool,
}

/// What a source last said.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The pods of the last good answer; none until there was one.
    pub pods: Option<Vec<PodSpec>>,
    /// Pods that the source knows of and that are not to be enrolled.
    pub passed_over: Vec<PassedOver>,
    /// Why the last answer was not good; empty when it was.
    pub error: String,
    /// What its users should know and what is no fault of the node's.
    pub notes: Vec<String>,
}

/// Follows a source: always its latest listing.
pub type Follower = watch::Receiver<Listing>;
