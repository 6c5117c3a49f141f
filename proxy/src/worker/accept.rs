//! Accepting: what a worker does with a listening socket until it is told to stop.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use weir_abi::map::{INBOUND_PORT, OUTBOUND_PORT};

use crate::{
    downstream::{Downstream, Origin},
    drain::DrainWatch,
    linger::close_by_reset,
    listener,
    pod::{Admitted, Direction, Pod, passing::Passage},
    tcp::copy::{Copied, Ways},
    telemetry::{
        panics,
        stats::{Counter, Shard, process},
    },
    view::ViewId,
    wire::{
        named::NamedAddress,
        pipe::{Door, Visitor},
        seldom::Seldom,
        within::{Arrival, Brought},
    },
    worker::state::Worker,
};

/// Pause after accept(2) failed for want of file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a panic: one that happens again and again must not keep a worker from everything else.
const FAULT_PAUSE: Duration = Duration::from_millis(10);
/// Connections that are taken from a socket that is about to be closed: more than it has let wait.
const BACKLOG: usize = 1 << 16;
/// At most one line about failures per worker and listener in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// What a listening socket belongs to.
#[derive(Clone, Debug)]
pub enum Source {
    /// A listener of the configuration.
    Bound {
        /// Its view.
        view: ViewId,
        /// Its name.
        listener: Arc<str>,
        /// The process's drain.
        drain: DrainWatch,
    },
    /// A pod.
    Pod {
        /// Swapped when the agent describes it anew.
        pod: Arc<ArcSwap<Pod>>,
        /// Which of its sockets.
        direction: Direction,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound { listener, .. } => write!(f, "listener {listener}"),
            Self::Pod { pod, direction } => {
                let pod = pod.load();
                let direction = match direction {
                    Direction::Outbound => "outbound",
                    Direction::Inbound => "inbound",
                };
                write!(f, "pod {}/{} {direction}", pod.namespace, pod.name)
            }
        }
    }
}

/// Why a connection is closed as soon as it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("no original destination was recorded: the client dialled the redirect port itself")]
    NoOriginalDestination,
    #[error("the destination is the redirect port itself")]
    SelfPort,
    #[error("the pod has as many open connections as it may")]
    TooManyConnections,
    #[error("the client is gone already")]
    Gone,
}

impl Refusal {
    fn counter(self) -> Option<Counter> {
        match self {
            Self::NoOriginalDestination => Some(process::NO_ORIGINAL_DESTINATION),
            Self::SelfPort => Some(process::SELF_PORT_REFUSED),
            Self::TooManyConnections => Some(process::POD_CX_OVERFLOW),
            Self::Gone => None,
        }
    }
}

