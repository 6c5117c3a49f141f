//! TCP proxying: an upstream for a connection, then bytes both ways until both sides are done.

mod connect;
pub(crate) mod copy;
pub(crate) mod gate;
pub(crate) mod line;
pub(crate) mod tunnel;
pub(crate) mod way;

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use self::{
    connect::{Connected, Failed, Held},
    copy::{Copied, Ended, Request, Side, Ways},
    gate::Gate,
    line::Line,
    tunnel::Open,
};
use crate::{
    access_log::{CloseType, Flag, LogType},
    config::{
        cluster::Host,
        tcp::{Settings, Target, TcpProxy},
    },
    downstream::{Downstream, Meter, Origin},
    drain::DrainWatch,
    pod::{
        Direction, Pod,
        passing::{Fate, Passage, Place},
    },
    telemetry::stats::process,
    wire::{io::Io, seldom::Seldom},
    worker::state::Worker,
};

/// How long before the end of a drain a connection ends at its first lull, rather than with a request under way.
const LAST: Duration = Duration::from_secs(2);
/// How long before the end of a drain a connection is cut that is in the middle of something: before it is dropped.
pub(crate) const CUT: Duration = Duration::from_millis(50);
/// Why a connection is closed that is as old as it may become.
const TOO_OLD: &str = "max_connection_duration_reached";
/// Why a connection is closed on which nothing moves.
const IDLE: &str = "tcp_session_idle_timeout";

/// What network filters say of a connection.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    /// What opens streams, where connections go through some.
    pub open: Option<Open<'a>>,
    /// What is asked with its first bytes.
    pub gate: Option<Gate<'a>>,
    /// The cluster that it goes to; none: what is configured.
    pub cluster: Option<Arc<str>>,
    /// How long it may be.
    pub limits: Limits,
}

/// Until when a connection may last, from when it is admitted; none: for ever.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    too_old: Option<Instant>,
    idle: Option<Instant>,
}

impl Limits {
    /// Of a connection that is admitted now.
    pub fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            too_old: lifetime(settings, fastrand::f64()).map(|most| now + most),
            idle: settings.idle_timeout.map(|most| now + most),
        }
    }

    /// Resolves, and is counted, when one of them has passed of a connection that has not come to be carried yet: with
    /// the reason for its end.
    pub async fn passed(&self, worker: &Worker, proxy: &TcpProxy) -> (&'static str, Option<Flag>) {
        tokio::select! {
            () = until(self.too_old) => {
                worker.stats.inc(proxy.stats.max_downstream_connection_duration);
                (TOO_OLD, Some(Flag::DurationTimeout))
            }
            () = until(self.idle) => {
                worker.stats.inc(proxy.stats.idle_timeout);
                (IDLE, None)
            }
        }
    }
}

/// Carries one connection to its end. `line` brings what the listener knows, and learns the rest; the connection is
/// counted in the proxy's `downstream_cx_total` already.
pub(crate) async fn proxy(
    worker: Rc<Worker>,
    downstream: Box<Downstream>,
    proxy: &TcpProxy,
    asked: Asked<'_>,
    line: &mut Line,
) {
    let Asked { open, gate, cluster, limits } = asked;
    let settings = &proxy.settings;
    if settings.log.on_start {
        line.write_now(LogType::TcpConnectionStart);
    }
    // In a place of its own: it takes as much as all that comes after it.
    let connecting = Box::pin(async {
        match (&proxy.tunnel, &open) {
            (Some(tunnel), Some(open)) => {
                let how = (tunnel, open);
                connect::through_tunnel(&worker, &downstream, settings, cluster.as_ref(), how, &mut line.entry).await
            }
            _ => connect::to_target(&worker, &downstream, settings, cluster.as_ref(), &mut line.entry).await,
        }
    });
    let connected = tokio::select! {
        biased;
        connected = connecting => connected,
        () = until(limits.too_old) => return end_of_life(&worker, proxy, line),
    };
    let Connected { stream, tls, held, kept: _kept } = match connected {
        Ok(connected) => connected,
        Err(failed) => {
            fail(&worker, &downstream, proxy, line, &failed);
            return;
        }
    };
    line.entry.upstream_local = stream.local_addr().ok().or(line.entry.upstream_local);
    line.entry.upstream_tls = tls;
    tracing::debug!(connection = downstream.id, "attached upstream connection [C{}]", line.entry.upstream_connection);
    if settings.log.on_established {
        line.write_now(LogType::TcpUpstreamConnected);
    }
    let upstream = Upstream { stream, ways: Ways::default(), held, gate };
    carry(&worker, downstream, upstream, proxy, limits.too_old, line).await;
}

