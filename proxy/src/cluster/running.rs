//! What runs beside the workers for a cluster: discovery, health checks, outlier detection.

use std::{
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    discovery::{dns, forward, original},
    health, outlier, update,
};
use crate::{
    config::{
        cell::Source,
        cluster::{Assignments, Cluster, Discovery},
    },
    queue::Queue,
};

/// How long [`start`] waits for the first endpoints before connections are accepted without them.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long it waits beyond that for the first health checks.
const FIRST_CHECK: Duration = Duration::from_secs(15);

/// How a cluster's file of endpoints is followed, until the cluster is gone; it says when it has read it first.
pub type FollowFile = fn(Weak<Cluster>, oneshot::Sender<()>) -> Pin<Box<dyn Future<Output = ()>>>;

/// The tasks. They end when this is dropped.
#[derive(Debug)]
pub struct Running {
    _tasks: JoinSet<()>,
}

/// What a cluster still waits for.
struct Cold {
    cluster: Arc<Cluster>,
    answer: oneshot::Receiver<()>,
    checked: Option<watch::Receiver<bool>>,
}

impl Cold {
    /// Resolves when the first hosts have been checked.
    async fn checked(self) {
        // A cluster without endpoints has nothing to check.
        if let Some(mut checked) = self.checked
            && self.cluster.endpoints.load().iter().next().is_some()
        {
            let _ = checked.wait_for(|checked| *checked).await;
        }
        self.cluster.in_force.store(true, Relaxed);
    }
}

/// Starts what a cluster needs. Endpoints from a management server are not its business.
fn begin(tasks: &mut JoinSet<()>, cluster: Arc<Cluster>, files: FollowFile) -> Result<Cold, dns::SetupError> {
    let (answered, answer) = oneshot::channel();
    match &cluster.discovery {
        Discovery::Dns(of) => {
            tasks.spawn_local(dns::follow(cluster.clone(), dns::resolver(of.family, &of.servers)?, answered));
        }
        Discovery::Eds(Assignments { source: Source::File(_), .. }) => {
            tasks.spawn_local(files(Arc::downgrade(&cluster), answered));
        }
        Discovery::OriginalDestination { .. } => {
            drop(answered);
            tasks.spawn_local(original::follow(Arc::downgrade(&cluster)));
        }
        Discovery::ForwardProxy(_) => {
            drop(answered);
            forward::attach(&cluster);
        }
        Discovery::Static | Discovery::Aggregate { .. } | Discovery::Eds(_) => drop(answered),
    }
    if cluster.outlier.is_some() {
        tasks.spawn_local(outlier::watch(Arc::downgrade(&cluster)));
    }
    let checked = cluster.health.is_some().then(|| {
        let (checked, check) = watch::channel(false);
        tasks.spawn_local(health::watch(Arc::downgrade(&cluster), checked));
        check
    });
    tasks.spawn_local(update::merge(Arc::downgrade(&cluster)));
    Ok(Cold { cluster, answer, checked })
}

/// Starts what `clusters` need, on the current runtime, and waits for their first endpoints and health checks.
pub async fn start(
    clusters: impl IntoIterator<Item = Arc<Cluster>>,
    files: FollowFile,
) -> Result<Running, dns::SetupError> {
    let mut tasks = JoinSet::new();
    let (mut cold, mut all) = (Vec::new(), Vec::new());
    for cluster in clusters {
        let waits = cluster.wait_for_warm;
        all.push(cluster.clone());
        let begun = begin(&mut tasks, cluster, files)?;
        if waits {
            cold.push(begun);
        }
    }
    let answers = cold.iter_mut().map(|cold| &mut cold.answer);
    if tokio::time::timeout(FIRST_ANSWER, futures_util::future::join_all(answers)).await.is_err() {
        tracing::warn!("some clusters have no endpoints yet; serving without them");
    }
    let checks = futures_util::future::join_all(cold.into_iter().map(Cold::checked));
    if tokio::time::timeout(FIRST_CHECK, checks).await.is_err() {
        tracing::warn!("some hosts have not been checked yet; serving without them");
    }
    all.iter().for_each(|cluster| cluster.in_force.store(true, Relaxed));
    Ok(Running { _tasks: tasks })
}

/// A cluster whose tasks are to be started, on whichever thread does that.
#[derive(Debug)]
pub struct Start {
    cluster: Arc<Cluster>,
    warm: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Keeps the tasks of a cluster running.
#[derive(Debug)]
pub struct Kept(#[expect(dead_code, reason = "its end is what tells")] oneshot::Sender<()>);

impl Start {
    /// What resolves when the cluster is warm, and what keeps its tasks.
    pub fn new(cluster: Arc<Cluster>) -> (Self, oneshot::Receiver<()>, Kept) {
        let (warm, warmed) = oneshot::channel();
        let (keep, ended) = oneshot::channel();
        (Self { cluster, warm, ended }, warmed, Kept(keep))
    }

    async fn run(self, files: FollowFile) {
        let mut tasks = JoinSet::new();
        let name = self.cluster.name.clone();
        match begin(&mut tasks, self.cluster, files) {
            Ok(mut cold) => {
                let warm = async {
                    let _ = (&mut cold.answer).await;
                    cold.checked().await;
                };
                let mut ended = self.ended;
                tokio::select! {
                    () = warm => {}
                    _ = &mut ended => return,
                }
                let _ = self.warm.send(());
                let _ = ended.await;
            }
            // It has no endpoints, and the others have theirs.
            Err(error) => tracing::error!(cluster = %name, %error, "names can't be resolved"),
        }
    }
}

/// Starts the tasks of clusters that come while the process runs, on this thread.
pub async fn start_later(clusters: Queue<Start>, files: FollowFile) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            start = clusters.take() => drop(tasks.spawn_local(start.run(files))),
            Some(_) = tasks.join_next() => {}
        }
    }
}
