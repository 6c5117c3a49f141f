//! One request from its head to its response: prepared, routed, answered.

use std::{convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body, Incoming};

use super::{
    body::ResponseBody,
    connection::Connection,
    mutate::{self, Changes},
    progress::Progress,
    record::Record,
    reply::Reply,
    request::{self, Prepared, X_REQUEST_ID},
    response, rewrite, router,
};
use crate::{
    config::route::{Action, RequestView, RequireTls, Route, RouteTable, VirtualHost, is_grpc},
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

/// Answers a request.
pub(super) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let _active = connection.clone().activate();
    let (mut parts, incoming) = request.into_parts();
    let mut stream = Stream::new(connection, &parts, &incoming);
    let manager = stream.connection.manager.clone();
    let Connection { peer, local, .. } = *stream.connection;
    let prepared = match request::prepare(&manager, &mut parts, peer, local, stream.scheme) {
        Ok(prepared) => prepared,
        Err(reply) => {
            stream.keep_request(&parts);
            return Ok(stream.refuse(*reply));
        }
    };
    stream.prepared(&parts, prepared.client.address);
    let response = stream.route(parts, incoming, prepared).await;
    Ok(response)
}

impl Stream {
    fn new(connection: Rc<Connection>, parts: &Parts, incoming: &Incoming) -> Self {
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

    fn prepared(&mut self, parts: &Parts, client: SocketAddr) {
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

    async fn route(mut self, parts: Parts, incoming: Incoming, prepared: Prepared) -> Response<ResponseBody> {
        let table = self.connection.manager.routes.clone();
        let random = fastrand::u64(..);
        let (virtual_host, route) = {
            let view = RequestView {
                method: &parts.method,
                uri: &parts.uri,
                authority: parts.headers.get(header::HOST).map_or(b"", HeaderValue::as_bytes),
                scheme: self.scheme,
                headers: &parts.headers,
            };
            let domain = match &table.vhost_header {
                Some(name) => parts.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes),
                None => view.authority,
            };
            let virtual_host = table.virtual_host(domain).cloned();
            let route = virtual_host.as_ref().and_then(|host| host.route(&view, random)).cloned();
            (virtual_host, route)
        };
        let Some(virtual_host) = virtual_host else {
            self.keep_request(&parts);
            return self.answer(Reply::no_route(), None, &parts);
        };
        let must_use_tls = match virtual_host.require_tls {
            RequireTls::None => false,
            RequireTls::ExternalOnly => !prepared.client.internal,
            RequireTls::All => true,
        };
        if must_use_tls && forwarded_scheme(&parts) != b"https" {
            self.keep_request(&parts);
            return self.answer(https_redirect(&parts), None, &parts);
        }
        let Some(route) = route else {
            self.keep_request(&parts);
            return self.answer(Reply::no_route(), None, &parts);
        };
        let routed = Routed { table, virtual_host, route };
        if !routed.route.name.is_empty() {
            self.record.entry.route_name = Some(routed.route.name.clone());
        }
        match &routed.route.action {
            Action::Forward(_) => router::forward(self, &routed, parts, incoming, prepared.upgrade).await,
            Action::Direct(direct) => {
                self.keep_request(&parts);
                let mut reply = Reply::new(direct.status, "", None, "direct_response");
                reply.body = direct.body.clone();
                self.answer(reply, Some(&routed.changes()), &parts)
            }
            Action::Redirect(redirect) => {
                self.keep_request(&parts);
                let authority = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                let location =
                    rewrite::location(redirect, &routed.route.matches.path, &parts.uri, authority, self.scheme);
                let mut reply = Reply::new(redirect.status, "", None, "direct_response");
                if let Ok(location) = HeaderValue::from_bytes(&location) {
                    reply.headers.insert(header::LOCATION, location);
                }
                self.answer(reply, Some(&routed.changes()), &parts)
            }
        }
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
    fn refuse(self, reply: Reply) -> Response<ResponseBody> {
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

fn forwarded_scheme(parts: &Parts) -> &[u8] {
    parts.headers.get(super::forwarded::X_FORWARDED_PROTO).map_or(b"", HeaderValue::as_bytes)
}

fn https_redirect(parts: &Parts) -> Reply {
    let mut reply = Reply::new(StatusCode::MOVED_PERMANENTLY, "", None, "direct_response");
    reply.body = Bytes::new();
    let host = parts.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let mut location = b"https://".to_vec();
    location.extend_from_slice(host);
    location.extend_from_slice(parts.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    if let Ok(location) = HeaderValue::from_bytes(&location) {
        reply.headers.insert(header::LOCATION, location);
    }
    reply
}
