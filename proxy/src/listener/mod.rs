//! From an accepted connection to what serves it: its listener, what its first bytes tell, its filter chain.

mod matching;
mod sniff;

use std::{rc::Rc, sync::Arc};

use self::{
    matching::Facts,
    sniff::{Protocol, sniff},
};
use crate::{
    config::{
        http::Codec,
        listener::{Listener, NetworkFilter},
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
    let mut seen = None;
    if listener.inspect_http {
        match sniff_within(&downstream, &listener).await {
            Ok(protocol) => seen = protocol,
            Err(TooSlow) => {
                tracing::debug!(peer = %downstream.peer, listener = %listener.name, "listener filters timed out");
                return;
            }
        }
    }
    let facts = Facts {
        destination: downstream.destination,
        source: downstream.peer,
        server_name: "",
        transport_protocol: "raw_buffer",
        application_protocols: seen.map_or(&[][..], Protocol::names),
    };
    let Some(chain) = matching::find(&listener, &facts) else {
        let mut entry = Entry::since(downstream.accepted, downstream.destination, downstream.peer);
        entry.raise(Flag::NoRouteFound);
        entry.details = "filter_chain_not_found".into();
        access_log::write(&worker.log, &listener.access_log, &entry);
        tracing::debug!(peer = %downstream.peer, listener = %listener.name, "no filter chain matches");
        return;
    };
    match &chain.terminal {
        NetworkFilter::Http(manager) => {
            let codec = match (manager.codec, seen) {
                (Codec::Auto, Some(protocol)) => protocol.codec(),
                (Codec::Auto, None) => match wait_for_codec(&downstream, manager.idle_timeout).await {
                    Some(codec) => codec,
                    None => return,
                },
                (codec, _) => codec,
            };
            connection::serve(worker, downstream, manager.clone(), codec, None).await;
        }
        NetworkFilter::Tcp(proxy) => {
            let entry = Entry::since(downstream.accepted, downstream.destination, downstream.peer);
            tcp::proxy(worker, downstream, &proxy.settings, &proxy.access_log, entry).await;
        }
    }
}

struct TooSlow;

/// What the HTTP inspector finds. A client that waits for the server to speak first must not hang: at the timeout the
/// connection goes on without, if the listener says so.
async fn sniff_within(downstream: &Downstream, listener: &Listener) -> Result<Option<Protocol>, TooSlow> {
    let sniffed = match listener.listener_filters_timeout {
        None => Ok(sniff(downstream.stream.tcp()).await),
        Some(timeout) => tokio::time::timeout(timeout, sniff(downstream.stream.tcp())).await,
    };
    match sniffed {
        Ok(protocol) => Ok(protocol),
        Err(_) if listener.continue_on_listener_filters_timeout => Ok(None),
        Err(_) => Err(TooSlow),
    }
}

/// Which HTTP the client speaks, once it speaks. None: it went away, or stayed silent for the idle timeout, or for a moment
/// when the connection drains.
async fn wait_for_codec(downstream: &Downstream, idle: Option<std::time::Duration>) -> Option<Codec> {
    let silent = async {
        match idle {
            Some(idle) => tokio::time::sleep(idle).await,
            None => std::future::pending().await,
        }
    };
    let drained = async {
        downstream.drain.draining().await;
        tokio::time::sleep(connection::LAST_REQUEST).await;
    };
    tokio::select! {
        protocol = sniff(downstream.stream.tcp()) => Some(protocol.map_or(Codec::Http1, Protocol::codec)),
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
