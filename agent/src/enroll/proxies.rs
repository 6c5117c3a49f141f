//! The connected proxies, as the reconciler sees them: what each was told, and what it still has to acknowledge.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use weir_proto::handoff::v1::{self as handoff, from_agent};

use super::ground::Pod;
use crate::{
    counts::Counts,
    handoff::{Fleet, Proxy, ProxyId, ProxyState, listener},
    status::ProxyStatus,
    unix::Peer,
};

/// Connections of one proxy that may be on their way to another at a time: more than a proxy sends unanswered.
const MOST_PASSING: usize = 64;

/// File descriptors that a connection can have on its way: two sockets, and in each direction up to three of pipes.
const PASSED_FDS: RangeInclusive<usize> = 2..=8;

/// What an Ack answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// To serve a pod with these sockets.
    Enroll(String),
    /// That a pod changed.
    Update(String),
    /// To let go of a pod.
    Withdraw(String),
    /// To carry on a connection that another proxy passes on, and calls so.
    Take { from: ProxyId, id: u64 },
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
    /// The pods that it was sent.
    sent: HashSet<String>,
    /// Whether it was told that these are all.
    synced: bool,
    /// Since when it has owed an answer, if it does not answer.
    unanswered: Option<Instant>,
}

/// The connected proxies.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    fleet: Fleet,
    connected: BTreeMap<ProxyId, Connected>,
    unacknowledged: HashMap<(ProxyId, u64), Told>,
    counts: Counts,
}

impl Proxies {
    /// None yet.
    pub(super) fn new(counts: Counts) -> Self {
        Self { counts, ..Self::default() }
    }

    /// A proxy said Hello: it gets the maps now, and each pod as soon as the agent has it.
    pub(super) fn join(&mut self, proxy: Proxy, hello: handoff::Hello, peer: Peer, own: bool, maps: [OwnedFd; 2]) {
        tracing::info!(
            proxy = proxy.id.0, pid = peer.pid, uid = peer.uid, version = %hello.proxy_version, workers = hello.workers,
            pods_held = hello.pods_held, own, standby = hello.standby, "a proxy connected"
        );
        self.fleet.join(proxy.id, own, hello.generation, hello.standby);
        proxy.send(from_agent::Message::Maps(handoff::Maps {}), maps.into_iter().map(Arc::new).collect());
        let since = SystemTime::now();
        let id = proxy.id;
        let (open, drained, sent, synced, unanswered) = (0, false, HashSet::new(), false, None);
        let connected = Connected { proxy, hello, peer, since, open, drained, sent, synced, unanswered };
        self.connected.insert(id, connected);
    }

    /// A connection is over.
    pub(super) fn leave(&mut self, id: ProxyId) {
        self.fleet.leave(id);
        self.connected.remove(&id);
        let unanswered = self.unacknowledged.extract_if(|(proxy, _), _| *proxy == id).map(|(_, told)| told);
        for told in unanswered.collect::<Vec<_>>() {
            if let Told::Take { from, id } = told {
                // It may have had it: who passed it on must not go on with it.
                self.passed(from, id, String::new());
            }
        }
    }

    /// A proxy passes a connection on, to the one that accepts.
    pub(super) fn pass(&mut self, from: ProxyId, pass: handoff::PassConnection, fds: Vec<OwnedFd>) {
        let handoff::PassConnection { id, connection } = pass;
        if !PASSED_FDS.contains(&fds.len()) {
            return self.passed(from, id, format!("{} file descriptors", fds.len()));
        }
        let acceptor = self.fleet.acceptor().filter(|acceptor| *acceptor != from);
        let Some(acceptor) = acceptor.filter(|acceptor| self.takes_connections(*acceptor)) else {
            return self.passed(from, id, "no other proxy takes it".to_owned());
        };
        let passing = |told: &&Told| matches!(told, Told::Take { from: passes, .. } if *passes == from);
        if self.unacknowledged.values().filter(passing).count() >= MOST_PASSING {
            return self.passed(from, id, format!("{MOST_PASSING} are on their way already"));
        }
        let take = from_agent::Message::TakeConnection(handoff::TakeConnection { connection });
        match self.send(acceptor, take, fds.into_iter().map(Arc::new).collect()) {
            Some(message) => drop(self.unacknowledged.insert((acceptor, message), Told::Take { from, id })),
            None => self.passed(from, id, "the other proxy is too far behind".to_owned()),
        }
    }

