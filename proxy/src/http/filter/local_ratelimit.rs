//! Limiting the rate of requests.

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::exchange::{Decided, Exchange};
use crate::{
    access_log::{Flag, Live, View},
    config::filter::local_ratelimit::{Bucket, Entries, Facts, LocalRateLimit, RateLimit, VhostLimits},
    http::{
        headers::{lines::Of, mutate},
        stream::{Stream, reply::Reply},
    },
};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// gRPC's RESOURCE_EXHAUSTED.
const RESOURCE_EXHAUSTED: u8 = 8;

/// The limit that the response tells of.
#[derive(Debug)]
pub(super) struct Shown(Bucket);

impl Shown {
    pub fn on_response(&self, headers: &mut HeaderMap) {
        let now = Instant::now();
        tell(headers, LIMIT, HeaderValue::from(self.0.max));
        tell(headers, REMAINING, HeaderValue::from(self.0.left(now)));
        tell(headers, RESET, HeaderValue::from(self.0.seconds_to_next(now)));
    }
}

/// Adds to what others have said, in one line as Envoy does.
fn tell(headers: &mut HeaderMap, name: HeaderName, number: HeaderValue) {
    let said =
        headers.get_all(&name).iter().chain([&number]).map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b',');
    headers.insert(name, HeaderValue::from_bytes(&said).unwrap_or(number));
}

/// What a request was found to be, and how many tokens that costs.
struct Made {
    entries: Entries,
    hits: u32,
}

/// The limits that apply, and whether they let a request pass. The bucket is the one that decided.
fn decide(limit: &LocalRateLimit, descriptors: &[Made], now: Instant) -> (bool, Option<Bucket>) {
    let mut matched: Vec<(Bucket, u32)> =
        descriptors.iter().filter_map(|made| Some((limit.limit(&made.entries)?, made.hits))).collect();
    matched.sort_by(|(one, _), (other, _)| one.rate.total_cmp(&other.rate));
    if let Some((empty, _)) = matched.iter().find(|(bucket, hits)| !bucket.take(*hits, now)) {
        return (false, Some(empty.clone()));
    }
    let first = matched.into_iter().next().map(|(bucket, _)| bucket);
    match &limit.bucket {
        Some(bucket) if first.is_none() || limit.always_consume_default => {
            let allowed = bucket.take(1, now);
            // The one that refuses is told of.
            (allowed, Some(first.filter(|_| allowed).unwrap_or_else(|| bucket.clone())))
        }
        _ => (true, first),
    }
}

pub(super) fn on_request(limit: &LocalRateLimit, stream: &Stream, exchange: &mut Exchange<'_>) -> Decided<Shown> {
    if !limit.enabled.sample(&stream.connection.worker.runtime) {
        return Decided::PASSED;
    }
    let (worker, stats) = (stream.connection.worker.clone(), limit.stats.clone());
    worker.stats.inc(stats.enabled);
    let descriptors = descriptors(limit, stream, exchange);
    let per_connection;
    let limit = if limit.per_connection {
        per_connection = stream.connection.own_limit(limit);
        &*per_connection
    } else {
        limit
    };
    let (allowed, bucket) = decide(limit, &descriptors, Instant::now());
    let left = bucket.filter(|_| limit.limit_headers).map(Shown);
    if allowed {
        worker.stats.inc(stats.ok);
        return Decided { reply: None, left };
    }
    worker.stats.inc(stats.rate_limited);
    let parts = &mut *exchange.parts;
    if !limit.enforced.sample(&worker.runtime) {
        mutate::add(&limit.request_headers, Of::Request, &mut parts.headers, |out, format, headers| {
            let live = Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers };
            format.write_header(out, &View::live(&stream.record.entry, live));
        });
        return Decided { reply: None, left };
    }
    worker.stats.inc(stats.enforced);
    let mut reply = Reply::new(limit.status, "local_rate_limited", Flag::RateLimited, "local_rate_limited");
    if limit.resource_exhausted {
        reply.grpc_status = Some(RESOURCE_EXHAUSTED);
    }
    mutate::add(&limit.response_headers, Of::Response, &mut reply.headers, |out, format, headers| {
        let view = View::live(&stream.record.entry, stream.live(parts));
        format.write_header(out, &View { response: Some(headers), ..view });
    });
    Decided { reply: Some(reply), left }
}

fn descriptors(limit: &LocalRateLimit, stream: &Stream, exchange: &Exchange<'_>) -> Vec<Made> {
    if limit.descriptors.is_empty() {
        return Vec::new();
    }
    let facts = Facts {
        request: stream.view(exchange.parts),
        remote: exchange.client.address.ip(),
        cluster: exchange.routed.and_then(|routed| routed.cluster.as_deref()).unwrap_or_default(),
        metadata: stream.record.entry.metadata.as_deref(),
        route_metadata: exchange.routed.and_then(|routed| routed.route.metadata.as_deref()),
    };
    let made = |limits: &[RateLimit], stage: u32, out: &mut Vec<Made>| {
        out.extend(limits.iter().filter(|limit| limit.stage == stage).filter_map(|limit| {
            let entries = limit.descriptor(&facts)?;
            Some(Made { entries, hits: limit.hits })
        }));
    };
    let mut descriptors = Vec::new();
    if !limit.rate_limits.is_empty() {
        made(&limit.rate_limits, limit.stage, &mut descriptors);
        return descriptors;
    }
    let Some(routed) = exchange.routed else { return descriptors };
    let forward = routed.forward();
    let of_route: &[RateLimit] = forward.map_or(&[], |forward| &forward.rate_limits);
    made(of_route, limit.stage, &mut descriptors);
    let include = match limit.vhost_limits {
        VhostLimits::Ignore => false,
        VhostLimits::Include => true,
        VhostLimits::Override => {
            of_route.is_empty() || forward.is_some_and(|forward| forward.include_vhost_rate_limits)
        }
    };
    if include {
        made(&routed.virtual_host.rate_limits, limit.stage, &mut descriptors);
    }
    descriptors
}
