//! Asking a service whether a request may pass: the question (`asked`, `grpc`, `http`, `attributes`), what the answer says (`verdict`),
//! and what becomes of the request and its response by it.

mod asked;
mod attributes;
mod grpc;
mod http;
mod verdict;

use std::time::Instant;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body;

use self::{
    asked::{Asked, PARTIAL_BODY},
    verdict::{Change, Denied, Passed, Verdict},
};
use super::{
    buffer,
    exchange::{Decided, Exchange, levels},
};
use crate::{
    access_log::Flag,
    config::filter::{
        RouteFilter,
        ext_authz::{BodyPart, ExtAuthz, OfRoute, Service, Settings},
    },
    http::{
        body::ReadAhead,
        call::charge::{self, By},
        stream::{Stream, reply::Reply},
    },
    telemetry::stats::Counter,
};

/// The namespace of dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Tells the upstream that nobody has answered.
const FAILURE_PASSED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// What the response of a request that has passed gets.
#[derive(Debug)]
pub(super) struct Responds(Vec<Change>);

impl Responds {
    pub fn on_response(&self, headers: &mut HeaderMap) {
        self.0.iter().for_each(|change| change.apply(headers));
    }
}

/// Lets a request pass, or answers it.
pub(super) async fn on_request(
    filter: &ExtAuthz,
    name: &str,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Decided<Responds> {
    // As in Envoy, of what leads nowhere nothing is asked.
    let Some(routed) = exchange.routed else { return Decided::PASSED };
    let settings = match settings(name, exchange) {
        Ok(settings) => settings,
        Err(Off) => return Decided::PASSED,
    };
    if !is_enabled(filter, stream) {
        count(filter, stream, filter.stats.disabled, None);
        let denies = filter.deny_at_disable.is_on(&stream.connection.worker.runtime);
        return Decided { reply: denies.then(|| failed(filter)), left: None };
    }
    let most_specific = settings.first().copied();
    let part = match most_specific {
        Some(settings) if settings.without_body => None,
        Some(settings) => settings.body.or(filter.body),
        None => filter.body,
    };
    let body = match read(part.filter(|_| !stream.endless), stream, exchange).await {
        Ok(body) => body,
        Err(reply) => return Decided { reply: Some(*reply), left: None },
    };
    let mut extensions: Vec<(&str, &str)> = Vec::new();
    for (name, value) in settings.iter().flat_map(|settings| &settings.extensions) {
        if !extensions.iter().any(|(known, _)| *known == &**name) {
            extensions.push((name, value));
        }
    }
    let as_bytes = part.is_some_and(|part| part.as_bytes);
    let asked = Asked { filter, extensions, body, as_bytes };
    let service = most_specific.and_then(|settings| settings.service.as_ref()).unwrap_or(&filter.service);
    let began = Instant::now();
    let verdict = match service {
        Service::Grpc(service) => {
            let question = attributes::check_request(&asked, stream, exchange, routed);
            let connection = stream.connection.clone();
            let asking = exchange.body.ahead_while(grpc::ask(&connection, service, &question));
            stream.record.while_logging(asking).await
        }
        Service::Http(service) => {
            let question = http::question(service, &asked, stream, exchange);
            let connection = stream.connection.clone();
            let asking = exchange.body.ahead_while(http::ask(&connection, service, question));
            stream.record.while_logging(asking).await
        }
    };
    settle(verdict, filter, began, stream, exchange)
}

/// A route says that nothing is asked.
struct Off;

/// What routes say, the most specific first.
fn settings<'a>(name: &str, exchange: &Exchange<'a>) -> Result<Vec<&'a Settings>, Off> {
    let mut found = Vec::new();
    for said in levels(exchange.routed).filter_map(|overrides| overrides.get(name)) {
        if let Some(RouteFilter::ExtAuthz(of_route)) = &said.config {
            match &**of_route {
                OfRoute::Off if found.is_empty() => return Err(Off),
                OfRoute::Off => {}
                OfRoute::Settings(settings) => found.push(&**settings),
            }
        }
    }
    Ok(found)
}

fn is_enabled(filter: &ExtAuthz, stream: &Stream) -> bool {
    filter.enabled.as_ref().is_none_or(|share| share.sample(&stream.connection.worker.runtime))
        && filter
            .enabled_metadata
            .as_ref()
            .is_none_or(|matcher| matcher.matches(stream.record.entry.metadata.as_deref()))
}

