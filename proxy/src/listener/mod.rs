//! From an accepted connection to what serves it: its listener, what its first bytes tell, its filter chain.

mod admit;
mod authz;
mod behalf;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod inspect;
mod matching;
mod peek;
pub(crate) mod proxy_protocol;
mod refused;
mod secure;
mod simple;
mod sniff;
#[cfg(test)]
mod tests;
mod tunnel;

use std::{
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    inspect::Found,
    matching::{Facts, Protocols},
    refused::Refused,
    sniff::{Protocol, sniff_codec, sniff_tls},
};
use crate::{
    access_log::Flag,
    config::{
        http::Codec,
        listener::{FilterChain, Listener, Seat, Terminal},
        network::{CLUSTER_KEY, NetworkFilter},
        overload::Remedy,
    },
    downstream::{Downstream, Origin},
    drain::Drain,
    http::connection,
    pod::Direction,
    tcp::{
        self, Asked, Limits,
        copy::{Copied, Ways},
        gate::Gate,
        line::Line,
    },
    telemetry::stats::{Gauge, Shard, process},
    tls::failure::Failure,
    view::{Awaited, ViewId},
    wire::{in_place::in_place, io::Io, named::NamedAddress, seldom::Seldom},
    worker::state::Worker,
};

/// So long does a connection wait for its view: clients have given up by then, or will have soon.
const VIEW_PATIENCE: Duration = Duration::from_secs(15);

/// Serves a connection to its end. Boxed: each future on its way would hold a place for it.
pub async fn serve(worker: Rc<Worker>, downstream: Box<Downstream>) {
    tracing::debug!(connection = downstream.id, "new connection from {}", downstream.peer);
    if !admitted(&worker, &downstream).await {
        return;
    }
    match found(&worker, &downstream) {
        Whose::Listener(listener) if rejects(&worker, &downstream, Some(&listener)) => {
            worker.stats.inc(listener.stats.downstream_cx_overload_reject);
        }
        // As no listener could.
        Whose::Nobody(_) if rejects(&worker, &downstream, None) => {
            worker.stats.inc(process::OVERLOAD_CX_REFUSED);
            downstream.stream.reset_on_close(true);
        }
        // Connections that pass as they are need no room for this.
        Whose::Listener(listener) => in_place(|| serve_on(worker, downstream, listener)).await,
        Whose::Nobody(direction) => in_place(|| pass_through(worker, downstream, direction)).await,
        Whose::Refused => {
            worker.stats.inc(process::VIEW_CX_REFUSED);
            let (destination, view) = (downstream.destination, downstream.view());
            tracing::debug!(connection = downstream.id, %destination, "a listener that may be for it was refused");
            complain(&worker, view, "a listener was refused: connections that no other one is for are closed");
        }
        Whose::Gone => tracing::debug!(origin = ?downstream.origin, "the listener is gone"),
    }
}

/// What a connection is served by.
enum Whose {
    Listener(Arc<Listener>),
    /// No listener is for what a pod opened, or somebody to it.
    Nobody(Direction),
    /// One may be that is not there.
    Refused,
    /// It has gone since.
    Gone,
}

fn found(worker: &Worker, downstream: &Downstream) -> Whose {
    let snapshot = worker.snapshot(downstream.view()).load();
    match &downstream.origin {
        Origin::Pod { direction, .. } => match snapshot.listener_for(*direction, downstream.destination) {
            Some(listener) => Whose::Listener(listener),
            None if snapshot.lacks(*direction) => Whose::Refused,
            None => Whose::Nobody(*direction),
        },
        Origin::Bound { listener: name, .. } | Origin::Within { listener: name, .. } => {
            snapshot.listener(name).cloned().map_or(Whose::Gone, Whose::Listener)
        }
    }
}

/// Waits until the connection's view is there. Whether it is.
async fn admitted(worker: &Worker, downstream: &Downstream) -> bool {
    let view = downstream.view();
    let awaited = match &downstream.origin {
        Origin::Pod { .. } => Awaited::Listeners,
        Origin::Bound { .. } | Origin::Within { .. } => Awaited::Start,
    };
    let gate = worker.views.gate(view);
    if gate.has(awaited) {
        return true;
    }
    tracing::debug!(connection = downstream.id, "waits for its view");
    let there = Box::pin(tokio::time::timeout(VIEW_PATIENCE, gate.wait(awaited))).await.is_ok();
    if !there {
        worker.stats.inc(process::VIEW_CX_REFUSED);
        complain(worker, view, "nothing was heard of listeners: connections are closed until it is");
    }
    there
}

