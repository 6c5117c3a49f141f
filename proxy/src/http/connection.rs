//! One client connection that speaks HTTP: hyper drives it, and this watches over it (idleness, age, draining).

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{LocalExecutor, stream, upgrade::Accepted};
use crate::{
    config::http::{Codec, HttpConnectionManager},
    intake::Downstream,
    telemetry::access_log::{self, Entry, Flag},
    wire::dial::{Dialer, PoolScope},
    worker::Worker,
};

/// How long a connection that this side closed first is read on, so that the client gets the last response and not a
/// reset: Envoy's default `delayed_close_timeout`.
const LINGER: Duration = Duration::from_secs(1);

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub worker: Rc<Worker>,
    pub manager: Arc<HttpConnectionManager>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    pub server_name: Option<Arc<str>>,
    pub dialer: Dialer,
    pub scope: PoolScope,
    /// The client speaks HTTP/2.
    pub multiplexed: bool,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    requests: Cell<u32>,
    /// When the first byte of a request's head came, while the rest has not.
    head_began: Cell<Option<Instant>>,
    head_begins: tokio::sync::Notify,
    /// The client closed its side.
    saw_end: Cell<bool>,
    draining: Cell<bool>,
    /// Asks for a graceful end.
    ends: tokio::sync::Notify,
    upgrade: RefCell<Option<Accepted>>,
}

/// Serves a connection to its end. `codec` says which HTTP it speaks.
pub async fn serve(
    worker: Rc<Worker>,
    downstream: Downstream,
    manager: Arc<HttpConnectionManager>,
    codec: Codec,
    server_name: Option<Arc<str>>,
) {
    let dialer = downstream.dialer();
    let connection = Rc::new(Connection {
        worker,
        manager,
        peer: downstream.peer,
        // As Envoy restores it: a pod's listening socket is how it came, not where it was going.
        local: downstream.destination,
        destination: downstream.destination,
        server_name,
        scope: dialer.scope(),
        dialer,
        multiplexed: codec == Codec::Http2,
        active: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        requests: Cell::new(0),
        head_began: Cell::new(None),
        head_begins: tokio::sync::Notify::new(),
        saw_end: Cell::new(false),
        draining: Cell::new(false),
        ends: tokio::sync::Notify::new(),
        upgrade: RefCell::new(None),
    });
    let Downstream { stream, drain, .. } = downstream;
    let io = TokioIo::new(Watched { stream, connection: connection.clone() });
    let watch = async {
        tokio::select! {
            () = drain.draining() => {}
            () = connection.ends.notified() => {}
            () = too_old(connection.manager.max_connection_duration) => {}
        }
    };
    if connection.multiplexed {
        serve_http2(&connection, io, watch).await;
    } else {
        serve_http1(&connection, io, watch).await;
    }
}

async fn serve_http1(connection: &Rc<Connection>, io: TokioIo<Watched>, drain: impl Future<Output = ()>) {
    let manager = &connection.manager;
    let service = {
        let connection = connection.clone();
        // hyper gives the connection back (for upgrades) only from services whose futures are not pinned in it.
        service_fn(move |request| Box::pin(stream::handle(connection.clone(), request)))
    };
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(manager.max_headers)
        .max_header_size(manager.max_head_bytes)
        .serve_connection(io, service);
    let mut drain = std::pin::pin!(drain);
    let mut limits = std::pin::pin!(limits(connection));
    let ended = loop {
        tokio::select! {
            biased;
            ended = std::future::poll_fn(|cx| serving.poll_without_shutdown(cx)) => break Ok(ended),
            () = &mut drain, if !connection.draining.get() => {
                connection.draining.set(true);
                Pin::new(&mut serving).graceful_shutdown();
            }
            limit = &mut limits => break Err(limit),
        }
    };
    let parts = serving.into_parts();
    let Watched { stream, .. } = parts.io.into_inner();
    match ended {
        Ok(Ok(())) => {
            let upgrade = connection.upgrade.borrow_mut().take();
            match upgrade {
                Some(upgrade) => upgrade.run(stream, parts.read_buf).await,
                None if !connection.saw_end.get() => linger(stream).await,
                None => {}
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %connection.peer, %error, "connection ended");
            if error.is_parse() {
                log_protocol_error(connection, &error);
                linger(stream).await;
            }
        }
        Err(Limit::Idle) => {
            tracing::debug!(peer = %connection.peer, "connection idle too long");
        }
        Err(Limit::Head) => {
            tracing::debug!(peer = %connection.peer, "request headers took too long");
            answer_slow_head(stream).await;
        }
    }
}

async fn serve_http2(connection: &Rc<Connection>, io: TokioIo<Watched>, drain: impl Future<Output = ()>) {
    let manager = &connection.manager;
    let service = {
        let connection = connection.clone();
        service_fn(move |request| stream::handle(connection.clone(), request))
    };
    let mut serving = std::pin::pin!(
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(manager.http2.max_concurrent_streams)
            .initial_stream_window_size(manager.http2.stream_window)
            .initial_connection_window_size(manager.http2.connection_window)
            .max_header_list_size(u32::try_from(manager.max_head_bytes).unwrap_or(u32::MAX))
            .serve_connection(io, service)
    );
    let mut drain = std::pin::pin!(drain);
    let mut limits = std::pin::pin!(limits(connection));
    let mut idled = false;
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %connection.peer, %error, "connection ended");
                }
                return;
            }
            () = &mut drain, if !connection.draining.get() => {
                connection.draining.set(true);
                serving.as_mut().graceful_shutdown();
            }
            _ = &mut limits, if !idled => {
                idled = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Which limit of a connection passed.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Idle,
    Head,
}

