//! Faults on purpose: delays, aborts, slow responses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, StatusCode};

use super::exchange::{Decided, Exchange};
use crate::{
    access_log::Flag,
    config::{
        filter::{
            fault::{Abort, Delay, Fault, RateLimit},
            stats,
        },
        request::header_matches,
    },
    http::{
        body::throttle::Throttle,
        stream::{Stream, reply::Reply},
    },
    matcher::fraction::Fraction,
    telemetry::stats::{Gauge, Shard},
};

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const THROUGHPUT: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const THROUGHPUT_PERCENTAGE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response-percentage");
const DOWNSTREAM_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// A request under a fault: counts against the limit until it ends.
#[derive(Debug)]
pub(super) struct Active {
    count: Arc<AtomicU32>,
    shard: Shard,
    gauge: Gauge,
}

impl Active {
    fn take(fault: &Fault, stats: &stats::Fault, shard: &Shard) -> Option<Self> {
        let most = fault.max_active.unwrap_or(u32::MAX);
        let more = |active: u32| (active < most).then(|| active + 1);
        if fault.active.fetch_update(Relaxed, Relaxed, more).is_err() {
            shard.inc(stats.faults_overflow);
            return None;
        }
        shard.gauge_add(stats.active_faults, 1);
        Some(Self { count: fault.active.clone(), shard: shard.clone(), gauge: stats.active_faults })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
        self.shard.gauge_add(self.gauge, -1);
    }
}

/// A number in a header.
fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &HeaderName) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The share that the configuration says, or a header if the fault is one that headers ask for.
fn sampled(by_header: bool, share: Fraction, headers: &HeaderMap, name: &HeaderName) -> bool {
    let asked = if by_header { number(headers, name) } else { None };
    asked.map_or(share, |asked| share_asked(asked, share)).sample()
}

/// As many of the configuration's denominator as asked for, but no more than configured.
fn share_asked(asked: u32, share: Fraction) -> Fraction {
    Fraction { numerator: asked, denominator: share.denominator }.at_most(share.numerator)
}

fn delay(fault: &Fault, headers: &HeaderMap) -> Option<Duration> {
    let (delay, share) = fault.delay?;
    let (duration, by_header) = match delay {
        Delay::Fixed(duration) => (duration, false),
        Delay::Header => (Duration::from_millis(number(headers, &DELAY)?), true),
    };
    (!duration.is_zero() && sampled(by_header, share, headers, &DELAY_PERCENTAGE)).then_some(duration)
}

fn abort(fault: &Fault, headers: &HeaderMap) -> Option<Reply> {
    let (abort, share) = fault.abort?;
    let (http, grpc, by_header) = match abort {
        Abort::Http(status) => (Some(status), None, false),
        Abort::Grpc(status) => (None, Some(status), false),
        Abort::Header => {
            let valid = |status: &u16| (200..600).contains(status);
            let http =
                number::<u16>(headers, &ABORT).filter(valid).and_then(|status| StatusCode::from_u16(status).ok());
            (http, number(headers, &ABORT_GRPC), true)
        }
    };
    if (http.is_none() && grpc.is_none()) || !sampled(by_header, share, headers, &ABORT_PERCENTAGE) {
        return None;
    }
    // A gRPC status goes to clients that speak something else as "OK".
    let status = http.unwrap_or(StatusCode::OK);
    let mut reply = Reply::new(status, "fault filter abort", Flag::FaultInjected, "fault_filter_abort");
    if let Some(body) = &fault.abort_body {
        reply.body = body.clone();
    }
    reply.grpc_status = if http.is_some() { None } else { grpc };
    Some(reply)
}

/// KiB per second.
fn rate(fault: &Fault, headers: &HeaderMap) -> Option<u64> {
    let (limit, share) = fault.rate_limit?;
    let (rate, by_header) = match limit {
        RateLimit::Fixed(rate) => (rate, false),
        RateLimit::Header => (number(headers, &THROUGHPUT).filter(|rate| *rate > 0)?, true),
    };
    sampled(by_header, share, headers, &THROUGHPUT_PERCENTAGE).then_some(rate)
}

fn concerns(fault: &Fault, exchange: &Exchange<'_>, stream: &Stream) -> bool {
    let cluster = || exchange.routed.and_then(|routed| routed.cluster.as_deref());
    let node = || exchange.parts.headers.get(DOWNSTREAM_NODE);
    fault.upstream_cluster.as_ref().is_none_or(|wanted| cluster().is_some_and(|cluster| *cluster == **wanted))
        && (fault.downstream_nodes.is_empty()
            || node().is_some_and(|node| fault.downstream_nodes.iter().any(|wanted| *node == **wanted)))
        && fault.headers.iter().all(|matcher| header_matches(matcher, &stream.view(exchange.parts)))
}

