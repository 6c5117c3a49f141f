//! A request under way, and how it is answered.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Request, Response, Version, header, request::Parts};
use hyper::body::{Body, Incoming};

use super::{
    body::ResponseBody,
    downstream::Connection,
    mutate::{self, Changes},
    progress::Progress,
    record::Record,
    reply::Reply,
    request::X_REQUEST_ID,
    response,
};
use crate::{
    config::route::{Route, RouteTable, VirtualHost, is_grpc},
    telemetry::access_log::{Entry, Live, View},
};

/// A request under way: what its answer depends on.
pub(super) struct Stream {
    pub connection: Rc<Connection>,
    pub record: Box<Record>,
    pub scheme: &'static str,
    head: bool,
    grpc: bool,
    request_id: Option<HeaderValue>,
}

/// Where a request goes.
pub(super) struct Routed {
    pub table: Arc<RouteTable>,
    pub virtual_host: Arc<VirtualHost>,
    pub route: Arc<Route>,
}

impl Routed {
    pub fn changes(&self) -> Changes<'_> {
        Changes { weighted: None, route: &self.route, virtual_host: &self.virtual_host, table: &self.table }
    }
}

impl Stream {
    /// A request whose head has come.
    pub fn new(connection: Rc<Connection>, parts: &Parts, incoming: &Incoming) -> Self {
        let mut entry = Entry::new(connection.local, connection.peer);
        entry.protocol = Some(match parts.version {
            Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        });
        entry.requested_server_name.clone_from(&connection.server_name);
        let mut record =
            Box::new(Record::new(connection.worker.clone(), connection.manager.clone(), entry, connection.multiplexed));
        if !incoming.is_end_stream() {
            record.progress = Some(Rc::new(Progress::new()));
        }
        Self {
            head: parts.method == Method::HEAD,
            grpc: is_grpc(&parts.headers),
            scheme: "http",
            request_id: None,
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

    /// Keeps what the access log wants of the request as it is now.
    pub fn keep_request(&mut self, parts: &Parts) {
        let record = &mut *self.record;
        record.entry.kept.request(&record.manager.wanted, &parts.method, &parts.uri, self.scheme, &parts.headers);
    }

    /// Answers with a reply made here. The route's response headers, if there is one, are applied.
    pub fn answer(self, reply: Reply, changes: Option<&Changes<'_>>, parts: &Parts) -> Response<ResponseBody> {
        let Self { record, head, grpc, request_id, connection, scheme } = self;
        let reply = if grpc { reply.into_grpc() } else { reply };
        let mut record = record;
        let entry = &mut record.entry;
        entry.details = reply.details;
        if let Some(flag) = reply.flag {
            entry.raise(flag);
        }
        let mut headers = reply.headers;
        if !reply.body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if head && !reply.body.is_empty() {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
        }
        if let Some(changes) = changes {
            let live = Live { method: &parts.method, uri: &parts.uri, scheme, headers: &parts.headers };
            let view = View { entry, request: Some(live), response: None };
            mutate::apply_to_response(changes, &mut headers, &view);
        }
        // Later than the headers: as in Envoy, %RESPONSE_CODE% in them is 0.
        entry.response_code = reply.status.as_u16();
        response::finish(&connection.manager, &mut headers, false, request_id);
        entry.kept.response(&connection.manager.wanted, &headers);
        connection.before_response(&mut headers);
        let mut response = Response::new(ResponseBody::local(reply.body, head, record));
        *response.status_mut() = reply.status;
        *response.headers_mut() = headers;
        response
    }

    /// Answers a request that is not to be read any further, and ends its connection.
    pub fn refuse(self, reply: Reply) -> Response<ResponseBody> {
        let close = !self.connection.multiplexed;
        let parts = Request::new(()).into_parts().0;
        let mut response = self.answer(reply, None, &parts);
        if close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The id to send back, if any.
    pub fn request_id(&mut self) -> Option<HeaderValue> {
        self.request_id.take()
    }

    /// Whether errors go out the gRPC way.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }
}
