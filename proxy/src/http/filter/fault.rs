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
        body::ReadAhead,
        body::throttle::Throttle,
        stream::{Stream, reply::Reply},
    },
    matcher::fraction::Fraction,
    runtime::Runtime,
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
    fn take(fault: &Fault, stats: &stats::Fault, shard: &Shard, runtime: &Runtime) -> Option<Self> {
        let configured = fault.max_active.unwrap_or(u32::MAX);
        let set = runtime.integer(&fault.keys.max_active);
        let most = set.map_or(configured, |most| u32::try_from(most).unwrap_or(u32::MAX));
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

/// What the runtime and a request's headers say about a fault.
#[derive(Clone, Copy)]
struct Said<'a> {
    fault: &'a Fault,
    headers: &'a HeaderMap,
    runtime: &'a Runtime,
}

impl Said<'_> {
    /// Whether the fault is one for this request: by the share that is configured, or a smaller one that a header asks
    /// for if the fault is one that headers ask for. A runtime value goes before both: the one that is the client's
    /// cluster's (`what`) where the client names it, else that of `key`.
    fn sampled(self, share: Fraction, asking: Option<&HeaderName>, key: &str, what: Option<&str>) -> bool {
        let asked = asking.and_then(|name| number(self.headers, name));
        let share = asked.map_or(share, |asked| share_asked(asked, share));
        let callers = what.and_then(|what| self.callers(what));
        share.unless(self.runtime, callers.as_deref().unwrap_or(key)).sample()
    }

    /// The runtime key of the client's cluster, if the client names it and a value can be there.
    fn callers(self, what: &str) -> Option<String> {
        let caller = self.headers.get(DOWNSTREAM_CLUSTER)?.to_str().ok().filter(|_| !self.runtime.is_empty())?;
        Some(format!("fault.http.{caller}.{what}"))
    }

    fn delay(self) -> Option<Duration> {
        let (delay, share) = self.fault.delay?;
        let (duration, asking) = match delay {
            Delay::Fixed(duration) => (duration, None),
            Delay::Header => (Duration::from_millis(number(self.headers, &DELAY)?), Some(&DELAY_PERCENTAGE)),
        };
        if !self.sampled(share, asking, &self.fault.keys.delay_share, Some("delay.fixed_delay_percent")) {
            return None;
        }
        let callers = self.callers("delay.fixed_duration_ms").and_then(|key| self.runtime.integer(&key));
        let set = callers.or_else(|| self.runtime.integer(&self.fault.keys.delay));
        Some(set.map_or(duration, Duration::from_millis)).filter(|duration| !duration.is_zero())
    }

    fn abort(self) -> Option<Reply> {
        let (abort, share) = self.fault.abort?;
        let (http, grpc, asking) = match abort {
            Abort::Http(status) => (Some(status), None, None),
            Abort::Grpc(status) => (None, Some(status), None),
            Abort::Header => {
                let valid = |status: &u16| (200..600).contains(status);
                let http = number::<u16>(self.headers, &ABORT).filter(valid);
                let http = http.and_then(|status| StatusCode::from_u16(status).ok());
                (http, number(self.headers, &ABORT_GRPC), Some(&ABORT_PERCENTAGE))
            }
        };
        let keys = &self.fault.keys;
        if (http.is_none() && grpc.is_none())
            || !self.sampled(share, asking, &keys.abort_share, Some("abort.abort_percent"))
        {
            return None;
        }
        // As in Envoy, a client that names its cluster is not told what the fault's own key has.
        let set = |own: &str, what: &str| match self.callers(what) {
            Some(key) => self.runtime.integer(&key),
            None => self.runtime.integer(own),
        };
        let http = http.map(|configured| {
            let set = set(&keys.http_status, "abort.http_status").and_then(|set| u16::try_from(set).ok());
            set.and_then(|set| StatusCode::from_u16(set).ok()).unwrap_or(configured)
        });
        // A gRPC status goes to clients that speak something else as "OK".
        let status = http.unwrap_or(StatusCode::OK);
        let mut reply = Reply::new(status, "fault filter abort", Flag::FaultInjected, "fault_filter_abort");
        if let Some(body) = &self.fault.abort_body {
            reply.body = body.clone();
        }
        reply.grpc_status = grpc.filter(|_| http.is_none()).map(|configured| {
            let set = set(&keys.grpc_status, "abort.grpc_status");
            set.and_then(|set| u8::try_from(set).ok()).unwrap_or(configured)
        });
        Some(reply)
    }

    /// KiB per second.
    fn rate(self) -> Option<u64> {
        let (limit, share) = self.fault.rate_limit?;
        let (rate, asking) = match limit {
            RateLimit::Fixed(rate) => (rate, None),
            RateLimit::Header => {
                let rate = number(self.headers, &THROUGHPUT).filter(|rate| *rate > 0)?;
                (rate, Some(&THROUGHPUT_PERCENTAGE))
            }
        };
        self.sampled(share, asking, &self.fault.keys.rate_share, None).then_some(rate)
    }
}

