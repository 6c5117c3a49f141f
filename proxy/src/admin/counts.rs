//! What the admin server counts of itself, under Envoy's names: `http.admin.` and `listener.admin.`.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    config::{
        http::{OfListener, Served},
        listener::Accepted,
    },
    telemetry::stats::{CodecStats, Scope, Shared, Store, handles},
};

handles! {
    /// Of the thread that has all connections.
    Thread {
        counters { downstream_cx_total }
        gauges { downstream_cx_active }
        histograms {}
    }
}

/// The counters.
#[derive(Debug)]
pub struct Counts {
    http: Served,
    listener: Accepted,
    thread: Thread,
    responses: OfListener,
    shard: Shared,
    codecs: CodecStats,
    /// Keep the names.
    _scopes: [Scope; 4],
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    counts: Arc<Counts>,
    began: Instant,
    /// What it speaks, once that is known: whether it is HTTP/2.
    http2: Cell<Option<bool>>,
}

/// A request, until it is dropped.
#[derive(Debug)]
pub(super) struct Request {
    counts: Arc<Counts>,
    began: Instant,
}

/// A connection whose bytes are counted.
#[derive(Debug)]
pub(super) struct Metered<S> {
    pub(super) io: S,
    pub(super) connection: Rc<Connection>,
}

impl Counts {
    /// Of a process whose metrics these are.
    pub fn new(store: &Store) -> Self {
        let root = store.root();
        let (http, listener) = (root.scope("http.admin"), root.scope("listener.admin"));
        let (thread, responses) = (listener.scope("main_thread"), listener.scope("http.admin"));
        Self {
            http: Served::register(&http),
            listener: Accepted::register(&listener),
            thread: Thread::register(&thread),
            responses: OfListener::register(&responses),
            shard: store.shared(),
            codecs: CodecStats::new(&root),
            _scopes: [http, listener, thread, responses],
        }
    }

    /// A connection begins.
    pub(super) fn connected(self: &Arc<Self>) -> Connection {
        let shard = &self.shard;
        self.codecs.http1();
        for counter in
            [self.http.downstream_cx_total, self.listener.downstream_cx_total, self.thread.downstream_cx_total]
        {
            shard.inc(counter);
        }
        self.active(1);
        Connection { counts: self.clone(), began: Instant::now(), http2: Cell::new(None) }
    }

    fn active(&self, by: i64) {
        let gauges =
            [self.http.downstream_cx_active, self.listener.downstream_cx_active, self.thread.downstream_cx_active];
        gauges.into_iter().for_each(|gauge| self.shard.gauge_add(gauge, by));
    }

    /// A response begins.
    pub(super) fn answered(&self, status: StatusCode) {
        let (http, there, shard) = (&self.http, &self.responses, &self.shard);
        shard.inc(http.downstream_rq_completed);
        shard.inc(there.downstream_rq_completed);
        let (one, other) = match status.as_u16() / 100 {
            1 => (http.downstream_rq_1xx, there.downstream_rq_1xx),
            2 => (http.downstream_rq_2xx, there.downstream_rq_2xx),
            3 => (http.downstream_rq_3xx, there.downstream_rq_3xx),
            4 => (http.downstream_rq_4xx, there.downstream_rq_4xx),
            _ => (http.downstream_rq_5xx, there.downstream_rq_5xx),
        };
        shard.inc(one);
        shard.inc(other);
    }
}

impl Connection {
    /// A request begins.
    pub(super) fn request(&self, http2: bool) -> Request {
        let (http, shard) = (&self.counts.http, &self.counts.shard);
        if self.http2.replace(Some(http2)).is_none() {
            shard.inc(if http2 { http.downstream_cx_http2_total } else { http.downstream_cx_http1_total });
            self.speaks(http2, 1);
        }
        shard.inc(http.downstream_rq_total);
        shard.inc(if http2 { http.downstream_rq_http2_total } else { http.downstream_rq_http1_total });
        shard.gauge_add(http.downstream_rq_active, 1);
        Request { counts: self.counts.clone(), began: Instant::now() }
    }

    fn speaks(&self, http2: bool, by: i64) {
        let http = &self.counts.http;
        let gauge = if http2 { http.downstream_cx_http2_active } else { http.downstream_cx_http1_active };
        self.counts.shard.gauge_add(gauge, by);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Counts { http, listener, shard, .. } = &*self.counts;
        for counter in [http.downstream_cx_destroy, http.downstream_cx_destroy_remote, listener.downstream_cx_destroy] {
            shard.inc(counter);
        }
        shard.record(http.downstream_cx_length_ms, millis(self.began));
        shard.record(listener.downstream_cx_length_ms, millis(self.began));
        self.counts.active(-1);
        if let Some(http2) = self.http2.get() {
            self.speaks(http2, -1);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Counts { http, shard, .. } = &*self.counts;
        shard.gauge_add(http.downstream_rq_active, -1);
        shard.record(http.downstream_rq_time, millis(self.began));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let Counts { http, shard, .. } = &*self.connection.counts;
        shard.add(http.downstream_cx_rx_bytes_total, (buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        let Counts { http, shard, .. } = &*self.connection.counts;
        shard.add(http.downstream_cx_tx_bytes_total, written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
