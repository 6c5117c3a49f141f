//! Active health checks: a task per host on the control runtime, which sets the host's flags.

mod event;
mod probe;
mod tracker;

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use hashbrown::HashMap;
use tokio::{
    sync::{Notify, watch},
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
/// first set has been checked, or has left.
pub(super) async fn watch(cluster: Weak<Cluster>, checked: watch::Sender<bool>) {
    let Some(mut changes) = cluster.upgrade().map(|cluster| cluster.membership.subscribe()) else { return };
    let mut checks = Checks::default();
    loop {
        changes.borrow_and_update();
        {
            let Some(cluster) = cluster.upgrade() else { return };
            checks.take(&cluster);
        }
        loop {
            if checks.begun && checks.running.values().all(Followed::is_known) {
                checked.send_if_modified(|checked| !std::mem::replace(checked, true));
            }
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = checks.first.notified() => {}
                Some(_) = checks.tasks.join_next() => {}
            }
        }
    }
}

/// The checks of a cluster's hosts.
#[derive(Default)]
struct Checks {
    tasks: JoinSet<()>,
    /// By where the host is kept, as an address may be that of two while one of them leaves.
    running: HashMap<*const Host, Followed>,
    /// There have been hosts, checked or not.
    begun: bool,
    /// A host has been checked for the first time.
    first: Rc<Notify>,
}

/// A host that is checked.
struct Followed {
    described: Described,
    task: AbortHandle,
    /// It is one of the first, for whose checks the cluster waits.
    awaited: bool,
    checked: Rc<Cell<bool>>,
}

/// How a host is described now. It keeps the host.
type Described = Rc<RefCell<Arc<Endpoint>>>;

impl Followed {
    /// Whether the cluster does not wait for it.
    fn is_known(&self) -> bool {
        !self.awaited || self.checked.get()
    }
}

impl Checks {
    /// Checks the hosts that the cluster has now, and no others.
    fn take(&mut self, cluster: &Arc<Cluster>) {
        let endpoints = cluster.endpoints.load_full();
        let wanted: HashMap<_, _> = endpoints
            .iter()
            .filter(|endpoint| !endpoint.template.check.disabled)
            .map(|endpoint| (Arc::as_ptr(&endpoint.host), endpoint))
            .collect();
        self.running.retain(|host, followed| {
            match wanted.get(host) {
                Some(endpoint) => drop(followed.described.replace(Arc::clone(endpoint))),
                None => followed.task.abort(),
            }
            wanted.contains_key(host)
        });
        for (host, endpoint) in wanted {
            self.running.entry(host).or_insert_with(|| {
                let described = Rc::new(RefCell::new(endpoint.clone()));
                let checked = Rc::new(Cell::new(false));
                let following = follow(Arc::downgrade(cluster), described.clone(), checked.clone(), self.first.clone());
                let task = self.tasks.spawn_local(following);
                Followed { described, task, awaited: !self.begun, checked }
            });
        }
        self.begun |= endpoints.iter().next().is_some();
    }
}

/// Checks one host again and again.
async fn follow(cluster: Weak<Cluster>, described: Described, checked: Rc<Cell<bool>>, first: Rc<Notify>) {
    let mut tracker = Tracker::new();
    let mut kept = None;
    let initial = cluster.upgrade().and_then(|cluster| Some(cluster.health.as_ref()?.intervals.initial_jitter));
    if let Some(jitter) = initial.filter(|jitter| !jitter.is_zero()) {
        sleep(jitter.mul_f64(fastrand::f64())).await;
    }
    loop {
        let endpoint = described.borrow().clone();
        let Some(pause) = once(&cluster, &endpoint, &mut tracker, &mut kept).await else { return };
        if !checked.replace(true) {
            first.notify_one();
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
        to: HealthCheck::address(endpoint),
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
