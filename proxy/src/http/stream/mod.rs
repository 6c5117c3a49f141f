//! A request under way ([`Stream`]), and what it is made of: its client's `connection` and what is going on there
//! (`activity`, `open`, `upgraded`), its `record`, where it goes (`route`), how long it may take (`timers`, and
//! `running` once its response has begun), and how it ends: with
//! a `response_body`, a `reply` made here, or a `failure`.
//!
//! The vocabulary of all that follows a request. Streams know the pool, whose connections their bodies hold, and nothing
//! of filters, of the router, or of who calls those.

pub(in crate::http) mod activity;
pub(crate) mod behalf;
pub(in crate::http) mod connection;
mod ending;
pub(in crate::http) mod failure;
pub(in crate::http) mod late;
pub(in crate::http) mod open;
pub(in crate::http) mod payload;
pub(in crate::http) mod record;
pub(in crate::http) mod reply;
pub(in crate::http) mod response_body;
pub(in crate::http) mod route;
pub(in crate::http) mod running;
pub(in crate::http) mod timers;
pub(in crate::http) mod tracking;
pub(in crate::http) mod upgraded;
pub(in crate::http) mod upstream_line;
pub(in crate::http) mod verdict;

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use self::{
    connection::Connection,
    record::Record,
    reply::Reply,
    route::Routed,
    running::Running,
    timers::{Expired, Timers},
    upstream_line::UpstreamLine,
};
use super::{
    body::progress::Progress,
    codec::{malformed::Malformed, meters},
    headers::{
        forwarded::Client,
        request_id::{FORCE_TRACE, X_REQUEST_ID},
        response::{About, OPERATION, Operation},
    },
};
use crate::{
    access_log::{Entry, Live, RouteMetadata},
    config::{
        cluster::{Cluster, Endpoint},
        filter::alpn::Names,
        request::{RequestView, is_grpc},
        route::Step,
    },
    matcher::metadata::Metadata,
    telemetry::log,
};

/// A request under way: what its answer depends on.
pub(in crate::http) struct Stream {
    pub connection: Rc<Connection>,
    pub record: Box<Record>,
    pub scheme: &'static str,
    /// It is a HEAD request.
    pub head: bool,
    grpc: bool,
    about: About,
    /// It wants to switch protocols: what the client may send after its head has no end.
    pub endless: bool,
    /// Over HTTP/2: gives its stream when the switch has been answered.
    pub on_upgrade: Option<OnUpgrade>,
    /// Redirects that were followed here.
    pub followed: Followed,
    /// When what its limits count from began.
    pub began: Instant,
    /// The route's cluster, if it exists.
    pub cluster: Option<Arc<Cluster>>,
    /// What TLS offers the upstream by ALPN, where a filter says so.
    pub alpn: Option<Names>,
    /// A filter has changed what the route was chosen by: it is to be chosen anew.
    pub reroute: bool,
}

/// What a request remembers of the redirects that were followed for it.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Followed {
    pub count: u32,
    pub steps: Vec<Step>,
}

impl Stream {
    /// A request whose head has come. `running`: what limits its response.
    pub fn new(connection: Rc<Connection>, running: Rc<Running>, parts: &Parts, has_body: bool) -> Self {
        let mut entry = connection.entry();
        let began = Instant::from_std(entry.start);
        entry.protocol = Some(match parts.version {
            Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        });
        if connection.manager.wanted.meters {
            entry.meters.downstream_received = meters::request_read(parts);
        }
        let mut record = Box::new(Record::new(&connection.open, entry, connection.multiplexed, running));
        if has_body {
            record.progress = Some(Rc::new(Progress::new()));
        }
        Self {
            head: parts.method == Method::HEAD,
            grpc: is_grpc(&parts.headers),
            scheme: if connection.tls.is_some() { "https" } else { "http" },
            about: About::default(),
            endless: false,
            on_upgrade: None,
            followed: Followed::default(),
            began,
            cluster: None,
            alpn: None,
            reroute: false,
            connection,
            record,
        }
    }

    /// The head is prepared, and says who the client is.
    pub fn prepared(&mut self, parts: &Parts, client: Client) {
        self.record.entry.downstream_remote = client.address;
        if log::debugging() {
            self.record.id = parts.headers.get(X_REQUEST_ID).cloned();
        }
        tracing::debug!(
            connection = self.connection.id,
            stream = self.record.name(),
            method = %parts.method,
            target = %parts.uri,
            host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
            end_stream = self.record.progress.is_none(),
            "request headers complete"
        );
        if self.connection.manager.request_id_in_response
            || (client.internal && parts.headers.contains_key(FORCE_TRACE))
        {
            self.about.request_id = parts.headers.get(X_REQUEST_ID).cloned();
        }
    }

    /// There is a route.
    pub fn routed(&mut self, routed: &Routed) {
        if !routed.route.name.is_empty() {
            self.record.entry.route_name = Some(routed.route.name.clone());
        }
        self.record.entry.route_metadata =
            RouteMetadata { route: routed.route.metadata.clone(), virtual_host: routed.virtual_host.metadata.clone() };
        if let Some(name) = &routed.cluster {
            let snapshot = self.connection.snapshot().load();
            self.cluster = snapshot.cluster(name).cloned();
            self.record.entry.cluster = self.cluster.as_ref().map(|cluster| cluster.logged.clone());
        }
    }

    /// It is not known any more where the request goes.
    pub fn forget_route(&mut self) {
        self.record.entry.route_name = None;
        self.record.entry.cluster = None;
        self.cluster = None;
    }

