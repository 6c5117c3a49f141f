//! The connections to one endpoint, and who waits for one.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
};

use hyper::client::conn::{http1, http2};
use tokio::{sync::oneshot, time::Instant};

use super::{error::PoolError, streams::Streams};
use crate::{
    cluster::{
        account::{Account, OpenConnection},
        dial::{Made, Secured},
    },
    config::{
        cluster::{Cluster, Endpoint, InUse, RoutingPriority, UpstreamProtocol},
        heads::HeadLimits,
        tls::Transport,
    },
    filter_state::FilterState,
    http::{
        body::{RequestBody, sending::Beginnings},
        codec::{interim::Interim, trailers::Trailers},
    },
    telemetry::stats::Shard,
    tls::{PeerTls, client::Asked},
    wire::{
        dial::{Dialer, PoolScope},
        io::Io,
        proxy_header::Client,
    },
};

/// The connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub idle: RefCell<Vec<Http1>>,
    pub shared: RefCell<Vec<Rc<Http2>>>,
    /// Who waits for a connection of HTTP/1, or to hear why there is none.
    waiting: RefCell<VecDeque<oneshot::Sender<Result<Http1, PoolError>>>>,
    /// There may be room for an attempt that one of them begins.
    pub freed: tokio::sync::Notify,
    /// Who waits for a stream of HTTP/2.
    pub streams: Streams,
    /// Attempts under way, for those who wait for HTTP/1 and for streams.
    attempts: [Cell<usize>; 2],
    /// One of them is over.
    pub connected: tokio::sync::Notify,
    /// How many that were made for streams have failed, and why the last one did.
    failures: RefCell<(u64, Option<PoolError>)>,
    /// What ALPN settled on last: whether it is HTTP/2.
    pub negotiated: Cell<Option<bool>>,
    /// Connections made or being made.
    pub open: Cell<usize>,
    /// Counts the pool while it has any.
    pub counted: RefCell<Option<InUse>>,
    /// Where all of it is counted.
    pub account: Option<Rc<Account>>,
}

#[derive(Debug)]
pub(super) struct Http1 {
    pub sender: http1::SendRequest<RequestBody>,
    pub connection: Rc<Connection>,
}

#[derive(Debug)]
pub(super) struct Http2 {
    pub sender: http2::SendRequest<RequestBody>,
    /// What its driver begins to send.
    pub beginnings: Rc<Beginnings>,
    pub connection: Rc<Connection>,
}

/// What a connection's task and its users share.
#[derive(Debug)]
pub(super) struct Connection {
    pub local: Option<SocketAddr>,
    pub made: Made,
    pub tls: Option<Rc<PeerTls>>,
    pub requests: Cell<u32>,
    pub active: Cell<usize>,
    pub idle_since: Cell<Instant>,
    /// Streams that may be open at once.
    pub max_streams: Cell<usize>,
    /// Takes no more requests.
    pub spent: Cell<bool>,
    /// It ended because the upstream broke the protocol of HTTP/2.
    pub broke_protocol: Cell<bool>,
    /// Wakes the task when the connection is spent and idle, or nobody has it any more.
    pub done: Rc<tokio::sync::Notify>,
    /// It is the connection's as long as that is open, too.
    pub room: Rc<Room>,
    /// How large the heads of its responses may be.
    pub response_heads: HeadLimits,
    /// Trailers of the request that is being written, if any are sent.
    pub trailers: Option<Rc<Trailers>>,
    /// What came before the response to the request under way, over HTTP/1.
    pub interim: Rc<Interim>,
    /// Who gets its bytes when the upstream switches protocols.
    pub switch: RefCell<Option<oneshot::Sender<Switched>>>,
}

/// A connection after its protocol was switched, and what was read beyond the response.
pub(in crate::http) type Switched = (Io, bytes::Bytes);

/// A connection's place under its cluster's limit, and at its host. Dropping it lets a request that waits have it.
#[derive(Debug)]
pub(super) struct Room {
    in_use: Option<InUse>,
    host: Weak<Host>,
    /// Counts the connection.
    pub counted: Option<OpenConnection>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.in_use = None;
        self.counted = None;
        if let Some(host) = self.host.upgrade() {
            host.open.set(host.open.get() - 1);
            if host.open.get() == 0 {
                *host.counted.borrow_mut() = None;
            }
            host.wake_one();
            host.streams.wake_one();
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection of HTTP/1.
    Http1,
    /// A stream of HTTP/2, or to know whether there are any.
    Http2,
}

impl Kind {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Http1 => Self::Http2,
            Self::Http2 => Self::Http1,
        }
    }
}

/// Which HTTP a connection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whichever ALPN settles on.
    Negotiated,
}

