//! Active health checks: a task per host on the control runtime, which sets the host's flags.

mod event;
mod probe;
mod tracker;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use hashbrown::HashMap;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use self::{
    probe::{Session, Way},
    tracker::{Checked, Failure, Tracker, Transition, pause},
};
use super::clock;
use crate::config::cluster::{
    Cluster, Endpoint, HealthFlags, Host,
    health::{HealthCheck, Probe},
};

/// Checks the hosts of a cluster as they come and go, until it is gone. `checked` is told once every host of the
/// first set has been checked.
pub(super) async fn watch(cluster: Weak<Cluster>, checked: watch::Sender<bool>) {
    let Some(mut changes) = cluster.upgrade().map(|cluster| cluster.membership.subscribe()) else { return };
    let mut tasks = JoinSet::new();
    // By address, with the host that each is about: in another locality an address is another host.
    let mut running: HashMap<SocketAddr, (Weak<Host>, AbortHandle)> = HashMap::new();
    let (done, mut first) = mpsc::channel::<()>(1);
    let mut waiting: Option<usize> = None;
    loop {
        changes.borrow_and_update();
        {
            let Some(cluster) = cluster.upgrade() else { return };
            let endpoints = cluster.endpoints.load_full();
            let wanted: HashMap<_, _> = endpoints
                .iter()
                .filter(|endpoint| !endpoint.template.check.disabled)
                .map(|endpoint| (endpoint.address, endpoint))
                .collect();
            running.retain(|address, (host, task)| {
                let stays = wanted.get(address).is_some_and(|endpoint| host.as_ptr() == Arc::as_ptr(&endpoint.host));
                if !stays {
                    task.abort();
                }
                stays
            });
            for (address, endpoint) in wanted {
                running.entry(address).or_insert_with(|| {
                    let task = tasks.spawn_local(follow(Arc::downgrade(&cluster), endpoint.clone(), done.clone()));
                    (Arc::downgrade(&endpoint.host), task)
                });
            }
            if waiting.is_none() && endpoints.iter().next().is_some() {
                waiting = Some(running.len());
            }
        }
        let changed = async {
            loop {
                tokio::select! {
                    changed = changes.changed() => return changed,
                    Some(()) = first.recv() => {
                        waiting = waiting.map(|left| left.saturating_sub(1));
                        if waiting == Some(0) {
                            checked.send_replace(true);
                        }
                    }
                    Some(_) = tasks.join_next() => {}
                }
            }
        };
        if changed.await.is_err() {
            return;
        }
    }
}

/// Checks one host again and again.
async fn follow(cluster: Weak<Cluster>, endpoint: Arc<Endpoint>, first: mpsc::Sender<()>) {
    let mut tracker = Tracker::new();
    let mut kept = None;
    let mut first = Some(first);
    let initial = cluster.upgrade().and_then(|cluster| Some(cluster.health.as_ref()?.intervals.initial_jitter));
    if let Some(jitter) = initial.filter(|jitter| !jitter.is_zero()) {
        sleep(jitter.mul_f64(fastrand::f64())).await;
    }
    loop {
        let Some(pause) = once(&cluster, &endpoint, &mut tracker, &mut kept).await else { return };
        if let Some(first) = first.take() {
            // Nobody waits any more: that is fine.
            let _ = first.send(()).await;
        }
        let mut pause = pin!(sleep(pause));
        loop {
            let admitted = tokio::select! {
                () = &mut pause => break,
                admitted = endpoint.host.admitted.take() => admitted,
            };
            let Some(cluster) = cluster.upgrade() else { return };
            let Some(check) = &cluster.health else { return };
            for _ in 0..admitted {
                apply(&cluster, check, &endpoint, &mut tracker, Checked::Failed(Failure::Passive));
            }
        }
    }
}

async fn once(
    cluster: &Weak<Cluster>,
    endpoint: &Endpoint,
    tracker: &mut Tracker,
    kept: &mut Option<Session>,
) -> Option<std::time::Duration> {
    let cluster = cluster.upgrade()?;
    let check = cluster.health.as_ref()?;
    cluster.stats.inc(check.stats.attempt);
    let checked = match timeout(check.timeout, ask(&cluster, check, endpoint, kept)).await {
        Ok(checked) => checked,
        Err(_) => {
            *kept = None;
            Checked::Failed(Failure::Timeout)
        }
    };
    if !check.reuse_connection {
        *kept = None;
    }
    let transition = apply(&cluster, check, endpoint, tracker, checked);
    let passed = matches!(checked, Checked::Passed { .. });
    let traffic = cluster.has_traffic.load(Relaxed);
    Some(pause(&check.intervals, passed, transition, traffic, fastrand::f64()))
}

async fn ask(cluster: &Cluster, check: &HealthCheck, endpoint: &Endpoint, kept: &mut Option<Session>) -> Checked {
    let way = Way {
        view: cluster.view,
        socket: &cluster.socket,
        to: check.address(endpoint),
        transport: cluster.transports.choose(endpoint.template.metadata.as_deref()),
        hostname: &endpoint.hostname,
        timeout: check.timeout,
        shard: cluster.stats.control(),
        verified: check.stats.verify_cluster,
    };
    let name = |configured: &str| match (&*endpoint.template.check.hostname, configured) {
        ("", "") => cluster.name.to_string(),
        ("", configured) => configured.to_owned(),
        (own, _) => own.to_owned(),
    };
    match &check.probe {
        Probe::Http(probe) => probe::http(probe, &name(&probe.host), &way, kept).await,
        Probe::Grpc(probe) => probe::grpc(probe, &name(&probe.authority), &way, kept).await,
        Probe::Tcp(probe) => probe::tcp(probe, &way, kept).await,
    }
}

fn apply(
    cluster: &Cluster,
    check: &HealthCheck,
    endpoint: &Endpoint,
    tracker: &mut Tracker,
    checked: Checked,
) -> Transition {
    let host = &endpoint.host;
    let was = host.flags();
    let step = tracker.step(check, was, checked);
    host.clear(step.clear);
    host.set(step.set);
    let stats = &check.stats;
    match checked {
        Checked::Passed { .. } => cluster.stats.inc(stats.success),
        Checked::Failed(failure) => {
            cluster.stats.inc(stats.failure);
            match failure {
                Failure::Network | Failure::Timeout => cluster.stats.inc(stats.network_failure),
                Failure::Passive => cluster.stats.inc(stats.passive_failure),
                Failure::Active { .. } => {}
            }
        }
    }
    for event in &step.events {
        event::write(check, cluster, endpoint, *event);
    }
    if step.transition == Transition::Changed {
        let now = host.flags();
        if was.any(HealthFlags::FAILED_ACTIVE) && !now.any(HealthFlags::FAILED_ACTIVE) {
            host.healthy_since.store(clock::now(), Relaxed);
        }
        tracing::info!(cluster = %cluster.name, host = %endpoint.address, health = ?now.health(), ?checked, "health changed");
        cluster.changed();
        if !was.any(HealthFlags::FAILED_ACTIVE) && now.any(HealthFlags::FAILED_ACTIVE) {
            host.failed.notify_waiters();
        }
        let leaves = now.any(HealthFlags::PENDING_REMOVAL) && now.any(HealthFlags::FAILED_ACTIVE);
        if leaves {
            cluster.drop_pending();
        }
    }
    if let Some(detector) = &cluster.outlier
        && detector.settings.uneject_by_check
        && matches!(checked, Checked::Passed { .. })
        && !host.flags().any(HealthFlags::FAILED_ACTIVE)
    {
        cluster.uneject(detector, endpoint);
    }
    step.transition
}
