//! Where pods come from. A source says which pods there should be; it knows nothing of how they are enrolled.

pub mod file;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use tokio::sync::watch;

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
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Ports that its probes name.
    #[serde(default)]
    pub probe_ports: Vec<u16>,
}

impl PodSpec {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn default_service_account() -> String {
    "default".to_owned()
}

/// What a source last said.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The pods of the last good answer; none until there was one.
    pub pods: Option<Vec<PodSpec>>,
    /// Why the last answer was not good; empty when it was.
    pub error: String,
}

/// Follows a source: always its latest listing.
pub type Follower = watch::Receiver<Listing>;
