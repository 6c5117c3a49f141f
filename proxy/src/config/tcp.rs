//! TCP proxying.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::{
        AccessLog, Moments,
        format::{Format, ISTIO_DEFAULT},
    },
    config::headers::Addition,
    pod::Direction,
    telemetry::{
        stats::{Scope, handles},
        writer::LogFile,
    },
};

/// Where a TCP connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its original destination, logged as this cluster (`PassthroughCluster`, `InboundPassthroughCluster`).
    OriginalDestination(Arc<str>),
    /// Hosts of one of these clusters, drawn by weight.
    Clusters(Arc<[WeightedCluster]>),
}

/// A cluster by name, and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: Arc<str>,
    /// Its share of the sum of all weights; a single cluster's does not matter.
    pub weight: u32,
}

/// Envoy's default for `tcp_proxy.idle_timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to proxy a TCP connection (Envoy's `tcp_proxy`).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where to.
    pub target: Target,
    /// Close when no byte moved either way for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// Close when it is so old; none: never.
    pub max_duration: Option<Duration>,
    /// Up to this part of `max_duration`, in percent, is added to it at random.
    pub max_duration_jitter: f64,
    /// Hosts to try, at least 1.
    pub max_connect_attempts: u32,
    /// The least and the most to wait before the next attempt; none: do not wait.
    pub backoff: Option<(Duration, Duration)>,
    /// `hash_policy` with `source_ip`: consistent hashing goes by the client's address.
    pub hash_source: bool,
    /// When the access log gets lines besides the one at the end.
    pub log: Moments,
}

impl Settings {
    /// To the original destination, with Envoy's defaults.
    pub fn passthrough(cluster: &str) -> Self {
        Self {
            target: Target::OriginalDestination(cluster.into()),
            idle_timeout: Some(IDLE_TIMEOUT),
            max_duration: None,
            max_duration_jitter: 0.0,
            max_connect_attempts: 1,
            backoff: None,
            hash_source: false,
            log: Moments::default(),
        }
    }
}

/// `tunneling_config`: connections go through streams of HTTP/2 that the upstream is asked for by CONNECT.
#[derive(Debug)]
pub struct Tunneling {
    /// Where the stream is to lead: `:authority`.
    pub hostname: Format,
    /// Headers of the request besides.
    pub headers: Vec<Addition>,
}

/// `tcp_proxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// How connections are tunnelled; none: they are not.
    pub tunnel: Option<Tunneling>,
    /// Where to, and how.
    pub settings: Settings,
    /// Written per connection.
    pub access_log: Vec<AccessLog>,
    /// What is counted.
    pub stats: TcpStats,
}

/// Where connections of pods go that no listener is for: to their original destination.
#[derive(Debug)]
pub struct Passthrough {
    outbound: Arc<TcpProxy>,
    inbound: Arc<TcpProxy>,
}

impl Passthrough {
    /// Their lines go to this file, in Istio's format; none: nowhere.
    pub fn new(log: Option<&LogFile>) -> Self {
        let format = Arc::new(Format::text(ISTIO_DEFAULT).expect("the built-in format parses"));
        let log = log.map(|file| AccessLog { file: file.clone(), format, filter: None });
        let to = |cluster| {
            let access_log = log.iter().cloned().collect();
            Arc::new(TcpProxy {
                tunnel: None,
                settings: Settings::passthrough(cluster),
                access_log,
                stats: TcpStats::default(),
            })
        };
        Self { outbound: to("PassthroughCluster"), inbound: to("InboundPassthroughCluster") }
    }

    /// Where they go.
    pub fn of(&self, direction: Direction) -> &Arc<TcpProxy> {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }
}

handles! {
    /// What is counted below `tcp.<stat_prefix>.`.
    #[expect(missing_docs, reason = "the names are Envoy's, and documented there")]
    Handles {
        counters {
            downstream_cx_drain_close
            downstream_cx_no_route
            downstream_cx_overload_close
            downstream_cx_rx_bytes_total
            downstream_cx_total
            downstream_cx_tx_bytes_total
            downstream_flow_control_paused_reading_total
            downstream_flow_control_resumed_reading_total
            early_data_received_count_total
            idle_timeout
            max_downstream_connection_duration
            route_delayed_total
            upstream_flush_total
        }
        gauges {
            downstream_cx_rx_bytes_buffered
            downstream_cx_tx_bytes_buffered
            upstream_flush_active
        }
        histograms {}
    }
}

/// What a `tcp_proxy` counts.
#[derive(Debug, Default)]
pub struct TcpStats {
    handles: Handles,
    /// Keeps the names.
    _scope: Scope,
}

impl TcpStats {
    /// Below `scope`, which is `tcp.<stat_prefix>`.
    pub fn new(scope: Scope) -> Self {
        Self { handles: Handles::register(&scope), _scope: scope }
    }
}

impl std::ops::Deref for TcpStats {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}