impl Speaks {
    /// What a cluster is spoken to in; `multiplexed`: the client speaks HTTP/2.
    pub fn to(cluster: &Cluster, multiplexed: bool) -> Self {
        match cluster.protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
            UpstreamProtocol::Downstream if multiplexed => Self::Http2,
            UpstreamProtocol::Downstream => Self::Http1,
            UpstreamProtocol::Negotiated => Self::Negotiated,
        }
    }

    /// What is offered, unless the configuration says otherwise: as in Envoy, what is going to be spoken.
    pub fn protocols(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Negotiated => &["h2", "http/1.1"],
        }
    }
}

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Want<'a> {
    pub cluster: &'a Arc<Cluster>,
    pub endpoint: &'a Arc<Endpoint>,
    pub dialer: &'a Dialer,
    pub scope: &'a PoolScope,
    pub speaks: Speaks,
    /// How the connection is secured.
    pub transport: &'a Transport,
    /// What its TLS asks for.
    pub asked: Asked<'a>,
    /// The worker's counters.
    pub shard: &'a Shard,
    /// Whose limits it counts against.
    pub priority: RoutingPriority,
    /// On whose behalf.
    pub client: Client,
    /// What filters keep of it and share with upstreams; none: nothing.
    pub filter_state: Option<&'a FilterState>,
}

impl Host {
    /// Of the endpoint that this counts.
    pub fn of(account: Account) -> Self {
        Self { account: Some(Rc::new(account)), ..Self::default() }
    }

    /// Whether it is that of an endpoint.
    pub fn is_of(&self, endpoint: &Endpoint) -> bool {
        self.account.as_ref().is_some_and(|account| Arc::ptr_eq(&account.endpoint.host, &endpoint.host))
    }

    /// Room for one more connection, of HTTP/2, of HTTP/1 or of what is agreed on. A host without any has it in any case: the limit is shared with other hosts and
    /// other workers, whose connections ending would wake nobody here.
    pub fn room(self: &Rc<Self>, cluster: &Cluster, priority: RoutingPriority, http2: Option<bool>) -> Option<Room> {
        let (limits, usage) = cluster.limits(priority);
        let gauge = &usage.connections;
        let taken = match &self.account {
            Some(account) => account.place(priority),
            None => gauge.take(limits.max_connections),
        };
        let in_use = match taken {
            Some(in_use) => in_use,
            None if self.open.get() > 0 => return None,
            None => gauge.regardless(),
        };
        if self.open.get() == 0 {
            *self.counted.borrow_mut() = Some(usage.pools.regardless());
        }
        self.open.set(self.open.get() + 1);
        let counted = self.account.as_ref().map(|account| account.connection(http2));
        Some(Room { in_use: Some(in_use), host: Rc::downgrade(self), counted })
    }

    /// Keeps in mind what ALPN settled on; whether it is HTTP/2.
    pub fn learn(&self, secured: &Secured) -> bool {
        let http2 = secured.tls.as_ref().is_some_and(|tls| tls.protocol.as_deref() == Some("h2"));
        self.negotiated.set(Some(http2));
        http2
    }

    /// Those who wait for a connection of HTTP/1 are to look for what there is instead.
    pub fn turn_away(&self) {
        self.waiting.borrow_mut().clear();
    }

    pub fn offer(&self, one: Http1) {
        let mut one = one;
        while let Some(waiter) = self.waiting.borrow_mut().pop_front() {
            match waiter.send(Ok(one)) {
                Err(Ok(back)) => one = back,
                _ => return,
            }
        }
        self.idle.borrow_mut().push(one);
    }

    /// How many wait for a connection of HTTP/1.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Attempts under way.
    pub fn attempts(&self, kind: Kind) -> &Cell<usize> {
        &self.attempts[kind as usize]
    }

    /// An attempt has failed, and with it all who wait for what it was to make.
    pub fn fail(&self, kind: Kind, error: &PoolError) {
        match kind {
            Kind::Http1 => {
                for waiter in self.waiting.take() {
                    // One that has just gone need not know.
                    let _ = waiter.send(Err(error.again()));
                }
            }
            Kind::Http2 => {
                let mut failures = self.failures.borrow_mut();
                *failures = (failures.0 + 1, Some(error.again()));
            }
        }
    }

    /// How many attempts have failed that were made for streams.
    pub fn failures(&self) -> u64 {
        self.failures.borrow().0
    }

    /// Why the last of them failed, if there are more than `known`.
    pub fn failed_since(&self, known: u64) -> Option<PoolError> {
        let (number, why) = &*self.failures.borrow();
        why.as_ref().filter(|_| *number > known).map(PoolError::again)
    }

    /// Lets one who waits begin an attempt.
    pub fn wake_one(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }

    /// An idle connection that is still good, the most recently used one.
    pub fn idle(&self) -> Option<Http1> {
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

    /// A connection of HTTP/2 that has room for a stream.
    pub fn shared(&self) -> Option<Rc<Http2>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|two| !two.sender.is_closed() && !two.connection.spent.get());
        shared.iter().find(|two| two.connection.active.get() < two.connection.max_streams.get()).cloned()
    }
}

