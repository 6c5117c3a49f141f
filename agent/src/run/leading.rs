//! All that runs while this agent is the one that enrols pods: it holds the pins' lock and the sockets.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet, block_in_place},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    bound::Bound,
    node::Node,
    pods::{Kubernetes, Pods},
};
use crate::{
    api,
    causes::with_causes,
    cni,
    config::Config,
    enroll::{Ground, Order, Progressing, Reconciler, Registry, Settings},
    events,
    handoff::{ListenersHandedBack, Server},
    keeper::{self, Caring, Keeper},
    lead::{Departure, Heir, Place, Tenure, Turn},
    metrics::{Heard, Leads, Led},
    redirect::{Redirect, inspect::Pinned, node},
    sources::kubernetes::Handle,
    status::{Board, SharedBoard},
    uninstall::Remains,
};

/// What proxies said and the reconciler has not heard yet.
const EVENTS: usize = 256;
/// After a failed attempt to remove everything.
const AGAIN: Duration = Duration::from_secs(5);

/// The tasks of an agent that leads.
pub(super) struct Leading {
    orders: watch::Sender<Order>,
    milestones: Progressing,
    turn: Turn,
    /// By which others find this agent.
    bound: Bound,
    redirect: Arc<Redirect>,
    /// Sees to the keeper.
    caring: Caring,
    /// Whether weir is being taken off the cluster.
    uninstall: Option<watch::Receiver<bool>>,
    /// The source of pods, if it is the API server.
    pods: Option<Handle>,
    /// Where agents of this node look whether another one takes weir off it.
    state: PathBuf,
    remains: Remains,
    /// While it is there the node's figures are in the metrics.
    leads: Leads,
    /// Ends the API; whoever still watches events sees the end of their stream.
    stop: CancellationToken,
    serving: JoinHandle<Result<(), api::Error>>,
    reconciling: JoinHandle<Vec<ListenersHandedBack>>,
    /// The rest, which ends when it is dropped.
    others: JoinSet<()>,
}

/// Why an agent does not lead any more.
pub(super) enum Over {
    /// Another one is to.
    Superseded(Heir),
    /// weir is being taken off the cluster.
    Uninstall,
    /// A socket is not at its path any more: this agent has to make all of them anew.
    Unbound(PathBuf),
}

