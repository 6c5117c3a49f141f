//! The handoff client against an agent played by the test: real workers, real sockets, one packet at a time. The tests
//! count this process's file descriptors, so they take turns.
#![expect(clippy::unwrap_used, reason = "a test says enough by failing there")]

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockname, listen, socket};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    task::LocalSet,
    time::timeout,
};
use weir_proto::handoff::v1::{
    Direction, Drain, Draining, Enroll, Family, FromAgent, FromProxy, Listener, Maps, Ping, SnapshotSent, Sockets,
    Withdraw, Workload, from_agent, from_proxy,
};
use weir_proxy::{
    cluster::Local,
    config::{
        tcp::Passthrough,
        views::{InForce, Views},
    },
    drain,
    http::pool::Pools,
    intake::{
        handoff::{Client, Status, Superseded},
        passing::PassingOn,
        pods::Pods,
        seqpacket::{Connection, Packet},
    },
    telemetry::{
        stats::{Store, process},
        writer::LogHandle,
    },
    view::ViewNames,
    worker::{Worker, Workers},
};

const PATIENCE: Duration = Duration::from_secs(10);

static TURN: Mutex<()> = Mutex::new(());

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The played agent: its listening socket, and what it has connected.
struct Agent {
    listener: Arc<UnixListener>,
    _directory: tempfile::TempDir,
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// A proxy's connection to the played agent.
struct Session {
    connection: Connection,
    next_id: u64,
    /// What Hello said.
    standby: bool,
}

impl Agent {
    fn listen() -> Self {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("handoff.sock");
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&fd, Backlog::new(16).unwrap()).unwrap();
        Self { listener: Arc::new(fd.into()), _directory: directory, path, _turn: turn }
    }

    async fn accept(&self) -> Session {
        let listener = self.listener.clone();
        let accepted = tokio::task::spawn_blocking(move || listener.accept().unwrap().0);
        let stream = timeout(PATIENCE, accepted).await.expect("the proxy dials").unwrap();
        stream.set_nonblocking(true).unwrap();
        Session { connection: Connection::new(stream.into()).unwrap(), next_id: 1, standby: false }
    }
}

impl Session {
    async fn receive(&mut self) -> (from_proxy::Message, Vec<OwnedFd>) {
        let packet = timeout(PATIENCE, self.connection.receive()).await.expect("the proxy says something").unwrap();
        let Packet { bytes, fds } = packet.expect("the proxy stays");
        (FromProxy::decode(&*bytes).unwrap().message.unwrap(), fds)
    }

    /// The next message that is no NeedSockets.
    async fn receive_other(&mut self) -> (from_proxy::Message, Vec<OwnedFd>) {
        loop {
            let (message, fds) = self.receive().await;
            if !matches!(message, from_proxy::Message::NeedSockets(_)) {
                return (message, fds);
            }
        }
    }

    async fn hello(&mut self) -> u32 {
        match self.receive().await.0 {
            from_proxy::Message::Hello(hello) => {
                assert_eq!((hello.version, hello.generation, hello.workers, hello.answers_ping), (1, 7, 2, true));
                self.standby = hello.standby;
                hello.pods_held
            }
            other => panic!("{other:?}, not Hello"),
        }
    }

