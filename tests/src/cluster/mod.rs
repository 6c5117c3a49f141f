//! The acceptance suite of weir on a real cluster: what users do, by the tools that users have.
//!
//! Everything goes through `kubectl`, `kubectl weir` and `helm`, given as command lines, so that any cluster will do.
//! What no API can do (kill a container's processes, stop the API server, reboot a node) is given as command lines too;
//! a check that needs one which is not given fails and says so. Each scenario makes namespaces of its own, records its
//! checks in a [`report::Report`] and removes its namespaces whatever became of it.

pub mod command;
pub mod fixture;
pub mod kubectl;
pub mod node;
pub mod report;
pub mod scenario;
pub mod snapshot;
pub mod steady;
pub mod weir;

use std::path::PathBuf;

use command::CommandLine;

/// The namespace of weir itself.
pub const WEIR_NAMESPACE: &str = "weir-system";
/// The label by which a namespace or a pod opts in or out.
pub const MESH_LABEL: &str = "weir.dev/mesh";

/// A cluster with weir, and how to do things to it.
#[derive(Debug)]
pub struct Cluster {
    /// Talks to the API server.
    pub kubectl: kubectl::Kubectl,
    /// `kubectl weir`.
    pub weir: weir::Weir,
    /// Runs a shell's script on a node.
    pub nodes: node::Nodes,
    /// What only some clusters can do.
    pub deeds: Deeds,
    /// Image of the pods: bash, curl, nslookup; its default command answers HTTP on port 8080 with the host's name.
    pub image: String,
    /// Command in that image that answers HTTP on 8080, TCP on 8081 and gRPC health checks on 8082.
    pub probe_server: Option<String>,
    /// The static program `weir-load`, which is copied into pods.
    pub load_program: PathBuf,
    /// Requests a second of each kind of load.
    pub rate: u32,
    /// How long the API server stays away.
    pub api_outage: std::time::Duration,
    /// Pods of the scale scenario.
    pub pods: u32,
    /// Pods that it replaces.
    pub replacements: u32,
    /// Labels that it flips.
    pub flips: u32,
    /// Whether nodes share their kernel with others, whose eBPF programs come and go.
    pub shared_kernel: bool,
    /// What nodes were like before the first install.
    pub before: Option<PathBuf>,
}

/// Command lines for what no API can do; `{node}` in them is a node's name.
#[derive(Debug, Default)]
pub struct Deeds {
    /// Stops the API server.
    pub api_stop: Option<CommandLine>,
    /// Starts it again.
    pub api_start: Option<CommandLine>,
    /// Restarts a node's kubelet.
    pub kubelet_restart: Option<CommandLine>,
    /// Reboots a node.
    pub reboot: Option<CommandLine>,
    /// Installs the chart.
    pub install: Option<CommandLine>,
    /// Uninstalls it.
    pub uninstall: Option<CommandLine>,
}

impl Cluster {
    /// Names of the nodes that weir can run on.
    pub fn node_names(&self) -> Result<Vec<String>, String> {
        let nodes = self.kubectl.json(&["get", "nodes"])?;
        Ok(kubectl::names(&nodes))
    }

    /// Two nodes: the first, and the second, or the first again where there is one only.
    pub fn two_nodes(&self) -> Result<(String, String), String> {
        let names = self.node_names()?;
        let first = names.first().ok_or("the cluster has no node")?;
        Ok((first.clone(), names.get(1).unwrap_or(first).clone()))
    }

    /// A deed, or why it cannot be done.
    pub fn deed<'a>(&self, deed: &'a Option<CommandLine>, option: &str) -> Result<&'a CommandLine, String> {
        deed.as_ref().ok_or_else(|| format!("needs {option}"))
    }
}
