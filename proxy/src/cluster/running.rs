//! What runs beside the workers for a cluster: discovery, health checks, outlier detection.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    discovery::{dns, eds, original},
    health, outlier, update,
};
use crate::config::cluster::{Cluster, Discovery};

/// How long [`start`] waits for the first endpoints before connections are accepted without them.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long it waits beyond that for the first health checks.
const FIRST_CHECK: Duration = Duration::from_secs(15);

/// The tasks. They end when this is dropped.
#[derive(Debug)]
pub struct Running {
    _tasks: JoinSet<()>,
}

/// Starts what `clusters` need, on the current runtime, and waits for their first endpoints and health checks.
pub async fn start(clusters: impl IntoIterator<Item = Arc<Cluster>>) -> Result<Running, dns::SetupError> {
    let mut tasks = JoinSet::new();
    let (mut answers, mut checks) = (Vec::new(), Vec::new());
    for cluster in clusters {
        let (answered, answer) = oneshot::channel();
        match &cluster.discovery {
            Discovery::Dns(of) => {
                tasks.spawn_local(dns::follow(cluster.clone(), dns::resolver(of)?, answered));
            }
            Discovery::Eds(_) => {
                tasks.spawn_local(eds::follow(Arc::downgrade(&cluster), answered));
            }
            Discovery::OriginalDestination { .. } => {
                drop(answered);
                tasks.spawn_local(original::follow(Arc::downgrade(&cluster)));
            }
            Discovery::Static | Discovery::Aggregate { .. } => drop(answered),
        }
        if cluster.wait_for_warm {
            answers.push(answer);
        }
        if cluster.outlier.is_some() {
            tasks.spawn_local(outlier::watch(Arc::downgrade(&cluster)));
        }
        if cluster.health.is_some() {
            let (checked, check) = watch::channel(false);
            tasks.spawn_local(health::watch(Arc::downgrade(&cluster), checked));
            if cluster.wait_for_warm {
                checks.push((cluster.clone(), check));
            }
        }
        tasks.spawn_local(update::merge(Arc::downgrade(&cluster)));
    }
    if tokio::time::timeout(FIRST_ANSWER, futures_util::future::join_all(answers)).await.is_err() {
        tracing::warn!("some clusters have no endpoints yet; serving without them");
    }
    let first_checks = futures_util::future::join_all(checks.into_iter().map(|(cluster, mut check)| async move {
        // A cluster without endpoints has nothing to check.
        if cluster.endpoints.load().iter().next().is_some() {
            let _ = check.wait_for(|checked| *checked).await;
        }
    }));
    if tokio::time::timeout(FIRST_CHECK, first_checks).await.is_err() {
        tracing::warn!("some hosts have not been checked yet; serving without them");
    }
    Ok(Running { _tasks: tasks })
}