/// Says once what is wrong with a view.
fn complain(worker: &Worker, view: ViewId, what: &'static str) {
    if worker.views.gate(view).may_complain() {
        tracing::warn!(view = worker.views.name(view), "{what}");
    }
}

async fn serve_on(worker: Rc<Worker>, mut downstream: Box<Downstream>, listener: Arc<Listener>) {
    worker.stats.record(listener.stats.connections_accepted_per_socket_event, 1);
    let Some(seats) = Seats::take(&worker, &downstream, &listener) else { return };
    // Most listeners log nothing: then there is nothing to gather.
    let logs = !listener.access_log.is_empty();
    let mut line = logs.then(|| Box::new(Line::new(worker.clone(), &downstream, Some(listener.clone()))));
    let mut found = Found::default();
    if look(&worker, &mut downstream, &listener, &mut found, line.as_deref_mut()).await.is_err() {
        return;
    }
    // The listener of the destination has its own filters, limits and logs.
    let other = hand_over(&worker, &downstream, &listener);
    let _seats = match &other {
        None => seats,
        Some(other) => {
            drop(seats);
            let Some(seats) = Seats::take(&worker, &downstream, other) else { return };
            match &mut line {
                Some(line) => line.move_to(other),
                None if !other.access_log.is_empty() => {
                    line = Some(Box::new(Line::new(worker.clone(), &downstream, Some(other.clone()))));
                }
                None => {}
            }
            if look(&worker, &mut downstream, other, &mut found, line.as_deref_mut()).await.is_err() {
                return;
            }
            seats
        }
    };
    let listener = other.as_ref().unwrap_or(&listener).clone();
    serve_seen(worker, downstream, listener, found, line).await;
}

/// Runs the listener filters.
async fn look(
    worker: &Worker,
    downstream: &mut Downstream,
    listener: &Listener,
    found: &mut Found,
    line: Option<&mut Line>,
) -> Result<(), Refused> {
    let looked = {
        let _active = Active::new(&worker.stats, listener.stats.downstream_pre_cx_active);
        inspect::inspect(&worker.stats, downstream, listener, found).await
    };
    downstream.fingerprints = found.hello.as_ref().and_then(|hello| hello.fingerprints.clone());
    let hello = found.hello.as_ref().filter(|hello| !hello.server_name.is_empty());
    downstream.server_name = hello.map(|hello| hello.server_name.as_str().into());
    if let Some(line) = line {
        line.learn(downstream);
    }
    looked.inspect_err(|refused| {
        tracing::debug!(connection = downstream.id, peer = %downstream.peer, listener = %listener.name, %refused, "listener filters");
    })
}

/// The listener that has a connection instead of the one that accepted it.
fn hand_over(worker: &Worker, downstream: &Downstream, listener: &Listener) -> Option<Arc<Listener>> {
    if !downstream.restored || !listener.use_original_destination {
        return None;
    }
    worker.snapshot(downstream.view()).load().listener_by_address(listener, downstream.destination)
}

/// Serves a connection of which all is known that decides about its filter chain.
async fn serve_seen(
    worker: Rc<Worker>,
    mut downstream: Box<Downstream>,
    listener: Arc<Listener>,
    found: Found,
    mut line: Option<Box<Line>>,
) {
    let Some(chain) = find_chain(&listener, &downstream, &found) else {
        worker.stats.inc(listener.stats.no_filter_chain_match);
        if let Some(line) = &mut line {
            line.entry.raise(Flag::NoRouteFound);
            line.entry.details = "filter_chain_not_found".into();
        }
        tracing::debug!(connection = downstream.id, peer = %downstream.peer, listener = %listener.name, "no filter chain matches");
        return;
    };
    let http = found.http;
    drop(found);
    downstream.place = Some(chain.place.clone());
    if let Some(line) = &mut line {
        line.entry.place.clone_from(&downstream.place);
    }
    let Some(drain) = chain.drain.as_ref().map(Drain::watch) else {
        return serve_chain(worker, downstream, listener, chain, http, line).await;
    };
    downstream.drain = downstream.drain.and(&drain);
    tokio::select! {
        biased;
        () = in_place(|| serve_chain(worker, downstream, listener, chain, http, line)) => {}
        () = Seldom::new(drain.forced()) => {}
    }
}

