//! From an accepted connection to what serves it: its listener, what its first bytes tell, its filter chain.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub(crate) mod line;
mod matching;
mod peek;
mod secure;
mod sniff;

use std::{cell::OnceCell, rc::Rc, sync::Arc, time::Instant};

use self::{
    line::Line,
    matching::{Facts, Protocols},
    sniff::{Protocol, sniff, sniff_tls},
};
use crate::{
    config::{
        http::Codec,
        listener::{FilterChain, Listener, NetworkFilter},
        tcp::{Settings, TcpProxy, TcpStats},
    },
    http::connection,
    intake::{Direction, Downstream, Origin},
    tcp,
    telemetry::{
        access_log::{AccessLog, Flag},
        format::{Format, ISTIO_DEFAULT},
        stats::{Gauge, Shard},
        writer::LogFile,
    },
    tls::{failure::Failure, hello::Hello},
    worker::state::Worker,
};

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, mut downstream: Downstream) {
    let snapshot = worker.snapshot.load_full();
    let listener = match &downstream.origin {
        Origin::Pod { direction, .. } => {
            let direction = *direction;
            match snapshot.listener_for(direction, downstream.destination) {
                Some(listener) => Some(listener),
                None => return pass_through(worker, downstream, direction).await,
            }
        }
        Origin::Bound { listener: name } => snapshot.listeners().iter().find(|known| known.name == *name).cloned(),
    };
    let Some(mut listener) = listener else {
        tracing::debug!(origin = ?downstream.origin, "the listener is gone");
        return;
    };
    if let Origin::Bound { .. } = &downstream.origin {
        if listener.restore_original_destination
            && let Some(destination) = netfilter_destination(&downstream)
        {
            downstream.destination = destination;
            downstream.local = destination;
        }
        if listener.use_original_destination
            && let Some(other) = snapshot.listener_by_address(&listener, downstream.destination)
        {
            listener = other;
        }
    }
    drop(snapshot);
    serve_on(worker, downstream, listener).await;
}

async fn serve_on(worker: Rc<Worker>, downstream: Downstream, listener: Arc<Listener>) {
    let (shard, stats) = (worker.stats.clone(), &listener.stats);
    shard.record(stats.connections_accepted_per_socket_event, 1);
    let seats = (
        listener.process_ceiling.as_ref().map(|ceiling| ceiling.admit(&worker.runtime)),
        listener.ceiling.admit(&worker.runtime),
    );
    let _seats = match seats {
        (Some(None), _) => {
            shard.inc(stats.downstream_global_cx_overflow);
            return tracing::debug!(peer = %downstream.peer, listener = %listener.name, "too many connections in all");
        }
        (_, None) => {
            shard.inc(stats.downstream_cx_overflow);
            return tracing::debug!(peer = %downstream.peer, listener = %listener.name, "too many connections");
        }
        seats => seats,
    };
    let mut line = Line::new(worker.clone(), &downstream, Some(listener.clone()));
    let inspected = {
        let _active = Active::new(&shard, stats.downstream_pre_cx_active);
        inspect(&worker, &downstream, &listener).await
    };
    let Seen { hello, http } = match inspected {
        Ok(seen) => seen,
        Err(refused) => {
            match refused {
                Refused::TooSlow => shard.inc(stats.downstream_pre_cx_timeout),
                Refused::TooLarge => {}
            }
            tracing::debug!(peer = %downstream.peer, listener = %listener.name, %refused, "listener filters");
            return;
        }
    };
    let server_name: Option<Arc<str>> =
        hello.as_ref().filter(|hello| !hello.server_name.is_empty()).map(|hello| hello.server_name.as_str().into());
    line.entry.requested_server_name.clone_from(&server_name);
    let Some(chain) = find_chain(&listener, &downstream, hello.as_ref(), http) else {
        shard.inc(stats.no_filter_chain_match);
        line.entry.raise(Flag::NoRouteFound);
        line.entry.details = "filter_chain_not_found".into();
        tracing::debug!(peer = %downstream.peer, listener = %listener.name, "no filter chain matches");
        return;
    };
    let downstream = Downstream { server_name, ..downstream };
    let _open = Open::new(&worker, &listener);
    serve_chain(worker.clone(), downstream, &chain, http, &mut line).await;
}

