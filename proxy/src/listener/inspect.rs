//! The listener filters: what they find out about a connection before its filter chain is chosen.

use std::{net::SocketAddr, os::fd::AsFd};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    peek::{self, Stuck},
    proxy_protocol::{self, Seen},
    refused::Refused,
    secure,
    sniff::{self, Protocol},
};
use crate::{
    config::listener::{Listener, ListenerFilterKind, ProxyProtocol},
    downstream::{Downstream, Origin},
    telemetry::stats::Shard,
    tls::hello::Hello,
    wire::io::Io,
};

/// What listener filters found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The client speaks TLS.
    pub hello: Option<Hello>,
    /// It speaks HTTP.
    pub http: Option<Protocol>,
}

/// Runs a listener's filters, and counts what becomes of the connection. A client that waits for the server to speak
/// first must not hang: at the timeout the connection goes on with what was found, if the listener says so.
pub(super) async fn inspect(
    shard: &Shard,
    downstream: &mut Downstream,
    listener: &Listener,
    found: &mut Found,
) -> Result<(), Refused> {
    if listener.filters.is_empty() {
        return Ok(());
    }
    let looking = Box::pin(run(shard, downstream, listener, found));
    let result = match listener.listener_filters_timeout {
        None => looking.await,
        Some(timeout) => match tokio::time::timeout(timeout, looking).await {
            Ok(result) => result,
            Err(_) => {
                shard.inc(listener.stats.downstream_pre_cx_timeout);
                match listener.continue_on_listener_filters_timeout {
                    true => return again_readable(downstream),
                    false => return Err(Refused::TooSlow),
                }
            }
        },
    };
    match result {
        Err(Refused::Gone) => shard.inc(listener.stats.downstream_listener_filter_remote_close),
        Err(Refused::Unreadable) => shard.inc(listener.stats.downstream_listener_filter_error),
        Err(Refused::NotConfigured) => shard.inc(listener.stats.extension_config_missing),
        Ok(()) | Err(Refused::TooSlow | Refused::TooLarge | Refused::NoHeader) => {}
    }
    result
}

/// Who looked at bytes and waited for more has forgotten that the socket is readable: it is registered anew.
fn again_readable(downstream: &mut Downstream) -> Result<(), Refused> {
    if let Io::Tcp(stream) = &downstream.stream {
        let same = stream.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
        let same = same.and_then(TcpStream::from_std).map_err(|_| Refused::Unreadable)?;
        downstream.stream = Io::Tcp(same);
    }
    Ok(())
}

async fn run(
    shard: &Shard,
    downstream: &mut Downstream,
    listener: &Listener,
    found: &mut Found,
) -> Result<(), Refused> {
    for filter in &listener.filters {
        if filter.disabled.as_ref().is_some_and(|disabled| disabled.holds(downstream.destination.port())) {
            continue;
        }
        let discovered;
        let kind = match &filter.kind {
            ListenerFilterKind::Discovered(slot) => {
                discovered = slot.current().ok_or(Refused::NotConfigured)?;
                &*discovered
            }
            known => known,
        };
        match kind {
            ListenerFilterKind::OriginalDestination => {
                let (to, from) = match &downstream.origin {
                    Origin::Within { .. } => told_addresses(downstream),
                    _ => (netfilter_destination(downstream), None),
                };
                if let Some(destination) = to {
                    restore(downstream, destination);
                }
                if let Some(peer) = from {
                    (downstream.peer, downstream.direct_peer) = (peer, peer);
                }
            }
            ListenerFilterKind::ProxyProtocol(settings) => {
                if let Some((from, to)) = read_header(shard, downstream, settings).await? {
                    downstream.peer = from;
                    restore(downstream, to);
                }
            }
            ListenerFilterKind::Tls(stats, wanted) => {
                found.hello = secure::inspect(&downstream.stream, (stats, *wanted), shard).await?;
            }
            ListenerFilterKind::Http(stats) => {
                if found.hello.is_none() {
                    let looked = sniff::sniff(&downstream.stream).await;
                    if looked == Err(Stuck::Failed) {
                        stats.failed(shard);
                    }
                    found.http = looked?;
                    stats.looked(shard, found.http.map(Protocol::index));
                }
            }
            // What came by itself is no such thing again.
            ListenerFilterKind::Discovered(_) => {}
        }
    }
    Ok(())
}

