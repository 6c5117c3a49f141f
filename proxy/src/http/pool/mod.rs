//! Upstream HTTP connections of one worker, kept by cluster, endpoint and network namespace.
//!
//! An HTTP/1 connection serves one request at a time and comes back when its response has been read; an HTTP/2
//! connection is shared. Each is made by a task of its own (`attempt`), and driven by another, which closes it when it idles
//! too long. The circuit breakers' counters are the cluster's, shared with the other workers.
//!
//! Below streams, whose responses hold its connections: nothing here knows of streams, or of why a request is sent.

mod attempt;
mod connect;
mod error;
mod host;
mod lease;
pub(super) mod names;
mod streams;
pub(super) mod tunnel;

use std::{
    cell::RefCell,
    hash::{Hash, Hasher},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use hashbrown::{Equivalent, HashMap};
use smallvec::{SmallVec, smallvec};

pub use self::lease::Lease;
use self::{
    attempt::begin_if_needed,
    host::{Host, Http1, Http2, Kind, Waiting},
    lease::Sender,
};
pub(super) use self::{
    error::PoolError,
    host::{Speaks, Switched, Want},
};
use crate::{
    cluster::account::{Account, PendingRequest, place_to_wait},
    config::cluster::{Cluster, Discovery, InUse, RoutingPriority},
    filter_state::FilterState,
    view::ViewId,
    wire::{dial::PoolScope, proxy_header::Client},
};

/// Connections of this worker.
#[derive(Debug, Default)]
pub struct Pools {
    hosts: RefCell<HashMap<Key, AtAddress>>,
}

/// Pools of the same address: a cluster may list one several times, as hosts of their own.
type AtAddress = SmallVec<[Rc<Host>; 1]>;

#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// The cluster's view.
    view: ViewId,
    cluster: Arc<str>,
    address: SocketAddr,
    /// The host's name, where hosts are told apart by it.
    name: Option<Arc<str>>,
    scope: PoolScope,
    priority: RoutingPriority,
    /// Where upstreams are told whose connection it is.
    client: Option<Client>,
    /// What TLS sends or verifies, where that follows the request: both are made of one name.
    server_name: Option<Arc<str>>,
    /// ALPN where it follows the request.
    alpn: Option<Arc<[Box<str>]>>,
    /// What filters share with upstreams.
    filter_state: Option<Box<FilterState>>,
}

/// The same, borrowed.
struct KeyRef<'a> {
    view: ViewId,
    cluster: &'a str,
    address: SocketAddr,
    name: Option<&'a str>,
    scope: &'a PoolScope,
    priority: RoutingPriority,
    client: Option<Client>,
    server_name: Option<&'a str>,
    alpn: Option<&'a [Box<str>]>,
    filter_state: Option<&'a FilterState>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let server_name = self.server_name.as_deref();
        let alpn = self.alpn.as_deref();
        let filter_state = self.filter_state.as_deref();
        let name = self.name.as_deref();
        let Self { view, cluster, address, scope, priority, client, .. } = self;
        let (view, address, priority, client) = (*view, *address, *priority, *client);
        KeyRef { view, cluster, address, name, scope, priority, client, server_name, alpn, filter_state }.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view.hash(state);
        self.cluster.hash(state);
        self.address.hash(state);
        self.name.hash(state);
        self.scope.hash(state);
        self.priority.hash(state);
        self.client.hash(state);
        self.server_name.hash(state);
        self.alpn.hash(state);
        self.filter_state.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.address == key.address
            && self.name == key.name.as_deref()
            && self.view == key.view
            && *self.cluster == *key.cluster
            && *self.scope == key.scope
            && self.priority == key.priority
            && self.client == key.client
            && self.server_name == key.server_name.as_deref()
            && self.alpn == key.alpn.as_deref()
            && self.filter_state == key.filter_state.as_deref()
    }
}

