//! A request under way.

pub(in crate::http) mod activity;
pub(in crate::http) mod connection;
pub(in crate::http) mod failure;
pub(in crate::http) mod record;
pub(in crate::http) mod reply;
pub(in crate::http) mod response_body;
pub(in crate::http) mod route;
pub(in crate::http) mod timers;
pub(in crate::http) mod upgraded;

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    body::{Body, Incoming},
    upgrade::OnUpgrade,
};
use tokio::time::Instant;

use self::{connection::Connection, record::Record, reply::Reply, response_body::ResponseBody, route::Routed};
use super::{
    body::{counting::Counting, progress::Progress, throttle::Throttle},
    codec::meters,
    filter::{self, Chain},
    headers::{
        mutate::{self, Changes},
        request_id::X_REQUEST_ID,
        response,
    },
};
use crate::{
    config::{
        cluster::Cluster,
        metadata::Metadata,
        route::{RequestView, Step, is_grpc},
    },
    telemetry::access_log::{Entry, Live, RouteMetadata, View},
};

/// A request under way: what its answer depends on.
pub(in crate::http) struct Stream {
    pub connection: Rc<Connection>,
    pub record: Box<Record>,
    pub scheme: &'static str,
    head: bool,
    grpc: bool,
    request_id: Option<HeaderValue>,
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
    /// What filters have to do when the response comes.
    pub chain: Chain,
    /// Slows the response down.
    pub throttle: Option<Throttle>,
    /// Counts messages of the response.
    pub counting: Option<Box<Counting>>,
}

/// What a request remembers of the redirects that were followed for it.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Followed {
    pub count: u32,
    pub steps: Vec<Step>,
}

impl Stream {
    /// A request whose head has come.
    pub fn new(connection: Rc<Connection>, parts: &Parts, incoming: &Incoming) -> Self {
        let mut entry = connection.entry();
        entry.protocol = Some(match parts.version {
            Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        });
        if connection.manager.wanted.meters {
            entry.meters.downstream_received = meters::request_read(parts);
        }
        let mut record =
            Box::new(Record::new(connection.worker.clone(), connection.manager.clone(), entry, connection.multiplexed));
        if !incoming.is_end_stream() {
            record.progress = Some(Rc::new(Progress::new()));
        }
        Self {
            head: parts.method == Method::HEAD,
            grpc: is_grpc(&parts.headers),
            scheme: if connection.tls.is_some() { "https" } else { "http" },
            request_id: None,
            endless: false,
            on_upgrade: None,
            followed: Followed::default(),
            began: Instant::now(),
            cluster: None,
            chain: Chain::default(),
            throttle: None,
            counting: None,
            connection,
            record,
        }
    }

    /// The head is prepared, and says who the client is.
    pub fn prepared(&mut self, parts: &Parts, client: SocketAddr) {
        self.record.entry.downstream_remote = client;
        if self.connection.manager.request_id_in_response {
            self.request_id = parts.headers.get(X_REQUEST_ID).cloned();
        }
    }

    /// There is a route.
    pub fn routed(&mut self, routed: &Routed) {
        if !routed.route.name.is_empty() {
            self.record.entry.route_name = Some(routed.route.name.clone());
        }
        if self.connection.manager.wanted.route_metadata {
            self.record.entry.route_metadata = RouteMetadata {
                route: routed.route.metadata.clone(),
                virtual_host: routed.virtual_host.metadata.clone(),
            };
        }
        if let Some(name) = &routed.cluster {
            let snapshot = self.connection.worker.snapshot.load();
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
        next.tls.clone_from(&entry.tls);
        // As in Envoy, the body counts once more.
        let received = old.progress.as_ref().map_or(0, |progress| progress.received());
        next.bytes_received = received;
        let connection = &self.connection;
        let mut record =
            Record::new(connection.worker.clone(), connection.manager.clone(), next, connection.multiplexed);
        if let Some(length) = length {
            let progress = Progress::new();
            progress.add(usize::try_from(received + length).unwrap_or(usize::MAX));
            progress.complete();
            record.progress = Some(Rc::new(progress));
        }
        *self.record = record;
        self.head = parts.method == Method::HEAD;
        self.chain = Chain::default();
        (self.throttle, self.counting) = (None, None);
        self.began = Instant::now();
    }

    /// Keeps what the access log wants of the request as it is now.
    pub fn keep_request(&mut self, parts: &Parts) {
        let record = &mut *self.record;
        record.entry.kept.request(&record.manager.wanted, &parts.method, &parts.uri, self.scheme, &parts.headers);
    }

    /// Answers with a reply made here. The route's response headers, if there is one, are applied.
    pub fn answer(mut self, reply: Reply, changes: Option<&Changes<'_>>, parts: &Parts) -> Response<ResponseBody> {
        let changes = changes.filter(|_| !reply.verbatim);
        let mut reply = reply;
        let live = self.live(parts);
        let entry = &mut self.record.entry;
        entry.details.clone_from(&reply.details);
        if let Some(flag) = reply.flag {
            entry.raise(flag);
        }
        if let Some(changes) = changes {
            let view = View::live(entry, live);
            mutate::apply_to_response(changes, &mut reply.headers, &view);
        }
        if let Some(replies) = &self.connection.manager.local_reply
            && !reply.verbatim
        {
            self.record.entry.response_code = reply.status.as_u16();
            reply.rewrite(replies, &self.record.entry, live, &self.connection.worker.runtime);
        }
        // What %RESPONSE_CODE% is in headers that filters add.
        let code_in_filters = if reply.verbatim { 0 } else { reply.status.as_u16() };
        let reply = if self.grpc && !reply.verbatim { reply.into_grpc() } else { reply };
        let mut headers = reply.headers;
        if !reply.body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if self.head && !reply.body.is_empty() {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
        }
        let entry = &mut self.record.entry;
        // Later than the route's headers: as in Envoy, %RESPONSE_CODE% in them is 0.
        entry.response_code = code_in_filters;
        filter::on_response(&mut self, reply.status, parts, &mut headers);
        let Self { mut record, head, request_id, connection, endless, .. } = self;
        let unread = reply.close || endless || record.request_completed().is_none();
        let entry = &mut record.entry;
        entry.response_code = reply.status.as_u16();
        response::finish(&connection.manager, &mut headers, false, request_id);
        entry.kept.response(&connection.manager.wanted, &headers);
        connection.before_response(&mut headers, unread);
        let length = if head { 0 } else { reply.body.len() as u64 };
        record.meter_response(reply.status, &headers, Some(length));
        if !headers.contains_key(header::CONTENT_LENGTH) {
            // hyper adds it.
            record.entry.kept.add_response(&connection.manager.wanted, "content-length", length);
        }
        if connection.manager.wanted.times {
            record.entry.timing.reply_began = Some(std::time::Instant::now());
        }
        let mut response = Response::new(ResponseBody::local(reply.body, head, record));
        *response.status_mut() = reply.status;
        response::set_reason(&mut response);
        *response.headers_mut() = headers;
        response
    }

    /// Answers a request that is not to be read any further, and ends its connection.
    pub fn refuse(self, reply: Reply) -> Response<ResponseBody> {
        let parts = Request::new(()).into_parts().0;
        let mut stream = self;
        filter::prepare(&mut stream, None);
        stream.answer(Reply { close: true, ..reply }, None, &parts)
    }

    /// The id to send back, if any.
    pub fn request_id(&mut self) -> Option<HeaderValue> {
        self.request_id.take()
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
