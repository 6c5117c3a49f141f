//! `run`, `check`, `keep` and `uninstall`: what the command line asks for, put together from the other modules.
//!
//! `node::Node` is what an agent knows of its machine before it changes anything, `leading::Leading` all that runs while
//! it is the one that enrols pods.

mod bound;
mod check;
mod keep;
mod leading;
mod logging;
mod memory;
mod mount;
mod node;
mod pods;
mod uninstall;

pub use check::check;
pub use keep::keep;
pub use mount::mount_bpffs;
pub use uninstall::uninstall;

use std::{io, path::Path, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Source},
    handoff::ListenersHandedBack,
    health::{self, Health, Stage},
    lead::{self, Candidate, Departure, Heir, Identity, Parting, Place, Standing, Tenure},
    redirect::Redirect,
    seccomp,
    sources::kubernetes,
};
use leading::{Leading, Over, Stopped};
use node::Node;

/// Threads of the runtime; one may be busy with a step of the reconciler.
const THREADS: usize = 2;
/// Threads for what may block, looks into pods' namespaces for instance. Without a bound each step of the reconciler may
/// get one more (`block_in_place`), of which the allocator keeps what it has freed: many pods that come at once would leave
/// dozens behind.
const BLOCKING_THREADS: usize = 8;
/// How long what still runs when the agent steps down may take.
const LAST_STEPS: Duration = Duration::from_secs(3);

/// Enrolls pods until SIGTERM or SIGINT. Pins, and with them the redirect, stay.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let ebpf_logs = logging::start(&config.log)?;
    memory::share_one_heap();
    let node = Node::look(config, ebpf_logs)?;
    raise_file_limit();
    let outer = runtime(1)?;
    let result = live(&outer, &node);
    Runtime::shutdown_background(outer);
    result
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).max_blocking_threads(BLOCKING_THREADS).enable_all().build()
}