/// Goes on with a connection that another proxy has passed on; its lines and its pod are known.
pub(crate) async fn carry_on(
    worker: Rc<Worker>,
    downstream: Box<Downstream>,
    (stream, ways): (Io, Ways),
    proxy: &TcpProxy,
    line: &mut Line,
) {
    connect::know(&downstream, &stream, &proxy.settings, &mut line.entry);
    carry(&worker, downstream, Upstream { stream, ways, held: None, gate: None }, proxy, None, line).await;
}

/// What a connection is carried to.
struct Upstream<'a> {
    stream: Io,
    ways: Ways,
    held: Option<Held>,
    gate: Option<Gate<'a>>,
}

/// Copies until the end, which `line` learns, or until another proxy has the connection.
async fn carry(
    worker: &Worker,
    mut downstream: Box<Downstream>,
    mut upstream: Upstream<'_>,
    proxy: &TcpProxy,
    too_old: Option<Instant>,
    line: &mut Line,
) {
    let drain = downstream.drain.clone();
    let (began, log) = (Instant::now(), &proxy.settings.log);
    let host = upstream.held.as_ref().and_then(Held::to_end_with);
    let ended = tokio::select! {
        biased;
        ended = copy(worker, &mut downstream, &mut upstream, proxy, line) => Some(ended),
        () = until(too_old) => None,
        () = Seldom::new(cut(&drain, line)) => Some(Ended::Cut),
        () = Seldom::new(failed(host.as_deref())) => Some(Ended::HostFailed),
        () = every(log.interval, began, || line.write_now(LogType::TcpPeriodic)) => None,
    };
    let Upstream { stream, held, gate, .. } = upstream;
    if matches!(ended, Some(Ended::Cut)) {
        // Neither end may take what it has for the whole.
        copy::reset_on_close(&downstream.stream);
        copy::reset_on_close(&stream);
    }
    if let Some(gate) = &gate {
        drop(stream);
        gate.close(Some(line)).await;
    }
    match ended {
        Some(ended) => tell(worker, &downstream, proxy, held.as_ref(), &ended, line),
        None => end_of_life(worker, proxy, line),
    }
}

/// Copies until the end. A connection that passes as it is leaves for the proxy that accepts instead, if that takes it.
async fn copy(
    worker: &Worker,
    downstream: &mut Downstream,
    upstream: &mut Upstream<'_>,
    proxy: &TcpProxy,
    line: &Line,
) -> Ended {
    let Upstream { stream, ways, held, gate } = upstream;
    let drain = downstream.drain.clone();
    let counted = |moved: Copied| {
        line.told.meter.add(moved.received, moved.sent);
        worker.stats.add(proxy.stats.downstream_cx_rx_bytes_total, moved.received);
        worker.stats.add(proxy.stats.downstream_cx_tx_bytes_total, moved.sent);
        if let Some(held) = &held {
            held.count(moved.received, moved.sent);
        }
    };
    let passenger = Passenger::of(downstream, stream, proxy);
    let mut kept = false;
    loop {
        let place = Cell::new(None);
        let asked = Seldom::new(Box::pin(async {
            tokio::select! {
                () = drain.forced_within(LAST) => Request::Lull,
                given = place_of(passenger.as_ref(), kept) => {
                    place.set(Some(given));
                    Request::Leave
                }
            }
        }));
        let idle = proxy.settings.idle_timeout;
        let ends = (&mut downstream.stream, &mut *stream);
        let ended = copy::both_ways(ways, ends, idle, asked, gate.as_ref(), counted).await;
        let (Ended::Leaves, Some(passenger), Some(place)) = (&ended, &passenger, place.take()) else { return ended };
        line.leaves.set(true);
        match passenger.pass(place, &line.told.meter, ways, [&downstream.stream, stream]).await {
            Fate::Taken => {
                worker.stats.inc(process::CX_PASSED_ON);
                return ended;
            }
            Fate::Unknown => {
                worker.stats.inc(process::CX_PASSED_ON_UNKNOWN);
                return ended;
            }
            Fate::Kept(reason) => {
                line.leaves.set(false);
                worker.stats.inc(process::CX_NOT_PASSED_ON);
                tracing::debug!(connection = downstream.id, reason, "not passed on");
                kept = true;
            }
        }
    }
}

