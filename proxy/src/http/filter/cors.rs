//! Cross-origin resource sharing: preflight requests are answered, other responses say who may read them.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::exchange::{Decided, Exchange, levels};
use crate::{
    config::filter::{RouteFilter, cors::CorsPolicy, stats},
    http::stream::{Stream, reply::Reply, route::Routed},
};

const TRUE: HeaderValue = HeaderValue::from_static("true");
const PRIVATE_NETWORK_WANTED: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// One of a policy's texts.
type TextOf = fn(&CorsPolicy) -> &Option<HeaderValue>;

/// What the response says.
#[derive(Debug)]
pub(super) struct Allowed {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl Allowed {
    pub fn on_response(&self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

pub(super) fn on_request(
    stats: &stats::Cors,
    stream: &Stream,
    exchange: &Exchange<'_>,
    name: &str,
) -> Decided<Allowed> {
    // As in Envoy, what a route answers itself says nothing of who may read it.
    if exchange.routed.and_then(Routed::forward).is_none() {
        return Decided::PASSED;
    }
    let mut policies: Vec<&CorsPolicy> = levels(exchange.routed)
        .filter_map(|overrides| match overrides.get(name)?.config.as_ref()? {
            RouteFilter::Cors(policy) => Some(&**policy),
            _ => None,
        })
        .collect();
    if policies.iter().any(|policy| !policy.old) {
        policies.retain(|policy| !policy.old);
    }
    let Some(most_specific) = policies.first() else { return Decided::PASSED };
    let origin = exchange.parts.headers.get(header::ORIGIN).filter(|origin| !origin.is_empty());
    let Some(origin) = origin.cloned() else { return Decided::PASSED };
    let runtime = &stream.connection.worker.runtime;
    let enabled = most_specific.is_enabled(runtime);
    if !enabled && !most_specific.is_shadow(runtime) {
        return Decided::PASSED;
    }
    let allowed = policies
        .iter()
        .find(|policy| !policy.allow_origin.is_empty())
        .is_some_and(|policy| policy.allows(origin.as_bytes()));
    stream.connection.worker.stats.inc(if allowed { stats.origin_valid } else { stats.origin_invalid });
    if !enabled {
        return Decided::PASSED;
    }
    let flag = |field: fn(&CorsPolicy) -> Option<bool>| policies.iter().find_map(|policy| field(policy));
    let text =
        |field: fn(&CorsPolicy) -> &Option<HeaderValue>| policies.iter().find_map(|policy| field(policy).clone());
    let headers = &exchange.parts.headers;
    let preflight = exchange.parts.method == Method::OPTIONS
        && headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| !method.is_empty());
    let credentials = flag(|policy| policy.allow_credentials).unwrap_or(false);
    let left = allowed.then(|| Allowed { origin, credentials, expose: text(|policy| &policy.expose_headers) });
    if preflight && (allowed || !flag(|policy| policy.forward_not_matching_preflights).unwrap_or(true)) {
        let mut reply = Reply::new(StatusCode::OK, "", None, "cors_response");
        reply.verbatim = true;
        let answer = &mut reply.headers;
        if credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if flag(|policy| policy.allow_private_network).unwrap_or(false)
            && headers.get(PRIVATE_NETWORK_WANTED).is_some_and(|wanted| wanted == "true")
        {
            answer.insert(PRIVATE_NETWORK, TRUE);
        }
        let fields: [(HeaderName, TextOf); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, |policy| &policy.allow_methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, |policy| &policy.allow_headers),
            (header::ACCESS_CONTROL_MAX_AGE, |policy| &policy.max_age),
        ];
        for (name, field) in fields {
            if let Some(value) = text(field) {
                answer.insert(name, value);
            }
        }
        return Decided { reply: Some(reply), left };
    }
    Decided { reply: None, left }
}