impl Pools {
    /// A connection, pooled or new.
    pub(super) async fn acquire(&self, want: Want<'_>) -> Result<Lease, PoolError> {
        let host = self.host(&want);
        let mut pending = None;
        loop {
            let taken = match (want.speaks, host.negotiated.get()) {
                (Speaks::Http1, _) | (Speaks::Negotiated, Some(false)) => http1_turn(&host, &want, &mut pending).await,
                (Speaks::Http2, _) | (Speaks::Negotiated, _) => http2_turn(&host, &want, &mut pending).await,
            };
            match taken {
                Ok(None) => {}
                Ok(Some(lease)) => {
                    if let Some(pending) = pending {
                        pending.served();
                    }
                    return Ok(lease);
                }
                Err(error) => {
                    match (pending, &error) {
                        (Some(pending), PoolError::Overflow) => pending.served(),
                        (Some(pending), _) => pending.ejected(),
                        (None, _) => {}
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Closes the idle connections that start in a pod's network namespace, and keeps no others of it.
    pub fn forget_pod(&self, uid: &str) {
        self.hosts.borrow_mut().retain(|key, _| !key.scope.is_of(uid));
    }

    /// Closes the idle connections of a cluster, and keeps no others of it.
    pub fn forget_cluster(&self, cluster: &std::sync::Weak<Cluster>) {
        let is_of = |host: &Rc<Host>| {
            host.account.as_ref().is_some_and(|account| Arc::as_ptr(&account.cluster) == cluster.as_ptr())
        };
        self.hosts.borrow_mut().retain(|_, hosts| {
            hosts.retain(|host| !is_of(host));
            !hosts.is_empty()
        });
    }

    fn host(&self, want: &Want<'_>) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        let server_name = want.asked.validate.or(want.asked.server_name);
        let client = want.transport.proxy_header().map(|_| want.client);
        let name = matches!(want.cluster.discovery, Discovery::ForwardProxy(_)).then_some(&want.endpoint.hostname);
        let key = KeyRef {
            view: want.cluster.view,
            cluster: &want.cluster.name,
            address: want.endpoint.address,
            name: name.map(|name| &**name),
            scope: want.scope,
            priority: want.priority,
            client,
            server_name,
            alpn: want.asked.overrides,
            filter_state: want.filter_state,
        };
        let account =
            || Account { cluster: want.cluster.clone(), endpoint: want.endpoint.clone(), shard: want.shard.clone() };
        if let Some(known) = hosts.get_mut(&key) {
            if let Some(host) = known.iter().find(|host| host.is_of(want.endpoint)) {
                return host.clone();
            }
            // Whose host is gone, or was replaced by this one, is of no use.
            let endpoints = want.cluster.endpoints.load();
            known.retain(|host| endpoints.iter().any(|endpoint| host.is_of(endpoint)));
            let host = Rc::new(Host::of(account()));
            known.push(host.clone());
            return host;
        }
        // Endpoints come and go: forget those without connections and users.
        if hosts.len() == hosts.capacity() {
            hosts.retain(|_, known| known.iter().any(|host| Rc::strong_count(host) > 1 || !host.is_empty()));
        }
        let key = Key {
            view: want.cluster.view,
            cluster: want.cluster.name.clone(),
            address: want.endpoint.address,
            name: name.cloned(),
            scope: want.scope.clone(),
            priority: want.priority,
            client,
            server_name: server_name.map(Arc::from),
            alpn: want.asked.overrides.map(Arc::from),
            filter_state: want.filter_state.map(|state| Box::new(state.clone())),
        };
        let host = Rc::new(Host::of(account()));
        hosts.insert(key, smallvec![host.clone()]);
        host
    }
}

/// A place among the requests that are under way. As in Envoy, a connection comes first.
fn admit(want: &Want<'_>) -> Result<InUse, PoolError> {
    let (limits, usage) = want.cluster.limits(want.priority);
    usage.requests.take(limits.max_requests).ok_or_else(|| {
        want.shard.inc(want.cluster.stats.upstream_rq_active_overflow);
        PoolError::Overflow
    })
}

/// A place among the requests that wait for a connection.
struct Pending {
    _place: InUse,
    counted: Option<PendingRequest>,
}

impl Pending {
    /// Takes one, if that has not been done.
    fn queue(pending: &mut Option<Self>, host: &Rc<Host>, want: &Want<'_>) -> Result<(), PoolError> {
        if pending.is_some() {
            return Ok(());
        }
        let _place = place_to_wait(want.cluster, want.priority, want.shard).ok_or(PoolError::NoWaiting)?;
        *pending = Some(Self { _place, counted: host.account.as_ref().map(Account::pending) });
        Ok(())
    }

    /// It waits no more: it has what it waited for, or is not to have it.
    fn served(self) {
        if let Some(counted) = self.counted {
            counted.served();
        }
    }

    /// It waits no more: no connection could be made.
    fn ejected(self) {
        if let Some(counted) = self.counted {
            counted.ejected();
        }
    }
}

/// The use of a connection of HTTP/1.
fn lease_connection(host: &Rc<Host>, want: &Want<'_>, one: Http1, reused: bool) -> Result<Lease, PoolError> {
    let _in_use = match admit(want) {
        Ok(in_use) => in_use,
        Err(error) => {
            host.offer(one);
            return Err(error);
        }
    };
    one.connection.use_once();
    Ok(Lease {
        sender: Sender::Http1(Some(one)),
        _active: host.account.as_ref().map(Account::request),
        _in_use,
        host: Rc::downgrade(host),
        max_requests: want.cluster.max_requests_per_connection,
        reused,
        over: false,
        switched: None,
    })
}

/// Takes a connection that idles, or waits for one; none: it is to be tried again.
async fn http1_turn(
    host: &Rc<Host>,
    want: &Want<'_>,
    pending: &mut Option<Pending>,
) -> Result<Option<Lease>, PoolError> {
    if let Some(mut one) = host.idle() {
        return match one.sender.is_ready() || one.sender.ready().await.is_ok() {
            true => lease_connection(host, want, one, true).map(Some),
            false => Ok(None),
        };
    }
    Pending::queue(pending, host, want)?;
    let mut waiting = Waiting::new(host);
    loop {
        begin_if_needed(host, want, Kind::Http1);
        tokio::select! {
            biased;
            given = &mut waiting.given => {
                let Ok(given) = given else { return Ok(None) };
                let one = given?;
                let reused = one.connection.requests.get() > 0;
                return lease_connection(host, want, one, reused).map(Some);
            }
            () = host.freed.notified() => {}
        }
    }
}

/// A stream of a connection that has room for it.
fn lease_stream(host: &Rc<Host>, want: &Want<'_>, two: Rc<Http2>) -> Result<Lease, PoolError> {
    let connection = &two.connection;
    let _in_use = admit(want)?;
    let reused = connection.requests.get() > 0;
    connection.use_once();
    connection.active.set(connection.active.get() + 1);
    let max_requests = want.cluster.max_requests_per_connection;
    if max_requests > 0 && connection.requests.get() >= max_requests {
        connection.spent.set(true);
        want.shard.inc(want.cluster.stats.upstream_cx_max_requests);
    }
    let _active = host.account.as_ref().map(Account::request);
    if let Some(account) = &host.account {
        account.shard.gauge_add(account.cluster.stats.codecs.http2().streams_active, 1);
    }
    let host = Rc::downgrade(host);
    let sender = Sender::Http2(two, None);
    Ok(Lease { sender, _active, _in_use, host, max_requests, reused, over: false, switched: None })
}

/// Takes a stream of a connection that has room for one, or waits; none: it is to be tried again, perhaps by HTTP/1.
async fn http2_turn(
    host: &Rc<Host>,
    want: &Want<'_>,
    pending: &mut Option<Pending>,
) -> Result<Option<Lease>, PoolError> {
    // Who comes now has none before those who wait.
    let barred = pending.is_none() && host.streams.are_waited_for();
    if let Some(two) = host.shared().filter(|_| !barred) {
        let leased = lease_stream(host, want, two);
        if host.streams.are_waited_for() && host.shared().is_some() {
            // There is one more.
            host.streams.wake_one();
        }
        return leased.map(Some);
    }
    Pending::queue(pending, host, want)?;
    let (failures, place) = (host.failures(), host.streams.queue());
    begin_if_needed(host, want, Kind::Http2);
    tokio::select! {
        () = host.connected.notified() => {}
        () = place.turn() => {}
    }
    // All fail who wait for an attempt.
    host.failed_since(failures).map_or(Ok(None), Err)
}