/// `own` is the filter's, which counts, also where a route has another fault; `name` is the filter's. `throttle` is what
/// slows the response down.
pub(super) async fn on_request(
    fault: &Fault,
    own: &Fault,
    name: &str,
    stream: &mut Stream,
    throttle: &mut Option<Throttle>,
    exchange: &Exchange<'_>,
) -> Decided<Active> {
    let stats = &own.stats;
    if !concerns(fault, exchange, stream) {
        return Decided::PASSED;
    }
    let headers = &exchange.parts.headers;
    let shard = stream.connection.worker.stats.clone();
    // The client's cluster has counters of its own, registered as it is seen.
    let caller = headers.get(DOWNSTREAM_CLUSTER).and_then(|name| name.to_str().ok());
    let caller = caller.filter(|name| !fault.disable_downstream_cluster_stats && !name.is_empty());
    let by_caller = |what: &str| {
        if let Some(caller) = caller {
            shard.inc(stats.scope.counter(&format!("{caller}.{what}")));
        }
    };
    let mut active = None;
    let mut activate = || activate(fault, stats, &shard, &mut active);
    if let Some(rate) = rate(fault, headers)
        && activate()
    {
        shard.inc(stats.response_rl_injected);
        *throttle = Some(Throttle::new(rate));
    }
    if let Some(duration) = delay(fault, headers)
        && activate()
    {
        shard.inc(stats.delays_injected);
        by_caller("delays_injected");
        stream.record.entry.raise(Flag::DelayInjected);
        note(fault, name, stream);
        stream.record.while_logging(tokio::time::sleep(duration)).await;
    }
    let reply = abort(fault, headers).filter(|_| activate());
    if reply.is_some() {
        note(fault, name, stream);
        shard.inc(stats.aborts_injected);
        by_caller("aborts_injected");
    }
    Decided { reply, left: active }
}

/// Notes the metadata of a fault that is injected, under the name that the filter has in the configuration.
fn note(fault: &Fault, name: &str, stream: &mut Stream) {
    if let Some(values) = &fault.metadata {
        stream.metadata_mut().merge(name, values.clone());
    }
}

/// One fault more for this request: the first one counts it in.
fn activate(fault: &Fault, stats: &stats::Fault, shard: &Shard, active: &mut Option<Active>) -> bool {
    if active.is_none() {
        *active = Active::take(fault, stats, shard);
    }
    active.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault {
            delay: Some((Delay::Header, Fraction { numerator: 100, denominator: 100 })),
            abort: Some((Abort::Header, Fraction { numerator: 100, denominator: 100 })),
            rate_limit: None,
            abort_body: None,
            upstream_cluster: None,
            headers: Vec::new(),
            downstream_nodes: Vec::new(),
            max_active: Some(1),
            active: Arc::default(),
            metadata: None,
            disable_downstream_cluster_stats: false,
            stats: stats::Counted::default(),
        }
    }

    #[test]
    fn headers_ask_for_faults() {
        let mut headers = HeaderMap::new();
        assert_eq!(delay(&fault(), &headers), None);
        headers.insert(DELAY, "20".parse().unwrap());
        headers.insert(ABORT, "503".parse().unwrap());
        assert_eq!(delay(&fault(), &headers), Some(Duration::from_millis(20)));
        assert_eq!(abort(&fault(), &headers).unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        headers.insert(ABORT_PERCENTAGE, "0".parse().unwrap());
        assert_eq!(abort(&fault(), &headers), None);
        headers.remove(ABORT);
        headers.insert(ABORT_GRPC, "5".parse().unwrap());
        headers.insert(ABORT_PERCENTAGE, "100".parse().unwrap());
        let reply = abort(&fault(), &headers).unwrap();
        assert_eq!((reply.status, reply.grpc_status), (StatusCode::OK, Some(5)));
    }

    #[test]
    fn active_faults_are_limited() {
        let fault = fault();
        let mut first = None;
        let activate =
            |active: &mut Option<Active>| super::activate(&fault, &stats::Fault::default(), &Shard::default(), active);
        assert!(activate(&mut first) && activate(&mut first));
        assert!(!activate(&mut None));
        drop(first);
        assert!(activate(&mut None));
    }
}
