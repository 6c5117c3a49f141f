//! Upstream HTTP connections of one worker, kept by cluster, endpoint and network namespace.
//!
//! An HTTP/1 connection serves one request at a time and comes back when its response has been read; an HTTP/2
//! connection is shared. Each is driven by a task of its own, which closes it when it idles too long. The circuit
//! breakers' counters are the cluster's, shared with the other workers.

mod connect;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hashbrown::{Equivalent, HashMap};
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::{net::TcpStream, sync::oneshot, time::Instant};

pub(super) use self::connect::connect_for_upgrade;
use self::connect::{connect_http1, connect_http2};
use super::request_body::RequestBody;
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
    /// Counts attempts at an HTTP/2 connection.
    attempt: Cell<u64>,
    /// The last attempt that failed, and why.
    failure: RefCell<Option<(u64, PoolError)>>,
    /// Connections made or being made.
    open: Cell<usize>,
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
    _room: Room,
}

/// A connection's place under its cluster's limit, and at its host. Dropping it lets a request that waits have it.
#[derive(Debug)]
struct Room {
    in_use: Option<InUse>,
    host: Weak<Host>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_use = None;
        if let Some(host) = self.host.upgrade() {
            host.open.set(host.open.get() - 1);
            host.wake_one();
        }
    }
}

/// One of a limited number.
#[derive(Debug)]
pub(super) struct InUse(Gauge);

impl InUse {
    /// One more, unless `limit` are in use.
    pub fn take(gauge: &Gauge, limit: u32) -> Option<Self> {
        gauge.fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1)).ok().map(|_| Self(gauge.clone()))
    }

    /// One more, whatever the limit.
    fn regardless(gauge: &Gauge) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge.clone())
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

impl PoolError {
    /// The same, for another who waited for the same connection.
    fn again(&self) -> Self {
        match self {
            Self::Overflow => Self::Overflow,
            Self::Handshake => Self::Handshake,
            Self::Connect(ConnectError::Timeout) => Self::Connect(ConnectError::Timeout),
            Self::Connect(ConnectError::Io(error)) => Self::Connect(ConnectError::Io(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            })),
        }
    }
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

/// The use of a connection by one request. Dropping it without releasing it means that the response was not read
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
            if !spent && !one.sender.is_closed() {
                host.offer(one);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &mut self.sender {
            // Not released: dropping the sender closes the connection, and somebody else may open one.
            Sender::Http1(_) => {}
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
    /// Room for one more connection. A host without any has it in any case: the limit is shared with other hosts and
    /// other workers, whose connections ending would wake nobody here.
    fn room(self: &Rc<Self>, cluster: &Cluster) -> Option<Room> {
        let gauge = &cluster.usage.connections;
        let in_use = match self.open.get() {
            0 => InUse::regardless(gauge),
            _ => InUse::take(gauge, cluster.breakers.max_connections)?,
        };
        self.open.set(self.open.get() + 1);
        Some(Room { in_use: Some(in_use), host: Rc::downgrade(self) })
    }

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
        match host.room(want.cluster) {
            Some(room) => return Ok(lease(connect_http1(host, want, room).await?, false)),
            None => {
                let (waiter, given) = oneshot::channel();
                host.waiting.borrow_mut().push_back(waiter);
                let mut waiting = Waiting { host, given };
                if let Ok(Some(one)) = (&mut waiting.given).await {
                    return Ok(lease(one, true));
                }
            }
        }
    }
}

/// A place in the queue for a connection. What was given to a request that is gone goes to the next.
struct Waiting<'a> {
    host: &'a Host,
    given: oneshot::Receiver<Option<Http1>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.given.close();
        match self.given.try_recv() {
            Ok(Some(one)) => self.host.offer(one),
            Ok(None) => self.host.wake_one(),
            Err(_) => {}
        }
    }
}

async fn http2_lease(host: &Rc<Host>, want: &Want<'_>) -> Result<Lease, PoolError> {
    let mut pending = None;
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
        if pending.is_none() {
            let limit = want.cluster.breakers.max_pending;
            pending = Some(InUse::take(&want.cluster.usage.pending, limit).ok_or(PoolError::Overflow)?);
        }
        if host.connecting.get() {
            // One attempt serves all who wait, and fails all; who comes too late for its streams makes the next.
            let attempt = host.attempt.get();
            host.connected.notified().await;
            match &*host.failure.borrow() {
                Some((failed, error)) if *failed == attempt => return Err(error.again()),
                _ => continue,
            }
        }
        let room = host.room(want.cluster).ok_or(PoolError::Overflow)?;
        let _connecting = Connecting::new(host);
        match connect_http2(host, want, room).await {
            Ok(two) => host.shared.borrow_mut().push(Rc::new(two)),
            Err(error) => {
                *host.failure.borrow_mut() = Some((host.attempt.get(), error.again()));
                return Err(error);
            }
        }
    }
}

/// An HTTP/2 connection is being made.
struct Connecting<'a>(&'a Host);

impl<'a> Connecting<'a> {
    fn new(host: &'a Host) -> Self {
        host.connecting.set(true);
        host.attempt.set(host.attempt.get() + 1);
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
    fn new(stream: &TcpStream, room: Room) -> Rc<Self> {
        Rc::new(Self {
            local: stream.local_addr().ok(),
            requests: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            max_streams: Cell::new(usize::MAX),
            spent: Cell::new(false),
            done: tokio::sync::Notify::new(),
            _room: room,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(host: &Host) -> Waiting<'_> {
        let (waiter, given) = oneshot::channel();
        host.waiting.borrow_mut().push_back(waiter);
        Waiting { host, given }
    }

    #[test]
    fn what_is_given_to_a_request_that_is_gone_goes_to_the_next() {
        let host = Host::default();
        let (first, mut second) = (wait(&host), wait(&host));
        host.wake_one();
        assert!(second.given.try_recv().is_err());
        drop(first);
        assert!(matches!(second.given.try_recv(), Ok(None)));
    }

    #[test]
    fn room_that_is_given_back_wakes_who_waits() {
        let host = Rc::new(Host::default());
        let mut cluster = Cluster::fixed("c", Default::default());
        cluster.breakers.max_connections = 1;
        let room = host.room(&cluster).unwrap();
        assert!(host.room(&cluster).is_none());
        let mut waiting = wait(&host);
        drop(room);
        assert!(matches!(waiting.given.try_recv(), Ok(None)));
        assert!(host.room(&cluster).is_some());
    }

    #[test]
    fn a_host_without_connections_has_room_whatever_others_use() {
        let mut cluster = Cluster::fixed("c", Default::default());
        cluster.breakers.max_connections = 1;
        let (one, other) = (Rc::new(Host::default()), Rc::new(Host::default()));
        let _rooms = (one.room(&cluster).unwrap(), other.room(&cluster).unwrap());
        assert!(one.room(&cluster).is_none() && other.room(&cluster).is_none());
        assert_eq!(cluster.usage.connections.load(Relaxed), 2);
    }
}
