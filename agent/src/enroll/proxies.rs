//! The connected proxies, as the reconciler sees them: what each was told, and what it still has to acknowledge.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weir_abi::verdict::Direction;
use weir_proto::handoff::v1::{self as handoff, from_agent};

use super::ground::Pod;
use crate::{
    handoff::{Fleet, Peer, Proxy, ProxyId},
    netns::PodListener,
    status::{ProxyState, ProxyStatus},
};

/// What an Ack answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// To serve a pod with these sockets.
    Enroll(String),
    /// That a pod changed.
    Update(String),
    /// To let go of a pod.
    Withdraw(String),
}

/// A connected proxy.
#[derive(Debug)]
struct Connected {
    proxy: Proxy,
    hello: handoff::Hello,
    peer: Peer,
    since: SystemTime,
    open: u64,
    /// Whether it drains and has no connection left.
    drained: bool,
    /// Whether it was sent every pod that was enrolled when it came.
    synced: bool,
}

/// The connected proxies.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    fleet: Fleet,
    connected: BTreeMap<ProxyId, Connected>,
    unacknowledged: HashMap<(ProxyId, u64), Told>,
}

impl Proxies {
    /// A proxy said Hello: it gets the maps now and its snapshot when the agent has one.
    pub(super) fn join(&mut self, proxy: Proxy, hello: handoff::Hello, peer: Peer, own: bool, maps: [OwnedFd; 2]) {
        tracing::info!(
            proxy = proxy.id.0, pid = peer.pid, uid = peer.uid, version = %hello.proxy_version, workers = hello.workers,
            pods_held = hello.pods_held, own, standby = hello.standby, "a proxy connected"
        );
        self.fleet.join(proxy.id, own, hello.generation, hello.standby);
        proxy.send(from_agent::Message::Maps(handoff::Maps {}), maps.into_iter().map(Arc::new).collect());
        let since = SystemTime::now();
        self.connected
            .insert(proxy.id, Connected { proxy, hello, peer, since, open: 0, drained: false, synced: false });
    }

    /// A connection is over.
    pub(super) fn leave(&mut self, id: ProxyId) {
        self.fleet.leave(id);
        self.connected.remove(&id);
        self.unacknowledged.retain(|(proxy, _), _| *proxy != id);
    }

    /// A proxy accepts: the older ones drain.
    pub(super) fn ready(&mut self, id: ProxyId, drain: Duration) {
        for superseded in self.fleet.ready(id) {
            tracing::info!(proxy = superseded.0, by = id.0, "a newer proxy accepts; the older one drains");
            self.send_drain(superseded, drain);
        }
    }

    fn send_drain(&mut self, id: ProxyId, drain: Duration) {
        let deadline_ms = drain.as_millis() as u64;
        self.send(id, from_agent::Message::Drain(handoff::Drain { deadline_ms }), Vec::new());
    }

    /// A proxy drains, with so many connections open: to end, or to stand by.
    pub(super) fn draining(&mut self, id: ProxyId, open: u64, standby: bool) {
        self.fleet.draining(id, standby);
        if let Some(connected) = self.connected.get_mut(&id) {
            connected.open = open;
            connected.drained = open == 0;
        }
    }

    /// All proxies are to drain; none will accept any more.
    pub(super) fn drain(&mut self, drain: Duration) {
        for id in self.fleet.serving().collect::<Vec<_>>() {
            self.fleet.draining(id, false);
            self.send_drain(id, drain);
        }
    }

    /// If no proxy accepts, one that stands by is to know every pod again.
    pub(super) fn summon(&mut self) {
        let Some(id) = self.fleet.summon() else { return };
        if let Some(connected) = self.connected.get_mut(&id) {
            tracing::info!(proxy = id.0, "no proxy accepts; one that stands by is sent for");
            connected.synced = false;
        }
    }

    /// Whether all proxies said that they have no connection left.
    pub(super) fn drained(&self) -> bool {
        self.connected.values().all(|connected| connected.drained)
    }

    /// What a proxy acknowledges; none for what needs no answer.
    pub(super) fn acknowledged(&mut self, id: ProxyId, message: u64) -> Option<Told> {
        self.unacknowledged.remove(&(id, message))
    }

    /// Whether some proxy accepts.
    pub(super) fn any_ready(&self) -> bool {
        self.fleet.acceptor().is_some()
    }

    /// Whether the proxy of the agent's own pod accepts, or stands by while another does. That of an earlier generation
    /// alone is about to go.
    pub(super) fn own_serves(&self) -> bool {
        self.fleet.own_serves()
    }

    /// Whether the proxy that accepts was sent every pod.
    pub(super) fn acceptor_synced(&self) -> bool {
        self.acceptor().is_some_and(|proxy| proxy.synced)
    }

    fn acceptor(&self) -> Option<&Connected> {
        self.connected.get(&self.fleet.acceptor()?)
    }

    /// The proxy that accepts, and its process.
    pub(super) fn acceptor_process(&self) -> Option<(ProxyId, i32)> {
        self.acceptor().map(|proxy| (proxy.proxy.id, proxy.peer.pid))
    }

