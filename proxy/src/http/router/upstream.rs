//! One request to an upstream: over a connection of the pool, or one after another, until there is a response.

use std::{net::SocketAddr, time::Duration};

use http::{Request, Response};
use hyper::body::{Body, Incoming};

use crate::{
    config::route::RequestStats,
    http::{
        body::{ReadAhead, RequestBody},
        call::{
            once::{Sent, send_once},
            outgoing::upstream_request,
        },
        codec::meters,
        pool::{Lease, Want},
        stream::{
            Stream,
            failure::Failure,
            timers::{Expired, Timers},
        },
    },
};

/// A response that will not be used is read to its end if it is no longer than this, to keep its connection.
const DRAIN_LIMIT: u64 = 64 * 1024;

/// A response to pass on, or why there is none.
pub(super) enum Attempted {
    Response(Response<Incoming>, Lease),
    Failed(Failure),
    Expired(Expired),
    NoHost,
}

impl Attempted {
    /// Logs how an attempt ended.
    pub fn tell(&self, stream: &Stream, upstream: SocketAddr) {
        let (connection, stream) = (stream.connection.id, stream.record.name());
        match self {
            Self::Response(response, ..) => {
                let status = response.status().as_u16();
                let end_stream = response.body().is_end_stream();
                tracing::debug!(connection, stream, %upstream, status, end_stream, "upstream headers complete");
            }
            Self::Failed(failure) => {
                let (reason, transport) = (failure.reason(), failure.transport());
                tracing::debug!(connection, stream, %upstream, reason, transport, "upstream reset");
            }
            Self::Expired(limit) => tracing::debug!(connection, stream, %upstream, ?limit, "upstream timeout"),
            Self::NoHost => {}
        }
    }
}

/// Sends a request over a connection of the pool, and takes note of what it comes over. `groups` count it.
pub(super) async fn exchange(
    stream: &mut Stream,
    timers: &mut Timers,
    groups: &[&RequestStats],
    want: Want<'_>,
    mut request: Request<RequestBody>,
) -> Attempted {
    let connection = stream.connection.clone();
    let times = connection.manager.wanted.times;
    let now = || times.then(std::time::Instant::now);
    loop {
        stream.record.entry.timing.asked = now();
        let acquiring = stream.connection.worker.pools.acquire(want);
        let acquired = stream.record.within(timers, request.body_mut().ahead_while(acquiring)).await;
        stream.record.entry.timing.ready = now();
        let mut lease = match acquired {
            Err(expired) => return Attempted::Expired(expired),
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                // In Envoy a connection fails, if at once, after what has come with the head was read.
                if failure != Failure::Overflow {
                    request.body_mut().read_arrived().await;
                }
                return Attempted::Failed(failure);
            }
            Ok(Ok(lease)) => lease,
        };
        for group in groups {
            want.shard.inc(group.handles.upstream_rq_total);
        }
        let entry = &mut stream.record.entry;
        entry.upstream_local = lease.local();
        entry.upstream_tls = lease.tls().cloned();
        if let Some(made) = lease.made() {
            made.tell(entry);
        }
        entry.timing.request_sent_from = now();
        tracing::debug!(
            connection = stream.connection.id,
            stream = stream.record.name(),
            upstream = %want.endpoint.address,
            reused = lease.reused,
            "attached upstream connection [C{}]",
            stream.record.entry.upstream_connection
        );
        let entry = &mut stream.record.entry;
        entry.upstream_protocol = Some(if lease.is_http2() { "HTTP/2" } else { "HTTP/1.1" });
        stream.record.upstream_ready();
        match upstream_request(request, lease.is_http2(), stream.scheme) {
            Some(converted) => request = converted,
            None => return Attempted::Failed(Failure::Protocol),
        }
        if stream.connection.manager.wanted.meters {
            stream.record.entry.meters.upstream_sent += meters::request_written(&request);
        }
        match stream.record.within(timers, send_once(connection.id, &mut lease, request)).await {
            Err(expired) => return Attempted::Expired(expired),
            Ok(Sent::Failed(failure)) => return Attempted::Failed(failure),
            Ok(Sent::Back(unsent)) => request = *unsent,
            Ok(Sent::Answered(response)) => {
                if stream.connection.manager.wanted.meters {
                    let meters = &mut stream.record.entry.meters;
                    meters.upstream_received += meters::response_read(&response, lease.is_http2());
                }
                stream.record.upstream_responded(response.status(), response.headers());
                return Attempted::Response(response, lease);
            }
        }
    }
}

/// Reads a response that is not passed on, if it is short, so that its connection can be used again.
pub(super) fn drain(mut body: Incoming, lease: Lease) {
    if body.is_end_stream() {
        lease.release();
        return;
    }
    if lease.is_http2() || body.size_hint().upper().is_none_or(|length| length > DRAIN_LIMIT) {
        return;
    }
    tokio::task::spawn_local(async move {
        let read = async {
            while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
                frame?;
            }
            Ok::<(), hyper::Error>(())
        };
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), read).await {
            lease.release();
        }
    });
}