/// Accepts until `stop` changes or its sender is gone, also after a panic.
pub(super) async fn run(worker: Rc<Worker>, mut stop: watch::Receiver<()>, door: Door, source: Source) {
    // Whoever stops this waits for `stop` to be dropped and counts on a closed socket: arguments are dropped last to
    // first, so `stop` stands before `door`.
    let stopped = async {
        // Told already, or by the sender's end.
        let _ = stop.changed().await;
    };
    let accepting = async {
        while panics::caught(accept(&worker, &door, &source)).await.is_none() {
            tokio::time::sleep(FAULT_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => {}
        () = accepting => {}
    }
    // A pod's sockets outlive this process, and connections wait in them for the next one.
    if matches!(source, Source::Bound { .. }) {
        accept_what_has_come(&worker, door, &source);
    }
}

/// Takes the connections that wait to be accepted: closing the socket would reset them, though another process may accept at
/// the same address by now.
fn accept_what_has_come(worker: &Rc<Worker>, door: Door, source: &Source) {
    let Ok(socket) = door.into_socket() else { return };
    for _ in 0..BACKLOG {
        let Ok(visitor) = socket.accept() else { return };
        take(worker, source, visitor, &mut Complaints::default());
    }
}

/// Accepts until the socket is destroyed.
async fn accept(worker: &Rc<Worker>, door: &Door, source: &Source) {
    let mut complaints = Complaints::default();
    let pauses = || async {
        worker.overload.accepts_none().await;
        if source.bypasses_overload(worker) {
            std::future::pending().await
        }
    };
    let mut paused = std::pin::pin!(Seldom::new(pauses()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut paused => {
                // Connections wait in the socket meanwhile.
                worker.overload.accepts_again().await;
                paused.set(Seldom::new(pauses()));
                continue;
            }
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok(visitor) => take(worker, source, visitor, &mut complaints),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // Root in the pod may destroy any socket of its namespace (SOCK_DESTROY); trying again would spin.
                worker.stats.inc(process::ACCEPT_ERRORS);
                tracing::warn!(%source, "a listening socket was destroyed; nothing is accepted on it any more");
                return;
            }
            Err(error) => {
                worker.stats.inc(process::ACCEPT_ERRORS);
                if complaints.may() {
                    tracing::warn!(%error, "cannot accept connections");
                }
                if is_exhausted(&error) {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

/// Carries an accepted connection, or says why not.
fn take(worker: &Rc<Worker>, source: &Source, visitor: Visitor, complaints: &mut Complaints) {
    let peer = visitor.peer;
    match source.admit(visitor) {
        Ok((downstream, admitted)) => carry(worker, Box::new(downstream), admitted),
        Err(refusal) => {
            if let Some(counter) = refusal.counter() {
                worker.stats.inc(counter);
            }
            tracing::debug!(%peer, %source, reason = %refusal, "connection refused");
            if refusal == Refusal::TooManyConnections && complaints.may() {
                tracing::warn!(%peer, %source, reason = %refusal, "connection refused");
            }
        }
    }
}

/// Serves the connection, until it ends or its drain is forced.
fn carry(worker: &Rc<Worker>, downstream: Box<Downstream>, admitted: Option<Admitted>) {
    worker.stats.inc(process::DOWNSTREAM_CX_TOTAL);
    let (id, drain) = (downstream.id, downstream.drain.clone());
    run_open(worker, id, drain, admitted, listener::serve(worker.clone(), downstream));
}

/// Runs what serves a connection in a task of its own.
fn run_open(
    worker: &Rc<Worker>,
    id: u64,
    drain: DrainWatch,
    admitted: Option<Admitted>,
    served: impl Future<Output = ()> + 'static,
) {
    let open = Open::new(worker.stats.clone(), admitted);
    let forced = Seldom::new(async move { drain.forced().await });
    panics::spawn_for(id, Carried { served, forced, open });
}

pin_project_lite::pin_project! {
    /// A connection's task. Not an async block, which has room for what it is given twice: as it came, and where it is awaited.
    struct Carried<S, F> {
        #[pin]
        served: S,
        #[pin]
        forced: Seldom<F>,
        open: Open,
    }
}

impl<S: Future<Output = ()>, F: Future<Output = ()>> Future for Carried<S, F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.served.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.forced.poll(cx),
        }
    }
}

/// Accepts what connects inside of this process, for as long as it is polled.
pub(super) async fn welcome(worker: Rc<Worker>, mut arrivals: mpsc::Receiver<Arrival>) {
    while let Some(Arrival { view, to, stream, brought, dialer, answer }) = arrivals.recv().await {
        let Some(name) = to.listener() else { continue };
        let known = worker.snapshot(view).load().listener(name).is_some_and(|listener| listener.internal);
        // Whoever does not wait for it any more is not served.
        if answer.send(known).is_err() || !known {
            continue;
        }
        let origin = Origin::Within { view, listener: name.into(), dialer };
        let (peer, local) = (NamedAddress::client(), to.address());
        let new = Downstream::new(stream, peer, local, origin, Instant::now(), worker.drain.clone());
        let Brought { metadata, filter_state } = brought;
        carry(&worker, Box::new(Downstream { metadata, filter_state, named: Some(to), ..new }), None);
    }
}

/// A pod's connection that another proxy has passed on.
#[derive(Debug)]
pub struct Taken {
    /// The pod.
    pub pod: Arc<ArcSwap<Pod>>,
    /// What is known of it.
    pub passage: Passage,
    /// The client's connection.
    pub downstream: std::net::TcpStream,
    /// The upstream's.
    pub upstream: std::net::TcpStream,
}

/// Goes on with a connection of another proxy. Error: why not; it is as it was.
pub(super) fn carry_on(worker: &Rc<Worker>, taken: Taken) -> io::Result<()> {
    let Taken { pod, passage, downstream, upstream } = taken;
    let Passage { direction, accepted, received, sent, answered, streams, undelivered } = passage;
    let ways = Ways::with(undelivered, answered, streams)?;
    let peer = downstream.peer_addr()?;
    let [stream, upstream] = [TcpStream::from_std(downstream)?, TcpStream::from_std(upstream)?];
    let source = Source::Pod { pod, direction };
    let (downstream, admitted) = source.admit(Visitor { stream, peer, path: None }).map_err(io::Error::other)?;
    let downstream = Box::new(Downstream { accepted, ..downstream });
    downstream.stream.reset_on_close(false);
    close_by_reset(&upstream, false);
    worker.stats.inc(process::CX_TAKEN_OVER);
    let (id, drain) = (downstream.id, downstream.drain.clone());
    let moved = Copied { received, sent };
    let served = listener::carry_on(worker.clone(), downstream, moved, (upstream.into(), ways));
    run_open(worker, id, drain, admitted, served);
    Ok(())
}

impl Source {
    /// Whether it is for a listener that has nothing done under pressure.
    fn bypasses_overload(&self, worker: &Worker) -> bool {
        match self {
            Self::Bound { view, listener, .. } => {
                worker.snapshot(*view).load().listener(listener).is_some_and(|listener| listener.bypasses_overload)
            }
            Self::Pod { .. } => false,
        }
    }

    fn admit(&self, visitor: Visitor) -> Result<(Downstream, Option<Admitted>), Refusal> {
        let Visitor { stream, peer, path } = visitor;
        let accepted = Instant::now();
        let peer = canonical(peer);
        let local = match &path {
            Some(path) => path.address(),
            None => canonical(stream.local_addr().map_err(|_| Refusal::Gone)?),
        };
        match self {
            Self::Bound { view, listener, drain } => {
                let origin = Origin::Bound { view: *view, listener: listener.clone() };
                let drain = drain.clone();
                let downstream = Downstream::new(stream, peer, local, origin, accepted, drain);
                Ok((Downstream { named: path, ..downstream }, None))
            }
            Self::Pod { pod, direction } => {
                let pod = pod.load_full();
                let destination = match direction {
                    Direction::Outbound => original_destination(&pod, &stream)?,
                    Direction::Inbound if [OUTBOUND_PORT, INBOUND_PORT].contains(&local.port()) => {
                        return Err(Refusal::SelfPort);
                    }
                    Direction::Inbound => local,
                };
                let Some(admitted) = pod.local.admit() else {
                    // Fails at the client at once, instead of ending like an answer of nothing.
                    close_by_reset(&stream, true);
                    return Err(Refusal::TooManyConnections);
                };
                let drain = pod.local.drain(*direction).watch();
                let origin = Origin::Pod { pod, direction: *direction };
                let downstream = Downstream::new(stream, peer, local, origin, accepted, drain);
                Ok((Downstream { destination, ..downstream }, Some(admitted)))
            }
        }
    }
}

fn original_destination(pod: &Pod, stream: &TcpStream) -> Result<SocketAddr, Refusal> {
    let maps = pod.local.maps.load();
    let recorded = maps.as_deref().map(|maps| maps.original_destination(stream)).transpose();
    match recorded {
        Ok(recorded) => recorded.flatten().map(canonical).ok_or(Refusal::NoOriginalDestination),
        Err(error) => {
            tracing::error!(%error, "the map of original destinations cannot be read");
            Err(Refusal::NoOriginalDestination)
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// An open connection, counted out when dropped.
struct Open {
    stats: Shard,
    _admitted: Option<Admitted>,
}

impl Open {
    fn new(stats: Shard, admitted: Option<Admitted>) -> Self {
        stats.gauge_add(process::OPEN_CONNECTIONS, 1);
        Self { stats, _admitted: admitted }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.gauge_add(process::OPEN_CONNECTIONS, -1);
    }
}

/// Says whether it is time for another line.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    fn may(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= COMPLAINT_INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }
}