    /// The proxy whose word on a pod counts.
    pub(super) fn speaker(&self) -> Option<ProxyId> {
        self.fleet.speaker()
    }

    /// Whether any proxy has still to let go of a pod.
    pub(super) fn letting_go(&self, uid: &str) -> bool {
        self.unacknowledged.values().any(|told| matches!(told, Told::Withdraw(withdrawn) if withdrawn == uid))
    }

    /// Sends every enrolled pod to the proxies that came since or were sent for, and that this is all.
    pub(super) fn send_snapshot<'a>(&mut self, pods: impl Iterator<Item = &'a Pod> + Clone, node: &str) {
        let waits = |id: &ProxyId| self.connected.get(id).is_some_and(|connected| !connected.synced);
        let waiting: Vec<ProxyId> = self.fleet.serving().filter(waits).collect();
        for id in waiting {
            for pod in pods.clone() {
                self.tell(id, enroll(pod, node, true), Told::Enroll(pod.spec.uid.clone()), sockets(pod));
            }
            self.send(id, from_agent::Message::SnapshotSent(handoff::SnapshotSent {}), Vec::new());
            if let Some(connected) = self.connected.get_mut(&id) {
                connected.synced = true;
            }
        }
    }

    /// Tells the proxies of a pod, with its sockets.
    pub(super) fn enroll(&mut self, pod: &Pod, node: &str) {
        for id in self.synced() {
            self.tell(id, enroll(pod, node, true), Told::Enroll(pod.spec.uid.clone()), sockets(pod));
        }
    }

    /// Tells the proxies what changed of a pod whose sockets they have.
    pub(super) fn update(&mut self, pod: &Pod, node: &str) {
        for id in self.synced() {
            self.tell(id, enroll(pod, node, false), Told::Update(pod.spec.uid.clone()), Vec::new());
        }
    }

    /// Tells the proxies to let go of a pod.
    pub(super) fn withdraw(&mut self, uid: &str, drain: Duration) {
        for id in self.synced() {
            let withdraw = handoff::Withdraw { uid: uid.to_owned(), drain_ms: drain.as_millis() as u64 };
            self.tell(id, from_agent::Message::Withdraw(withdraw), Told::Withdraw(uid.to_owned()), Vec::new());
        }
    }

    /// What the board shows, oldest first.
    pub(super) fn status(&self) -> Vec<ProxyStatus> {
        let status = |(id, connected): (&ProxyId, &Connected)| ProxyStatus {
            version: connected.hello.proxy_version.clone(),
            generation: connected.hello.generation,
            pid: connected.peer.pid,
            uid: connected.peer.uid,
            workers: connected.hello.workers,
            state: self.fleet.member(*id).map_or(ProxyState::Syncing, |member| member.state),
            connected: connected.since,
            open: connected.open,
        };
        let mut proxies: Vec<ProxyStatus> = self.connected.iter().map(status).collect();
        proxies.sort_by_key(|proxy| proxy.generation);
        proxies
    }

    /// The proxies that hear of changes: those that got a snapshot and accept or are about to.
    fn synced(&self) -> Vec<ProxyId> {
        let synced = |id: &ProxyId| self.connected.get(id).is_some_and(|connected| connected.synced);
        self.fleet.serving().filter(synced).collect()
    }

    fn tell(&mut self, id: ProxyId, message: from_agent::Message, told: Told, fds: Vec<Arc<OwnedFd>>) {
        if let Some(message) = self.send(id, message, fds) {
            self.unacknowledged.insert((id, message), told);
        }
    }

    fn send(&mut self, id: ProxyId, message: from_agent::Message, fds: Vec<Arc<OwnedFd>>) -> Option<u64> {
        let sent = self.connected.get(&id)?.proxy.send(message, fds);
        if sent.is_none() {
            tracing::warn!(proxy = id.0, "a proxy is too far behind; its connection ends");
            self.leave(id);
        }
        sent
    }
}

fn enroll(pod: &Pod, node: &str, with_sockets: bool) -> from_agent::Message {
    let workload = handoff::Workload {
        uid: pod.spec.uid.clone(),
        name: pod.spec.name.clone(),
        namespace: pod.spec.namespace.clone(),
        service_account: pod.spec.service_account.clone(),
        labels: pod.spec.labels.clone().into_iter().collect(),
        ips: pod.ips.iter().map(ToString::to_string).collect(),
        node: node.to_owned(),
    };
    let listeners = if with_sockets { pod.listeners.iter().map(listener).collect() } else { Vec::new() };
    from_agent::Message::Enroll(handoff::Enroll { workload: Some(workload), listeners })
}

fn listener(listener: &PodListener) -> handoff::Listener {
    let direction = match listener.direction {
        Direction::Outbound => handoff::Direction::Outbound,
        Direction::Inbound => handoff::Direction::Inbound,
    };
    handoff::Listener { direction: direction.into(), worker: listener.worker, address: listener.address.to_string() }
}

fn sockets(pod: &Pod) -> Vec<Arc<OwnedFd>> {
    pod.listeners.iter().map(|listener| listener.socket.clone()).collect()
}