impl Host {
    pub fn is_empty(&self) -> bool {
        self.idle.borrow_mut().retain(|one| !one.sender.is_closed());
        self.shared.borrow_mut().retain(|two| !two.sender.is_closed());
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

/// A place in the queue for a connection. What was given to a request that is gone goes to the next.
pub(super) struct Waiting<'a> {
    host: &'a Host,
    pub given: oneshot::Receiver<Result<Http1, PoolError>>,
}

impl<'a> Waiting<'a> {
    /// The last one.
    pub fn new(host: &'a Host) -> Self {
        let (waiter, given) = oneshot::channel();
        host.waiting.borrow_mut().push_back(waiter);
        Self { host, given }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.given.is_terminated() {
            return;
        }
        self.given.close();
        match self.given.try_recv() {
            Ok(Ok(one)) => self.host.offer(one),
            Ok(Err(_)) => {}
            Err(_) => self.host.waiting.borrow_mut().retain(|waiter| !waiter.is_closed()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.done.notify_one();
    }
}

impl Connection {
    /// Another request goes over it.
    pub fn use_once(&self) {
        self.requests.set(self.requests.get() + 1);
        if let Some(counted) = &self.room.counted {
            counted.requests.set(self.requests.get());
        }
    }

    /// The upstream has said that there is no response after this one.
    pub fn close_notified(&self) {
        self.spent.set(true);
        if let Some(counted) = &self.room.counted {
            counted.close_notified();
        }
    }

    /// The other side has ended it.
    pub fn ended_remotely(&self) {
        if let Some(counted) = &self.room.counted {
            counted.remote.set(true);
        }
    }

    /// It ends because of what this side does, whatever its task takes that for.
    pub fn ended_here(&self) {
        if let Some(counted) = &self.room.counted {
            counted.remote.set(false);
        }
    }

    /// It ends while a request is under way.
    pub fn interrupt(&self) {
        if let Some(counted) = &self.room.counted {
            counted.interrupted.set(true);
        }
    }

    /// To `cluster`. `trailers`: they are sent.
    pub fn new(cluster: &Cluster, secured: &Secured, room: Rc<Room>, trailers: bool) -> Rc<Self> {
        Rc::new(Self {
            local: secured.io.local_addr().ok(),
            made: secured.made,
            tls: secured.tls.clone(),
            requests: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            max_streams: Cell::new(usize::MAX),
            spent: Cell::new(false),
            broke_protocol: Cell::new(false),
            done: Rc::default(),
            room,
            response_heads: cluster.response_heads,
            trailers: trailers.then(Rc::default),
            interim: Rc::default(),
            switch: RefCell::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::Future;

    #[test]
    fn who_is_gone_waits_no_more() {
        let host = Host::default();
        let (first, mut second) = (Waiting::new(&host), Waiting::new(&host));
        drop(first);
        assert_eq!(host.waiting(), 1);
        host.fail(Kind::Http1, &PoolError::Handshake);
        assert!(matches!(second.given.try_recv(), Ok(Err(PoolError::Handshake))));
        assert_eq!(host.waiting(), 0);
    }

    #[test]
    fn who_waits_in_vain_looks_again() {
        let host = Host::default();
        let mut waiting = Waiting::new(&host);
        host.turn_away();
        assert!(waiting.given.try_recv().is_err());
        assert_eq!(host.waiting(), 0);
    }

    #[test]
    fn failures_are_told_to_those_who_waited_by_then() {
        let host = Host::default();
        let before = host.failures();
        host.fail(Kind::Http2, &PoolError::Handshake);
        assert!(matches!(host.failed_since(before), Some(PoolError::Handshake)));
        assert!(host.failed_since(host.failures()).is_none());
    }

    #[test]
    fn room_that_is_given_back_wakes_who_waits() {
        let host = Rc::new(Host::default());
        let mut cluster = Cluster::fixed("c", Default::default());
        cluster.breakers.max_connections = 1;
        let room = host.room(&cluster, RoutingPriority::Default, Some(false)).unwrap();
        assert!(host.room(&cluster, RoutingPriority::Default, Some(false)).is_none());
        let _waiting = Waiting::new(&host);
        let mut freed = std::pin::pin!(host.freed.notified());
        let mut polled = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(freed.as_mut().poll(&mut polled).is_pending());
        drop(room);
        assert!(freed.as_mut().poll(&mut polled).is_ready());
        assert!(host.room(&cluster, RoutingPriority::Default, Some(false)).is_some());
    }

    #[test]
    fn a_host_without_connections_has_room_whatever_others_use() {
        let mut cluster = Cluster::fixed("c", Default::default());
        cluster.breakers.max_connections = 1;
        let (one, other) = (Rc::new(Host::default()), Rc::new(Host::default()));
        let _rooms = (
            one.room(&cluster, RoutingPriority::Default, Some(false)).unwrap(),
            other.room(&cluster, RoutingPriority::Default, Some(false)).unwrap(),
        );
        assert!(
            one.room(&cluster, RoutingPriority::Default, Some(false)).is_none()
                && other.room(&cluster, RoutingPriority::Default, Some(false)).is_none()
        );
        assert_eq!(cluster.usage.connections.load(), 2);
    }
}