/// A pod's connection that passes as it is: another proxy can carry it on.
struct Passenger {
    pod: Arc<Pod>,
    direction: Direction,
    accepted: std::time::Instant,
}

impl Passenger {
    fn of(downstream: &Downstream, upstream: &Io, proxy: &TcpProxy) -> Option<Self> {
        let bare = downstream.stream.plain().is_some() && upstream.plain().is_some();
        match (&downstream.origin, &proxy.settings.target) {
            (Origin::Pod { pod, direction }, Target::OriginalDestination(_)) if bare => {
                Some(Self { pod: pod.clone(), direction: *direction, accepted: downstream.accepted })
            }
            _ => None,
        }
    }

    async fn pass(&self, place: Place, meter: &Meter, ways: &Ways, ends: [&Io; 2]) -> Fate {
        let Self { pod, direction, accepted } = self;
        let undelivered = match ways.undelivered() {
            Ok(undelivered) => undelivered,
            Err(error) => return Fate::Kept(error.to_string()),
        };
        let passage = Passage {
            direction: *direction,
            accepted: *accepted,
            received: meter.received.get(),
            sent: meter.sent.get(),
            answered: ways.answered(),
            streams: ways.streams(),
            undelivered,
        };
        let [Some(one), Some(other)] = ends.map(Io::plain) else { return Fate::Kept("it has no socket".to_owned()) };
        pod.local.passing.pass(place, pod.uid.clone(), passage, [one, other]).await
    }
}

/// Resolves when it is this connection's turn to be passed on; `again`: it was kept before.
async fn place_of(passenger: Option<&Passenger>, again: bool) -> Place {
    match passenger {
        Some(passenger) => passenger.pod.local.passing.place(again).await,
        None => std::future::pending().await,
    }
}

/// Resolves when a connection has to end at once. One that another proxy may have already is not this one's to end.
async fn cut(drain: &DrainWatch, line: &Line) {
    drain.forced_within(CUT).await;
    if line.leaves.get() {
        std::future::pending::<()>().await;
    }
}

/// Resolves when a host becomes unhealthy.
async fn failed(host: Option<&Host>) {
    match host {
        Some(host) => host.failed.notified().await,
        None => std::future::pending().await,
    }
}

/// How a connection has ended: for its line, its cluster and the log.
fn tell(
    worker: &Worker,
    downstream: &Downstream,
    proxy: &TcpProxy,
    held: Option<&Held>,
    ended: &Ended,
    line: &mut Line,
) {
    match ended {
        // One that fails has the other end with a reset too.
        Ended::Failed(Side::Upstream, _) => {
            line.entry.raise(Flag::UpstreamRemoteReset);
            (line.entry.upstream_close, line.entry.downstream_close) = (CloseType::RemoteReset, CloseType::LocalReset);
        }
        Ended::Failed(Side::Downstream, _) => {
            // As Envoy tells it: of a reset that it passes on to the upstream it says nothing.
            line.entry.downstream_close = CloseType::RemoteReset;
        }
        Ended::Idle => {
            worker.stats.inc(proxy.stats.idle_timeout);
            line.closes(IDLE);
            line.entry.upstream_close_reason = IDLE;
        }
        Ended::Cut => {
            (line.entry.upstream_close, line.entry.downstream_close) = (CloseType::LocalReset, CloseType::LocalReset);
        }
        Ended::Finished { .. } | Ended::Lull | Ended::Leaves | Ended::Refused | Ended::HostFailed => {}
    }
    if let Some(held) = held {
        held.ended_remotely(matches!(
            ended,
            Ended::Failed(Side::Upstream, _) | Ended::Finished { last: Side::Upstream }
        ));
    }
    tracing::debug!(
        connection = downstream.id,
        peer = %downstream.peer,
        destination = %downstream.destination,
        received = line.told.meter.received.get(),
        sent = line.told.meter.sent.get(),
        %ended,
        "connection ended"
    );
}

