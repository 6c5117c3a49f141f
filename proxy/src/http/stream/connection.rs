//! A client's connection as its streams see it.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Version, header};

use super::{
    activity::{Active, Activity},
    behalf::Behalf,
    ending::Ending,
    open::Open,
    upgraded::Accepted,
};
use crate::{
    access_log::{Entry, Place},
    config::{
        filter::local_ratelimit::{Identity, LocalRateLimit},
        http::HttpConnectionManager,
        overload::Remedy,
        request::TlsView,
        snapshot::Snapshot,
    },
    downstream::{Downstream, Told},
    drain::DrainWatch,
    filter_state::FilterState,
    http::{
        codec::{
            framing::{Framing, Refusal, Rules, Verdict},
            trailers::{Sent, Trailers},
        },
        headers::xfcc,
    },
    matcher::metadata::Metadata,
    tls::{PeerTls, fingerprint::Fingerprints},
    view::ViewId,
    wire::{
        dial::{Dialer, PoolScope},
        proxy_header::Client,
    },
    worker::state::Worker,
};

/// What of a request is not read when its response begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Unread {
    /// Nothing: it is complete.
    Nothing,
    /// Its rest.
    Rest,
    /// What would go through the tunnel that it asks for.
    Tunnel,
}

/// What the streams of a connection share.
#[derive(Debug)]
pub(in crate::http) struct Connection {
    pub worker: Rc<Worker>,
    /// The drain of what it was accepted on.
    pub outer: DrainWatch,
    pub manager: Arc<HttpConnectionManager>,
    pub peer: SocketAddr,
    /// The peer of the socket, where a PROXY header names another client.
    pub direct_peer: SocketAddr,
    told: Option<Rc<Told>>,
    pub local: SocketAddr,
    /// The original destination.
    pub destination: SocketAddr,
    /// It is not just where the listener is.
    restored: bool,
    pub server_name: Option<Arc<str>>,
    /// Fingerprints of its ClientHello.
    pub fingerprints: Option<Arc<Fingerprints>>,
    /// Its number.
    pub id: u64,
    /// By whose configuration it is served.
    pub view: ViewId,
    /// Its listener and filter chain.
    pub place: Option<Arc<Place>>,
    /// What listener filters noted of it.
    pub metadata: Option<Box<Metadata>>,
    /// What its network filters keep.
    pub filter_state: Option<Box<FilterState>>,
    /// Its TLS; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
    pub dialer: Dialer,
    pub scope: PoolScope,
    /// The client speaks HTTP/2.
    pub multiplexed: bool,
    /// Its requests.
    pub activity: Rc<Activity>,
    /// Whether the next response is the last.
    ending: Cell<Ending>,
    /// The response under way says that it is the last, or its request did, of HTTP/1.
    last: Cell<bool>,
    /// The last request has come, as its client, the limit on requests or the connection's age wants it, or its response
    /// ends with the connection. Not where something drains.
    last_request: Cell<bool>,
    drains: tokio::sync::Notify,
    upgrade: RefCell<Option<Accepted>>,
    /// Trailers of the response that is being written, if HTTP/1 sends any.
    trailers: Option<Rc<Trailers>>,
    /// Rate limits of its own, by what they are configured as.
    limits: RefCell<Vec<(Identity, Rc<LocalRateLimit>)>>,
    /// What `x-forwarded-client-cert` says of the client: made once.
    client_cert: OnceCell<Option<HeaderValue>>,
    pub open: Open,
    /// The last time that nothing more could be read, all that had come belonged to complete requests.
    pub between_requests: Cell<bool>,
    /// The client has yet to take what was written last.
    pub unflushed: Cell<bool>,
    /// What framing says of its last request, and which that is, from 1.
    verdict: Cell<Option<(u32, Verdict)>>,
    /// Why framing refuses the body that has begun.
    broken_body: Cell<Option<Refusal>>,
}

