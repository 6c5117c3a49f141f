//! Where pods come from, as configured, and what else the API server is for.

use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::node::Node;
use crate::{
    cni::{
        self,
        install::{self, Place},
    },
    config::{KubernetesSource, Source},
    counts::Counts,
    enroll::Outcomes,
    events,
    locate::{self, Locator},
    netns::Netns,
    sources::{
        self, Follower,
        kubernetes::{self, Handle, Settings},
    },
    status::SharedBoard,
};

/// The source of pods, not followed yet.
pub(super) enum Pods {
    File,
    Kubernetes(Client, KubernetesSource),
}

/// What there is besides the pods themselves when they come from the API server.
pub(super) struct Kubernetes {
    /// What the source knows.
    handle: Handle,
    /// Where pods' network namespaces are.
    locator: Arc<Locator>,
    /// Name of the agent's own pod.
    own_pod: Option<String>,
    /// Where the CNI plugin is put, or was put by an agent before this one.
    cni: Option<Place>,
    /// Whether it is to be there.
    holds: bool,
}

impl Pods {
    /// What fails for the configuration's sake; nothing is asked of the API server yet.
    pub(super) async fn prepare(node: &Node) -> anyhow::Result<Self> {
        Ok(match &node.config.source {
            Source::File(_) => Self::File,
            Source::Kubernetes(source) => {
                Self::Kubernetes(kubernetes::client(source.kubeconfig.as_deref()).await?, source.clone())
            }
        })
    }

    /// Follows the pods. To be called within a runtime.
    pub(super) fn follow(self, node: &Node) -> anyhow::Result<(Follower, Option<Kubernetes>)> {
        let (client, source) = match (self, &node.config.source) {
            (Self::Kubernetes(client, source), _) => (client, source),
            (Self::File, Source::File(file)) => return Ok((sources::file::follow(file.path.clone()), None)),
            (Self::File, Source::Kubernetes(_)) => anyhow::bail!("the source of pods was not prepared"),
        };
        let locator = Arc::new(locator(node, &source)?);
        let settings = Settings::of(&node.config, &source);
        let (follower, handle) = kubernetes::follow(client, settings, locator.clone());
        let holds = node.config.cni.as_ref().is_some_and(|cni| cni.enabled);
        let cni = node.config.cni.clone().map(|cni| Place::new(cni, &source.namespace));
        Ok((follower, Some(Kubernetes { handle, locator, own_pod: source.pod, cni, holds })))
    }
}

impl Kubernetes {
    /// Writes events of what becomes of pods.
    pub(super) fn write_events(&self, outcomes: &Outcomes, counts: Counts, tasks: &mut JoinSet<()>) {
        tasks.spawn(events::run(self.handle.clone(), outcomes.subscribe(), self.own_pod.clone(), counts));
    }

    /// Whether weir is being taken off the cluster.
    pub(super) fn uninstall(&self) -> watch::Receiver<bool> {
        self.handle.uninstall()
    }

    /// Where the CNI plugin is kept.
    pub(super) fn cni(&self) -> Option<Place> {
        self.cni.clone()
    }

    /// What the source knows.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers the CNI plugin.
    pub(super) fn answer_cni(&self, server: cni::Server, outcomes: Outcomes, tasks: &mut JoinSet<()>) {
        let (pods, locator) = (self.handle.clone(), self.locator.clone());
        tasks.spawn(server.run(cni::Answers { pods, locator, outcomes }));
    }

    /// Puts the CNI plugin into the runtime's configuration and keeps it there, until the tasks are dropped. One that is
    /// not to be there is taken out: with nobody to answer it, it would hold every pod of the namespaces it knows.
    pub(super) fn install_cni(&self, board: SharedBoard, tasks: &mut JoinSet<()>) {
        let Some(place) = &self.cni else { return };
        if !self.holds {
            tasks.spawn(install::take_out(place.clone(), move |failed| board.write().cni = failed));
            return;
        }
        let stop = CancellationToken::new();
        let mut state = install::follow(place.clone(), stop.clone());
        install::follow_namespaces(place.clone(), self.handle.namespaces(), stop.clone());
        tasks.spawn(async move {
            let _stop = stop.drop_guard();
            loop {
                board.write().cni = Some(state.borrow_and_update().clone());
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

fn locator(node: &Node, source: &KubernetesSource) -> anyhow::Result<Locator> {
    let path = &node.config.node_processes.netns;
    let node_netns = Netns::open(path).context("node_processes.netns")?.identity();
    Ok(Locator::new(locate::Settings::new(node.features.cgroup2.clone(), source.proc.clone(), node_netns)))
}