/// Serves a connection on its filter chain.
async fn serve_chain(
    worker: Rc<Worker>,
    mut downstream: Box<Downstream>,
    listener: Arc<Listener>,
    chain: Arc<FilterChain>,
    http: Option<Protocol>,
    mut line: Option<Box<Line>>,
) {
    let _open = Open::new(&worker, &listener);
    let discovered;
    let terminal = match &chain.terminal {
        Terminal::Discovered(slot) => {
            discovered = slot.current();
            discovered.as_deref()
        }
        known => Some(known),
    };
    let (Some(filters), Some(terminal)) = (chain.current_filters(), terminal) else {
        worker.stats.inc(listener.stats.network_extension_config_missing);
        tracing::debug!(connection = downstream.id, listener = %listener.name, "the configuration of a network filter has not come");
        return;
    };
    // Counted whatever becomes of it.
    let mut open = None;
    match terminal {
        Terminal::Tcp(proxy) => {
            worker.stats.inc(proxy.stats.downstream_cx_total);
            let new = || Box::new(Line::new(worker.clone(), &downstream, Some(listener.clone())));
            line.get_or_insert_with(new).proxy = Some(proxy.clone());
        }
        Terminal::Http(manager) => {
            open = Some(connection::Open::new(worker.clone(), manager.clone(), chain.tls.is_some()));
        }
        // What came by itself is no such thing again.
        Terminal::Echo | Terminal::DirectResponse(_) | Terminal::Discovered(_) => {}
    }
    let admitted = admit::admit(&worker, &filters, &mut downstream, line.as_deref_mut()).await;
    let Some(mut admitted) = admitted else { return };
    let limits = match terminal {
        Terminal::Tcp(proxy) => Limits::new(&proxy.settings),
        _ => Limits::default(),
    };
    if chain.tls.is_some() {
        let expired = async {
            match (terminal, &open) {
                (Terminal::Tcp(proxy), _) => limits.passed(&worker, proxy).await,
                (_, Some(open)) => (open.silent_too_long().await, None),
                _ => std::future::pending().await,
            }
        };
        // A connection is as large as the largest that may become of it. What it is for a while stands apart.
        let secured = in_place(|| secured(&worker, &listener, &chain, *downstream, expired, line.as_deref_mut()));
        downstream = match secured.await {
            Ok(downstream) => downstream,
            Err(Unsecured::Failed) => {
                if let Some(open) = &open {
                    open.client_ended();
                }
                return;
            }
            Err(Unsecured::Expired) => return,
        };
    }
    admit::after_handshake(&filters, &mut downstream);
    if let Some(line) = &mut line {
        line.learn(&downstream);
    }
    match terminal {
        Terminal::Discovered(_) => {}
        Terminal::Tcp(proxy) => {
            let Some(line) = &mut line else { return };
            let chosen = downstream.filter_state.as_ref().and_then(|state| state.get(CLUSTER_KEY));
            let asked = Asked {
                open: proxy.tunnel.is_some().then(|| tunnel::opener(&worker, &downstream)),
                gate: gate(&worker, &filters, &downstream),
                cluster: admitted.cluster.take().or_else(|| chosen.map(|name| name.to_string().into())),
                limits,
            };
            in_place(|| tcp::proxy(worker.clone(), downstream, proxy, asked, line)).await;
        }
        Terminal::Echo => {
            let gate = gate(&worker, &filters, &downstream);
            Box::pin(simple::echo(&mut downstream, gate.as_ref(), line.as_deref_mut())).await;
        }
        Terminal::DirectResponse(response) => simple::respond(&mut downstream, response, line.as_deref_mut()).await,
        Terminal::Http(manager) => {
            let Some(open) = open else { return };
            let codec = {
                let gate = gate(&worker, &filters, &downstream);
                let known = (manager.codec, http);
                codec(known, gate.as_ref(), &mut downstream, &open, line.as_deref_mut()).await
            };
            let Some(codec) = codec else { return };
            if let Some(line) = &mut line {
                line.entry.protocol = Some(if codec == Codec::Http2 { "HTTP/2" } else { "HTTP/1.1" });
                downstream.told = Some(line.told.clone());
            }
            connection::serve(open, downstream, codec).await;
        }
    }
}