/// As many of the configuration's denominator as asked for, but no more than configured.
fn share_asked(asked: u32, share: Fraction) -> Fraction {
    Fraction { numerator: asked, denominator: share.denominator }.at_most(share.numerator)
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
    exchange: &mut Exchange<'_>,
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
            shard.inc(stats.scope.counter_seen(format_args!("{caller}.{what}")));
        }
    };
    let mut active = None;
    let worker = stream.connection.worker.clone();
    let runtime = &*worker.runtime;
    let said = Said { fault, headers, runtime };
    let mut activate = || activate(fault, stats, &shard, runtime, &mut active);
    if let Some(rate) = said.rate()
        && activate()
    {
        shard.inc(stats.response_rl_injected);
        *throttle = Some(Throttle::new(rate));
    }
    if let Some(duration) = said.delay()
        && activate()
    {
        shard.inc(stats.delays_injected);
        by_caller("delays_injected");
        stream.record.entry.raise(Flag::DelayInjected);
        note(fault, name, stream);
        let waiting = exchange.body.ahead_while(tokio::time::sleep(duration));
        stream.record.while_logging(waiting).await;
    }
    let reply = said.abort().filter(|_| activate());
    if reply.is_some() {
        note(fault, name, stream);
        shard.inc(stats.aborts_injected);
        by_caller("aborts_injected");
    } else if fault.rate_limit.is_none() {
        // As in Envoy, a delay that is over counts no more.
        active = None;
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
fn activate(
    fault: &Fault,
    stats: &stats::Fault,
    shard: &Shard,
    runtime: &Runtime,
    active: &mut Option<Active>,
) -> bool {
    if active.is_none() {
        *active = Active::take(fault, stats, shard, runtime);
    }
    active.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::filter::fault::Keys,
        runtime::{Layer, Value},
    };

    fn fault() -> Fault {
        Fault {
            delay: Some((Delay::Header, Fraction::ALWAYS)),
            abort: Some((Abort::Header, Fraction::ALWAYS)),
            rate_limit: None,
            abort_body: None,
            upstream_cluster: None,
            headers: Vec::new(),
            downstream_nodes: Vec::new(),
            max_active: Some(1),
            active: Arc::default(),
            keys: Keys {
                delay_share: "delay-share".into(),
                delay: "delay".into(),
                abort_share: "abort-share".into(),
                http_status: "http-status".into(),
                grpc_status: "grpc-status".into(),
                rate_share: "rate-share".into(),
                max_active: "max-active".into(),
            },
            metadata: None,
            disable_downstream_cluster_stats: false,
            stats: stats::Counted::default(),
        }
    }

    fn runtime(values: &[(&str, &str)]) -> Runtime {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), Value::parse(value))).collect();
        Runtime::new(vec![Layer { name: "a".into(), admin: false, values }])
    }

    #[test]
    fn headers_ask_for_faults() {
        let mut headers = HeaderMap::new();
        let (fault, runtime) = (fault(), Runtime::default());
        let said = |headers: &HeaderMap| {
            let said = Said { fault: &fault, headers, runtime: &runtime };
            (said.delay(), said.abort())
        };
        assert_eq!(said(&headers), (None, None));
        headers.insert(DELAY, "20".parse().unwrap());
        headers.insert(ABORT, "503".parse().unwrap());
        let (delay, abort) = said(&headers);
        assert_eq!((delay, abort.unwrap().status), (Some(Duration::from_millis(20)), StatusCode::SERVICE_UNAVAILABLE));
        headers.insert(ABORT_PERCENTAGE, "0".parse().unwrap());
        assert_eq!(said(&headers).1, None);
        headers.remove(ABORT);
        headers.insert(ABORT_GRPC, "5".parse().unwrap());
        headers.insert(ABORT_PERCENTAGE, "100".parse().unwrap());
        let reply = said(&headers).1.unwrap();
        assert_eq!((reply.status, reply.grpc_status), (StatusCode::OK, Some(5)));
    }

    #[test]
    fn the_runtime_changes_faults() {
        let never = Fraction::NEVER;
        let delay = Some((Delay::Fixed(Duration::from_millis(5)), never));
        let fault = Fault { delay, abort: Some((Abort::Http(StatusCode::OK), never)), ..fault() };
        let mut headers = HeaderMap::new();
        let said = |headers: &HeaderMap, runtime: &Runtime| {
            let said = Said { fault: &fault, headers, runtime };
            let millis = said.delay().map(|delay| delay.as_millis());
            (millis, said.abort().map(|reply| reply.status.as_u16()))
        };
        let own = runtime(&[("delay-share", "100"), ("delay", "7"), ("abort-share", "100"), ("http-status", "418")]);
        assert_eq!(said(&headers, &Runtime::default()), (None, None));
        assert_eq!(said(&headers, &own), (Some(7), Some(418)));
        assert_eq!(said(&headers, &runtime(&[("delay-share", "100"), ("delay", "0")])), (None, None));
        headers.insert(DOWNSTREAM_CLUSTER, "caller".parse().unwrap());
        assert_eq!(said(&headers, &own), (None, None));
        let callers = runtime(&[
            ("fault.http.caller.delay.fixed_delay_percent", "100"),
            ("delay", "7"),
            ("fault.http.caller.abort.abort_percent", "100"),
            ("http-status", "418"),
        ]);
        assert_eq!(said(&headers, &callers), (Some(7), Some(200)));
    }

    #[test]
    fn active_faults_are_limited() {
        let fault = fault();
        let mut first = None;
        let activate = |runtime: &Runtime, active: &mut Option<Active>| {
            super::activate(&fault, &stats::Fault::default(), &Shard::default(), runtime, active)
        };
        let (unset, more) = (Runtime::default(), runtime(&[("max-active", "2")]));
        assert!(activate(&unset, &mut first) && activate(&unset, &mut first));
        assert!(!activate(&unset, &mut None) && activate(&more, &mut None));
        drop(first);
        assert!(activate(&unset, &mut None));
    }
}
