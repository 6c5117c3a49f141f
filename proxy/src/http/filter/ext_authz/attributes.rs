//! The question that a service of gRPC gets: what is known of a request and its connection.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue, header};
use weir_proto::envoy::{
    config::core::v3::{self as core, HeaderMap as RawHeaders},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request, TlsSession},
    },
};

use super::asked::{Asked, PARTIAL_BODY};
use crate::{
    http::{
        call::authorization::{address, chosen, principal},
        filter::exchange::Exchange,
        headers::forwarded::X_FORWARDED_PROTO,
        stream::{Stream, route::Routed},
    },
    tls::certificate::Certificate,
};

pub(super) fn check_request(
    asked: &Asked<'_>,
    stream: &Stream,
    exchange: &Exchange<'_>,
    routed: &Routed,
) -> CheckRequest {
    let filter = asked.filter;
    let connection = &stream.connection;
    let headers = &exchange.parts.headers;
    let text = |name: &str| headers.get(name).map_or_else(String::new, lossy);
    let tls = connection.tls.as_deref();
    let peer = tls.and_then(|tls| tls.peer());
    let source = Peer {
        address: Some(address(exchange.client.address)),
        service: text("x-envoy-downstream-service-cluster"),
        principal: principal(peer),
        certificate: peer.filter(|_| filter.peer_certificate).map(Certificate::url_encoded_pem).unwrap_or_default(),
        ..Peer::default()
    };
    let destination = Peer {
        address: Some(address(connection.local)),
        principal: principal(tls.and_then(|tls| tls.local.as_ref())),
        ..Peer::default()
    };
    let of_route = routed.route.metadata.as_deref();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(Request {
                time: Some(prost_types::Timestamp::from(stream.record.entry.start_time)),
                http: Some(request(asked, stream, exchange)),
            }),
            context_extensions: asked
                .extensions
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            metadata_context: Some(chosen(stream.record.entry.metadata.as_deref(), &filter.metadata)),
            route_metadata_context: Some(chosen(of_route, &filter.route_metadata)),
            tls_session: filter
                .tls_session
                .then(|| TlsSession { sni: connection.server_name.as_deref().unwrap_or_default().to_owned() }),
        }),
    }
}

fn request(asked: &Asked<'_>, stream: &Stream, exchange: &Exchange<'_>) -> HttpRequest {
    let parts = &*exchange.parts;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let host = parts.headers.get(header::HOST).map_or_else(String::new, lossy);
    let scheme = parts.headers.get(X_FORWARDED_PROTO).map_or_else(|| stream.scheme.to_owned(), lossy);
    let pseudo = [
        (":authority", host.as_str()),
        (":method", parts.method.as_str()),
        (":path", path.as_str()),
        (":scheme", scheme.as_str()),
    ];
    let plain = parts.headers.iter().filter(|(name, _)| **name != header::HOST);
    let all = pseudo.iter().map(|(name, value)| (*name, value.as_bytes()));
    let all = all.chain(plain.map(|(name, value): (&HeaderName, &HeaderValue)| (name.as_str(), value.as_bytes())));
    let passed = all.filter(|(name, _)| passes(asked, name));
    let (mut headers, mut header_map) = (HashMap::<String, String>::new(), None);
    if asked.filter.raw_headers {
        let raw = |(name, value): (&str, &[u8])| core::HeaderValue {
            key: name.to_owned(),
            raw_value: bytes::Bytes::copy_from_slice(value),
            ..core::HeaderValue::default()
        };
        header_map = Some(RawHeaders { headers: passed.map(raw).collect() });
    } else {
        for (name, value) in passed {
            let value = String::from_utf8_lossy(value);
            let known = headers.entry(name.to_owned()).or_default();
            if !known.is_empty() {
                known.push(',');
            }
            known.push_str(&value);
        }
    }
    let body = asked.body.clone().unwrap_or_default();
    let (text, raw_body) = match asked.as_bytes {
        true => (String::new(), body),
        false => (String::from_utf8_lossy(&body).into_owned(), bytes::Bytes::new()),
    };
    let received = stream.record.progress.as_ref().map_or(0, |progress| progress.received());
    HttpRequest {
        id: fastrand::u64(..).to_string(),
        method: parts.method.as_str().to_owned(),
        headers,
        header_map,
        path,
        host,
        scheme,
        size: i64::try_from(received).unwrap_or(i64::MAX),
        protocol: stream.record.entry.protocol.unwrap_or_default().to_owned(),
        body: text,
        raw_body,
        ..HttpRequest::default()
    }
}

/// Whether a header is part of the question.
fn passes(asked: &Asked<'_>, name: &str) -> bool {
    let filter = asked.filter;
    let listed = |list: &[crate::matcher::StringMatcher]| list.iter().any(|one| one.matches(name.as_bytes()));
    let told = *name == *PARTIAL_BODY.as_str();
    (told || filter.allowed_headers.as_deref().is_none_or(listed)) && !listed(&filter.disallowed_headers)
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