    async fn send(&mut self, message: from_agent::Message, fds: &[BorrowedFd<'_>]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let message = FromAgent { id, message: Some(message) };
        self.connection.send(&message.encode_to_vec(), fds).await.unwrap();
        id
    }

    /// Sends what is acknowledged, and returns the error in the acknowledgement.
    async fn ask(&mut self, message: from_agent::Message, fds: &[BorrowedFd<'_>]) -> String {
        let id = self.send(message, fds).await;
        loop {
            match self.receive_other().await.0 {
                from_proxy::Message::Ack(ack) => {
                    assert_eq!(ack.id, id);
                    return ack.error;
                }
                // One that drains says so now and then.
                from_proxy::Message::Draining(_) => {}
                other => panic!("{other:?}, not Ack"),
            }
        }
    }

    async fn enroll(&mut self, uid: &str, listeners: &[&TcpListener]) -> String {
        let fds: Vec<_> = listeners.iter().map(|listener| listener.as_fd()).collect();
        self.ask(from_agent::Message::Enroll(enrolment(uid, listeners)), &fds).await
    }

    async fn snapshot_sent(&mut self) {
        self.send(from_agent::Message::SnapshotSent(SnapshotSent {}), &[]).await;
        let (message, _) = self.receive_other().await;
        assert!(matches!(message, from_proxy::Message::Ready(_)), "{message:?}, not Ready");
    }

    async fn withdraw(&mut self, uid: &str) -> String {
        self.ask(from_agent::Message::Withdraw(Withdraw { uid: uid.into(), drain_ms: 100 }), &[]).await
    }
}

fn enrolment(uid: &str, listeners: &[&TcpListener]) -> Enroll {
    let workload = Workload { uid: uid.into(), ips: vec!["127.0.0.1".into()], ..Workload::default() };
    let listeners = listeners.iter().enumerate().map(|(worker, listener)| Listener {
        direction: Direction::Outbound.into(),
        worker: worker as u32,
        address: listener.local_addr().unwrap().to_string(),
    });
    Enroll { workload: Some(workload), listeners: listeners.collect() }
}

/// A proxy as `bootstrap::serve` puts it together, with two workers.
struct Proxy {
    stats: Store,
    status: watch::Receiver<Status>,
    drain: watch::Sender<Option<Duration>>,
    workers: Rc<Workers>,
}

impl Proxy {
    fn start(agent: &Agent) -> Self {
        Self::start_for(agent, Superseded::Finishes)
    }

    fn start_for(agent: &Agent, superseded: Superseded) -> Self {
        Self::start_at(agent, superseded, || {})
    }

    /// The same whose second worker does this before it looks at anything.
    fn start_at(agent: &Agent, superseded: Superseded, second: impl FnOnce() + Send + 'static) -> Self {
        let mut second = Some(second);
        let stats = Store::new(2);
        let workers = (0..2).map(|index| {
            let (stats, drain) = (stats.worker(index), drain::Drain::new().watch());
            let first = if index == 1 { second.take() } else { None };
            move || {
                first.into_iter().for_each(|first| first());
                Worker {
                    index,
                    views: Views::new([InForce::at_once(Arc::default())]),
                    passthrough: Arc::new(Passthrough::new(None)),
                    pools: Pools::default(),
                    balancers: Local::default(),
                    log: LogHandle::discard(),
                    stats,
                    drain,
                    lifecycle: Arc::default(),
                    runtime: Arc::default(),
                    overload: Arc::default(),
                    rested: Default::default(),
                }
            }
        });
        let workers = Rc::new(Workers::start(workers, PATIENCE).unwrap());
        let (needs, needed) = mpsc::channel(16);
        let (status, changes) = watch::channel(Status::Starting);
        let (drain, asked) = watch::channel(None);
        let (passing_on, passing) = PassingOn::new();
        let pods = Pods::new(workers.clone(), needs, passing, stats.shared(), 1000, ViewNames::default());
        let client = Client::new(agent.path.clone(), 7, pods, needed, passing_on, stats.clone(), status);
        tokio::task::spawn_local(client.when(superseded).run(asked));
        Self { stats, status: changes, drain, workers }
    }

    /// Connects, and waits until a worker has taken the connection and found no original destination.
    async fn is_accepted_at(&self, address: SocketAddr) {
        let before = self.stats.total(process::NO_ORIGINAL_DESTINATION);
        let client = TcpStream::connect(address).unwrap();
        timeout(PATIENCE, async {
            while self.stats.total(process::NO_ORIGINAL_DESTINATION) == before {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("a worker accepts");
        drop(client);
    }
}

fn listeners(count: usize) -> Vec<TcpListener> {
    (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect()
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn a_pod_is_served_until_it_is_withdrawn_and_listeners_come_back_to_a_new_agent() {
    let agent = Agent::listen();
    run(async {
        let proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        assert_eq!(session.hello().await, 0);
        session.send(from_agent::Message::Maps(Maps {}), &[null().as_fd(), null().as_fd()]).await;
        let sockets = listeners(3);
        let sockets: Vec<_> = sockets.iter().collect();
        assert_eq!(session.enroll("pod-a", &sockets).await, "");
        assert_eq!(*proxy.status.borrow(), Status::Starting);
        session.snapshot_sent().await;
        // Three listeners, two workers: each has one.
        for socket in &sockets {
            proxy.is_accepted_at(socket.local_addr().unwrap()).await;
        }
        assert_eq!(*proxy.status.borrow(), Status::Ready);

        // The agent dies. What is held is served on.
        drop(session);
        proxy.is_accepted_at(sockets[0].local_addr().unwrap()).await;
        let mut session = agent.accept().await;
        assert_eq!(session.hello().await, 1);
        let (message, fds) = session.receive().await;
        let from_proxy::Message::ListenersBack(back) = message else { panic!("{message:?}, not ListenersBack") };
        assert_eq!((&*back.uid, fds.len()), ("pod-a", 3));
        for (listener, fd) in back.listeners.iter().zip(&fds) {
            let address: nix::sys::socket::SockaddrIn = getsockname(fd.as_raw_fd()).unwrap();
            assert_eq!(listener.address, address.to_string());
        }
        // The new agent has the pod under the same sockets; only its description is sent.
        assert_eq!(session.enroll("pod-a", &[]).await, "");
        session.snapshot_sent().await;
        proxy.is_accepted_at(sockets[2].local_addr().unwrap()).await;

        // New sockets replace the old ones.
        let others = listeners(1);
        assert_eq!(session.enroll("pod-a", &[&others[0]]).await, "");
        proxy.is_accepted_at(others[0].local_addr().unwrap()).await;

        assert_eq!(session.withdraw("pod-a").await, "");
        let address = others[0].local_addr().unwrap();
        drop(others);
        assert!(TcpStream::connect(address).is_err(), "a socket of a withdrawn pod is left");
        assert_eq!(session.withdraw("pod-a").await, "", "a second time is no error");
    });
}

#[test]
fn pods_that_a_new_agent_does_not_know_are_withdrawn() {
    let agent = Agent::listen();
    run(async {
        let _proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        let mut sockets = listeners(1);
        assert_eq!(session.enroll("pod-a", &[&sockets[0]]).await, "");
        session.snapshot_sent().await;
        drop(session);

        let mut session = agent.accept().await;
        session.hello().await;
        drop(session.receive().await);
        session.snapshot_sent().await;
        let address = sockets.remove(0).local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err());
    });
}

#[test]
fn upstream_sockets_are_asked_for_and_used() {
    let agent = Agent::listen();
    run(async {
        let proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        let sockets = listeners(1);
        let fds = [sockets[0].as_fd()];
        session.send(from_agent::Message::Enroll(enrolment("pod-a", &[&sockets[0]])), &fds).await;
        let need = loop {
            if let (from_proxy::Message::NeedSockets(need), _) = session.receive().await {
                break need;
            }
        };
        assert_eq!((&*need.uid, need.family()), ("pod-a", Family::Ipv4));
        let upstream: Vec<OwnedFd> = (0..need.count)
            .map(|_| {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
            })
            .collect();
        let fds: Vec<_> = upstream.iter().map(AsFd::as_fd).collect();
        let answer = Sockets { uid: "pod-a".into(), family: Family::Ipv4.into(), error: String::new() };
        session.send(from_agent::Message::Sockets(answer), &fds).await;
        timeout(PATIENCE, async {
            while proxy.stats.total(process::UPSTREAM_SOCKETS_RECEIVED) < u64::from(need.count) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn bad_enrolments_are_answered_with_the_reason() {
    let agent = Agent::listen();
    run(async {
        let _proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        let sockets = listeners(1);
        let before = open_fds();
        let enroll = |workload, listeners| from_agent::Message::Enroll(Enroll { workload, listeners });
        let error = session.ask(enroll(None, Vec::new()), &[]).await;
        assert_eq!(error, "workload: missing");
        let error = session.enroll("pod-a", &[]).await;
        assert_eq!(error, "no listeners, and none are held for this pod");
        let message = from_agent::Message::Enroll(enrolment("pod-a", &[&sockets[0]]));
        let error = session.ask(message.clone(), &[null().as_fd(), null().as_fd()]).await;
        assert_eq!(error, "1 listeners with 2 file descriptors");
        let error = session.ask(message, &[null().as_fd()]).await;
        assert!(error.ends_with("Socket operation on non-socket (os error 88)"), "{error}");
        assert_eq!(open_fds(), before);

        // What is no message ends the session; the proxy comes back.
        session.connection.send(b"\xff\xff\xff", &[null().as_fd()]).await.unwrap();
        let mut session = agent.accept().await;
        session.hello().await;
    });
}

#[test]
fn two_hundred_pods_come_and_go_without_a_trace() {
    let agent = Agent::listen();
    run(async {
        let proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        session.snapshot_sent().await;
        let mut before = None;
        for round in 0..201 {
            let uid = format!("pod-{round}");
            {
                let sockets = listeners(4);
                let sockets: Vec<_> = sockets.iter().collect();
                assert_eq!(session.enroll(&uid, &sockets).await, "");
                proxy.is_accepted_at(sockets[round % 4].local_addr().unwrap()).await;
                let answer = Sockets { uid: uid.clone(), family: Family::Ipv4.into(), error: String::new() };
                let spare: Vec<_> = (0..20).map(|_| null()).collect();
                let spare: Vec<_> = spare.iter().map(AsFd::as_fd).collect();
                session.send(from_agent::Message::Sockets(answer), &spare).await;
                assert_eq!(session.withdraw(&uid).await, "");
            }
            if round == 0 {
                before = Some(settled(None).await);
            }
        }
        assert_eq!(settled(before).await, before.unwrap());
        assert_eq!(proxy.stats.open_connections(), 0);
    });
}

/// Open file descriptors once the last tasks have ended: as many as `expected`, or what they are after a while.
async fn settled(expected: Option<usize>) -> usize {
    let patience = Duration::from_secs(2);
    let _ = timeout(patience, async {
        while expected != Some(open_fds()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    open_fds()
}

#[test]
fn a_superseded_proxy_stops_accepting_and_says_how_it_drains() {
    let agent = Agent::listen();
    run(async {
        let mut proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        let sockets = listeners(1);
        assert_eq!(session.enroll("pod-a", &[&sockets[0]]).await, "");
        session.snapshot_sent().await;
        session.send(from_agent::Message::Drain(Drain { deadline_ms: 5000, pass_connections: false }), &[]).await;
        let superseded = Status::Superseded(Duration::from_secs(5));
        timeout(PATIENCE, proxy.status.wait_for(|status| *status == superseded)).await.unwrap().unwrap();
        let (message, _) = session.receive_other().await;
        let from_proxy::Message::Draining(draining) = message else { panic!("{message:?}, not Draining") };
        assert_eq!(draining.open, 0);
        // The connection waits for the successor.
        let total = proxy.stats.total(process::NO_ORIGINAL_DESTINATION);
        let _client = TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(proxy.stats.total(process::NO_ORIGINAL_DESTINATION), total);
        sockets[0].accept().unwrap();
        assert_eq!(proxy.workers.len(), 2);
    });
}

#[test]
fn a_superseded_proxy_stands_by_and_accepts_again_when_it_is_sent_the_pods() {
    let agent = Agent::listen();
    run(async {
        let mut proxy = Proxy::start_for(&agent, Superseded::StandsBy);
        let mut session = agent.accept().await;
        session.hello().await;
        let sockets = listeners(1);
        let address = sockets[0].local_addr().unwrap();
        assert_eq!(session.enroll("pod-a", &[&sockets[0]]).await, "");
        session.snapshot_sent().await;
        let standby = async |session: &mut Session| {
            let (message, _) = session.receive_other().await;
            assert!(matches!(message, from_proxy::Message::Draining(Draining { standby: true, .. })), "{message:?}");
        };
        session.send(from_agent::Message::Drain(Drain { deadline_ms: 5000, pass_connections: false }), &[]).await;
        standby(&mut session).await;
        // This connection waits for whoever accepts.
        let _client = TcpStream::connect(address).unwrap();
        sockets[0].accept().unwrap();
        assert_eq!(*proxy.status.borrow(), Status::Ready);

        // It stands by for the next agent as well, which is told so.
        drop(session);
        let mut session = agent.accept().await;
        assert_eq!(session.hello().await, 0);
        assert!(session.standby);
        standby(&mut session).await;
        assert_eq!(session.enroll("pod-a", &[&sockets[0]]).await, "");
        session.snapshot_sent().await;
        proxy.is_accepted_at(address).await;

        // From then on it is like any other.
        drop(session);
        let mut session = agent.accept().await;
        assert_eq!(session.hello().await, 1);
        assert!(!session.standby);
        drop(session.receive().await);
        session.snapshot_sent().await;
        session.send(from_agent::Message::Drain(Drain { deadline_ms: 5000, pass_connections: false }), &[]).await;
        standby(&mut session).await;
        proxy.drain.send_replace(Some(Duration::from_secs(5)));
        timeout(PATIENCE, proxy.status.wait_for(|status| *status == Status::Stopped)).await.unwrap().unwrap();
        let last = timeout(PATIENCE, async {
            loop {
                if let (from_proxy::Message::Draining(Draining { standby: false, .. }), _) = session.receive().await {
                    return;
                }
            }
        });
        last.await.expect("one that ends does not stand by");
    });
}

#[test]
fn a_proxy_that_is_told_to_end_stops_accepting_and_still_gets_sockets() {
    let agent = Agent::listen();
    run(async {
        let mut proxy = Proxy::start(&agent);
        let mut session = agent.accept().await;
        session.hello().await;
        let sockets = listeners(1);
        assert_eq!(session.enroll("pod-a", &[&sockets[0]]).await, "");
        session.snapshot_sent().await;
        proxy.drain.send_replace(Some(Duration::from_secs(5)));
        timeout(PATIENCE, proxy.status.wait_for(|status| *status == Status::Stopped)).await.unwrap().unwrap();
        // The agent hears of it at once, and counts on another proxy.
        let (message, _) = session.receive_other().await;
        assert!(matches!(message, from_proxy::Message::Draining(Draining { open: 0, standby: false })), "{message:?}");
        assert_eq!(session.enroll("pod-b", &[&sockets[0]]).await, "this proxy is draining");
        // The session lasts: connections that drain need sockets.
        assert_eq!(session.withdraw("pod-b").await, "");
        let _client = TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
        sockets[0].accept().unwrap();
    });
}

#[test]
fn a_proxy_that_is_told_to_end_while_the_agent_is_away_does_not_begin_with_the_next() {
    let agent = Agent::listen();
    run(async {
        let mut proxy = Proxy::start(&agent);
        drop(agent.accept().await);
        proxy.drain.send_replace(Some(Duration::from_secs(5)));
        timeout(PATIENCE, proxy.status.wait_for(|status| *status == Status::Stopped)).await.unwrap().unwrap();
    });
}

#[test]
fn a_ping_is_answered_once_every_worker_has_come_round() {
    let agent = Agent::listen();
    run(async {
        let (go_on, hung) = std::sync::mpsc::channel::<()>();
        let _proxy = Proxy::start_at(&agent, Superseded::Finishes, move || _ = hung.recv());
        let mut session = agent.accept().await;
        session.hello().await;
        // The first worker answers, the second hangs; what needs neither goes on.
        let first = session.send(from_agent::Message::Ping(Ping {}), &[]).await;
        let second = session.send(from_agent::Message::Ping(Ping {}), &[]).await;
        assert_eq!(session.enroll("", &[]).await, "workload.uid: empty");
        assert_eq!(session.withdraw("pod-a").await, "", "and none of the Pings was acknowledged");
        go_on.send(()).unwrap();
        let (message, _) = session.receive_other().await;
        let from_proxy::Message::Ack(ack) = message else { panic!("{message:?}, not Ack") };
        assert!(ack.error.is_empty() && ack.id == second && ack.id != first, "the last one counts: {ack:?}");
        assert_eq!(session.ask(from_agent::Message::Ping(Ping {}), &[]).await, "");
    });
}
