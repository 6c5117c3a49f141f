//! Upstream HTTP connections of one worker, kept by cluster, endpoint and network namespace.
//!
//! An HTTP/1 connection serves one request at a time and comes back when its response has been read; an HTTP/2
//! connection is shared. Each is driven by a task of its own, which closes it when it idles too long. The circuit
//! breakers' counters are the cluster's, shared with the other workers.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    hash::{Hash, Hasher},
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use hashbrown::{Equivalent, HashMap};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::oneshot, time::Instant};

use super::{LocalExecutor, body::RequestBody};
use crate::{
    config::cluster::{Cluster, Gauge},
    wire::dial::{ConnectError, Dialer, PoolScope},
};

/// Connections of this worker.
#[derive(Debug, Default)]
pub struct Pools {
    hosts: RefCell<HashMap<Key, Rc<Host>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    cluster: Arc<str>,
    address: SocketAddr,
    scope: PoolScope,
}

/// The same, borrowed.
struct KeyRef<'a> {
    cluster: &'a str,
    address: SocketAddr,
    scope: &'a PoolScope,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef { cluster: &self.cluster, address: self.address, scope: &self.scope }.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cluster.hash(state);
        self.address.hash(state);
        self.scope.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.address == key.address && *self.cluster == *key.cluster && *self.scope == key.scope
    }
}

/// The connections to one endpoint.
#[derive(Debug, Default)]
struct Host {
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Option<Http1>>>>,
    connecting: Cell<bool>,
    connected: tokio::sync::Notify,
}

#[derive(Debug)]
struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    connection: Rc<Connection>,
}

#[derive(Debug)]
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    connection: Rc<Connection>,
}

/// What a connection's task and its users share.
#[derive(Debug)]
struct Connection {
    local: Option<SocketAddr>,
    requests: Cell<u32>,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Streams that may be open at once.
    max_streams: Cell<usize>,
    /// Takes no more requests.
    spent: Cell<bool>,
    /// Wakes the task when the connection is spent and idle.
    done: tokio::sync::Notify,
    _open: InUse,
}

/// One of a limited number.
#[derive(Debug)]
pub(super) struct InUse(Gauge);

impl InUse {
    /// One more, unless `limit` are in use.
    pub fn take(gauge: &Gauge, limit: u32) -> Option<Self> {
        gauge.fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1)).ok().map(|_| Self(gauge.clone()))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum PoolError {
    /// A circuit breaker is open.
    Overflow,
    /// It could not be made.
    Connect(ConnectError),
    /// It was made and HTTP could not be started on it.
    Handshake,
}

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub address: SocketAddr,
    pub dialer: &'a Dialer,
    pub scope: &'a PoolScope,
    pub http2: bool,
}

/// The use of a connection by one request. Dropping it without [`Lease::release`] means that the response was not read
/// to its end.
#[derive(Debug)]
pub struct Lease {
    sender: Sender,
    host: Weak<Host>,
    max_requests: u32,
    pub(super) reused: bool,
}

#[derive(Debug)]
enum Sender {
    Http1(Option<Http1>),
    Http2(Rc<Http2>),
}