impl Connection {
    /// Of a connection that has begun to speak.
    pub fn new(open: Open, downstream: &Downstream, multiplexed: bool) -> Rc<Self> {
        let dialer = downstream.dialer();
        let trailers = (!multiplexed && open.manager.http1.trailers).then(Default::default);
        Rc::new(Self {
            worker: open.worker.clone(),
            manager: open.manager.clone(),
            peer: downstream.peer,
            direct_peer: downstream.direct_peer,
            told: downstream.told.clone(),
            outer: downstream.drain.clone(),
            // As Envoy restores it: a pod's listening socket is how it came, not where it was going.
            local: downstream.destination,
            destination: downstream.destination,
            restored: downstream.original_destination().is_some(),
            server_name: downstream.server_name.clone(),
            fingerprints: downstream.fingerprints.clone(),
            id: downstream.id,
            view: downstream.view(),
            place: downstream.place.clone(),
            metadata: downstream.metadata.clone(),
            filter_state: downstream.filter_state.clone(),
            tls: downstream.tls.clone(),
            scope: dialer.scope(),
            dialer,
            multiplexed,
            activity: open.activity.clone(),
            ending: Cell::new(Ending::No),
            last: Cell::new(false),
            last_request: Cell::new(false),
            drains: tokio::sync::Notify::new(),
            upgrade: RefCell::new(None),
            trailers,
            limits: RefCell::default(),
            client_cert: OnceCell::new(),
            open,
            between_requests: Cell::new(false),
            unflushed: Cell::new(false),
            verdict: Cell::new(None),
            broken_body: Cell::new(None),
        })
    }

    /// The configuration in force that it goes by.
    pub fn snapshot(&self) -> &ArcSwap<Snapshot> {
        self.worker.snapshot(self.view)
    }

