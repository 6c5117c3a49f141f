//! What one attempt brings, and what a request's record learns of it meanwhile.

use std::{
    cell::RefCell,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response, StatusCode, request::Parts, response};
use hyper::body::{Body, Incoming};
use smallvec::SmallVec;
use tokio::io::AsyncWriteExt;

use super::handshake;
use crate::{
    access_log::Metered,
    cluster::dial::Made,
    config::route::{Connect, RequestStats},
    http::{
        body::RequestBody,
        call::once::{self, Asks, Onlooker},
        codec::meters,
        pool::{self, Lease, Speaks, Want, tunnel::Tunnel},
        stream::{
            Stream,
            connection::Connection,
            failure::Failure,
            timers::{Expired, Timers},
        },
    },
    tls::PeerTls,
};

/// A response that will not be used is read to its end if it is no longer than this, to keep its connection.
const DRAIN_LIMIT: u64 = 64 * 1024;

/// And if it comes within this time.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

/// What an attempt brings: something to pass on, or why there is nothing.
pub(super) enum Attempted {
    Response(Response<Incoming>, Lease),
    /// A connection for the bytes of a tunnel that ends here.
    Tunnel(Box<Tunnel>),
    /// An answer to a WebSocket handshake that is none: its head.
    NoHandshake(Box<response::Parts>),
    Failed(Failure),
    Expired(Expired),
    /// Nothing yet, though it has had its time: it goes on.
    Slow,
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
            Self::Slow => tracing::debug!(connection, stream, %upstream, "upstream per try timeout, hedged"),
            Self::Tunnel(_) | Self::NoHandshake(_) | Self::NoHost => {}
        }
    }

    /// What an exchange has brought, which the record of `stream` learns. `switch`: the request, if it wants its upstream to
    /// switch protocols.
    pub fn of(
        stream: &mut Stream,
        exchanged: Result<(Response<Incoming>, Lease), Failure>,
        switch: Option<&Parts>,
    ) -> Self {
        let (mut response, lease) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(failure) => return Self::Failed(failure),
        };
        if stream.connection.manager.wanted.meters {
            let meters = &mut stream.record.entry.meters;
            meters.upstream_received += meters::response_read(&response, lease.is_http2());
        }
        if let Some(request) = switch {
            handshake::as_http1(&mut response, request);
        }
        stream.record.upstream_responded(response.status(), response.headers());
        match switch {
            Some(request) if !lease.is_http2() && handshake::fails_handshake(request, response.status()) => {
                Self::NoHandshake(Box::new(response.into_parts().0))
            }
            _ => Self::Response(response, lease),
        }
    }
}

/// Sends a request over connections of the pool. `groups` count it. `switch`: as above.
pub(super) async fn exchange(
    stream: &mut Stream,
    timers: &mut Timers,
    groups: &[&RequestStats],
    want: Want<'_>,
    (request, switch): (Request<RequestBody>, Option<&Parts>),
) -> Attempted {
    let connection = stream.connection.clone();
    let sights = Sights::new(connection.clone(), groups, want.endpoint.address);
    let asks = if switch.is_some() { Asks::Switch } else { Asks::Response };
    let mut exchanging = pin!(once::exchange(connection.behalf(), want, (asks, stream.scheme), request, &sights));
    let watching = poll_fn(|cx| {
        let polled = exchanging.as_mut().poll(cx);
        if sights.tell(stream) {
            timers.attached();
        }
        if polled.is_pending() {
            stream.record.poll_log(cx);
            return timers.poll(cx).map(Err);
        }
        polled.map(Ok)
    });
    match watching.await {
        Err(expired) => Attempted::Expired(expired),
        Ok(exchanged) => Attempted::of(stream, exchanged, switch),
    }
}

