//! What an agent knows of its machine before it changes anything.

use std::path::Path;

use tokio::runtime::Builder;

use crate::{
    causes::with_causes,
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
    /// Looks at the machine; an error names everything that is missing, a line each, and is told on the node.
    pub(super) fn look(config: Config, ebpf_logs: bool) -> anyhow::Result<Self> {
        let (features, netns, pods_cgroup) = look_at(&config).or_else(|reasons| {
            Builder::new_current_thread().enable_all().build()?.block_on(events::report_unavailable(&config, &reasons));
            Err(anyhow::anyhow!(reasons.join("\n")))
        })?;
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
    features::probe(config).map_err(|missing| anyhow::anyhow!(said(&missing).join("\n")))
}

fn said(missing: &[Missing]) -> Vec<String> {
    missing.iter().map(ToString::to_string).collect()
}

/// What there is: features, the node's network namespace, the cgroup of all pods. Or all that is wrong.
fn look_at(config: &Config) -> Result<(Features, u64, PodsCgroup), Vec<String>> {
    let features = features::probe(config).map_err(|missing| said(&missing))?;
    // Before anybody is asked to step down for an agent that could not go on.
    pins::check_layout(&config.pins()).map_err(|error| vec![with_causes(&error)])?;
    let netns = node::netns_cookie(&config.node_processes.netns).map_err(|error| vec![with_causes(&error)])?;
    let pods_cgroup = find_pods_cgroup(config, &features).map_err(|error| vec![with_causes(&error)])?;
    Ok((features, netns, pods_cgroup))
}

fn find_pods_cgroup(config: &Config, features: &Features) -> Result<PodsCgroup, node::Error> {
    let Some(place) = &config.node_processes.pods_cgroup else {
        tracing::warn!(
            "node_processes.pods_cgroup is not set: no process counts as the node's own, probes are redirected"
        );
        return Ok(PodsCgroup::default());
    };
    match PodsCgroup::find(place, &features.root()) {
        Ok((_, found)) => Ok(found),
        Err(error @ node::Error::Elsewhere { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no process counts as the node's own until it is there");
            Ok(PodsCgroup::default())
        }
    }
}
