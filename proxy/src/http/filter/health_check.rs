//! Answering health checks.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::exchange::{Decided, Exchange};
use crate::{
    access_log::Flag,
    config::{
        cluster::{EndpointSet, Health},
        filter::{
            health_check::{Cached, HealthCheck},
            stats,
        },
        request::header_matches,
    },
    http::stream::{Stream, reply::Reply},
    telemetry::stats::Counter,
};

const CHECKED_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

/// When this process began to look at health checks: what cached answers count from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is to be done with a response.
#[derive(Debug)]
pub(super) enum Responds {
    /// It answers a health check, which the upstream was asked.
    Checked {
        /// What the response says of where it comes from.
        cluster: HeaderValue,
        /// It is remembered, for so long.
        remember: Option<(Arc<Cached>, Duration)>,
    },
    /// It answers another request: it tells whether this proxy is to be left.
    Other,
}

impl Cached {
    fn store(&self, status: StatusCode, lifetime: Duration) {
        let until = u64::try_from((EPOCH.elapsed() + lifetime).as_millis()).unwrap_or(u64::MAX >> 16);
        self.until_and_status.store((until << 16) | u64::from(status.as_u16()), Relaxed);
    }

    fn load(&self) -> Option<StatusCode> {
        let stored = self.until_and_status.load(Relaxed);
        let now = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The low half is the status.
        let status = u16::try_from(stored & 0xffff).unwrap_or_default();
        (stored >> 16 > now).then(|| StatusCode::from_u16(status).ok()).flatten()
    }
}

impl Responds {
    pub fn on_response(&mut self, stream: &Stream, status: StatusCode, headers: &mut HeaderMap) {
        match self {
            Self::Checked { cluster, remember } => {
                if let Some((cached, lifetime)) = remember.take() {
                    cached.store(status, lifetime);
                }
                headers.insert(CHECKED_CLUSTER, cluster.clone());
            }
            Self::Other if stream.connection.worker.lifecycle.health_check_failed() => {
                headers.insert(FAIL, HeaderValue::from_static("true"));
            }
            Self::Other => {}
        }
    }
}

/// What a cluster lacks.
#[derive(Clone, Copy, Debug)]
enum Lack {
    NotFound,
    Empty,
    TooFew,
}

impl Lack {
    fn details(self) -> &'static str {
        match self {
            Self::NotFound => "health_check_failed_no_cluster_found",
            Self::Empty => "health_check_failed_cluster_empty",
            Self::TooFew => "health_check_failed_cluster_unhealthy",
        }
    }

    fn counter(self, stats: &stats::HealthCheck) -> Counter {
        match self {
            Self::NotFound => stats.failed_cluster_not_found,
            Self::Empty => stats.failed_cluster_empty,
            Self::TooFew => stats.failed_cluster_unhealthy,
        }
    }
}

/// Whether less than `minimum` percent of the endpoints are healthy.
fn lacks_healthy(endpoints: &EndpointSet, minimum: f64) -> Option<Lack> {
    let all = endpoints.iter().count() as f64;
    if all == 0.0 {
        return (minimum > 0.0).then_some(Lack::Empty);
    }
    let healthy = endpoints.iter().filter(|endpoint| endpoint.host.health() == Health::Healthy).count() as f64;
    (100.0 * healthy < all * minimum).then_some(Lack::TooFew)
}

pub(super) async fn on_request(
    check: &HealthCheck,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Decided<Responds> {
    let view = stream.view(exchange.parts);
    if !check.headers.iter().all(|matcher| header_matches(matcher, &view)) {
        return Decided { reply: None, left: Some(Responds::Other) };
    }
    stream.record.health_check = true;
    let connection = stream.connection.clone();
    let (shard, stats) = (&connection.worker.stats, &*check.stats);
    shard.inc(connection.manager.stats.tracing.health_check);
    let failing = connection.worker.lifecycle.health_check_failed();
    // An answer waits for the whole request.
    let mut reply = if failing {
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, "", Flag::FailedLocalHealthCheck, "health_check_failed")
    } else if check.pass_through {
        match check.cache_time.and_then(|_| check.cached.load()) {
            None => {
                let remember = check.cache_time.map(|lifetime| (check.cached.clone(), lifetime));
                let cluster = connection.manager.service_cluster.clone();
                return Decided { reply: None, left: Some(Responds::Checked { cluster, remember }) };
            }
            Some(status) => {
                shard.inc(stats.cached_response);
                let flag = (!status.is_success()).then_some(Flag::FailedLocalHealthCheck);
                Reply::new(status, "", flag, "health_check_cached")
            }
        }
    } else {
        let snapshot = connection.snapshot().load();
        let unhealthy = check.cluster_minimums.iter().find_map(|(name, minimum)| match snapshot.cluster(name) {
            None => Some(Lack::NotFound),
            Some(cluster) => lacks_healthy(&cluster.endpoints.load(), *minimum),
        });
        if let Some(unhealthy) = unhealthy {
            shard.inc(unhealthy.counter(stats));
        }
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match unhealthy {
            Some(unhealthy) => Reply::new(unavailable, "", Flag::FailedLocalHealthCheck, unhealthy.details()),
            None if check.cluster_minimums.is_empty() => Reply::new(StatusCode::OK, "", None, "health_check_ok"),
            None => Reply::new(StatusCode::OK, "", None, "health_check_ok_cluster_healthy"),
        }
    };
    shard.inc(stats.request_total);
    shard.inc(if reply.status.is_success() { stats.ok } else { stats.failed });
    if failing {
        reply.headers.insert(FAIL, HeaderValue::from_static("true"));
    }
    reply.headers.insert(CHECKED_CLUSTER, connection.manager.service_cluster.clone());
    stream.record.while_logging(exchange.body.discard()).await;
    Decided { reply: Some(reply), left: None }
}
