//! Faults on purpose.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use http::StatusCode;

use crate::{
    config::filter::stats::{self, Counted},
    matcher::{HeaderMatcher, fraction::Fraction},
};

/// `HTTPFault`.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Requests that are delayed.
    pub delay: Option<(Delay, Fraction)>,
    /// Requests that are answered here.
    pub abort: Option<(Abort, Fraction)>,
    /// Responses that are slowed down.
    pub rate_limit: Option<(RateLimit, Fraction)>,
    /// Body of an abort.
    pub abort_body: Option<bytes::Bytes>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Box<str>>,
    /// Only requests whose headers match all of these.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests of these service nodes; empty: all.
    pub downstream_nodes: Vec<Box<str>>,
    /// Requests under a fault at once; none: any number.
    pub max_active: Option<u32>,
    /// Runtime values that go before what is configured.
    pub keys: Keys,
    /// Requests under a fault, over all workers.
    pub active: Arc<AtomicU32>,
    /// What is noted as dynamic metadata of requests that are delayed or aborted, under the filter's name.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Count nothing by downstream cluster.
    pub disable_downstream_cluster_stats: bool,
    /// What it counts. Those of the filter count, also where a route has another fault.
    pub stats: Counted<stats::Fault>,
}

/// The keys of runtime values that change a fault. Where the client names its cluster, some of that cluster's stand for
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The share of requests that are delayed.
    pub delay_share: Box<str>,
    /// For how long, in ms.
    pub delay: Box<str>,
    /// The share of requests that are answered here.
    pub abort_share: Box<str>,
    /// With which status.
    pub http_status: Box<str>,
    /// With which gRPC status.
    pub grpc_status: Box<str>,
    /// The share of responses that are slowed down.
    pub rate_share: Box<str>,
    /// Requests under a fault at once.
    pub max_active: Box<str>,
}

/// For how long a request is delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// As long as this.
    Fixed(Duration),
    /// As long as `x-envoy-fault-delay-request` says.
    Header,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// With this status.
    Http(StatusCode),
    /// With this gRPC status.
    Grpc(u8),
    /// As `x-envoy-fault-abort-request` or `x-envoy-fault-abort-grpc-request` says.
    Header,
}

/// How fast a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// KiB per second.
    Fixed(u64),
    /// As fast as `x-envoy-fault-throughput-response` says.
    Header,
}