impl Lease {
    /// This side's address.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match &self.sender {
            Sender::Http1(one) => one.as_ref().and_then(|one| one.connection.local),
            Sender::Http2(two) => two.connection.local,
        }
    }

    /// Whether it is HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends a request. An error holds the request if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, TrySendError<http::Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(Some(one)) => one.sender.try_send_request(request).await,
            Sender::Http1(None) => std::future::pending().await,
            Sender::Http2(two) => two.sender.clone().try_send_request(request).await,
        }
    }

    /// The response has been read to its end: the connection may serve another request.
    pub(super) fn release(mut self) {
        if let Sender::Http1(one) = &mut self.sender
            && let Some(one) = one.take()
            && let Some(host) = self.host.upgrade()
        {
            one.connection.idle_since.set(Instant::now());
            let spent = self.max_requests > 0 && one.connection.requests.get() >= self.max_requests;
            if spent || one.sender.is_closed() {
                host.wake_one();
            } else {
                host.offer(one);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &mut self.sender {
            Sender::Http1(one) => {
                // Not released: dropping the sender closes the connection, and somebody else may open one.
                if one.take().is_some()
                    && let Some(host) = self.host.upgrade()
                {
                    host.wake_one();
                }
            }
            Sender::Http2(two) => {
                let connection = &two.connection;
                connection.active.set(connection.active.get() - 1);
                connection.idle_since.set(Instant::now());
                if connection.spent.get() && connection.active.get() == 0 {
                    connection.done.notify_one();
                }
            }
        }
    }
}

impl Host {
    fn offer(&self, one: Http1) {
        let mut one = one;
        while let Some(waiter) = self.waiting.borrow_mut().pop_front() {
            match waiter.send(Some(one)) {
                Ok(()) => return,
                Err(back) => match back {
                    Some(back) => one = back,
                    None => return,
                },
            }
        }
        self.idle.borrow_mut().push(one);
    }

    /// Lets one waiter try to connect.
    fn wake_one(&self) {
        while let Some(waiter) = self.waiting.borrow_mut().pop_front() {
            if waiter.send(None).is_ok() {
                return;
            }
        }
    }

    /// An idle connection that is still good, the most recently used one.
    fn idle(&self) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        while let Some(one) = idle.pop() {
            if one.sender.is_ready() {
                return Some(one);
            }
            if !one.sender.is_closed() {
                // Its task has not come round since the last response: leave it a moment by trying an older one.
                let other = idle.iter().rposition(|other| other.sender.is_ready());
                return Some(match other {
                    Some(index) => {
                        let other = idle.swap_remove(index);
                        idle.push(one);
                        other
                    }
                    None => one,
                });
            }
        }
        None
    }

    fn shared(&self) -> Option<Rc<Http2>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|two| !two.sender.is_closed() && !two.connection.spent.get());
        shared.iter().find(|two| two.connection.active.get() < two.connection.max_streams.get()).cloned()
    }
}

impl Pools {
    /// A connection, pooled or new.
    pub(super) async fn acquire(&self, want: Want<'_>) -> Result<Lease, PoolError> {
        let host = self.host(&want);
        if want.http2 { http2_lease(&host, &want).await } else { http1_lease(&host, &want).await }
    }

    /// Closes the idle connections that start in a pod's network namespace, and keeps no others of it.
    pub fn forget_pod(&self, uid: &str) {
        self.hosts.borrow_mut().retain(|key, _| !matches!(&key.scope, PoolScope::Pod(pod, ..) if pod == uid));
    }

    fn host(&self, want: &Want<'_>) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        let key = KeyRef { cluster: &want.cluster.name, address: want.address, scope: want.scope };
        if let Some(host) = hosts.get(&key) {
            return host.clone();
        }
        // Endpoints come and go: forget those without connections and users.
        if hosts.len() == hosts.capacity() {
            hosts.retain(|_, host| Rc::strong_count(host) > 1 || !host.is_empty());
        }
        let key = Key { cluster: want.cluster.name.clone(), address: want.address, scope: want.scope.clone() };
        hosts.entry(key).insert(Rc::default()).get().clone()
    }
}