    /// A redirect of an upstream, with `status`, is followed: what has happened is a request of its own, and another one
    /// begins, with a body of `length` bytes if it has one.
    pub fn begin_anew(&mut self, parts: &Parts, status: StatusCode, length: Option<u64>) {
        self.keep_request(parts);
        let old = &mut *self.record;
        old.entry.response_code = status.as_u16();
        old.entry.details = "internal_redirect".into();
        old.redirected = true;
        old.complete();
        let entry = &old.entry;
        let mut next = Entry::since(entry.start, entry.downstream_local, entry.downstream_direct_remote);
        next.start_time = entry.start_time;
        next.downstream_remote = entry.downstream_remote;
        next.protocol = entry.protocol;
        next.connection = entry.connection;
        next.place.clone_from(&entry.place);
        next.requested_server_name.clone_from(&entry.requested_server_name);
        next.fingerprints.clone_from(&entry.fingerprints);
        next.tls.clone_from(&entry.tls);
        next.filter_state.clone_from(&self.connection.filter_state);
        // As in Envoy, the body counts once more.
        let received = old.progress.as_ref().map_or(0, |progress| progress.received());
        next.bytes_received = received;
        let (connection, running) = (&self.connection, old.running.clone());
        let mut record = Record::new(&connection.open, next, connection.multiplexed, running);
        if let Some(length) = length {
            let progress = Progress::new();
            progress.add(usize::try_from(received + length).unwrap_or(usize::MAX));
            progress.complete();
            record.progress = Some(Rc::new(progress));
        }
        record.id = self.record.id.take();
        *self.record = record;
        self.head = parts.method == Method::HEAD;
        self.began = Instant::now();
    }

    /// Keeps what the access log wants of the request as it is now.
    pub fn keep_request(&mut self, parts: &Parts) {
        let record = &mut *self.record;
        record.entry.kept.request(&record.manager.wanted, &parts.method, &parts.uri, self.scheme, &parts.headers);
    }

    /// A request goes to `endpoint` as it is now: its line begins, where the router logs such.
    pub fn begin_upstream_line(&mut self, endpoint: &Endpoint, (method, uri, headers): (&Method, &Uri, &HeaderMap)) {
        let router = &self.connection.manager.router;
        if router.upstream_log.is_empty() {
            return;
        }
        let known = &self.record.entry;
        let mut entry = self.connection.entry();
        entry.downstream_remote = known.downstream_remote;
        entry.route_name.clone_from(&known.route_name);
        entry.route_metadata.clone_from(&known.route_metadata);
        entry.cluster.clone_from(&known.cluster);
        entry.filter_state.clone_from(&known.filter_state);
        entry.upstream = Some(endpoint.logged());
        entry.kept.request(&router.wanted, method, uri, self.scheme, headers);
        self.record.upstream = Some(Box::new(UpstreamLine::new(entry, router.log.interval)));
    }

    /// Ends without an answer: its stream is reset.
    pub fn reset(mut self, why: &Malformed) {
        self.record.entry.raise(why.flag);
        self.record.entry.details = why.details.into();
        self.record.complete();
    }

    /// What its response is to say of it.
    pub fn about(&mut self) -> About {
        std::mem::take(&mut self.about)
    }

    /// It is called what its route says, where requests are traced: outbound the upstream is told, else the client, unless
    /// that knows already.
    pub fn name_operation(&mut self, headers: &mut HeaderMap, routed: Option<&Routed>) {
        let Some(sampling) = &self.connection.manager.tracing else { return };
        let operation = routed.and_then(|routed| routed.route.operation.clone());
        if sampling.outbound {
            if let Some(operation) = operation {
                headers.insert(OPERATION, operation);
            }
            self.about.operation = Operation::Secret;
        } else if let (None, Some(operation)) = (headers.remove(OPERATION), operation) {
            self.about.operation = Operation::Named(operation);
        }
    }

    /// The limits of a request that goes where `idle` and `lasts` are said of, up to its response.
    pub fn timers(&self, idle: Option<Duration>, lasts: Option<Duration>) -> Timers {
        Timers::new(self.began, self.record.progress.as_ref(), None, idle, lasts)
            .with_request_timeout(self.connection.manager.request_timeout)
    }

    /// The answer to a request of which a limit has passed before there was a response.
    pub fn expired(&self, which: Expired) -> Reply {
        Reply::expired(which, self.record.request_completed().is_some())
    }

    /// What routing looks at of a request.
    pub fn view<'a>(&'a self, parts: &'a Parts) -> RequestView<'a> {
        RequestView {
            method: &parts.method,
            uri: &parts.uri,
            authority: parts.headers.get(header::HOST).map_or(b"", HeaderValue::as_bytes),
            scheme: self.scheme,
            headers: &parts.headers,
            tls: self.connection.tls_view(),
            metadata: self.record.entry.metadata.as_deref(),
            remote: self.record.entry.downstream_remote.ip(),
            filter_state: self.record.entry.filter_state.as_deref(),
        }
    }

    /// What formats look at of a request, besides what is noted of it.
    pub fn live<'a>(&self, parts: &'a Parts) -> Live<'a> {
        Live { method: &parts.method, uri: &parts.uri, scheme: self.scheme, headers: &parts.headers }
    }

    /// Dynamic metadata, to add to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        self.record.entry.metadata.get_or_insert_default()
    }

    /// Whether errors go out the gRPC way.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }
}