/// Reads the part of the body that the service gets. Error: the answer to a request whose body cannot be read.
async fn read(
    part: Option<BodyPart>,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Result<Option<bytes::Bytes>, Box<Reply>> {
    let Some(part) = part.filter(|_| !exchange.body.is_end_stream()) else { return Ok(None) };
    let (bytes, cut) = if part.partial {
        match stream.record.while_logging(exchange.body.peek(part.most)).await {
            Ok(peeked) => peeked,
            Err(failure) => return Err(Box::new(buffer::refusal(failure, stream))),
        }
    } else {
        match stream.record.while_logging(exchange.body.read_whole(part.most)).await {
            Ok(_) => (exchange.body.contents(), false),
            Err(failure) => return Err(Box::new(buffer::refusal(failure, stream))),
        }
    };
    let told = if cut { "true" } else { "false" };
    exchange.parts.headers.insert(PARTIAL_BODY, HeaderValue::from_static(told));
    Ok(Some(bytes))
}

/// Does what the verdict says.
fn settle(
    verdict: Verdict,
    filter: &ExtAuthz,
    began: Instant,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Decided<Responds> {
    exchange.parts.headers.remove(PARTIAL_BODY);
    if filter.validates && verdict.is_invalid() {
        count(filter, stream, filter.stats.invalid, Some("invalid"));
        let reply = Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "", None, "ext_authz_invalid");
        return Decided { reply: Some(reply), left: None };
    }
    match verdict {
        Verdict::Passed(passed) => {
            count(filter, stream, filter.stats.ok, Some("ok"));
            note(filter, &passed.metadata, Some(began), stream);
            pass(filter, *passed, stream, exchange)
        }
        Verdict::Denied(denied) => {
            count(filter, stream, filter.stats.denied, Some("denied"));
            note(filter, &denied.metadata, None, stream);
            if let Some(cluster) = stream.cluster.as_ref().filter(|_| filter.charges) {
                let shard = &stream.connection.worker.stats;
                charge::answer(cluster, &[], shard, denied.status, &By::internal(), None);
            }
            Decided { reply: Some(deny(filter, *denied)), left: None }
        }
        Verdict::Failed(answer) => {
            count(filter, stream, filter.stats.error, Some("error"));
            if filter.failure_passes {
                count(filter, stream, filter.stats.failure_mode_allowed, Some("failure_mode_allowed"));
                if filter.failure_is_told {
                    exchange.parts.headers.insert(FAILURE_PASSED, HeaderValue::from_static("true"));
                }
                return Decided::PASSED;
            }
            let reply = match answer {
                Some(answer) => Reply { details: "ext_authz_error".into(), ..deny(filter, *answer) },
                None => failed(filter),
            };
            Decided { reply: Some(reply), left: None }
        }
    }
}

fn pass(filter: &ExtAuthz, passed: Passed, stream: &mut Stream, exchange: &mut Exchange<'_>) -> Decided<Responds> {
    stream.reroute |= filter.clear_route && passed.changes_request();
    let headers = &mut exchange.parts.headers;
    passed.request.iter().for_each(|change| change.apply(headers));
    for name in &passed.remove {
        // Without it the request would be none.
        if *name != header::HOST {
            headers.remove(name);
        }
    }
    if let Some(target) = passed.target(&exchange.parts.uri) {
        exchange.parts.uri = target;
    }
    let left = (!passed.response.is_empty()).then_some(Responds(passed.response));
    Decided { reply: None, left }
}

fn deny(filter: &ExtAuthz, denied: Denied) -> Reply {
    let mut reply = Reply::new(denied.status, "", Flag::UnauthorizedExternalService, "ext_authz_denied");
    reply.body = denied.body;
    if let Some(longest) = filter.longest_body {
        reply.body.truncate(longest);
    }
    denied.headers.iter().for_each(|(name, value)| {
        reply.headers.append(name, value.clone());
    });
    reply
}

fn failed(filter: &ExtAuthz) -> Reply {
    Reply::new(filter.status_on_error, "", Flag::UnauthorizedExternalService, "ext_authz_error")
}

/// Takes the metadata of an answer over, with how long the answer took.
fn note(
    filter: &ExtAuthz,
    metadata: &serde_json::Map<String, serde_json::Value>,
    began: Option<Instant>,
    stream: &mut Stream,
) {
    if metadata.is_empty() {
        return;
    }
    if !filter.takes_metadata {
        count(filter, stream, filter.stats.ignored_dynamic_metadata, None);
        return;
    }
    let mut metadata = metadata.clone();
    if let Some(began) = began {
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        metadata.insert("ext_authz_duration".to_owned(), millis.into());
    }
    stream.metadata_mut().merge(NAMESPACE, metadata);
}

/// Counts for the filter and, by a name, for the route's cluster.
fn count(filter: &ExtAuthz, stream: &Stream, counter: Counter, of_cluster: Option<&str>) {
    let shard = &stream.connection.worker.stats;
    shard.inc(counter);
    if let (Some(cluster), Some(name)) = (&stream.cluster, of_cluster) {
        // Names of the cluster's own scope, as they are to live as long as it does.
        let name = match &*filter.prefix {
            "" => format!("ext_authz.{name}"),
            prefix => format!("ext_authz.{prefix}.{name}"),
        };
        shard.inc(cluster.stats.scope.counter(&name));
    }
}
