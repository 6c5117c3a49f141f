//! All that runs while this agent is the one that enrols pods: it holds the pins' lock and the sockets.

use std::{sync::Arc, time::SystemTime};

use anyhow::Context;
use parking_lot::RwLock;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{node::Node, pods::Pods};
use crate::{
    api, cni,
    enroll::{Ground, Reconciler, Registry, Settings},
    handoff::Server,
    keeper::Keeper,
    redirect::{Redirect, inspect::Pinned, node, pins::Pins},
    status::{Board, SharedBoard},
};

/// What proxies said and the reconciler has not heard yet.
const EVENTS: usize = 256;

/// The tasks of an agent that leads.
pub(super) struct Leading {
    /// Ends the API; whoever still watches events sees the end of their stream.
    stop: CancellationToken,
    serving: JoinHandle<Result<(), api::Error>>,
    reconciling: JoinHandle<()>,
    /// The rest, which ends when it is dropped.
    _others: JoinSet<()>,
}

impl Leading {
    /// Takes the lead: locks the pins, makes the sockets, loads or adopts what the kernel has, and starts everything.
    pub(super) async fn start(node: &Node) -> anyhow::Result<Self> {
        let Node { config, features, .. } = node;
        // What can fail for the configuration's sake comes before anything is loaded: a failed start leaves nothing behind.
        let pods = Pods::prepare(node).await?;
        let pins = Pins::lock(&config.pins())?;
        let handoff = Server::bind(&config.paths.handoff, config.paths.socket_group)?;
        let api = api::bind(&config.paths.api)?;
        let cni = config.cni.as_ref().map(|cni| cni::Server::bind(&cni.socket)).transpose()?;
        let redirect = Arc::new(Redirect::start(pins, &features.cgroup2, node.ebpf_logs)?);
        redirect.config().update(|config| {
            node::apply(config, node.netns);
            node.pods_cgroup.apply(config);
        })?;
        let board = board(node, &redirect);
        let registry = Arc::new(Registry::new(redirect.clone()));
        let reconciler = reconciler(node, &redirect, &board, &registry)?;

        let mut others = JoinSet::new();
        let (events, heard) = mpsc::channel(EVENTS);
        others.spawn(handoff.run(events, registry));
        let (source, kubernetes) = pods.follow(node)?;
        if let Some(kubernetes) = &kubernetes {
            kubernetes.write_events(&reconciler.outcomes(), &mut others);
            if let Some(cni) = cni {
                kubernetes.answer_cni(cni, reconciler.outcomes(), &mut others);
            }
            kubernetes.install_cni(&mut others);
        }
        let reconciling = tokio::spawn(reconciler.run(source, heard));
        if let Some(place) = config.node_processes.pods_cgroup.clone() {
            others.spawn(node::watch(place, features.root(), redirect.config(), board.clone()));
        }
        let stop = CancellationToken::new();
        let kernel = Arc::new(Pinned::new(redirect.directory().to_owned(), redirect.config()));
        let serving = tokio::spawn(api::serve(api, board, kernel, stop.clone()));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), instance = %config.instance, node = %config.node,
            kernel = %features.kernel, cgroup2 = %features.cgroup2.display(), pins = %redirect.directory().display(),
            adopted = redirect.adopted(), "agent started"
        );
        Ok(Self { stop, serving, reconciling, _others: others })
    }

    /// Waits until something ends that should not.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let ended: anyhow::Result<()> = tokio::select! {
            ended = &mut self.serving => ended.context("the API server ended").and_then(|ended| Ok(ended?)),
            ended = &mut self.reconciling => match ended {
                Ok(()) => Err(anyhow::anyhow!("the source of pods ended")),
                Err(error) => Err(anyhow::Error::new(error).context("the reconciler ended")),
            },
        };
        ended.err().unwrap_or_else(|| anyhow::anyhow!("the API server ended"))
    }

    /// Ends everything. Pins, and with them the redirect, stay.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if !self.serving.is_finished() {
            let _ = self.serving.await;
        }
        self.reconciling.abort();
    }
}

fn board(node: &Node, redirect: &Redirect) -> SharedBoard {
    Arc::new(RwLock::new(Board {
        instance: node.config.instance.clone(),
        node: node.config.node.clone(),
        cgroup2: node.features.cgroup2.clone(),
        pin_path: redirect.directory().to_owned(),
        adopted: redirect.adopted(),
        started: SystemTime::now(),
        pods: Vec::new(),
        proxies: Vec::new(),
        source_error: String::new(),
        pods_cgroup: None,
        pods_cgroup_error: String::new(),
        keeper: Keeper::off(),
    }))
}

fn reconciler(
    node: &Node,
    redirect: &Arc<Redirect>,
    board: &SharedBoard,
    registry: &Arc<Registry>,
) -> anyhow::Result<Reconciler> {
    let config = &node.config;
    let ground = Ground { redirect: redirect.clone(), workers: config.workers, proc: config.paths.proc.clone() };
    let settings = Settings {
        node: config.node.clone(),
        node_netns: node.netns,
        redirect: config.redirect.clone(),
        own_netns: node.own_netns()?,
    };
    Ok(Reconciler::new(ground, settings, board.clone(), registry.clone(), node.health.clone())?)
}
