//! What requests add to the statistics of their cluster and host, and to outlier detection.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{
    cluster::Outcome,
    config::{
        cluster::{Cluster, Endpoint, Template, stats::Response},
        route::RequestStats,
    },
    http::{
        headers::forwarded::X_ENVOY_INTERNAL,
        stream::{
            Stream,
            failure::Failure,
            timers::Expired,
            verdict::{Asked, grpc_as_http},
        },
    },
    telemetry::stats::Shard,
};

/// A host's word for failing.
const IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

/// A host's word for being degraded.
const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// How an attempt ended.
pub(in crate::http) enum Ended<'a> {
    Response {
        of: Asked,
        status: StatusCode,
        headers: &'a HeaderMap,
    },
    Failed(&'a Failure),
    Expired(Expired),
    /// Not at all yet, though it has had its time.
    Slow,
    /// As the whole did, after it had had its own time.
    SlowExpired,
}

/// Takes note of how an attempt at an endpoint ended. `cluster` is the route's, `chosen` the endpoint's.
pub(in crate::http) fn attempt(
    cluster: &Cluster,
    chosen: &Cluster,
    endpoint: &Endpoint,
    shard: &Shard,
    ended: Ended<'_>,
) {
    let host = &endpoint.host.stats;
    match ended {
        Ended::Response { of, status, headers } => {
            let code = match (of, &chosen.errors) {
                (Asked::Grpc, _) => grpc_as_http(headers).unwrap_or(status.as_u16()),
                (Asked::Http, Some(errors)) => errors.judge(status, headers),
                (Asked::Http, None) => status.as_u16(),
            };
            chosen.report(endpoint, Outcome::Response(code));
            if !(500..600).contains(&code) && headers.contains_key(DEGRADED) {
                chosen.admits_degradation(endpoint);
            }
            if headers.contains_key(IMMEDIATE_FAIL) {
                chosen.admits_failure(endpoint);
            }
        }
        Ended::Failed(Failure::Downstream) => {}
        Ended::Failed(failure) => {
            if *failure == Failure::Protocol {
                shard.inc(chosen.stats.upstream_cx_protocol_error);
            }
            chosen.report(endpoint, Outcome::Failed);
            if !failure.is_overflow() {
                host.rq_error.fetch_add(1, Relaxed);
            }
        }
        Ended::Expired(Expired::PerTry) => {
            shard.inc(cluster.stats.upstream_rq_per_try_timeout);
            timed_out(chosen, endpoint);
        }
        Ended::Expired(Expired::PerTryIdle) => {
            shard.inc(cluster.stats.upstream_rq_per_try_idle_timeout);
            timed_out(chosen, endpoint);
        }
        Ended::Expired(Expired::Global) => {
            shard.inc(cluster.stats.upstream_rq_timeout);
            timed_out(chosen, endpoint);
        }
        Ended::Expired(Expired::StreamDuration) => shard.inc(cluster.stats.upstream_rq_max_duration_reached),
        Ended::Expired(_) => {}
        Ended::Slow => chosen.report(endpoint, TIMED_OUT),
        Ended::SlowExpired => {
            shard.inc(cluster.stats.upstream_rq_timeout);
            count_timeout(endpoint);
        }
    }
}

/// What outlier detection is told of a timeout.
const TIMED_OUT: Outcome = Outcome::TimedOut(StatusCode::GATEWAY_TIMEOUT.as_u16());

fn timed_out(chosen: &Cluster, endpoint: &Endpoint) {
    chosen.report(endpoint, TIMED_OUT);
    count_timeout(endpoint);
}

fn count_timeout(endpoint: &Endpoint) {
    endpoint.host.stats.rq_timeout.fetch_add(1, Relaxed);
    endpoint.host.stats.rq_error.fetch_add(1, Relaxed);
}

/// On whose behalf responses are counted, and whether they are.
#[derive(Debug, Default)]
pub(in crate::http) struct By {
    /// The client is internal: what `x-envoy-internal` says.
    internal: bool,
    /// `x-envoy-upstream-alt-stat-name`.
    alternative: Option<HeaderValue>,
    /// The router's `dynamic_stats` are off.
    uncounted: bool,
}

impl By {
    /// A request as its client sent it.
    pub fn of(headers: &HeaderMap) -> Self {
        Self { internal: headers.get(X_ENVOY_INTERNAL).is_some_and(|value| value == "true"), ..Self::default() }
    }

    /// One that nobody outside has sent.
    pub fn internal() -> Self {
        Self { internal: true, ..Self::default() }
    }

    /// One that the router of `stream` forwards.
    pub fn routed(stream: &Stream, headers: &HeaderMap, alternative: Option<HeaderValue>) -> Self {
        let uncounted = stream.connection.manager.router.no_dynamic_stats;
        Self { alternative, uncounted, ..Self::of(headers) }
    }

    /// Whether the host hears of an error that the head of a response is.
    pub fn counts(&self) -> bool {
        !self.uncounted
    }

    fn response<'a>(&'a self, code: u16, of: Option<&'a Template>) -> Response<'a> {
        Response {
            code,
            internal: self.internal,
            canary: of.is_some_and(|template| template.canary),
            zone: of.map_or("", |template| &template.locality.zone),
            alternative: self.alternative.as_ref().and_then(|name| name.to_str().ok()),
        }
    }
}

/// Takes note of what a client is answered by way of a cluster; `of` is what is known of the endpoint, if there was one.
pub(in crate::http) fn answer(
    cluster: &Cluster,
    groups: &[&RequestStats],
    shard: &Shard,
    status: StatusCode,
    by: &By,
    of: Option<&Template>,
) {
    if by.uncounted {
        return;
    }
    for group in groups {
        group.responses.charge(shard, status.as_u16());
    }
    cluster.stats.charge(shard, by.response(status.as_u16(), of));
}

/// Takes note of how long an upstream took for a response after the whole request.
pub(in crate::http) fn time(
    cluster: &Cluster,
    groups: &[&RequestStats],
    shard: &Shard,
    by: &By,
    of: Option<&Template>,
    took: Duration,
) {
    if by.uncounted {
        return;
    }
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    for group in groups {
        shard.record(group.responses.time(), millis);
    }
    cluster.stats.charge_time(shard, by.response(0, of), millis);
}