/// What asks the filters of a chain about a connection.
fn gate<'a>(worker: &'a Worker, filters: &'a [Arc<NetworkFilter>], downstream: &Downstream) -> Option<Gate<'a>> {
    Gate::new(filters, &worker.stats, downstream, || authz::asker(worker, downstream))
}

/// Which HTTP a connection speaks, configured or seen by a listener filter, once its filters have admitted it. None: it is
/// over.
async fn codec(
    (configured, seen): (Codec, Option<Protocol>),
    gate: Option<&Gate<'_>>,
    downstream: &mut Downstream,
    open: &connection::Open,
    mut line: Option<&mut Line>,
) -> Option<Codec> {
    if let Some(gate) = gate
        && !simple::first_byte_admitted(downstream, gate, open, line.as_deref_mut()).await
    {
        return None;
    }
    match (configured, seen) {
        (Codec::Auto, Some(protocol)) => Some(protocol.codec()),
        (Codec::Auto, None) => wait_for_codec(downstream, open)
            .await
            .inspect_err(|reason| {
                if let Some(line) = &line {
                    line.told.close_reason.set(reason);
                }
            })
            .ok(),
        (codec, _) => Some(codec),
    }
}

/// Why a connection has no TLS.
enum Unsecured {
    /// The client did not get through the handshake.
    Failed,
    /// This side did not wait any longer.
    Expired,
}

/// Shakes hands. `expired` resolves with the reason, and a flag for the log, when the connection has reached a limit.
async fn secured(
    worker: &Worker,
    listener: &Listener,
    chain: &FilterChain,
    downstream: Downstream,
    expired: impl Future<Output = (&'static str, Option<Flag>)>,
    line: Option<&mut Line>,
) -> Result<Box<Downstream>, Unsecured> {
    let Some(tls) = &chain.tls else { return Ok(Box::new(downstream)) };
    let id = downstream.id;
    let handshake = secure::shake_hands(downstream, tls, chain.handshake_timeout, &worker.stats);
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        (reason, flag) = expired => {
            tracing::debug!(connection = id, listener = %listener.name, reason, "TLS handshake takes too long");
            if let Some(line) = line {
                line.closes(reason);
                if let Some(flag) = flag {
                    line.entry.raise(flag);
                }
            }
            return Err(Unsecured::Expired);
        }
    };
    match shaken {
        Ok(downstream) => {
            if let Some(line) = line {
                line.learn(&downstream);
                line.entry.timing.downstream_secured = Some(Instant::now());
            }
            Ok(Box::new(downstream))
        }
        Err(failure) => {
            tracing::debug!(connection = id, listener = %listener.name, %failure, "TLS handshake failed");
            let late = failure == Failure::Timeout;
            if late {
                worker.stats.inc(listener.stats.downstream_cx_transport_socket_connect_timeout);
            }
            match line {
                Some(line) if late => {
                    line.entry.termination_details = failure.reason().into();
                    line.closes("transport_socket_timeout");
                }
                Some(line) => line.entry.downstream_transport_failure = failure.reason().replace(' ', "_").into(),
                None => {}
            }
            Err(if late { Unsecured::Expired } else { Unsecured::Failed })
        }
    }
}

/// Whether a connection is closed before anything is known of it, as the process has too much to do. One that comes from
/// within was let in before.
fn rejects(worker: &Worker, downstream: &Downstream, listener: Option<&Listener>) -> bool {
    let bypasses = listener.is_some_and(|listener| listener.bypasses_overload);
    if bypasses || matches!(downstream.origin, Origin::Within { .. }) {
        return false;
    }
    let strikes = |remedy| worker.overload.strikes(remedy, &worker.stats);
    let rejects = strikes(Remedy::ShedAccepted) || strikes(Remedy::RejectConnections);
    if rejects {
        let listener = listener.map(|listener| &*listener.name);
        tracing::debug!(connection = downstream.id, peer = %downstream.peer, listener, "closed for overload");
    }
    rejects
}

/// A connection's places below its limits.
struct Seats<'a> {
    _of_process: Option<Seat<'a>>,
    _of_listener: Seat<'a>,
}

