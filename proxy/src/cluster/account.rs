//! What is counted of one endpoint: connections and requests, on the worker's shard and on the host.

use std::{
    any::Any,
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    cluster::outlier::Outcome,
    config::cluster::{Cluster, Endpoint, InUse, RoutingPriority},
    telemetry::stats::Shard,
    wire::{dial::ConnectError, frames::Frames, io::Io, socket::NotReady},
};

/// A place among the requests that may wait for a connection of a cluster.
pub fn place_to_wait(cluster: &Cluster, priority: RoutingPriority, shard: &Shard) -> Option<InUse> {
    let (limits, usage) = cluster.limits(priority);
    let place = usage.pending.take(limits.max_pending);
    if place.is_none() {
        shard.inc(cluster.stats.upstream_rq_pending_overflow);
    }
    place
}

/// Where the connections and requests of one endpoint are counted.
#[derive(Debug)]
pub struct Account {
    /// The endpoint's cluster.
    pub cluster: Arc<Cluster>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The worker's counters.
    pub shard: Shard,
}

/// A request that has a connection, until it is dropped.
#[derive(Debug)]
pub struct ActiveRequest(Rc<Account>);

/// A request that waits for a connection, until it is dropped.
#[derive(Debug)]
pub struct PendingRequest {
    account: Rc<Account>,
    /// It has not gone by itself.
    ended: bool,
}

/// A connection that is being made or made, until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    account: Rc<Account>,
    began: Instant,
    /// The other side ended it.
    pub remote: Cell<bool>,
    /// A request was under way when it ended.
    pub interrupted: Cell<bool>,
    /// What came after the last response, for which it ended.
    pub unasked: Cell<Option<Unasked>>,
    /// Requests so far.
    pub requests: Cell<u32>,
}

/// What an upstream sends that nobody has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// 408: it has waited long enough.
    Timeout,
    /// Anything else breaks the protocol.
    Other,
}

impl Unasked {
    /// What these bytes are. `alone`: they came after the response, not with it.
    pub fn of(bytes: &[u8], alone: bool) -> Option<Self> {
        match bytes {
            [] => None,
            _ if alone && [b"HTTP/1.1 408", b"HTTP/1.0 408"].iter().any(|head| bytes.starts_with(*head)) => {
                Some(Self::Timeout)
            }
            _ => Some(Self::Other),
        }
    }
}

impl Account {
    /// A request has a connection.
    pub fn request(self: &Rc<Self>) -> ActiveRequest {
        let (stats, host) = (&self.cluster.stats, &self.endpoint.host.stats);
        self.shard.inc(stats.upstream_rq_total);
        self.shard.gauge_add(stats.upstream_rq_active, 1);
        host.rq_total.fetch_add(1, Relaxed);
        host.rq_active.fetch_add(1, Relaxed);
        if self.cluster.outlier.as_ref().is_some_and(|detector| detector.settings.split) {
            self.cluster.report(&self.endpoint, Outcome::Connected);
        }
        ActiveRequest(self.clone())
    }

    /// A place among the connections that the cluster and the host may have.
    pub fn place(&self, priority: RoutingPriority) -> Option<InUse> {
        let (limits, usage) = self.cluster.limits(priority);
        let of_host = self.endpoint.host.stats.cx_active.load(Relaxed);
        let place = if of_host < u64::from(limits.max_connections_per_host) {
            usage.connections.take(limits.max_connections)
        } else {
            None
        };
        if place.is_none() {
            self.shard.inc(self.cluster.stats.upstream_cx_overflow);
        }
        place
    }