/// A connection went to `destination`, not to where it was accepted. Where a pod's goes is known better than by what the
/// connection says.
fn restore(downstream: &mut Downstream, destination: SocketAddr) {
    if !matches!(downstream.origin, Origin::Pod { .. }) && downstream.destination != destination {
        downstream.local = destination;
        downstream.destination = destination;
        downstream.restored = true;
    }
}

/// Takes a PROXY header off the socket, and counts it.
async fn read_header(
    shard: &Shard,
    downstream: &mut Downstream,
    settings: &ProxyProtocol,
) -> Result<Option<(SocketAddr, SocketAddr)>, Refused> {
    let stream = &mut downstream.stream;
    let (seen, metadata) =
        peek::until(stream, proxy_protocol::LONGEST, |bytes| match proxy_protocol::look(bytes, settings) {
            Seen::NeedsMore => None,
            Seen::Found(header) => {
                let metadata = proxy_protocol::metadata(&bytes[header.tlvs.clone()], &settings.rules);
                Some((Seen::Found(header), metadata))
            }
            seen => Some((seen, None)),
        })
        .await?;
    let stats = &settings.stats;
    match seen {
        Seen::Found(header) => {
            shard.inc(stats.versions[header.version].found);
            // All of it is there.
            let taken = tokio::io::copy(&mut stream.take(header.length as u64), &mut tokio::io::sink()).await;
            if taken.is_err() {
                return Err(Refused::Unreadable);
            }
            if metadata.is_some() {
                downstream.metadata = metadata;
            }
            Ok(header.addresses)
        }
        Seen::Absent => {
            shard.inc(stats.not_found_allowed);
            Ok(None)
        }
        Seen::Disallowed(version) => {
            shard.inc(stats.versions[version].found);
            shard.inc(stats.versions[version].disallowed);
            Err(Refused::NoHeader)
        }
        Seen::Malformed(version) => {
            shard.inc(version.map_or(stats.not_found_disallowed, |version| stats.versions[version].error));
            shard.inc(stats.errors);
            Err(Refused::NoHeader)
        }
        Seen::NeedsMore => Err(Refused::Unreadable),
    }
}

/// The destination before netfilter's REDIRECT.
fn netfilter_destination(downstream: &Downstream) -> Option<SocketAddr> {
    use nix::sys::socket::{getsockopt, sockopt};
    if downstream.local.is_ipv6() {
        let address = getsockopt(downstream.stream.tcp()?, sockopt::Ip6tOriginalDst).ok()?;
        let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
        return Some((ip, u16::from_be(address.sin6_port)).into());
    }
    let address = getsockopt(downstream.stream.tcp()?, sockopt::OriginalDst).ok()?;
    let ip = std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    Some((ip, u16::from_be(address.sin_port)).into())
}

/// Where a connection inside of this process goes and comes from, as its metadata says, or else its filter state.
fn told_addresses(downstream: &Downstream) -> (Option<SocketAddr>, Option<SocketAddr>) {
    const NAMESPACE: &str = "envoy.filters.listener.original_dst";
    let told = |field: &str, key: &str| {
        let metadata = downstream.metadata.as_ref();
        match metadata.and_then(|metadata| metadata.get(NAMESPACE, &[field.into()])?.as_str()) {
            Some(text) => text.parse().ok(),
            None => downstream.filter_state.as_ref().and_then(|state| state.address(key)),
        }
    };
    (
        told("local", "envoy.filters.listener.original_dst.local_ip"),
        told("remote", "envoy.filters.listener.original_dst.remote_ip"),
    )
}