    /// Tells a proxy what became of a connection that it passed on; with an error, it is still its own.
    pub(super) fn passed(&mut self, from: ProxyId, id: u64, error: String) {
        let passed = handoff::ConnectionPassed { id, error };
        self.send(from, from_agent::Message::ConnectionPassed(passed), Vec::new());
    }

    fn takes_connections(&self, id: ProxyId) -> bool {
        self.connected.get(&id).is_some_and(|connected| connected.hello.takes_connections)
    }

    /// A proxy accepts: the older ones drain.
    pub(super) fn ready(&mut self, id: ProxyId, drain: Duration) {
        for superseded in self.fleet.ready(id) {
            tracing::info!(proxy = superseded.0, by = id.0, "a newer proxy accepts; the older one drains");
            self.counts.takeovers.inc();
            self.send_drain(superseded, drain);
        }
        self.remind(drain);
    }

    /// Tells those that stand by once more that another proxy accepts: they may have connections to pass on, and know of it
    /// from an agent that is gone.
    pub(super) fn remind(&mut self, drain: Duration) {
        if self.any_ready() {
            for id in self.fleet.standing_by().collect::<Vec<_>>() {
                self.send_drain(id, drain);
            }
        }
    }

    fn send_drain(&mut self, id: ProxyId, drain: Duration) {
        let deadline_ms = drain.as_millis() as u64;
        let pass_connections = self.fleet.acceptor().is_some_and(|acceptor| self.takes_connections(acceptor));
        let drain = handoff::Drain { deadline_ms, pass_connections };
        self.send(id, from_agent::Message::Drain(drain), Vec::new());
    }

    /// A proxy drains, with so many connections open: to end, or to stand by.
    pub(super) fn draining(&mut self, id: ProxyId, open: u64, standby: bool) {
        self.fleet.draining(id, standby);
        if let Some(connected) = self.connected.get_mut(&id) {
            connected.open = open;
            connected.drained = open == 0;
        }
    }

    /// A proxy does not answer, since then. It stays: it may be itself again, and nobody else has its connections.
    pub(super) fn unanswered(&mut self, id: ProxyId, since: Instant) {
        let Some(connected) = self.connected.get_mut(&id) else { return };
        connected.unanswered = Some(since);
        tracing::warn!(
            proxy = id.0, pid = connected.peer.pid, version = %connected.hello.proxy_version, since = ?since.elapsed(),
            "a proxy does not answer; its connections may stall"
        );
    }

    /// It answers again.
    pub(super) fn answers(&mut self, id: ProxyId) {
        let Some(connected) = self.connected.get_mut(&id) else { return };
        if let Some(since) = connected.unanswered.take() {
            tracing::info!(proxy = id.0, pid = connected.peer.pid, after = ?since.elapsed(), "the proxy answers again");
        }
    }

    /// What to say of the agent's own pod's proxy, if that accepts, or would, and does not answer. Of another pod's this
    /// pod is not accused: in a rollout that fails it would be deleted for it, with the only agent that works.
    pub(super) fn hung(&self) -> Option<String> {
        let serves = |state| matches!(state, ProxyState::Ready | ProxyState::Standby);
        let counts = |id| self.fleet.member(id).is_some_and(|member| member.own && serves(member.state));
        let mut hung = self.connected.iter().filter(|(id, _)| counts(**id));
        hung.find_map(|(_, Connected { hello, peer, unanswered, .. })| {
            let seconds = unanswered.as_ref()?.elapsed().as_secs();
            Some(format!("proxy {} ({}) has not answered for {seconds}s", peer.pid, hello.proxy_version))
        })
    }