/// Leads, steps down, waits and leads again, until the end. Each time that the agent leads has a runtime of its own: what
/// it leaves running ends with that.
fn live(outer: &Runtime, node: &Node) -> anyhow::Result<()> {
    let end = outer.block_on(start(node))?;
    let place = Place::new(&node.config.pins(), node.config.state(), &node.config.instance);
    let mut candidate = Candidate::new(place, Identity::own()?);
    outer.spawn(tell_standing(candidate.standing(), node.health.clone()));
    let mut held = Vec::new();
    loop {
        let taken = outer.block_on(end.run_until_cancelled(candidate.take(std::mem::take(&mut held))));
        let tenure = match taken {
            Some(Ok(tenure)) => tenure,
            Some(Err(lead::Error::Departed)) => {
                tracing::info!(
                    "another agent takes weir off this node; this one waits to be ended, or to be wanted again"
                );
                node.health.enter(Stage::Uninstalled);
                if outer.block_on(end.run_until_cancelled(wanted(node, &candidate))).is_none() {
                    return Ok(());
                }
                outer.block_on(return_to_node(node, &mut candidate))?;
                continue;
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        };
        let inner = runtime(THREADS)?;
        let led = inner.block_on(lead(node, tenure, &end));
        // Requests for sockets may wait on the pool of blocking threads; nobody waits for them any more.
        inner.shutdown_timeout(LAST_STEPS);
        let (heir, redirect, sockets) = match led? {
            Led::Ended => return Ok(()),
            Led::Uninstalled(departure, watch) => {
                node.health.enter(Stage::Uninstalled);
                if outer.block_on(end.run_until_cancelled(taken_back(node, watch))).is_none() {
                    return Ok(());
                }
                tracing::info!("the uninstall was taken back; this agent enrols pods again");
                drop(departure);
                outer.block_on(return_to_node(node, &mut candidate))?;
                continue;
            }
            Led::Unbound(redirect, sockets) => {
                redirect.retire();
                held = sockets;
                // An agent that could not ask this one meanwhile may be faster; then that one is asked.
                candidate.begin_anew();
                continue;
            }
            Led::Superseded(heir, redirect, sockets) => (heir, redirect, sockets),
        };
        redirect.retire();
        drop(redirect);
        node.health.enter(Stage::Superseded);
        match outer.block_on(end.run_until_cancelled(heir.hand_over(sockets))) {
            Some(Parting::Done) => {}
            Some(Parting::Broken(sockets)) => held = sockets,
            None => return Ok(()),
        }
    }
}

/// What is done once, and what lasts as long as the process: the profile of the proxy, signals to end it, and what the kubelet asks.
async fn start(node: &Node) -> anyhow::Result<CancellationToken> {
    prepare(node).await?;
    if let Some(settings) = &node.config.health {
        let listener = health::bind(settings.address).await?;
        tokio::spawn(health::serve(listener, node.health.clone(), node.metrics.clone()));
    }
    let end = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(end)
}

/// What the proxy's container needs to start.
async fn prepare(node: &Node) -> anyhow::Result<()> {
    if let Some(settings) = &node.config.seccomp {
        seccomp::write(&settings.profile)?;
    }
    Ok(())
}

/// What is done before an agent may lead where weir was taken off the node.
async fn return_to_node(node: &Node, candidate: &mut Candidate) -> anyhow::Result<()> {
    node.health.enter(Stage::Starting);
    candidate.begin_anew();
    // The kubelet may have read the profile's directory already: it is there again before the proxy is.
    prepare(node).await
}

/// Resolves when the agent that takes weir off the node has gone, and this one is not to go too: it is of another
/// installation, that came at once, or the uninstall was taken back. Never where nobody can say so.
async fn wanted(node: &Node, candidate: &Candidate) {
    candidate.departed().await;
    if let Source::Kubernetes(source) = &node.config.source {
        match kubernetes::client(source.kubeconfig.as_deref()).await {
            Ok(client) => return kubernetes::wanted(&client, source).await,
            Err(error) => tracing::warn!(%error, "whether weir is uninstalled cannot be told"),
        }
    }
    std::future::pending().await
}

/// Resolves when weir is to be on the node again; never where nobody can say so.
async fn taken_back(node: &Node, pods: Option<kubernetes::Handle>) {
    if let (Some(pods), Source::Kubernetes(source)) = (pods, &node.config.source) {
        // The one that the source had ended with the runtime of the agent that led.
        match kubernetes::client(source.kubeconfig.as_deref()).await {
            Ok(client) => return pods.uninstall_taken_back(&client).await,
            Err(error) => tracing::warn!(%error, "whether the uninstall is taken back cannot be told"),
        }
    }
    std::future::pending().await
}

/// The kubelet is told of an agent that waits; one that leads tells itself how far it has come.
async fn tell_standing(mut standing: watch::Receiver<Standing>, health: Health) {
    loop {
        if *standing.borrow_and_update() == Standing::Waits {
            health.enter(Stage::Superseded);
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

/// How leading ended.
enum Led {
    /// The process is to end.
    Ended,
    /// Another agent is to lead.
    Superseded(Heir, Arc<Redirect>, Vec<ListenersHandedBack>),
    /// It is to lead again, with other sockets to be found by.
    Unbound(Arc<Redirect>, Vec<ListenersHandedBack>),
    /// weir is off the node. Other agents are to know; and whom to ask whether that was taken back.
    Uninstalled(Option<Departure>, Option<kubernetes::Handle>),
}

/// Leads until the end, until another agent is to lead, until a socket is gone by which this one is found, or until weir is
/// to go.
async fn lead(node: &Node, tenure: Tenure, end: &CancellationToken) -> anyhow::Result<Led> {
    let mut leading = Leading::start(node, tenure).await?;
    let over = tokio::select! {
        () = end.cancelled() => Ok(None),
        over = leading.over() => over.map(Some),
    };
    match over {
        Ok(Some(Over::Uninstall)) => {
            let (departure, pods) = leading.uninstall(end).await;
            Ok(Led::Uninstalled(departure, pods))
        }
        Ok(Some(Over::Superseded(heir))) => {
            tracing::info!(heir = %heir.identity(), "agent steps down; the redirect stays");
            let Stopped { redirect, sockets, .. } = leading.stop().await;
            Ok(Led::Superseded(heir, redirect, sockets))
        }
        Ok(Some(Over::Unbound(path))) => {
            tracing::warn!(
                path = %path.display(),
                "a socket was removed or replaced by another; all are made anew, and the redirect stays"
            );
            let Stopped { redirect, sockets, caring, .. } = leading.stop().await;
            // One that nobody can find would hold sockets for nobody; they are all here.
            if node.config.keeper.as_ref().is_some_and(|keeper| !keeper.socket.exists()) {
                let _ = timeout(LAST_STEPS, caring.dismiss()).await;
            }
            Ok(Led::Unbound(redirect, sockets))
        }
        Ok(None) => {
            tracing::info!("agent stops; the redirect stays");
            leading.stop().await;
            Ok(Led::Ended)
        }
        Err(error) => {
            leading.stop().await;
            Err(error)
        }
    }
}

/// Each pod costs some dozen file descriptors.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
