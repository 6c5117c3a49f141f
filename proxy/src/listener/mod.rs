//! From an accepted connection to what serves it: its listener, what its first bytes tell, its filter chain.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod matching;
mod peek;
mod secure;
mod sniff;

use std::{rc::Rc, sync::Arc};

use self::{
    matching::{Facts, Protocols},
    sniff::{Protocol, sniff, sniff_tls},
};
use crate::{
    config::{
        http::Codec,
        listener::{FilterChain, Listener, NetworkFilter},
        tcp::Settings,
    },
    http::connection,
    intake::{Direction, Downstream, Origin},
    tcp,
    telemetry::{
        access_log::{self, AccessLog, Entry, Flag},
        format::{Format, ISTIO_DEFAULT},
        writer::LogFile,
    },
    tls::hello::Hello,
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

async fn serve_on(worker: Rc<Worker>, mut downstream: Downstream, listener: Arc<Listener>) {
    let Seen { hello, http } = match inspect(&worker, &downstream, &listener).await {
        Ok(seen) => seen,
        Err(refused) => {
            tracing::debug!(peer = %downstream.peer, listener = %listener.name, %refused, "listener filters");
            return;
        }
    };
    let Some(chain) = find_chain(&listener, &downstream, hello.as_ref(), http) else {
        let mut entry = entry(&downstream);
        entry.requested_server_name =
            hello.filter(|hello| !hello.server_name.is_empty()).map(|hello| hello.server_name.into());
        entry.raise(Flag::NoRouteFound);
        entry.details = "filter_chain_not_found".into();
        access_log::write(&worker.log, &listener.access_log, &entry);
        tracing::debug!(peer = %downstream.peer, listener = %listener.name, "no filter chain matches");
        return;
    };
    downstream.server_name = hello.filter(|hello| !hello.server_name.is_empty()).map(|hello| hello.server_name.into());
    if let Some(tls) = &chain.tls {
        let mut entry = entry(&downstream);
        downstream = match secure::shake_hands(downstream, tls, chain.handshake_timeout, &worker.stats).await {
            Ok(downstream) => downstream,
            Err(failure) => {
                tracing::debug!(peer = %entry.downstream_remote, listener = %listener.name, %failure, "TLS handshake failed");
                entry.downstream_transport_failure = failure.reason().replace(' ', "_").into();
                access_log::write(&worker.log, &listener.access_log, &entry);
                return;
            }
        };
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
        NetworkFilter::Tcp(proxy) => {
            let entry = entry(&downstream);
            tcp::proxy(worker, downstream, &proxy.settings, &proxy.access_log, entry).await;
        }
    }
}

/// What is known of a connection before anything is done with it.
fn entry(downstream: &Downstream) -> Entry {
    let mut entry = Entry::since(downstream.accepted, downstream.destination, downstream.peer);
    entry.requested_server_name.clone_from(&downstream.server_name);
    entry.tls.clone_from(&downstream.tls);
    entry
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
            Err(_) if listener.continue_on_listener_filters_timeout => Ok(Seen::default()),
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
        static LOGS: [AccessLog; 1] = [AccessLog {
            file: LogFile::new("/dev/stdout"),
            format: Arc::new(Format::text(ISTIO_DEFAULT).expect("the built-in format parses")),
        }];
    }
    let cluster = match direction {
        Direction::Outbound => "PassthroughCluster",
        Direction::Inbound => "InboundPassthroughCluster",
    };
    let entry = Entry::since(downstream.accepted, downstream.destination, downstream.peer);
    let logs = LOGS.with(Clone::clone);
    tcp::proxy(worker, downstream, &Settings::passthrough(cluster), &logs, entry).await;
}
