//! Asking by HTTP: the request's head again, for another server.

use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};

use super::{
    asked::{Asked, PARTIAL_BODY},
    verdict::{Change, Denied, How, Passed, Verdict, is_free},
};
use crate::{
    access_log::{Live, View},
    config::{
        filter::ext_authz::{HttpService, ServicePath},
        headers::Append,
    },
    http::{
        body::{RequestBody, client::ClientBody},
        call::{self, Question},
        filter::exchange::Exchange,
        headers::{forwarded::X_ENVOY_INTERNAL, lines::Of, mutate},
        stream::{Stream, connection::Connection},
    },
    matcher::StringMatcher,
};

/// Answers are no longer than this, bytes.
const LONGEST: usize = 8 << 20;

/// Lists headers that the request is to lose.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// Headers of an answer that are about the way that it came, or for this filter.
const OF_THE_WAY: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::DATE,
    header::SERVER,
    HeaderName::from_static(TO_REMOVE),
];

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A question.
pub(super) struct Asking {
    parts: Parts,
    body: Bytes,
}

pub(super) fn question(service: &HttpService, asked: &Asked<'_>, stream: &Stream, exchange: &Exchange<'_>) -> Asking {
    let of = &*exchange.parts;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = of.method.clone();
    let path = of.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = match &service.path {
        ServicePath::Prefixed(prefix) => format!("{prefix}{path}"),
        ServicePath::Always(path) => (**path).to_owned(),
    };
    parts.uri = PathAndQuery::try_from(path).map(Uri::from).unwrap_or_default();
    let filter = asked.filter;
    for (name, value) in &of.headers {
        let text = name.as_str().as_bytes();
        let listed = filter.allowed_headers.iter().flatten().any(|matcher| matcher.matches(text));
        let usual = [header::AUTHORIZATION, header::HOST, PARTIAL_BODY].contains(name);
        let refused = filter.disallowed_headers.iter().any(|matcher| matcher.matches(text));
        if (listed || usual) && (!refused || *name == header::HOST) && *name != header::CONTENT_LENGTH {
            parts.headers.append(name, value.clone());
        }
    }
    let body = asked.body.clone().unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    mutate::add(&service.additions, Of::Request, &mut parts.headers, |out, format, _| {
        let live = Live { method: &of.method, uri: &of.uri, scheme: stream.scheme, headers: &of.headers };
        format.write_header(out, &View::live(&stream.record.entry, live));
    });
    parts.headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    call::expect(&mut parts.headers, service.timeout.unwrap_or_default());
    Asking { parts, body }
}

pub(super) async fn ask(connection: &Rc<Connection>, service: &HttpService, asking: Asking) -> Verdict {
    for attempt in 0..=service.retries {
        match once(connection, service, &asking).await {
            Some(verdict) => return verdict,
            None if attempt == service.retries => {}
            None => tokio::time::sleep(call::pause(attempt)).await,
        }
    }
    Verdict::Failed(None)
}

/// None: nobody has answered.
async fn once(connection: &Rc<Connection>, service: &HttpService, asking: &Asking) -> Option<Verdict> {
    let snapshot = connection.snapshot().load_full();
    let cluster = snapshot.cluster(&service.cluster)?;
    let body = match asking.body.is_empty() {
        true => RequestBody::Empty,
        false => RequestBody::Stream(ClientBody::whole(asking.body.clone())),
    };
    let (parts, scheme, timeout) = (asking.parts.clone(), service.scheme, service.timeout);
    let question = Question { parts, body, scheme, timeout, keep: Some(LONGEST) };
    let began = Instant::now();
    let mut answered = call::ask(connection.behalf(), cluster, question).await.ok()?;
    // As Envoy has it, of the question instead of the request.
    answered.headers.insert(SERVICE_TIME, HeaderValue::from(millis(began)));
    if answered.status.is_server_error() {
        return None;
    }
    Some(verdict(service, answered.status, &answered.headers, answered.body))
}

fn verdict(service: &HttpService, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Verdict {
    let any = |list: &[StringMatcher], name: &HeaderName| list.iter().any(|one| one.matches(name.as_str().as_bytes()));
    let chosen = |list: &[StringMatcher], how: Append| -> Vec<Change> {
        let headers = headers.iter().filter(|(name, _)| any(list, name) && is_free(name));
        headers
            .map(|(name, value)| Change { name: name.clone(), value: value.clone(), how: How::Header(how) })
            .collect()
    };
    let metadata = headers.iter().filter(|(name, _)| any(&service.metadata, name));
    let metadata = metadata
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    if status == StatusCode::OK {
        let mut request = chosen(&service.upstream, Append::OverwriteIfExistsOrAdd);
        request.extend(chosen(&service.upstream_append, Append::AppendIfExistsOrAdd));
        let lists = headers.get_all(TO_REMOVE).iter().filter_map(|list| list.to_str().ok());
        let remove = lists.flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
        let response = chosen(&service.client_on_success, Append::AppendIfExistsOrAdd);
        return Verdict::Passed(Box::new(Passed { request, remove, response, metadata, ..Passed::default() }));
    }
    let usual = [header::WWW_AUTHENTICATE, header::LOCATION];
    let passes = |name: &HeaderName| match &service.client {
        None => true,
        Some(list) => usual.contains(name) || any(list, name),
    };
    let headers = headers.iter().filter(|(name, _)| passes(name) && !OF_THE_WAY.contains(name) && is_free(name));
    let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    Verdict::Denied(Box::new(Denied { status, headers, body, metadata, invalid: false }))
}