    /// The same for a connection that is not pooled, which waits for one of the host's to end, as in Envoy. A host that has
    /// none gets it in any case.
    pub async fn place_in_time(&self, priority: RoutingPriority) -> InUse {
        let host = &self.endpoint.host;
        loop {
            let mut freed = std::pin::pin!(host.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.place(priority) {
                return place;
            }
            if host.stats.cx_active.load(Relaxed) == 0 {
                return self.cluster.limits(priority).1.connections.regardless();
            }
            freed.await;
        }
    }

    /// A request waits for a connection.
    pub fn pending(self: &Rc<Self>) -> PendingRequest {
        self.shard.inc(self.cluster.stats.upstream_rq_pending_total);
        self.shard.gauge_add(self.cluster.stats.upstream_rq_pending_active, 1);
        PendingRequest { account: self.clone(), ended: false }
    }

    /// What a connection speaks: HTTP/2 or HTTP/1.
    pub fn agreed(&self, http2: bool) {
        let stats = &self.cluster.stats;
        if http2 {
            stats.codecs.http2_connection(&self.shard, false);
            self.shard.inc(stats.upstream_cx_http2_total);
        } else {
            stats.codecs.http1();
            self.shard.inc(stats.upstream_cx_http1_total);
        }
    }

    /// A connection is being made: HTTP/2, HTTP/1, or neither as yet.
    pub fn connection(self: &Rc<Self>, http2: Option<bool>) -> OpenConnection {
        let (stats, host) = (&self.cluster.stats, &self.endpoint.host.stats);
        self.shard.inc(stats.upstream_cx_total);
        if let Some(http2) = http2 {
            self.agreed(http2);
        }
        self.shard.gauge_add(stats.upstream_cx_active, 1);
        host.cx_total.fetch_add(1, Relaxed);
        host.cx_active.fetch_add(1, Relaxed);
        if !self.cluster.has_traffic.load(Relaxed) {
            self.cluster.has_traffic.store(true, Relaxed);
        }
        OpenConnection {
            account: self.clone(),
            began: Instant::now(),
            remote: Cell::new(false),
            interrupted: Cell::new(false),
            unasked: Cell::new(None),
            requests: Cell::new(0),
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let account = &self.0;
        account.shard.gauge_add(account.cluster.stats.upstream_rq_active, -1);
        account.endpoint.host.stats.rq_active.fetch_sub(1, Relaxed);
    }
}

impl PendingRequest {
    /// It has its connection, or a limit keeps it from having one.
    pub fn served(mut self) {
        self.ended = true;
    }

    /// No connection could be made for it.
    pub fn ejected(mut self) {
        self.ended = true;
        self.account.shard.inc(self.account.cluster.stats.upstream_rq_pending_failure_eject);
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        let Account { cluster, shard, .. } = &*self.account;
        shard.gauge_add(cluster.stats.upstream_rq_pending_active, -1);
        if !self.ended {
            shard.inc(cluster.stats.upstream_rq_cancelled);
        }
    }
}

impl OpenConnection {
    /// It has been made.
    pub fn connected(&self) {
        let account = &self.account;
        account.shard.record(account.cluster.stats.upstream_cx_connect_ms, millis(self.began));
    }

    /// The other side has said that it is going to end it.
    pub fn close_notified(&self) {
        self.account.shard.inc(self.account.cluster.stats.upstream_cx_close_notify);
    }

    /// It could not be made.
    pub fn failed(&self, error: &ConnectError) {
        let account = &self.account;
        let timed_out = matches!(error, ConnectError::Timeout);
        self.remote.set(!matches!(error, ConnectError::Timeout | ConnectError::Local(_)));
        if matches!(error, ConnectError::Local(NotReady::Bind(..))) {
            account.shard.inc(account.cluster.stats.bind_errors);
        }
        account.shard.inc(account.cluster.stats.upstream_cx_connect_fail);
        if timed_out {
            account.shard.inc(account.cluster.stats.upstream_cx_connect_timeout);
        }
        account.endpoint.host.stats.cx_connect_fail.fetch_add(1, Relaxed);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Account { cluster, endpoint, shard } = &*self.account;
        let stats = &cluster.stats;
        shard.gauge_add(stats.upstream_cx_active, -1);
        endpoint.host.stats.cx_active.fetch_sub(1, Relaxed);
        endpoint.host.freed.notify_one();
        shard.record(stats.upstream_cx_length_ms, millis(self.began));
        if self.requests.get() > 0 {
            shard.record(stats.upstream_rq_per_cx, u64::from(self.requests.get()));
        }
        shard.inc(stats.upstream_cx_destroy);
        // What came before the end of a response is that response's matter.
        let unasked = self.unasked.get().filter(|_| !self.interrupted.get());
        if unasked == Some(Unasked::Other) {
            shard.inc(stats.upstream_cx_protocol_error);
        }
        let remote = self.remote.get() && unasked.is_none();
        shard.inc(if remote { stats.upstream_cx_destroy_remote } else { stats.upstream_cx_destroy_local });
        if self.interrupted.get() {
            shard.inc(stats.upstream_cx_destroy_with_active_rq);
            shard.inc(if remote {
                stats.upstream_cx_destroy_remote_with_active_rq
            } else {
                stats.upstream_cx_destroy_local_with_active_rq
            });
        }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub struct Counted {
    /// The connection.
    pub io: Io,
    /// Where.
    pub account: Option<Rc<Account>>,
    /// What is to be kept while it is open.
    pub kept: Option<Rc<dyn Any>>,
    /// What comes of frames, if it is HTTP/2.
    pub frames: Option<Box<Frames>>,
    /// The other side has ended it.
    pub ended: bool,
    /// How much the last read brought.
    pub last: usize,
}

impl Counted {
    /// A connection on which nothing has been yet. `kept` lives as long.
    pub fn new(io: Io, account: Option<Rc<Account>>, kept: Rc<dyn Any>, frames: Option<Box<Frames>>) -> Self {
        Self { io, account, kept: Some(kept), frames, ended: false, last: 0 }
    }

    /// Counts what was written, or sees that nothing can be any more.
    fn wrote(&mut self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        match (&written, &self.account) {
            (Ok(bytes), Some(account)) => {
                account.shard.add(account.cluster.stats.upstream_cx_tx_bytes_total, *bytes as u64);
            }
            (Ok(_), None) => {}
            (Err(_), _) => self.ended = true,
        }
        Poll::Ready(written)
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer)).inspect_err(|_| this.ended = true)?;
        let read = &buffer.filled()[before..];
        this.ended |= read.is_empty() && buffer.remaining() > 0;
        if !read.is_empty() {
            this.last = read.len();
        }
        if let Some(account) = &this.account {
            account.shard.add(account.cluster.stats.upstream_cx_rx_bytes_total, read.len() as u64);
            if let Some(frames) = &mut this.frames {
                account.cluster.stats.codecs.got_resets(&account.shard, frames.resets(read));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.wrote(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_asked_for() {
        for (bytes, alone, unasked) in [
            (b"".as_slice(), true, None),
            (b"HTTP/1.1 408 Request Timeout\r\n\r\n", true, Some(Unasked::Timeout)),
            (b"HTTP/1.0 408\r\n\r\n", true, Some(Unasked::Timeout)),
            (b"HTTP/1.1 408 Request Timeout\r\n\r\n", false, Some(Unasked::Other)),
            (b"HTTP/1.1 200 OK\r\n\r\n", true, Some(Unasked::Other)),
            (b"nonsense 408", true, Some(Unasked::Other)),
            (b"\r\n", true, Some(Unasked::Other)),
        ] {
            assert_eq!(Unasked::of(bytes, alone), unasked, "{} {alone}", bytes.escape_ascii());
        }
    }
}