impl<'a> Seats<'a> {
    fn take(worker: &Worker, downstream: &Downstream, listener: &'a Listener) -> Option<Self> {
        let full = |counter, what: &str| {
            worker.stats.inc(counter);
            tracing::debug!(connection = downstream.id, peer = %downstream.peer, listener = %listener.name, what, "too many connections");
        };
        let of_process = match listener.process_ceiling.as_ref().map(|ceiling| ceiling.admit(&worker.runtime)) {
            Some(None) => {
                full(listener.stats.downstream_global_cx_overflow, "of the process");
                return None;
            }
            seat => seat.flatten(),
        };
        let Some(of_listener) = listener.ceiling.admit(&worker.runtime) else {
            full(listener.stats.downstream_cx_overflow, "of the listener");
            return None;
        };
        Some(Self { _of_process: of_process, _of_listener: of_listener })
    }
}

/// A connection that has a filter chain, counted until dropped.
struct Open<'a> {
    worker: &'a Worker,
    listener: &'a Listener,
    since: Instant,
}

impl<'a> Open<'a> {
    fn new(worker: &'a Worker, listener: &'a Listener) -> Self {
        listener.stats.opened(&worker.stats, worker.index);
        Self { worker, listener, since: Instant::now() }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.listener.stats.closed(&self.worker.stats, self.worker.index, self.since.elapsed());
    }
}

/// Counted in a gauge until dropped.
struct Active<'a>(&'a Shard, Gauge);

impl<'a> Active<'a> {
    fn new(shard: &'a Shard, gauge: Gauge) -> Self {
        shard.gauge_add(gauge, 1);
        Self(shard, gauge)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.gauge_add(self.1, -1);
    }
}

fn find_chain(listener: &Listener, downstream: &Downstream, found: &Found) -> Option<Arc<FilterChain>> {
    let facts = Facts {
        destination: matched(downstream.destination),
        source: matched(downstream.peer),
        direct_source: matched(downstream.direct_peer),
        server_name: downstream.server_name.as_deref().unwrap_or_default(),
        transport_protocol: if found.hello.is_some() { "tls" } else { "raw_buffer" },
        application_protocols: match (found.http, &found.hello) {
            (Some(http), _) => Protocols::Found(http.names()),
            (None, Some(hello)) => Protocols::Offered(&hello.protocols),
            (None, None) => Protocols::Found(&[]),
        },
        filter_state: downstream.filter_state.as_deref(),
    };
    matching::find(listener, &facts).cloned()
}

/// The address that filter chains see: where there is no IP address, Envoy has them see this one.
fn matched(address: SocketAddr) -> SocketAddr {
    NamedAddress::ip(&address).map_or(SocketAddr::new(Ipv4Addr::BROADCAST.into(), 0), |_| address)
}

/// Which HTTP the client speaks, once it speaks. Error: it stayed silent for as long as that may be, or for a moment when
/// the connection drains; the reason that logs give.
async fn wait_for_codec(downstream: &mut Downstream, open: &connection::Open) -> Result<Codec, &'static str> {
    let drain = downstream.drain.clone();
    let drained = async {
        drain.draining().await;
        tokio::time::sleep(connection::LAST_REQUEST).await;
    };
    let spoken = async {
        match &downstream.tls {
            Some(tls) => sniff_tls(&mut downstream.stream, tls).await,
            None => sniff_codec(&downstream.stream).await,
        }
    };
    tokio::select! {
        codec = spoken => Ok(codec),
        reason = open.silent_too_long() => Err(reason),
        () = drained => Err(""),
    }
}

/// A pod's connection for which there is no listener goes where it wanted to go.
async fn pass_through(worker: Rc<Worker>, downstream: Box<Downstream>, direction: Direction) {
    let proxy = worker.passthrough.of(direction).clone();
    let mut line = Line::new(worker.clone(), &downstream, None);
    line.proxy = Some(proxy.clone());
    tcp::proxy(worker, downstream, &proxy, Asked::default(), &mut line).await;
}

/// Goes on with such a connection of another proxy, whatever listeners there are here.
pub(crate) async fn carry_on(worker: Rc<Worker>, downstream: Box<Downstream>, moved: Copied, upstream: (Io, Ways)) {
    let Origin::Pod { direction, .. } = downstream.origin else { return };
    let proxy = worker.passthrough.of(direction).clone();
    let mut line = Line::new(worker.clone(), &downstream, None);
    line.proxy = Some(proxy.clone());
    line.told.meter.add(moved.received, moved.sent);
    Box::pin(tcp::carry_on(worker, downstream, upstream, &proxy, &mut line)).await;
}