async fn limits(connection: &Connection) -> Limit {
    tokio::select! {
        () = idle(connection) => Limit::Idle,
        () = slow_head(connection) => Limit::Head,
    }
}

/// Resolves when there has been no request for the idle timeout.
async fn idle(connection: &Connection) {
    let Some(timeout) = connection.manager.idle_timeout else { return std::future::pending().await };
    loop {
        let since = connection.idle_since.get();
        let deadline = if connection.active.get() > 0 { Instant::now() + timeout } else { since + timeout };
        tokio::time::sleep_until(deadline).await;
        if connection.active.get() == 0 && connection.idle_since.get() == since {
            return;
        }
    }
}

/// Resolves when a request's head has been coming for too long.
async fn slow_head(connection: &Connection) {
    let Some(timeout) = connection.manager.request_headers_timeout else { return std::future::pending().await };
    loop {
        match connection.head_began.get() {
            None => connection.head_begins.notified().await,
            Some(began) => {
                tokio::time::sleep_until(began + timeout).await;
                if connection.head_began.get() == Some(began) {
                    return;
                }
            }
        }
    }
}

async fn too_old(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Closes a connection whose client may still be sending: it must not lose the last response to a reset.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut sink = [0; 4096];
    let drained = async { while matches!(stream.read(&mut sink).await, Ok(1..)) {} };
    // Whoever still sends after this long does not read either.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

async fn answer_slow_head(mut stream: TcpStream) {
    let answer = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 15\r\ncontent-type: text/plain\r\n\
        connection: close\r\n\r\nrequest timeout";
    if stream.write_all(answer).await.is_ok() {
        linger(stream).await;
    }
}

fn log_protocol_error(connection: &Connection, error: &hyper::Error) {
    let mut entry = Entry::new(connection.local, connection.peer);
    entry.protocol = Some("HTTP/1.1");
    entry.response_code = if error.is_parse_too_large() { 431 } else { 400 };
    entry.raise(Flag::DownstreamProtocolError);
    entry.details = "http1.codec_error".into();
    access_log::write(&connection.worker.log, &connection.manager.access_log, &entry);
}

/// A request under way on a connection.
pub(super) struct Active(Rc<Connection>);

impl Drop for Active {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.active.set(connection.active.get() - 1);
        connection.idle_since.set(Instant::now());
    }
}

impl Connection {
    /// Counts a request in.
    pub fn activate(self: Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
        self.head_began.set(None);
        Active(self)
    }

    /// The last word on a response's headers: whether the connection ends with it.
    pub fn before_response(&self, headers: &mut HeaderMap) {
        let most = self.manager.max_requests_per_connection;
        if most > 0 && self.requests.get() >= most {
            if self.multiplexed {
                self.ends.notify_one();
            } else {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
    }

    /// What happens once hyper has given the connection back.
    pub fn accept_upgrade(&self, upgrade: Accepted) {
        *self.upgrade.borrow_mut() = Some(upgrade);
    }
}

/// A client's stream that notes what limits need to know.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    connection: Rc<Connection>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = &read {
            let connection = &self.connection;
            if buffer.filled().len() == before {
                connection.saw_end.set(buffer.remaining() > 0);
            } else if connection.active.get() == 0
                && connection.manager.request_headers_timeout.is_some()
                && connection.head_began.get().is_none()
            {
                connection.head_began.set(Some(Instant::now()));
                connection.head_begins.notify_one();
            }
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        config::{
            http::{Router, ServerHeader, StripPort},
            route::RouteTable,
        },
        telemetry::access_log::Wanted,
    };

    /// A connection manager with Envoy's defaults and no routes.
    pub fn manager() -> HttpConnectionManager {
        HttpConnectionManager {
            stat_prefix: "test".into(),
            codec: Codec::Auto,
            http2: Default::default(),
            routes: Arc::new(RouteTable::default()),
            filters: Vec::new(),
            router: Router::default(),
            access_log: Vec::new(),
            wanted: Wanted::default(),
            server_name: HeaderValue::from_static("envoy"),
            server_header: ServerHeader::Overwrite,
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            node_address: [192, 0, 2, 1].into(),
            internal_addresses: Vec::new(),
            via: None,
            generate_request_id: true,
            preserve_external_request_id: false,
            request_id_in_response: false,
            accept_http_10: false,
            default_host: None,
            max_head_bytes: HttpConnectionManager::DEFAULT_MAX_HEAD,
            max_headers: HttpConnectionManager::DEFAULT_MAX_HEADERS,
            idle_timeout: Some(HttpConnectionManager::DEFAULT_IDLE),
            max_connection_duration: None,
            max_stream_duration: None,
            max_requests_per_connection: 0,
            stream_idle_timeout: Some(HttpConnectionManager::DEFAULT_STREAM_IDLE),
            request_timeout: None,
            request_headers_timeout: None,
            upgrades: Vec::new(),
            strip_port: StripPort::Never,
            strip_trailing_host_dot: false,
            normalize_path: false,
            merge_slashes: false,
            buffer_limit: 1 << 20,
        }
    }
}
