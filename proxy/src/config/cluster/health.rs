//! Active health checks as configured, and what they count under.

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method};

use super::endpoint::Endpoint;
use crate::{
    config::headers::Addition,
    matcher::StringMatcher,
    telemetry::{
        events::EventLog,
        stats::{Counter, Gauge, Scope},
    },
};

/// A cluster's active health check.
#[derive(Debug)]
pub struct HealthCheck {
    /// What is asked, and what is a good answer.
    pub probe: Probe,
    /// An answer must come within.
    pub timeout: Duration,
    /// Between checks.
    pub intervals: Intervals,
    /// Failures in a row until a host is unhealthy.
    pub unhealthy_threshold: u32,
    /// Successes in a row until a host is healthy.
    pub healthy_threshold: u32,
    /// One connection for many checks.
    pub reuse_connection: bool,
    /// New hosts do not count before their first check.
    pub ignore_new_hosts: bool,
    /// Where events go.
    pub logs: Vec<Arc<EventLog>>,
    /// Every failure is an event.
    pub log_failures: bool,
    /// Every success is an event.
    pub log_successes: bool,
    /// Names.
    pub stats: CheckStats,
}

/// How long after a check the next one comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// Before the first check: up to this.
    pub initial_jitter: Duration,
    /// For healthy hosts.
    pub healthy: Duration,
    /// For hosts that have just passed a check and are not healthy yet.
    pub healthy_edge: Duration,
    /// For unhealthy hosts.
    pub unhealthy: Duration,
    /// For hosts that have just failed a check and are healthy yet.
    pub unhealthy_edge: Duration,
    /// While the cluster has never had a connection.
    pub no_traffic: Duration,
    /// The same for healthy hosts.
    pub no_traffic_healthy: Option<Duration>,
    /// Random addition, up to this,
    pub jitter: Duration,
    /// and up to this share of the interval.
    pub jitter_percent: u32,
}

/// What is asked, and what is a good answer.
#[derive(Debug)]
pub enum Probe {
    /// An HTTP request.
    Http(Box<HttpProbe>),
    /// A call of gRPC's health checking protocol.
    Grpc(GrpcProbe),
    /// A connection, perhaps with bytes.
    Tcp(TcpProbe),
}

impl Probe {
    /// In event logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Grpc(_) => "GRPC",
            Self::Tcp(_) => "TCP",
        }
    }
}

/// `HttpHealthCheck`.
#[derive(Debug)]
pub struct HttpProbe {
    /// Host header, unless the endpoint has one of its own.
    pub host: Box<str>,
    /// Path.
    pub path: Box<str>,
    /// Method.
    pub method: Method,
    /// Body of the request.
    pub send: Bytes,
    /// What the body of the response must have, in this order.
    pub receive: Vec<Bytes>,
    /// In the first bytes of it; 0: anywhere.
    pub buffer: usize,
    /// Added to the request.
    pub add: Vec<Addition>,
    /// Removed from the request.
    pub remove: Vec<HeaderName>,
    /// Status codes of a healthy host.
    pub expected: Vec<Range<u16>>,
    /// Status codes that count towards the threshold; others that are not expected make a host unhealthy at once.
    pub retriable: Vec<Range<u16>>,
    /// `x-envoy-upstream-healthchecked-cluster` must match.
    pub service: Option<StringMatcher>,
    /// HTTP/2 with prior knowledge.
    pub http2: bool,
}

/// `GrpcHealthCheck`.
#[derive(Debug)]
pub struct GrpcProbe {
    /// `service` of the request.
    pub service: Box<str>,
    /// Authority, unless the endpoint has one of its own.
    pub authority: Box<str>,
    /// Added to the request.
    pub add: Vec<Addition>,
}

/// `TcpHealthCheck`.
#[derive(Debug)]
pub struct TcpProbe {
    /// What is sent.
    pub send: Bytes,
    /// What must come back, in this order.
    pub receive: Vec<Bytes>,
}

/// `health_check.*`.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
pub struct CheckStats {
    pub attempt: Counter,
    pub success: Counter,
    pub failure: Counter,
    pub passive_failure: Counter,
    pub network_failure: Counter,
    pub verify_cluster: Counter,
    pub healthy: Gauge,
    pub degraded: Gauge,
}

impl CheckStats {
    /// Registers the names below a cluster's scope.
    pub fn new(scope: &Scope) -> Self {
        let counter = |name: &str| scope.counter(&format!("health_check.{name}"));
        Self {
            attempt: counter("attempt"),
            success: counter("success"),
            failure: counter("failure"),
            passive_failure: counter("passive_failure"),
            network_failure: counter("network_failure"),
            verify_cluster: counter("verify_cluster"),
            healthy: scope.gauge("health_check.healthy"),
            degraded: scope.gauge("health_check.degraded"),
        }
    }
}

impl HealthCheck {
    /// Where an endpoint is checked.
    pub fn address(endpoint: &Endpoint) -> SocketAddr {
        let own = &endpoint.template.check;
        let mut address = own.address.unwrap_or(endpoint.address);
        if let Some(port) = own.port {
            address.set_port(port);
        }
        address
    }
}