    /// All proxies are to drain; none will accept any more.
    pub(super) fn drain(&mut self, drain: Duration) {
        let serving: Vec<_> = self.fleet.serving().collect();
        for id in &serving {
            self.fleet.draining(*id, false);
        }
        for id in serving {
            self.send_drain(id, drain);
        }
    }

    /// If no proxy accepts, one that stands by is to know every pod again.
    pub(super) fn summon(&mut self) {
        let Some(id) = self.fleet.summon() else { return };
        if let Some(connected) = self.connected.get_mut(&id) {
            tracing::info!(proxy = id.0, "no proxy accepts; one that stands by is sent for");
            connected.sent.clear();
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

    /// Sends what they lack of these pods to the proxies that came since or were sent for.
    pub(super) fn send_pods<'a>(&mut self, pods: impl Iterator<Item = &'a Pod> + Clone, node: &str) {
        for id in self.unsynced() {
            for pod in pods.clone() {
                if !self.was_sent(id, &pod.spec.uid) {
                    self.send_pod(id, pod, node);
                }
            }
        }
    }

    /// Tells those proxies that this is all: what they hold beyond that they let go.
    pub(super) fn end_snapshot(&mut self) {
        for id in self.unsynced() {
            self.send(id, from_agent::Message::SnapshotSent(handoff::SnapshotSent {}), Vec::new());
            if let Some(connected) = self.connected.get_mut(&id) {
                connected.synced = true;
            }
        }
    }

    /// Tells the proxies of a pod, with its sockets.
    pub(super) fn enroll(&mut self, pod: &Pod, node: &str) {
        for id in self.fleet.serving().collect::<Vec<_>>() {
            self.send_pod(id, pod, node);
        }
    }

    /// Tells the proxies what changed of a pod whose sockets they have.
    pub(super) fn update(&mut self, pod: &Pod, node: &str) {
        for id in self.hearing(&pod.spec.uid) {
            self.tell(id, enroll(pod, node, false), Told::Update(pod.spec.uid.clone()), Vec::new());
        }
    }

    /// Tells the proxies to let go of a pod.
    pub(super) fn withdraw(&mut self, uid: &str, drain: Duration) {
        for id in self.hearing(uid) {
            if let Some(connected) = self.connected.get_mut(&id) {
                connected.sent.remove(uid);
            }
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
            unanswered: connected.unanswered,
        };
        let mut proxies: Vec<ProxyStatus> = self.connected.iter().map(status).collect();
        proxies.sort_by_key(|proxy| proxy.generation);
        proxies
    }

    /// The proxies that hear of changes of a pod, of those that accept or are about to: who was told that it knows all
    /// pods, or was sent this one.
    fn hearing(&self, uid: &str) -> Vec<ProxyId> {
        let knows = |connected: &Connected| connected.synced || connected.sent.contains(uid);
        self.fleet.serving().filter(|id| self.connected.get(id).is_some_and(knows)).collect()
    }

    /// The proxies that accept or are about to, and wait for pods.
    fn unsynced(&self) -> Vec<ProxyId> {
        self.fleet.serving().filter(|id| self.connected.get(id).is_some_and(|connected| !connected.synced)).collect()
    }

    fn was_sent(&self, id: ProxyId, uid: &str) -> bool {
        self.connected.get(&id).is_some_and(|connected| connected.sent.contains(uid))
    }

    fn send_pod(&mut self, id: ProxyId, pod: &Pod, node: &str) {
        self.tell(id, enroll(pod, node, true), Told::Enroll(pod.spec.uid.clone()), sockets(pod));
        self.counts.pods_sent.inc();
        if let Some(connected) = self.connected.get_mut(&id) {
            connected.sent.insert(pod.spec.uid.clone());
        }
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

fn sockets(pod: &Pod) -> Vec<Arc<OwnedFd>> {
    pod.listeners.iter().map(|listener| listener.socket.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::mpsc;
    use weir_abi::verdict::Direction;

    use super::{super::policy::tests::pod as spec, *};
    use crate::{
        enroll::policy::Policy,
        handoff::Outgoing,
        netns::{Netns, PodListener},
    };

    const DRAIN: Duration = Duration::from_secs(1);

    fn pod(name: &str) -> Pod {
        let socket = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into());
        let address = "10.0.0.1:15001".parse().unwrap();
        Pod {
            spec: spec(name),
            policy: Policy::default(),
            netns: Arc::new(Netns::open(Path::new("/proc/self/ns/net")).unwrap()),
            cookie: 5,
            slot: 0,
            ips: Vec::new(),
            redirect_ips: Vec::new(),
            listeners: vec![PodListener { direction: Direction::Outbound, worker: 0, address, socket }],
            enrolled: SystemTime::UNIX_EPOCH,
            set: 0,
            changes: None,
        }
    }

    fn join(proxies: &mut Proxies, number: u64) -> mpsc::Receiver<Outgoing> {
        join_of(proxies, number, true)
    }

    /// A proxy of the agent's own pod, or of another.
    fn join_of(proxies: &mut Proxies, number: u64, own: bool) -> mpsc::Receiver<Outgoing> {
        let (proxy, sent) = Proxy::new(ProxyId(number));
        let hello = handoff::Hello { generation: number, takes_connections: number > 1, ..Default::default() };
        proxies.join(proxy, hello, Peer::default(), own, [null(), null()]);
        sent
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// What a proxy was sent since, the maps aside: "+web" with sockets, "~web" without, "-web", "all".
    fn heard(sent: &mut mpsc::Receiver<Outgoing>) -> Vec<String> {
        let name = |uid: &str| uid.trim_start_matches("uid-").to_owned();
        let mut heard = Vec::new();
        while let Ok(Outgoing { message, fds, .. }) = sent.try_recv() {
            heard.push(match message.message.unwrap() {
                from_agent::Message::Maps(_) => continue,
                from_agent::Message::Enroll(enroll) => {
                    assert_eq!(enroll.listeners.len(), fds.len());
                    format!("{}{}", if fds.is_empty() { '~' } else { '+' }, name(&enroll.workload.unwrap().uid))
                }
                from_agent::Message::Withdraw(withdraw) => format!("-{}", name(&withdraw.uid)),
                from_agent::Message::SnapshotSent(_) => "all".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        heard
    }

    #[test]
    fn a_proxy_gets_each_pod_once_and_before_it_is_told_that_this_is_all() {
        let (mut proxies, web, shop) = (Proxies::default(), pod("web"), pod("shop"));
        let mut sent = join(&mut proxies, 1);
        proxies.send_pods([&web].into_iter(), "n1");
        assert_eq!(heard(&mut sent), ["+web"], "whatever becomes of the other");
        assert!(!proxies.connected[&ProxyId(1)].synced);
        proxies.send_pods([&web, &shop].into_iter(), "n1");
        proxies.end_snapshot();
        assert_eq!(heard(&mut sent), ["+shop", "all"]);
        proxies.send_pods([&web, &shop].into_iter(), "n1");
        proxies.end_snapshot();
        assert_eq!(heard(&mut sent), [""; 0]);
    }

    #[test]
    fn who_waits_for_more_pods_hears_what_becomes_of_those_it_has() {
        let (mut proxies, web, shop) = (Proxies::default(), pod("web"), pod("shop"));
        let mut sent = join(&mut proxies, 1);
        proxies.send_pods([&web].into_iter(), "n1");
        proxies.update(&web, "n1");
        proxies.update(&shop, "n1");
        proxies.withdraw("uid-shop", DRAIN);
        assert_eq!(heard(&mut sent), ["+web", "~web"], "of a pod that it lacks it hears nothing");
        // In the place of another: it accepts for the one before it lets go of the other.
        proxies.enroll(&shop, "n1");
        proxies.withdraw("uid-web", DRAIN);
        assert!(proxies.letting_go("uid-web"));
        proxies.send_pods([&shop].into_iter(), "n1");
        assert_eq!(heard(&mut sent), ["+shop", "-web"]);
        proxies.send_pods([&web, &shop].into_iter(), "n1");
        assert_eq!(heard(&mut sent), ["+web"], "one that came back");
    }

    #[tokio::test(start_paused = true)]
    async fn the_proxy_that_serves_is_named_while_it_does_not_answer_and_stays() {
        let mut proxies = Proxies::default();
        let _old = join(&mut proxies, 1);
        proxies.ready(ProxyId(1), DRAIN);
        proxies.unanswered(ProxyId(1), Instant::now());
        tokio::time::advance(Duration::from_secs(37)).await;
        assert_eq!(proxies.hung().as_deref(), Some("proxy 0 () has not answered for 37s"));
        assert!(proxies.any_ready() && proxies.own_serves());
        proxies.answers(ProxyId(1));
        assert_eq!(proxies.hung(), None);

        // A newer one takes over from one that hangs.
        proxies.unanswered(ProxyId(1), Instant::now());
        let _new = join(&mut proxies, 2);
        proxies.ready(ProxyId(2), DRAIN);
        assert_eq!(proxies.hung(), None);
        assert!(proxies.status()[0].unanswered.is_some(), "its own connections may stall");
        proxies.draining(ProxyId(1), 0, true);
        assert!(proxies.hung().is_some(), "of this pod, it could not accept again");
        proxies.leave(ProxyId(1));
        assert_eq!(proxies.hung(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_not_accused_of_what_another_pods_proxy_does() {
        let mut proxies = Proxies::default();
        let _old = join(&mut proxies, 1);
        proxies.ready(ProxyId(1), DRAIN);
        let _own = join(&mut proxies, 2);
        proxies.ready(ProxyId(2), DRAIN);
        proxies.draining(ProxyId(1), 0, true);
        proxies.leave(ProxyId(2));
        // The old pod's agent, whose proxy stands by, while a new pod's accepts that has no agent.
        let _new = join_of(&mut proxies, 3, false);
        proxies.ready(ProxyId(3), DRAIN);
        assert_eq!(proxies.acceptor_process().map(|(id, _)| id), Some(ProxyId(3)));
        proxies.unanswered(ProxyId(3), Instant::now());
        assert_eq!(proxies.hung(), None);
        assert!(proxies.status().iter().any(|proxy| proxy.unanswered.is_some()), "it is shown");
        proxies.unanswered(ProxyId(1), Instant::now());
        assert!(proxies.hung().is_some(), "its own would not accept");
    }

    /// What a proxy was sent since of connections: "pass" or "keep" when it drains, "take:u1" with sockets, "had 3" or
    /// "not 3: why".
    fn heard_of_connections(sent: &mut mpsc::Receiver<Outgoing>) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok(Outgoing { message, fds, .. }) = sent.try_recv() {
            heard.push(match message.message.unwrap() {
                from_agent::Message::Maps(_) => continue,
                from_agent::Message::Drain(drain) => if drain.pass_connections { "pass" } else { "keep" }.to_owned(),
                from_agent::Message::TakeConnection(take) => {
                    assert_eq!(fds.len(), 2);
                    format!("{} take:{}", message.id, take.connection.unwrap().uid)
                }
                from_agent::Message::ConnectionPassed(handoff::ConnectionPassed { id, error }) if error.is_empty() => {
                    format!("had {id}")
                }
                from_agent::Message::ConnectionPassed(passed) => format!("not {}: {}", passed.id, passed.error),
                other => panic!("{other:?}"),
            });
        }
        heard
    }

    fn pass(proxies: &mut Proxies, from: u64, id: u64) {
        let connection = handoff::PassedConnection { uid: format!("u{id}"), ..Default::default() };
        let pass = handoff::PassConnection { id, connection: Some(connection) };
        proxies.pass(ProxyId(from), pass, vec![null(), null()]);
    }

    #[test]
    fn connections_go_to_the_proxy_that_accepts_and_its_word_goes_back() {
        let mut proxies = Proxies::default();
        let mut old = join(&mut proxies, 1);
        proxies.ready(ProxyId(1), DRAIN);
        pass(&mut proxies, 1, 1);
        assert_eq!(heard_of_connections(&mut old), ["not 1: no other proxy takes it"], "it accepts itself");
        let mut new = join(&mut proxies, 2);
        proxies.ready(ProxyId(2), DRAIN);
        assert_eq!(heard_of_connections(&mut old), ["pass"]);

        (2..=4).for_each(|id| pass(&mut proxies, 1, id));
        // The maps were the first message.
        assert_eq!(heard_of_connections(&mut new), ["2 take:u2", "3 take:u3", "4 take:u4"]);
        assert_eq!(heard_of_connections(&mut old), [""; 0], "not before the other has said so");
        for (message, error) in [(3, ""), (2, "no room")] {
            let told = proxies.acknowledged(ProxyId(2), message);
            let Some(Told::Take { from, id }) = told else { panic!("{told:?}") };
            proxies.passed(from, id, error.to_owned());
        }
        assert_eq!(heard_of_connections(&mut old), ["had 3", "not 2: no room"]);
        // It may have taken what it has not spoken of.
        proxies.leave(ProxyId(2));
        assert_eq!(heard_of_connections(&mut old), ["had 4"]);
    }

    #[test]
    fn connections_stay_where_the_other_proxy_does_not_take_them_or_has_too_many() {
        let mut proxies = Proxies::default();
        let (mut old, mut new) = (join(&mut proxies, 0), join(&mut proxies, 1));
        proxies.ready(ProxyId(0), DRAIN);
        proxies.ready(ProxyId(1), DRAIN);
        pass(&mut proxies, 0, 1);
        assert_eq!(heard_of_connections(&mut old), ["keep", "not 1: no other proxy takes it"], "it is an older one");
        assert_eq!(heard_of_connections(&mut new), [""; 0]);

        let mut newest = join(&mut proxies, 2);
        proxies.ready(ProxyId(2), DRAIN);
        let most = MOST_PASSING as u64;
        (0..=most).for_each(|id| pass(&mut proxies, 0, id));
        assert_eq!(heard_of_connections(&mut newest).len(), MOST_PASSING);
        assert_eq!(heard_of_connections(&mut old), [format!("not {most}: {most} are on their way already")]);
        // Each proxy has its own.
        pass(&mut proxies, 1, 1);
        assert_eq!(heard_of_connections(&mut newest).len(), 1);
        // Two sockets, and what pipes need.
        proxies.pass(ProxyId(1), handoff::PassConnection::default(), vec![null()]);
        assert_eq!(heard_of_connections(&mut new), ["pass", "not 0: 1 file descriptors"]);
    }

    #[test]
    fn who_stands_by_is_told_of_the_proxy_that_accepts_by_each_agent() {
        let mut proxies = Proxies::default();
        let (proxy, mut standby) = Proxy::new(ProxyId(1));
        let hello = handoff::Hello { standby: true, ..Default::default() };
        proxies.join(proxy, hello, Peer::default(), true, [null(), null()]);
        proxies.remind(DRAIN);
        assert_eq!(heard_of_connections(&mut standby), [""; 0], "none accepts yet");
        let _new = join(&mut proxies, 2);
        proxies.ready(ProxyId(2), DRAIN);
        assert_eq!(heard_of_connections(&mut standby), ["pass"]);
        proxies.remind(DRAIN);
        assert_eq!(heard_of_connections(&mut standby), ["pass"]);
    }
}
