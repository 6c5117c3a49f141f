//! What an agent knows of its machine before it changes anything.

use std::path::Path;

use crate::{
    config::Config,
    events,
    features::{self, Features, Missing},
    health::Health,
    lead,
    metrics::Metrics,
    netns::{Identity, Netns},
    redirect::{
        node::{self, PodsCgroup},
        pins,
    },
};

/// The machine, and what the agent is told to do with it.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) features: Features,
    /// Cookie of the node's own network namespace.
    pub(super) netns: u64,
    /// The cgroup that holds all pods, as it was at the start.
    pub(super) pods_cgroup: PodsCgroup,
    /// Whether the eBPF programs' own log records are wanted.
    pub(super) ebpf_logs: bool,
    /// What the kubelet is told.
    pub(super) health: Health,
    /// What a Prometheus server is told.
    pub(super) metrics: Metrics,
}

impl Node {
    /// Looks at the machine; an error names everything that is missing, a line each.
    pub(super) fn look(config: Config, ebpf_logs: bool) -> anyhow::Result<Self> {
        let features = features::probe(&config).map_err(|missing| {
            events::report_unavailable(&config, &missing);
            lines(&missing)
        })?;
        // Before anybody is asked to step down for an agent that could not go on.
        pins::check_layout(&config.pins())?;
        let netns = node::netns_cookie(&config.node_processes.netns)?;
        let pods_cgroup = find_pods_cgroup(&config, &features)?;
        let (health, metrics) = (Health::default(), Metrics::default());
        Ok(Self { config, features, netns, pods_cgroup, ebpf_logs, health, metrics })
    }

    /// The agent's own network namespace, if it is a pod's.
    pub(super) fn own_netns(&self) -> anyhow::Result<Option<Identity>> {
        if !lead::Identity::is_of_a_pod() {
            return Ok(None);
        }
        let own = Netns::open(Path::new("/proc/self/ns/net"))?;
        Ok((own.look()?.cookie != self.netns).then(|| own.identity()))
    }
}

/// Everything that is missing, a line each.
pub(super) fn probe(config: &Config) -> anyhow::Result<Features> {
    features::probe(config).map_err(|missing| lines(&missing))
}

fn lines(missing: &[Missing]) -> anyhow::Error {
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    anyhow::anyhow!(lines.join("\n"))
}

fn find_pods_cgroup(config: &Config, features: &Features) -> anyhow::Result<PodsCgroup> {
    let Some(place) = &config.node_processes.pods_cgroup else {
        tracing::warn!(
            "node_processes.pods_cgroup is not set: no process counts as the node's own, probes are redirected"
        );
        return Ok(PodsCgroup::default());
    };
    match PodsCgroup::find(place, &features.root()) {
        Ok((_, found)) => Ok(found),
        Err(error @ node::Error::Elsewhere { .. }) => Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "no process counts as the node's own until it is there");
            Ok(PodsCgroup::default())
        }
    }
}
