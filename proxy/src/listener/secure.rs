//! TLS of a connection that was accepted: what its ClientHello says, and the handshake where its filter chain asks for
//! one.

use std::{rc::Rc, time::Duration};

use super::{
    peek::{self, Stuck},
    refused::Refused,
};
use crate::{
    config::tls::DownstreamTls,
    downstream::Downstream,
    telemetry::stats::Shard,
    tls::{
        failure::Failure,
        fingerprint::Wanted,
        hello::{self, Hello, MAX_HELLO, Seen},
        stats::InspectorStats,
    },
    wire::io::Io,
};

/// The `tls_inspector` listener filter: what the client asks for; none if it does not speak TLS.
pub(super) async fn inspect(
    stream: &Io,
    (stats, wanted): (&InspectorStats, Wanted),
    shard: &Shard,
) -> Result<Option<Hello>, Refused> {
    let seen = peek::until(stream, MAX_HELLO, |bytes| match hello::look_for(bytes, wanted) {
        Seen::NeedsMore => None,
        seen => {
            stats.looked_at(shard, bytes.len());
            Some(seen)
        }
    });
    match seen.await {
        Ok(Seen::Hello(hello)) => {
            stats.found(shard, &hello);
            Ok(Some(hello))
        }
        Ok(Seen::TooLarge) => {
            stats.too_large(shard);
            Err(Refused::TooLarge)
        }
        Ok(Seen::NotTls | Seen::NeedsMore) | Err(Stuck::Full) => {
            stats.not_found(shard);
            Ok(None)
        }
        Err(stuck) => Err(stuck.into()),
    }
}

/// Shakes hands: what is read and written from here on is under TLS.
pub(super) async fn shake_hands(
    downstream: Downstream,
    tls: &DownstreamTls,
    timeout: Option<Duration>,
    shard: &Shard,
) -> Result<Downstream, Failure> {
    let bare = match downstream.stream.into_bare() {
        Ok(bare) => bare,
        Err(stream) => return Ok(Downstream { stream, ..downstream }),
    };
    let Some(loaded) = tls.current() else {
        tls.factory.not_ready(shard);
        return Err(Failure::NoSecret);
    };
    let handshake = loaded.context.accept(bare, downstream.local.ip(), downstream.peer.ip(), |stapled| {
        tls.stats().staple_asked(shard, stapled);
    });
    let shaken = match timeout {
        None => handshake.await,
        Some(timeout) => tokio::time::timeout(timeout, handshake).await.unwrap_or(Err(Failure::Timeout)),
    };
    match shaken {
        Ok((stream, session)) => {
            tls.stats().established(shard, &session);
            Ok(Downstream { stream, tls: Some(Rc::new(session)), ..downstream })
        }
        Err(failure) => {
            tls.stats().failed(shard, &failure);
            Err(failure)
        }
    }
}
