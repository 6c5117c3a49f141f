//! All that runs while this agent is the one that enrols pods: it holds the pins' lock and the sockets.

use std::{sync::Arc, time::SystemTime};

use anyhow::Context;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{node::Node, pods::Pods};
use crate::{
    api, cni,
    enroll::{Ground, Order, Progressing, Reconciler, Registry, Settings},
    handoff::{ListenersHandedBack, Server},
    keeper::{self, Caring, Keeper},
    lead::{Heir, Tenure, Turn},
    redirect::{Redirect, inspect::Pinned, node},
    status::{Board, SharedBoard},
};

/// What proxies said and the reconciler has not heard yet.
const EVENTS: usize = 256;

/// The tasks of an agent that leads.
pub(super) struct Leading {
    orders: watch::Sender<Order>,
    milestones: Progressing,
    turn: Turn,
    redirect: Arc<Redirect>,
    /// Sees to the keeper.
    _caring: Caring,
    /// Ends the API; whoever still watches events sees the end of their stream.
    stop: CancellationToken,
    serving: JoinHandle<Result<(), api::Error>>,
    reconciling: JoinHandle<Vec<ListenersHandedBack>>,
    /// The rest, which ends when it is dropped.
    others: JoinSet<()>,
}

impl Leading {
    /// Makes the sockets, loads or adopts what the kernel has, and starts everything.
    pub(super) async fn start(node: &Node, tenure: Tenure) -> anyhow::Result<Self> {
        let Node { config, features, .. } = node;
        // What can fail for the configuration's sake comes before anything is loaded: a failed start leaves nothing behind.
        let pods = Pods::prepare(node).await?;
        let Tenure { pins, inherited, turn, .. } = tenure;
        let handoff = Server::bind(&config.paths.handoff, config.paths.socket_group)?;
        let api = api::bind(&config.paths.api)?;
        let cni = config.cni.as_ref().map(|cni| cni::Server::bind(&cni.socket)).transpose()?;
        let redirect = Arc::new(Redirect::start(pins, &features.cgroup2, node.ebpf_logs)?);
        redirect.config().update(|config| {
            node::apply(config, node.netns);
            node.pods_cgroup.apply(config);
        })?;
        let (keeper, caring, kept) = keep(node).await;
        let board = board(node, &redirect, &keeper);
        let registry = Arc::new(Registry::new(redirect.clone()));
        let mut reconciler = reconciler(node, &redirect, &board, &registry, keeper)?;
        // What the keeper holds may be older than what the agent before this one held.
        reconciler.inherit(kept);
        reconciler.inherit(inherited);
        let milestones = reconciler.milestones();
        let (orders, ordered) = watch::channel(Order::Enroll);

        let mut others = JoinSet::new();
        let (events, heard) = mpsc::channel(EVENTS);
        others.spawn(handoff.run(events, registry));
        let (source, kubernetes) = pods.follow(node)?;
        if let Some(kubernetes) = &kubernetes {
            kubernetes.write_events(&reconciler.outcomes(), &mut others);
            if let Some(cni) = cni {
                kubernetes.answer_cni(cni, reconciler.outcomes(), &mut others);
            }
            kubernetes.install_cni(board.clone(), &mut others);
        }
        let reconciling = tokio::spawn(reconciler.run(source, heard, ordered));
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
        Ok(Self { orders, milestones, turn, redirect, _caring: caring, stop, serving, reconciling, others })
    }

    /// Waits until another agent is to lead, or until something ends that should not.
    pub(super) async fn over(&mut self) -> anyhow::Result<Heir> {
        let Self { milestones, turn, serving, reconciling, .. } = self;
        let settled = async {
            if milestones.wait_for(|milestones| milestones.settled).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            heir = turn.over(settled) => Ok(heir),
            ended = serving => {
                ended.context("the API server ended")??;
                Err(anyhow::anyhow!("the API server ended"))
            }
            ended = reconciling => match ended {
                Ok(_) => Err(anyhow::anyhow!("the source of pods ended")),
                Err(error) => Err(anyhow::Error::new(error).context("the reconciler ended")),
            },
        }
    }

    /// Ends everything, after the step in hand. Pins, and with them the redirect, stay. What was led, and the pods'
    /// listening sockets.
    pub(super) async fn stop(self) -> (Arc<Redirect>, Vec<ListenersHandedBack>) {
        let Self { orders, turn, redirect, stop, serving, reconciling, mut others, .. } = self;
        drop(turn);
        orders.send_replace(Order::Stop);
        let sockets = if reconciling.is_finished() { Vec::new() } else { reconciling.await.unwrap_or_default() };
        stop.cancel();
        if !serving.is_finished() {
            let _ = serving.await;
        }
        others.shutdown().await;
        (redirect, sockets)
    }
}

fn board(node: &Node, redirect: &Redirect, keeper: &Keeper) -> SharedBoard {
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
        cni: None,
        keeper: keeper.clone(),
    }))
}

fn reconciler(
    node: &Node,
    redirect: &Arc<Redirect>,
    board: &SharedBoard,
    registry: &Arc<Registry>,
    keeper: Keeper,
) -> anyhow::Result<Reconciler> {
    let config = &node.config;
    let (workers, proc) = (config.workers, config.paths.proc.clone());
    let ground = Ground { redirect: redirect.clone(), workers, proc, keeper };
    let settings = Settings {
        node: config.node.clone(),
        node_netns: node.netns,
        redirect: config.redirect.clone(),
        own_netns: node.own_netns()?,
    };
    Ok(Reconciler::new(ground, settings, board.clone(), registry.clone(), node.health.clone())?)
}

/// The keeper, and what it held for an earlier agent.
async fn keep(node: &Node) -> (Keeper, Caring, Vec<ListenersHandedBack>) {
    let Some(keeper) = &node.config.keeper else { return (Keeper::off(), Caring::off(), Vec::new()) };
    let cgroup = node.features.cgroup2.join(&keeper.cgroup);
    Keeper::start(keeper::Settings::new(&node.config.instance, &keeper.socket, cgroup, keeper.patience)).await
}