impl Host {
    fn is_empty(&self) -> bool {
        self.idle.borrow_mut().retain(|one| !one.sender.is_closed());
        self.shared.borrow_mut().retain(|two| !two.sender.is_closed());
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

async fn http1_lease(host: &Rc<Host>, want: &Want<'_>) -> Result<Lease, PoolError> {
    let lease = |one: Http1, reused: bool| {
        one.connection.requests.set(one.connection.requests.get() + 1);
        Lease {
            sender: Sender::Http1(Some(one)),
            host: Rc::downgrade(host),
            max_requests: want.cluster.max_requests_per_connection,
            reused,
        }
    };
    let mut pending = None;
    loop {
        if let Some(mut one) = host.idle() {
            if one.sender.is_ready() || one.sender.ready().await.is_ok() {
                return Ok(lease(one, true));
            }
            continue;
        }
        if pending.is_none() {
            let limits = &want.cluster.breakers;
            pending = Some(InUse::take(&want.cluster.usage.pending, limits.max_pending).ok_or(PoolError::Overflow)?);
        }
        match InUse::take(&want.cluster.usage.connections, want.cluster.breakers.max_connections) {
            Some(open) => return Ok(lease(connect_http1(host, want, open).await?, false)),
            None => {
                let (waiter, one) = oneshot::channel();
                host.waiting.borrow_mut().push_back(waiter);
                if let Ok(Some(one)) = one.await {
                    return Ok(lease(one, true));
                }
            }
        }
    }
}

async fn http2_lease(host: &Rc<Host>, want: &Want<'_>) -> Result<Lease, PoolError> {
    loop {
        if let Some(two) = host.shared() {
            let connection = &two.connection;
            let reused = connection.requests.get() > 0;
            connection.requests.set(connection.requests.get() + 1);
            connection.active.set(connection.active.get() + 1);
            let max_requests = want.cluster.max_requests_per_connection;
            if max_requests > 0 && connection.requests.get() >= max_requests {
                connection.spent.set(true);
            }
            return Ok(Lease { sender: Sender::Http2(two), host: Rc::downgrade(host), max_requests, reused });
        }
        if host.connecting.get() {
            // One connection attempt serves all who wait; who comes too late for its streams makes the next.
            host.connected.notified().await;
            continue;
        }
        let limits = &want.cluster.breakers;
        let _pending = InUse::take(&want.cluster.usage.pending, limits.max_pending).ok_or(PoolError::Overflow)?;
        let open = InUse::take(&want.cluster.usage.connections, limits.max_connections).ok_or(PoolError::Overflow)?;
        let _connecting = Connecting::new(host);
        let two = connect_http2(host, want, open).await?;
        host.shared.borrow_mut().push(Rc::new(two));
    }
}

/// An HTTP/2 connection is being made.
struct Connecting<'a>(&'a Host);

impl<'a> Connecting<'a> {
    fn new(host: &'a Host) -> Self {
        host.connecting.set(true);
        Self(host)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}

impl Connection {
    fn new(stream: &TcpStream, open: InUse) -> Rc<Self> {
        Rc::new(Self {
            local: stream.local_addr().ok(),
            requests: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            max_streams: Cell::new(usize::MAX),
            spent: Cell::new(false),
            done: tokio::sync::Notify::new(),
            _open: open,
        })
    }
}

async fn dial(want: &Want<'_>) -> Result<TcpStream, PoolError> {
    want.dialer.connect(want.address, want.cluster.connect_timeout).await.map_err(PoolError::Connect)
}

fn http1_builder() -> http1::Builder {
    http1::Builder::new()
}

async fn connect_http1(host: &Rc<Host>, want: &Want<'_>, open: InUse) -> Result<Http1, PoolError> {
    let stream = dial(want).await?;
    let connection = Connection::new(&stream, open);
    let (sender, driver) = http1_builder().handshake(TokioIo::new(stream)).await.map_err(|_| PoolError::Handshake)?;
    let host = Rc::downgrade(host);
    let shared = Rc::downgrade(&connection);
    let idle_timeout = want.cluster.idle_timeout;
    tokio::task::spawn_local(async move {
        let mut driver = std::pin::pin!(driver);
        tokio::select! {
            ended = &mut driver => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "upstream connection ended");
                }
            }
            () = idle_too_long(&host, &shared, idle_timeout) => {}
        }
        if let Some(host) = host.upgrade() {
            host.idle.borrow_mut().retain(|one| !one.sender.is_closed());
        }
    });
    Ok(Http1 { sender, connection })
}