    /// On whose behalf clusters are asked.
    pub fn behalf(&self) -> Behalf<'_> {
        Behalf {
            worker: &self.worker,
            id: self.id,
            view: self.view,
            destination: self.original_destination(),
            dialer: &self.dialer,
            scope: &self.scope,
            multiplexed: self.multiplexed,
            client: self.client(),
            node: self.manager.node_address,
        }
    }

    /// What is known of a stream on it that begins now.
    pub fn entry(&self) -> Entry {
        let mut entry = Entry::new(self.local, self.peer);
        entry.downstream_direct_remote = self.direct_peer;
        entry.connection = self.id;
        entry.place.clone_from(&self.place);
        entry.requested_server_name.clone_from(&self.server_name);
        entry.fingerprints.clone_from(&self.fingerprints);
        entry.tls.clone_from(&self.tls);
        entry.filter_state.clone_from(&self.filter_state);
        entry
    }

    /// What cuts its bytes into requests, if it speaks HTTP/1.
    pub fn framing(&self) -> Option<Framing> {
        let rules = Rules {
            max_head_bytes: self.manager.max_head_bytes,
            max_headers: self.manager.max_headers,
            any_method: self.manager.custom_methods,
            http_10: self.manager.accept_http_10,
            trailers: self.manager.http1.trailers,
        };
        (!self.multiplexed).then(|| Framing::new(rules))
    }

    /// Where trailers of HTTP/1 responses are announced, if any are sent.
    pub fn trailers(&self) -> Option<Rc<Trailers>> {
        self.trailers.clone()
    }

    /// What becomes of the trailers of a response with these headers to a request of `version`.
    pub fn trailers_of_response(&self, version: Version, headers: &HeaderMap) -> Sent {
        match &self.trailers {
            _ if self.multiplexed => Sent::Frame,
            // Only a body in chunks has them.
            Some(trailers) if version == Version::HTTP_11 && !headers.contains_key(header::CONTENT_LENGTH) => {
                Sent::Announced(trailers.clone())
            }
            _ => Sent::Never,
        }
    }

    /// Takes over what framing has found.
    pub fn framed(&self, framing: &Framing) {
        self.verdict.set(framing.verdict());
        self.broken_body.set(framing.broken());
    }

    /// What framing says of the request that has just begun.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().filter(|(request, _)| *request == self.activity.requests()).map(|(_, verdict)| verdict)
    }

    /// Why the body that is being read is refused, if it is.
    pub fn broken_body(&self) -> Option<Refusal> {
        self.broken_body.get()
    }

    /// Who connected where, for upstreams that are told.
    pub fn client(&self) -> Client {
        Client { source: self.peer, destination: self.destination }
    }

    /// Where the client wanted to go; none: to the listener itself.
    pub fn original_destination(&self) -> Option<SocketAddr> {
        Some(self.destination).filter(|_| self.restored)
    }

    /// Bytes came from the client: with the first it is one of HTTP/1 or HTTP/2, as in Envoy.
    pub fn count_read(&self, bytes: u64) {
        self.open.speaks(self.multiplexed);
        self.worker.stats.add(self.manager.stats.own.downstream_cx_rx_bytes_total, bytes);
        if let Some(told) = &self.told {
            told.meter.add(bytes, 0);
        }
    }

    /// Bytes went to the client.
    pub fn count_written(&self, bytes: u64) {
        self.worker.stats.add(self.manager.stats.own.downstream_cx_tx_bytes_total, bytes);
        if let Some(told) = &self.told {
            told.meter.add(0, bytes);
        }
    }

    /// The client broke the protocol.
    pub fn protocol_error(&self) {
        if let Some(told) = &self.told {
            told.protocol_error.set(true);
            // The request of HTTP/1 that breaks it is counted.
            told.unintelligible.set(self.activity.requests() <= u32::from(!self.multiplexed));
        }
    }

    /// The client's end of it failed.
    pub fn failed(&self, error: &std::io::Error) {
        if let Some(told) = self.told.as_ref().filter(|_| error.kind() == std::io::ErrorKind::ConnectionReset) {
            told.reset.set(true);
        }
    }

    /// This side closes it, for a reason.
    pub fn closes(&self, reason: &'static str) {
        tracing::debug!(connection = self.id, peer = %self.peer, reason, "connection closed");
        if let Some(told) = &self.told {
            told.close_reason.set(reason);
        }
    }

    /// This side closes it, after it has waited for the client to do so.
    pub fn close_is_delayed(&self) {
        self.worker.stats.inc(self.manager.stats.own.downstream_cx_delayed_close_timeout);
        self.closes("triggered_delayed_close_timeout");
    }

    /// Names that the peer's certificate gives it; none: the connection is not under TLS.
    pub fn peer_names(&self) -> Option<&[Box<str>]> {
        self.tls.as_deref().map(PeerTls::principals)
    }

    /// Rewrites a request's `x-forwarded-client-cert`.
    pub fn rewrite_client_cert(&self, headers: &mut HeaderMap) {
        xfcc::rewrite(self.manager.forward_client_cert, headers, || {
            let element = || xfcc::element(&self.manager.client_cert_details, self.tls.as_deref());
            self.client_cert.get_or_init(element).clone()
        });
    }

    /// What is known of the client's certificate.
    pub fn tls_view(&self) -> TlsView {
        self.tls.as_ref().map_or_else(TlsView::default, |tls| TlsView {
            presented: tls.peer().is_some(),
            validated: tls.validated(),
        })
    }

    /// This connection's own copy of a rate limit.
    pub fn own_limit(&self, limit: &LocalRateLimit) -> Rc<LocalRateLimit> {
        let mut limits = self.limits.borrow_mut();
        if let Some((_, own)) = limits.iter().find(|(known, _)| known.is(&limit.identity)) {
            return own.clone();
        }
        limits.retain(|(known, _)| !known.is_last());
        let own = Rc::new(limit.fresh());
        limits.push((limit.identity.clone(), own.clone()));
        own
    }

    /// The last word on a response's headers: whether the connection ends with it. `unread`: the request is not
    /// complete, and HTTP/1 cannot leave its rest.
    pub fn before_response(&self, headers: &mut HeaderMap, unread: Unread) {
        let own = &self.manager.stats.own;
        // As Envoy counts: a tunnel over HTTP/2 that is refused is not reset.
        if unread == Unread::Rest || (unread == Unread::Tunnel && !self.multiplexed) {
            self.worker.stats.inc(own.downstream_rq_response_before_rq_complete);
            self.worker.stats.inc(own.downstream_rq_rx_reset);
        }
        let unread = unread != Unread::Nothing;
        let overloaded = self.ending.get() == Ending::No && self.suffers(Remedy::DisableKeepalive);
        if overloaded {
            self.worker.stats.inc(self.manager.stats.own.downstream_cx_overload_disable_keepalive);
        } else if unread && !self.multiplexed {
            self.say_last(headers);
            return;
        }
        let drained = match self.ending.get() {
            Ending::No => overloaded || (!self.manager.modify_only && self.worker.lifecycle.health_check_failed()),
            Ending::Untold => true,
            Ending::Old | Ending::Draining => false,
        };
        if drained {
            self.worker.stats.inc(self.manager.stats.own.downstream_cx_drain_close);
            self.drain();
        }
        // hyper would say so where the client has asked for it, after what is sent was reckoned.
        if self.last.get() || (matches!(self.ending.get(), Ending::Old | Ending::Draining) && !self.multiplexed) {
            self.say_last(headers);
        }
    }

    /// What is to be done with what comes, for want of resources.
    fn suffers(&self, remedy: Remedy) -> bool {
        !self.manager.bypasses_overload && self.worker.overload.strikes(remedy, &self.worker.stats)
    }

    /// Whether the request that has come is turned away, as the process has too much to do.
    pub fn sheds_requests(&self) -> bool {
        let sheds = self.suffers(Remedy::ShedRequests) || self.suffers(Remedy::StopRequests);
        if sheds {
            self.worker.stats.inc(self.manager.stats.own.downstream_rq_overload_close);
        }
        sheds
    }

    /// A response is the last of HTTP/1.
    pub fn say_last(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        self.last.set(true);
    }

    /// The end of a response of HTTP/1.0 without a length is that of its connection.
    pub fn ends_with_unbounded(&self, version: Version, headers: &HeaderMap) {
        if version == Version::HTTP_10 && !headers.contains_key(header::CONTENT_LENGTH) {
            self.wants_end();
        }
    }

    /// The version to give a response of HTTP/1. To a client of 1.0 that wants the connection to stay, hyper adds to what
    /// has a later one that it does.
    pub fn response_version(&self, request: Version) -> Version {
        if request == Version::HTTP_10 && self.says_last() { Version::HTTP_10 } else { Version::HTTP_11 }
    }

    /// Whether a response is the last of HTTP/1, as its client wants it.
    pub fn says_last(&self) -> bool {
        self.last.get()
    }

    /// The response to the request that has come is the last.
    pub fn wants_end(&self) {
        self.last.set(!self.multiplexed);
        self.note_last_request();
    }

    /// The request that has come is the last.
    pub fn note_last_request(&self) {
        self.last_request.set(true);
    }

    /// Whether it ends as soon as its last response has been sent: as in Envoy, nobody waits then for the client to close its
    /// side, but after a response that was made while its request was being read.
    pub fn ends_at_once(&self) -> bool {
        self.last_request.get() && !self.activity.ended_as_it_came()
    }

    /// Whether nothing follows what is written now: all of the last response has been made.
    pub fn writes_last(&self) -> bool {
        self.last.get() && self.activity.active() == 0 && self.upgrade.borrow().is_none()
    }

    /// Counts a request in, which may be the last.
    pub fn begin_request(&self) -> Active {
        let active = self.activity.begin();
        // Of HTTP/2 the next may be coming already.
        if !self.multiplexed {
            self.activity.head_came();
        }
        if self.ending.get() == Ending::Old {
            self.note_last_request();
        }
        let most = self.manager.max_requests_per_connection;
        if most > 0 && self.activity.requests() >= most {
            self.worker.stats.inc(self.manager.stats.own.downstream_cx_max_requests_reached);
            self.note_last_request();
            self.drain();
        }
        active
    }

    /// A client that is answered 400 may be at odds with this side about where a request ends.
    pub fn answers_bad_request(&self) {
        if !self.multiplexed && self.manager.closes_on_bad_request {
            self.drain();
        }
    }

    /// The next response is the last, and the connection ends.
    pub fn drain(&self) {
        if self.ending.replace(Ending::Draining) != Ending::Draining {
            self.drains.notify_one();
        }
    }

    /// It is too old: it ends, with its next response where that is safer.
    pub fn is_too_old(&self) {
        if self.manager.http1_safe_max_duration && !self.multiplexed && self.ending.get() == Ending::No {
            self.ending.set(Ending::Old);
        } else {
            self.drain();
        }
    }

    /// The response to the request that has begun is the last, as nothing of HTTP follows.
    pub fn ends_with_request(&self) {
        self.ending.set(Ending::Draining);
    }

    /// What it was accepted on drains: the next response is the last.
    pub fn is_drained(&self) {
        if self.ending.get() == Ending::No {
            self.ending.set(Ending::Untold);
        }
    }

    /// Resolves when it begins to drain.
    pub async fn drains(&self) {
        self.drains.notified().await;
    }

    /// What happens once hyper has given the connection back.
    pub fn accept_upgrade(&self, upgrade: Accepted) {
        *self.upgrade.borrow_mut() = Some(upgrade);
    }

    /// The upgrade that was accepted, if one was.
    pub fn take_upgrade(&self) -> Option<Accepted> {
        self.upgrade.borrow_mut().take()
    }
}