/// Makes a connection that gets the bytes of the tunnel: the upstream is asked nothing. `groups` count it.
pub(super) async fn open(
    stream: &mut Stream,
    timers: &mut Timers,
    groups: &[&RequestStats],
    want: Want<'_>,
    connect: &Connect,
) -> Attempted {
    let want = Want { speaks: Speaks::Http1, ..want };
    // Few become one: in a place of its own, all requests would be as large.
    let opening = Box::pin(async {
        let mut tunnel = pool::tunnel::connect(want).await?;
        if let Some(header) = &connect.proxy_header {
            let header = header.bytes(Some(want.client), want.client);
            tunnel.io.write_all(&header).await.map_err(|_| Failure::Terminated)?;
            tunnel.counted.passed(header.len() as u64, 0);
        }
        Ok(tunnel)
    });
    let tunnel = match stream.record.within(timers, opening).await {
        Err(expired) => return Attempted::Expired(expired),
        Ok(Err(failure)) => return Attempted::Failed(failure),
        Ok(Ok(tunnel)) => tunnel,
    };
    groups.iter().for_each(|group| want.shard.inc(group.handles.upstream_rq_total));
    let entry = &mut stream.record.entry;
    entry.upstream_local = tunnel.local;
    entry.upstream_tls.clone_from(&tunnel.tls);
    tunnel.made.tell(entry);
    stream.record.upstream_ready();
    stream.record.upstream_responded(StatusCode::OK, &HeaderMap::new());
    Attempted::Tunnel(Box::new(tunnel))
}

/// What an exchange under way shows, until the record of its request learns it.
pub(super) struct Sights<'a> {
    connection: Rc<Connection>,
    groups: SmallVec<[&'a RequestStats; 2]>,
    upstream: SocketAddr,
    news: RefCell<News>,
}

/// What was seen since the record was told.
#[derive(Default)]
struct News {
    /// A connection was asked for; when, if anybody asks.
    asked: Option<Option<Instant>>,
    /// It was given, or could not be.
    ready: Option<Option<Instant>>,
    attached: Option<Attached>,
    sent: Metered,
}

/// What a request goes over.
struct Attached {
    local: Option<SocketAddr>,
    tls: Option<Rc<PeerTls>>,
    made: Option<Made>,
    at: Option<Instant>,
    reused: bool,
    http2: bool,
}

impl<'a> Sights<'a> {
    /// Of an exchange for a client's connection with an endpoint at `upstream`; `groups` count it.
    pub fn new(connection: Rc<Connection>, groups: &[&'a RequestStats], upstream: SocketAddr) -> Self {
        Self { connection, groups: SmallVec::from_slice(groups), upstream, news: RefCell::default() }
    }

    /// Whether there is anything that the record does not know.
    pub fn has_news(&self) -> bool {
        let news = self.news.borrow();
        news.asked.is_some() || news.ready.is_some() || news.attached.is_some()
    }

    fn now(&self) -> Option<Instant> {
        self.connection.manager.wanted.times.then(Instant::now)
    }

    /// Tells the record what is new; whether that is a connection.
    pub fn tell(&self, stream: &mut Stream) -> bool {
        let News { asked, ready, attached, sent } = &mut *self.news.borrow_mut();
        let entry = &mut stream.record.entry;
        if let Some(asked) = asked.take() {
            entry.timing.asked = asked;
        }
        if let Some(ready) = ready.take() {
            entry.timing.ready = ready;
        }
        let Some(attached) = attached.take() else { return false };
        entry.upstream_local = attached.local;
        entry.upstream_tls = attached.tls;
        if let Some(made) = attached.made {
            made.tell(entry);
        }
        entry.timing.request_sent_from = attached.at;
        entry.upstream_protocol = Some(if attached.http2 { "HTTP/2" } else { "HTTP/1.1" });
        tracing::debug!(
            connection = self.connection.id,
            stream = stream.record.name(),
            upstream = %self.upstream,
            reused = attached.reused,
            "attached upstream connection [C{}]",
            stream.record.entry.upstream_connection
        );
        stream.record.upstream_ready();
        stream.record.entry.meters.upstream_sent += std::mem::take(sent);
        true
    }
}

impl Onlooker for Sights<'_> {
    fn asks(&self) {
        self.news.borrow_mut().asked = Some(self.now());
    }

    fn has(&self, lease: Option<&Lease>) {
        let news = &mut *self.news.borrow_mut();
        news.ready = Some(self.now());
        let Some(lease) = lease else { return };
        for group in &self.groups {
            self.connection.worker.stats.inc(group.handles.upstream_rq_total);
        }
        news.attached = Some(Attached {
            local: lease.local(),
            tls: lease.tls().cloned(),
            made: lease.made().copied(),
            at: self.now(),
            reused: lease.reused,
            http2: lease.is_http2(),
        });
    }

    fn sends(&self, request: &Request<RequestBody>) {
        if self.connection.manager.wanted.meters {
            self.news.borrow_mut().sent += meters::request_written(request);
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
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frame?;
            }
            Ok::<(), hyper::Error>(())
        };
        if let Ok(Ok(())) = tokio::time::timeout(DRAIN_WITHIN, read).await {
            lease.release();
        }
    });
}