/// Has a filter chain serve a connection, to its end.
async fn serve_chain(
    worker: Rc<Worker>,
    mut downstream: Downstream,
    chain: &FilterChain,
    http: Option<Protocol>,
    line: &mut Line,
) {
    if let Some(tls) = &chain.tls {
        downstream = match secure::shake_hands(downstream, tls, chain.handshake_timeout, &worker.stats).await {
            Ok(downstream) => downstream,
            Err(failure) => {
                if failure == Failure::Timeout {
                    line.count(|stats| stats.downstream_cx_transport_socket_connect_timeout);
                }
                tracing::debug!(peer = %line.entry.downstream_remote, %failure, "TLS handshake failed");
                line.entry.downstream_transport_failure = failure.reason().replace(' ', "_").into();
                return;
            }
        };
        line.entry.requested_server_name.clone_from(&downstream.server_name);
        line.entry.tls.clone_from(&downstream.tls);
    }
    match &chain.terminal {
        NetworkFilter::Http(manager) => {
            let codec = match (manager.codec, http) {
                (Codec::Auto, Some(protocol)) => Some(protocol.codec()),
                (Codec::Auto, None) => wait_for_codec(&mut downstream, manager.idle_timeout).await,
                (codec, _) => Some(codec),
            };
            if let Some(codec) = codec {
                connection::serve(worker, downstream, manager.clone(), codec).await;
            }
        }
        NetworkFilter::Tcp(proxy) => tcp::proxy(worker, downstream, proxy, line).await,
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

/// What the listener filters found.
#[derive(Debug, Default)]
struct Seen {
    hello: Option<Hello>,
    http: Option<Protocol>,
}

/// Why the listener filters refuse a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("timed out")]
    TooSlow,
    #[error("the ClientHello is too large")]
    TooLarge,
}

/// Runs the listener filters that look at the first bytes. A client that waits for the server to speak first must not
/// hang: at the timeout the connection goes on without what they would have found, if the listener says so.
async fn inspect(worker: &Worker, downstream: &Downstream, listener: &Listener) -> Result<Seen, Refused> {
    if listener.inspect_tls.is_none() && !listener.inspect_http {
        return Ok(Seen::default());
    }
    let stream = downstream.stream.tcp();
    let looking = async {
        let hello = match &listener.inspect_tls {
            Some(stats) => {
                secure::inspect(stream, stats, &worker.stats).await.map_err(|secure::TooLarge| Refused::TooLarge)?
            }
            None => None,
        };
        let http = if listener.inspect_http && hello.is_none() { sniff(stream).await } else { None };
        Ok(Seen { hello, http })
    };
    match listener.listener_filters_timeout {
        None => looking.await,
        Some(timeout) => match tokio::time::timeout(timeout, looking).await {
            Ok(seen) => seen,
            Err(_) if listener.continue_on_listener_filters_timeout => {
                worker.stats.inc(listener.stats.downstream_pre_cx_timeout);
                Ok(Seen::default())
            }
            Err(_) => Err(Refused::TooSlow),
        },
    }
}

fn find_chain(
    listener: &Listener,
    downstream: &Downstream,
    hello: Option<&Hello>,
    http: Option<Protocol>,
) -> Option<Arc<FilterChain>> {
    let facts = Facts {
        destination: downstream.destination,
        source: downstream.peer,
        server_name: hello.map_or("", |hello| &hello.server_name),
        transport_protocol: if hello.is_some() { "tls" } else { "raw_buffer" },
        application_protocols: match (http, hello) {
            (Some(http), _) => Protocols::Found(http.names()),
            (None, Some(hello)) => Protocols::Offered(&hello.protocols),
            (None, None) => Protocols::Found(&[]),
        },
    };
    matching::find(listener, &facts).cloned()
}

/// Which HTTP the client speaks, once it speaks. None: it went away, or stayed silent for the idle timeout, or for a moment
/// when the connection drains.
async fn wait_for_codec(downstream: &mut Downstream, idle: Option<std::time::Duration>) -> Option<Codec> {
    let silent = async {
        match idle {
            Some(idle) => tokio::time::sleep(idle).await,
            None => std::future::pending().await,
        }
    };
    let drain = downstream.drain.clone();
    let drained = async {
        drain.draining().await;
        tokio::time::sleep(connection::LAST_REQUEST).await;
    };
    let spoken = async {
        match &downstream.tls {
            Some(tls) => sniff_tls(&mut downstream.stream, tls).await,
            None => sniff(downstream.stream.tcp()).await.map_or(Codec::Http1, Protocol::codec),
        }
    };
    tokio::select! {
        codec = spoken => Some(codec),
        () = silent => None,
        () = drained => None,
    }
}

/// The destination before netfilter's REDIRECT.
fn netfilter_destination(downstream: &Downstream) -> Option<std::net::SocketAddr> {
    use nix::sys::socket::{getsockopt, sockopt};
    if downstream.local.is_ipv6() {
        let address = getsockopt(downstream.stream.tcp(), sockopt::Ip6tOriginalDst).ok()?;
        let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
        return Some((ip, u16::from_be(address.sin6_port)).into());
    }
    let address = getsockopt(downstream.stream.tcp(), sockopt::OriginalDst).ok()?;
    let ip = std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Some((ip, u16::from_be(address.sin_port)).into())
}

/// A pod's connection for which there is no listener goes where it wanted to go.
async fn pass_through(worker: Rc<Worker>, downstream: Downstream, direction: Direction) {
    thread_local! {
        static OUTBOUND: OnceCell<Arc<TcpProxy>> = const { OnceCell::new() };
        static INBOUND: OnceCell<Arc<TcpProxy>> = const { OnceCell::new() };
    }
    let (proxies, cluster) = match direction {
        Direction::Outbound => (&OUTBOUND, "PassthroughCluster"),
        Direction::Inbound => (&INBOUND, "InboundPassthroughCluster"),
    };
    let proxy = proxies.with(|proxy| proxy.get_or_init(|| Arc::new(passthrough(cluster))).clone());
    let mut line = Line::new(worker.clone(), &downstream, None);
    tcp::proxy(worker, downstream, &proxy, &mut line).await;
}

fn passthrough(cluster: &str) -> TcpProxy {
    let log = AccessLog {
        file: LogFile::new("/dev/stdout"),
        format: Arc::new(Format::text(ISTIO_DEFAULT).expect("the built-in format parses")),
    };
    TcpProxy { settings: Settings::passthrough(cluster), access_log: vec![log], stats: TcpStats::default() }
}