/// Resolves when an HTTP/1 connection has been idle for `timeout`, having taken it out of the pool.
async fn idle_too_long(host: &Weak<Host>, connection: &Weak<Connection>, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let mut wait = timeout;
    loop {
        tokio::time::sleep(wait).await;
        let (Some(host), Some(connection)) = (host.upgrade(), connection.upgrade()) else { return };
        let mut idle = host.idle.borrow_mut();
        match idle.iter().position(|one| Rc::ptr_eq(&one.connection, &connection)) {
            Some(index) => {
                let since = connection.idle_since.get().elapsed();
                if since >= timeout {
                    idle.swap_remove(index);
                    return;
                }
                wait = timeout - since;
            }
            None => wait = timeout,
        }
    }
}

async fn connect_http2(host: &Rc<Host>, want: &Want<'_>, open: InUse) -> Result<Http2, PoolError> {
    let stream = dial(want).await?;
    let connection = Connection::new(&stream, open);
    let settings = &want.cluster.http2;
    let (sender, mut driver) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| PoolError::Handshake)?;
    let limit = settings.max_concurrent_streams as usize;
    connection.max_streams.set(limit.max(1));
    let shared = Rc::downgrade(&connection);
    let host = Rc::downgrade(host);
    let idle_timeout = want.cluster.idle_timeout;
    tokio::task::spawn_local(async move {
        let driving = std::future::poll_fn(|cx| {
            let ended = Pin::new(&mut driver).poll(cx);
            if let Some(connection) = shared.upgrade() {
                connection.max_streams.set(driver.current_max_send_streams().min(limit).max(1));
            }
            match ended {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending => Poll::Pending,
            }
        });
        tokio::select! {
            ended = driving => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "upstream connection ended");
                }
            }
            () = shared_idle_too_long(&shared, idle_timeout) => {}
        }
        if let Some(host) = host.upgrade() {
            host.shared.borrow_mut().retain(|two| !two.sender.is_closed());
        }
    });
    Ok(Http2 { sender, connection })
}

/// Resolves when an HTTP/2 connection has had no stream for `timeout`, or is spent and has none.
async fn shared_idle_too_long(connection: &Weak<Connection>, timeout: Option<Duration>) {
    let mut wait = timeout.unwrap_or(Duration::MAX);
    loop {
        let Some(connection) = connection.upgrade() else { return };
        // Who holds the connection here keeps it alive no longer than the pool does: it is given up before waiting.
        let done = {
            let spent = connection.spent.get() && connection.active.get() == 0;
            let idle = connection.idle_since.get().elapsed();
            match timeout {
                Some(timeout) if connection.active.get() == 0 && idle >= timeout => true,
                Some(timeout) => {
                    wait = if connection.active.get() == 0 { timeout - idle } else { timeout };
                    spent
                }
                None => spent,
            }
        };
        if done {
            connection.spent.set(true);
            return;
        }
        let _ = tokio::time::timeout(wait, connection.done.notified()).await;
    }
}

/// A connection of its own for an upgrade: not pooled, and its bytes can be had back.
#[derive(Debug)]
pub(super) struct Upgrading {
    pub sender: http1::SendRequest<RequestBody>,
    /// The connection, and what was read beyond the response, once the upstream has switched protocols.
    pub switched: oneshot::Receiver<(TcpStream, bytes::Bytes)>,
    pub local: Option<SocketAddr>,
}

/// Dials for an upgrade.
pub(super) async fn connect_for_upgrade(want: Want<'_>) -> Result<Upgrading, PoolError> {
    let limits = &want.cluster.breakers;
    let open = InUse::take(&want.cluster.usage.connections, limits.max_connections).ok_or(PoolError::Overflow)?;
    let stream = dial(&want).await?;
    let local = stream.local_addr().ok();
    let (sender, mut driver) =
        http1_builder().handshake(TokioIo::new(stream)).await.map_err(|_| PoolError::Handshake)?;
    let (switched, receiver) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let _open = open;
        if std::future::poll_fn(|cx| driver.poll_without_shutdown(cx)).await.is_ok() {
            let parts = driver.into_parts();
            // Nobody waits when it was no upgrade after all.
            let _ = switched.send((parts.io.into_inner(), parts.read_buf));
        }
    });
    Ok(Upgrading { sender, switched: receiver, local })
}