/// There is no upstream.
fn fail(worker: &Worker, downstream: &Downstream, proxy: &TcpProxy, line: &mut Line, failed: &Failed) {
    line.entry.raise(failed.flag());
    if matches!(failed, Failed::Connect(_)) {
        line.entry.raise(Flag::UpstreamRetryLimitExceeded);
    }
    if matches!(failed, Failed::NoCluster) {
        worker.stats.inc(proxy.stats.downstream_cx_no_route);
    }
    line.closes(format!("tcp_initializion_failure:{}", failed.number()));
    tracing::debug!(connection = downstream.id, peer = %downstream.peer, destination = %downstream.destination, %failed, "no upstream");
    if matches!(downstream.origin, Origin::Pod { .. }) {
        // The client sees it fail at once, as it would without us.
        copy::reset_on_close(&downstream.stream);
    }
}

/// The connection is as old as it may become.
fn end_of_life(worker: &Worker, proxy: &TcpProxy, line: &mut Line) {
    worker.stats.inc(proxy.stats.max_downstream_connection_duration);
    line.entry.raise(Flag::DurationTimeout);
    line.closes(TOO_OLD);
    if line.entry.upstream_local.is_some() {
        line.entry.upstream_close_reason = TOO_OLD;
    }
}

/// How old a connection may become; `random` is from 0 to 1.
fn lifetime(settings: &Settings, random: f64) -> Option<Duration> {
    let most = settings.max_duration?;
    Some(most.saturating_add(most.mul_f64(settings.max_duration_jitter / 100.0 * random)))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Does something at an interval that runs since `began`; never resolves.
async fn every(interval: Option<Duration>, began: Instant, mut what: impl FnMut()) {
    let Some(interval) = interval else { return std::future::pending().await };
    let mut ticks = tokio::time::interval_at(began + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        what();
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{drain::Drain, view::ViewId};

    #[tokio::test]
    async fn what_is_in_the_middle_of_something_when_a_drain_ends_is_reset() {
        let [listener, server] = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
        let (listener, server) = (listener.unwrap(), server.unwrap());
        let local = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(local).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let drain = Drain::new();
        let origin = Origin::Bound { view: ViewId::OWN, listener: "l".into() };
        let now = std::time::Instant::now();
        let downstream = Downstream::new(stream, peer, local, origin, now, drain.watch());
        let downstream = Box::new(Downstream { destination: server.local_addr().unwrap(), ..downstream });
        let worker = Rc::new(Worker::with(0, Arc::new(ArcSwap::default()), drain.watch()));
        let proxy = worker.passthrough.of(Direction::Outbound).clone();
        let mut line = Line::new(worker.clone(), &downstream, None);
        let carried = super::proxy(worker, downstream, &proxy, Asked::default(), &mut line);
        let ends = async {
            let (mut at_server, _) = server.accept().await.unwrap();
            client.write_all(b"a request").await.unwrap();
            at_server.read_exact(&mut [0; 9]).await.unwrap();
            drain.start(Some(CUT * 4));
            let error = |read: std::io::Result<usize>| read.map_err(|error| error.kind());
            let reset = Err(std::io::ErrorKind::ConnectionReset);
            assert_eq!(error(client.read(&mut [0; 1]).await), reset);
            assert_eq!(error(at_server.read(&mut [0; 1]).await), reset);
        };
        tokio::join!(carried, ends);
    }

    #[test]
    fn a_lifetime_may_be_stretched() {
        let mut settings = Settings::passthrough("c");
        assert_eq!(lifetime(&settings, 0.5), None);
        settings.max_duration = Some(Duration::from_secs(10));
        assert_eq!(lifetime(&settings, 0.5), Some(Duration::from_secs(10)));
        settings.max_duration_jitter = 50.0;
        assert_eq!(lifetime(&settings, 0.5), Some(Duration::from_millis(12_500)));
    }
}