/// What is left of an agent that led.
pub(super) struct Stopped {
    /// The pins, still locked.
    pub(super) redirect: Arc<Redirect>,
    /// The pods' listening sockets.
    pub(super) sockets: Vec<ListenersHandedBack>,
    pub(super) caring: Caring,
    remains: Remains,
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
        let cni =
            config.cni.as_ref().filter(|cni| cni.enabled).map(|cni| cni::Server::bind(&cni.socket)).transpose()?;
        let redirect = match Redirect::start(pins, &features.cgroup2, node.ebpf_logs) {
            Ok(redirect) => Arc::new(redirect),
            Err(error) => {
                events::report_unavailable(config, &[with_causes(&error)]).await;
                return Err(error.into());
            }
        };
        redirect.config().update(|config| {
            node::apply(config, node.netns);
            node.pods_cgroup.apply(config);
        })?;
        let (keeper, caring, kept) = keep(node).await;
        let bound = bound(config);
        let board = board(node, &redirect, &keeper);
        let registry = Arc::new(Registry::new(redirect.clone(), node.metrics.counts.clone()));
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
            kubernetes.write_events(&reconciler.outcomes(), node.metrics.counts.clone(), &mut others);
            if let Some(cni) = cni {
                kubernetes.answer_cni(cni, reconciler.outcomes(), &mut others);
            }
            kubernetes.install_cni(board.clone(), &mut others);
        }
        let uninstall = kubernetes.as_ref().map(Kubernetes::uninstall);
        let followed = kubernetes.as_ref().map(Kubernetes::handle);
        let remains = Remains::new(config, &features.cgroup2, kubernetes.as_ref().and_then(Kubernetes::cni));
        let kernel = Arc::new(Pinned::new(redirect.directory().to_owned(), redirect.config()));
        // Before a slot can be cleared: what it had would count as news.
        let leads = node.metrics.lead(led(&redirect, board.clone(), kernel.clone(), followed.clone())?);
        let reconciling = tokio::spawn(reconciler.run(source, heard, ordered));
        if let Some(place) = config.node_processes.pods_cgroup.clone() {
            let board = board.clone();
            let show = move |found: Result<&Path, String>| {
                let mut board = board.write();
                (board.pods_cgroup, board.pods_cgroup_error) = match found {
                    Ok(path) => (Some(path.to_owned()), String::new()),
                    Err(error) => (None, error),
                };
            };
            others.spawn(node::watch(place, features.root(), redirect.config(), show));
        }
        let stop = CancellationToken::new();
        let serving = tokio::spawn(api::serve(api, board, kernel, stop.clone()));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), instance = %config.instance, node = %config.node,
            kernel = %features.kernel, cgroup2 = %features.cgroup2.display(), pins = %redirect.directory().display(),
            adopted = redirect.adopted(), "agent started"
        );
        let (pods, state) = (followed, config.state().to_owned());
        Ok(Self {
            orders,
            milestones,
            turn,
            bound,
            redirect,
            caring,
            uninstall,
            pods,
            state,
            remains,
            leads,
            stop,
            serving,
            reconciling,
            others,
        })
    }

    /// Waits until another agent is to lead, or weir is to go, or a socket is gone, or something ends that should not.
    pub(super) async fn over(&mut self) -> anyhow::Result<Over> {
        let Self { milestones, turn, bound, serving, reconciling, uninstall, .. } = self;
        let told = async {
            if let Some(uninstall) = uninstall
                && uninstall.wait_for(|uninstall| *uninstall).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        let settled = async {
            if milestones.wait_for(|milestones| milestones.settled).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            heir = turn.over(settled) => Ok(Over::Superseded(heir)),
            () = told => Ok(Over::Uninstall),
            path = bound.lost() => Ok(Over::Unbound(path.to_owned())),
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

    /// Takes weir off the node: withdraws every pod, lets connections drain (until `end` at the latest), and removes what
    /// agents leave. What could not be removed is tried again, until `end`. Other agents are not to put it back while what
    /// this returns is held; the source of pods knows whether the uninstall is taken back.
    pub(super) async fn uninstall(mut self, end: &CancellationToken) -> (Option<Departure>, Option<Handle>) {
        let (pods, state) = (self.pods.take(), std::mem::take(&mut self.state));
        let mut problems: Vec<String> = block_in_place(|| self.remains.close_cni()).err().into_iter().collect();
        self.orders.send_replace(Order::Leave);
        let mut milestones = self.milestones.clone();
        let _ = end.run_until_cancelled(milestones.wait_for(|milestones| milestones.left)).await;
        let Stopped { redirect, caring, remains, .. } = self.stop().await;
        let departure = block_in_place(|| Departure::begin(&state)).inspect_err(|error| {
            tracing::warn!(%error, state = %state.display(), "another agent of this node, if there is one, is not told");
        });
        problems.extend(block_in_place(|| redirect.remove()).err().map(|error| error.to_string()));
        caring.dismiss().await;
        // One that no agent sees to any more.
        problems.extend(remains.dismiss_keeper().await.err());
        problems.extend(block_in_place(|| remains.sweep()));
        while !problems.is_empty() {
            tracing::error!(problems = %problems.join("; "), "weir is not off this node yet");
            if end.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return (departure.ok(), pods);
            }
            problems = block_in_place(|| {
                let closed = remains.close_cni().err().into_iter();
                let removed = redirect.remove().err().map(|error| error.to_string());
                closed.chain(removed).chain(remains.sweep()).collect()
            });
        }
        tracing::info!("weir is off this node");
        (departure.ok(), pods)
    }

    /// Ends everything, after the step in hand. Pins, and with them the redirect, stay.
    pub(super) async fn stop(self) -> Stopped {
        let Self { orders, turn, redirect, caring, remains, leads, stop, serving, reconciling, mut others, .. } = self;
        drop((turn, leads));
        orders.send_replace(Order::Stop);
        let sockets = if reconciling.is_finished() { Vec::new() } else { reconciling.await.unwrap_or_default() };
        stop.cancel();
        if !serving.is_finished() {
            let _ = serving.await;
        }
        others.shutdown().await;
        Stopped { redirect, caring, remains, sockets }
    }
}

/// The sockets that were just made.
fn bound(config: &Config) -> Bound {
    let mut bound = Bound::default();
    let lead = Place::new(&config.pins(), config.state(), &config.instance).socket;
    let cni = config.cni.as_ref().filter(|cni| cni.enabled).map(|cni| &cni.socket);
    for path in [&lead, &config.paths.handoff, &config.paths.api].into_iter().chain(cni) {
        bound.own(path);
    }
    if let Some(keeper) = config.keeper.as_ref().filter(|keeper| keeper.enabled) {
        bound.foreign(&keeper.socket);
    }
    bound
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
        source_listed: false,
        source_error: String::new(),
        source_notes: Vec::new(),
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
        counts: node.metrics.counts.clone(),
    };
    Ok(Reconciler::new(ground, settings, board.clone(), registry.clone(), node.health.clone())?)
}

/// Where the metrics read the node's figures.
fn led(redirect: &Redirect, board: SharedBoard, kernel: Arc<Pinned>, pods: Option<Handle>) -> anyhow::Result<Led> {
    let slots: Vec<u32> = redirect.enrolled()?.iter().map(|(_, pod)| pod.slot).collect();
    let heard: Heard = Box::new(move || pods.as_ref().and_then(Handle::heard));
    Ok(Led::new(board, kernel, redirect.retired(), &slots, heard)?)
}

/// The keeper, and what it held for an earlier agent.
async fn keep(node: &Node) -> (Keeper, Caring, Vec<ListenersHandedBack>) {
    let Some(keeper) = &node.config.keeper else { return (Keeper::off(), Caring::off(), Vec::new()) };
    let cgroup = node.features.cgroup2.join(&keeper.cgroup);
    let settings = keeper::Settings::new(&node.config.instance, &keeper.socket, cgroup, keeper.patience);
    if keeper.enabled { Keeper::start(settings).await } else { Keeper::end(&settings).await }
}
