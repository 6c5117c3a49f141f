//! Tokens that requests must carry: found at their places (`places`), judged by what a rule requires (`judge`) and by keys
//! that may have to be fetched first (`keys`), and answered here where they are missing or no good.

mod judge;
mod keys;
mod places;
mod remembered;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};

use self::judge::Judge;
use super::exchange::Exchange;
use crate::{
    config::filter::jwt_authn::{JwtAuthn, OfRoute, Requirement},
    filter_state::Value,
    http::{
        body::ReadAhead,
        headers::forwarded::X_FORWARDED_PROTO,
        stream::{Stream, reply::Reply},
    },
    jwt::Status,
};

/// The namespace of dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// So much of a path tells clients where they may not go.
const LONGEST_REALM: usize = 256;

/// Lets a request pass, or answers it. Headers that come of its tokens are set.
pub(super) async fn on_request(
    filter: &Arc<JwtAuthn>,
    of_route: Option<&OfRoute>,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Option<Reply> {
    let connection = stream.connection.clone();
    let (shard, stats) = (&connection.worker.stats, &filter.stats);
    for name in &filter.reserved {
        exchange.parts.headers.remove(name);
    }
    if filter.bypass_preflight && is_preflight(exchange.parts) {
        shard.inc(stats.cors_preflight_bypassed);
        shard.inc(stats.allowed);
        return None;
    }
    let requirement = match of_route {
        Some(OfRoute::Off) => None,
        Some(OfRoute::Named(name)) => match filter.named(name) {
            Ok(requirement) => Some(requirement),
            Err(error) => {
                shard.inc(stats.denied);
                return Some(misnamed(filter, &error));
            }
        },
        None => required(filter, stream, exchange.parts),
    };
    let Some(requirement) = requirement else {
        shard.inc(stats.allowed);
        return None;
    };
    let realm = realm(stream, exchange.parts);
    let mut judge = Judge::new(filter, &connection, exchange.parts);
    let judging = exchange.body.ahead_while(judge.judge(requirement));
    let judged = stream.record.while_logging(judging).await;
    let (notes, reroute) = judge.into_notes();
    stream.reroute |= reroute && judged.is_ok();
    if !notes.is_empty() {
        stream.metadata_mut().merge(NAMESPACE, notes);
    }
    match judged {
        Ok(()) => {
            shard.inc(stats.allowed);
            None
        }
        Err(status) => {
            shard.inc(stats.denied);
            Some(denied(status, filter.silent, &realm))
        }
    }
}

/// What the first rule that takes a request requires.
fn required<'a>(filter: &'a JwtAuthn, stream: &Stream, parts: &Parts) -> Option<&'a Requirement> {
    let view = stream.view(parts);
    let runtime = &stream.connection.worker.runtime;
    let rule = filter.rules.iter().find(|(matches, _)| matches.matches(&view, fastrand::u64(..), runtime));
    match rule {
        Some((_, requirement)) => requirement.as_ref(),
        None => by_state(filter, stream),
    }
}

/// What an object of filter state requires.
fn by_state<'a>(filter: &'a JwtAuthn, stream: &Stream) -> Option<&'a Requirement> {
    let by_state = filter.by_state.as_ref()?;
    match stream.record.entry.filter_state.as_ref()?.get(&by_state.key)? {
        Value::Text(text) | Value::Keyed(text) => by_state.requires.get(&**text),
        Value::Address(_) | Value::Number(_) | Value::Messages(_) => None,
    }
}

fn is_preflight(parts: &Parts) -> bool {
    let has = |name| parts.headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
    parts.method == Method::OPTIONS && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What was asked for, as its client knows it.
fn realm(stream: &Stream, parts: &Parts) -> Vec<u8> {
    let path = match parts.headers.get("x-envoy-original-path") {
        Some(original) => original.as_bytes(),
        None => parts.uri.path_and_query().map_or(&b"/"[..], |path| path.as_str().as_bytes()),
    };
    let host = parts.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let told = parts.headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
    let scheme = told.filter(|told| [&b"http"[..], b"https"].contains(told)).unwrap_or(stream.scheme.as_bytes());
    [scheme, b"://", host, &path[..path.len().min(LONGEST_REALM)]].concat()
}

fn denied(status: Status, silent: bool, realm: &[u8]) -> Reply {
    let code = match status {
        Status::AudienceNotAllowed => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut reply = Reply::new(code, "", None, details(status.text()));
    if silent {
        return reply;
    }
    reply.body = Bytes::from_static(status.text().as_bytes());
    let invalid: &[u8] = if status == Status::Missing { b"\"" } else { b"\", error=\"invalid_token\"" };
    if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer realm=\"", realm, invalid].concat()) {
        reply.headers.insert(header::WWW_AUTHENTICATE, value);
    }
    reply
}

/// A route refers to what is not configured.
fn misnamed(filter: &JwtAuthn, error: &str) -> Reply {
    let mut reply = Reply::new(StatusCode::FORBIDDEN, "", None, details(error));
    if !filter.silent {
        reply.body = format!("Failed JWT authentication: {error}").into();
    }
    reply
}

fn details(text: &str) -> String {
    format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_what_is_wrong_unless_that_is_a_secret() {
        let reply = denied(Status::Expired, false, b"http://h/");
        assert_eq!((reply.status, &*reply.body), (StatusCode::UNAUTHORIZED, &b"Jwt is expired"[..]));
        assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"http://h/\", error=\"invalid_token\"");
        assert_eq!(reply.details, "jwt_authn_access_denied{Jwt_is_expired}");
        assert_eq!(denied(Status::AudienceNotAllowed, false, b"").status, StatusCode::FORBIDDEN);
        assert_eq!(denied(Status::Missing, false, b"x").headers["www-authenticate"], "Bearer realm=\"x\"");
        let silent = denied(Status::Expired, true, b"http://h/");
        assert!(silent.body.is_empty() && silent.headers.is_empty());
    }
}
