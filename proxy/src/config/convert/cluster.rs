//! Clusters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use weir_proto::envoy::config::{cluster::v3 as proto, core::v3 as core};

use super::{
    balancing::balancing,
    connect,
    context::Context,
    discovery::discovery,
    endpoints::assignment,
    fields::{duration, item, sub},
    forward,
    health::health,
    metadata, network,
    outlier::outlier,
    protocol::protocol,
    tls,
};
use crate::{
    access_log,
    config::{
        cluster::{
            Breaker, Cluster, MergeWindow, RetryBudget, Thresholds, UpstreamProtocol, Usage,
            balancing::Policy,
            health::{HealthCheck, Probe},
            stats::{ClusterStats, HashedBy, Tracked},
        },
        error::Error,
    },
    telemetry::stats::Scope,
};

const SUPPORTED: [&str; 47] = [
    "lb_subset_config",
    "track_timeout_budgets",
    "track_cluster_stats",
    "close_connections_on_host_health_failure",
    "filters",
    "upstream_bind_config",
    "cluster_type",
    "typed_dns_resolver_config",
    "dns_resolution_config",
    "use_tcp_for_dns_lookups",
    "cleanup_interval",
    "metadata",
    "health_checks",
    "eds_cluster_config",
    "ignore_health_on_host_removal",
    "wait_for_warm_on_init",
    "name",
    "alt_stat_name",
    "load_balancing_policy",
    "ring_hash_lb_config",
    "maglev_lb_config",
    "type",
    "connect_timeout",
    "lb_policy",
    "load_assignment",
    "max_requests_per_connection",
    "circuit_breakers",
    "common_http_protocol_options",
    "http_protocol_options",
    "http2_protocol_options",
    "typed_extension_protocol_options",
    "dns_refresh_rate",
    "dns_jitter",
    "dns_failure_refresh_rate",
    "respect_dns_ttl",
    "dns_lookup_family",
    "lb_config",
    "original_dst_lb_config",
    "round_robin_lb_config",
    "least_request_lb_config",
    "common_lb_config",
    "transport_socket",
    "transport_socket_matches",
    "protocol_selection",
    "upstream_connection_options",
    "upstream_http_protocol_options",
    "outlier_detection",
];

const HARMLESS: [&str; 5] = [
    "per_connection_buffer_limit_bytes",
    "stats_matcher",
    "preconnect_policy",
    "lrs_report_endpoint_metrics",
    "per_connection_buffer_high_watermark_timeout",
];

pub(super) fn cluster(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Cluster, Error> {
    cx.only(message, at, &SUPPORTED, &HARMLESS)?;
    if message.name.is_empty() {
        return Err(Error::at(sub(at, "name"), "a name is required"));
    }
    // Without selectors there are no subsets, and nothing to fall back from.
    if message.lb_subset_config.as_ref().is_some_and(|subsets| !subsets.subset_selectors.is_empty()) {
        return Err(Error::at(sub(at, "lb_subset_config.subset_selectors"), "not supported yet"));
    }
    network::of_cluster(cx, message, at)?;
    let stat_name = if message.alt_stat_name.is_empty() { &message.name } else { &message.alt_stat_name };
    let scope = cx.stats.scope(&format!("cluster.{stat_name}"));
    let transports = tls::transports(cx, message, &scope, at)?;
    let assigned = assignment(cx, message.load_assignment.as_ref(), &sub(at, "load_assignment"))?;
    let secure = transports.choose(None).tls().is_some();
    let (discovery, endpoints) = discovery(cx, message, assigned, secure, at)?;
    let protocol = protocol(cx, message, at)?;
    if protocol.protocol == UpstreamProtocol::Negotiated && transports.iter().any(|transport| transport.tls().is_none())
    {
        return Err(Error::at(at, "ALPN configured for a cluster which has a non-ALPN transport socket"));
    }
    let connect_timeout = match &message.connect_timeout {
        None => Cluster::DEFAULT_CONNECT_TIMEOUT,
        Some(timeout) => duration(timeout, &sub(at, "connect_timeout"))?,
    };
    if connect_timeout.is_zero() {
        return Err(Error::at(sub(at, "connect_timeout"), "must be greater than 0s"));
    }
    let balancing = balancing(cx, message, &discovery, at)?;
    let hashed = match &balancing.policy {
        Policy::RingHash(_) => Some(HashedBy::Ring),
        Policy::Maglev(_) => Some(HashedBy::Maglev),
        _ => None,
    };
    let common = message.common_lb_config.as_ref();
    let ignore_new_hosts = common.is_some_and(|common| common.ignore_new_hosts_until_first_hc);
    let window = match common.and_then(|common| common.update_merge_window.as_ref()) {
        None => MergeWindow::DEFAULT,
        Some(window) => duration(window, &sub(at, "common_lb_config.update_merge_window"))?,
    };
    let [default_limits, high_limits] = breakers(cx, message.circuit_breakers.as_ref(), &sub(at, "circuit_breakers"))?;
    // The local cluster is balanced without regard to itself.
    let is_local = cx.local_cluster.as_deref() == Some(&*message.name);
    let zones = cx.local_cluster.is_some().then(|| cx.zones.clone());
    let health = health(cx, &message.health_checks, ignore_new_hosts, &scope, at)?;
    if protocol.protocol == UpstreamProtocol::Http1
        && matches!(&health, Some(HealthCheck { probe: Probe::Grpc(_), .. }))
    {
        let message = format!("{} cluster must support HTTP/2 for gRPC healthchecking", message.name);
        return Err(Error::at(sub(&item(at, "health_checks", 0), "grpc_health_check"), message));
    }
    let zone = cx.local.as_deref().map(|local| &*local.zone);
    let mut stats = ClusterStats::new(&cx.stats, scope.clone(), hashed, track_remaining(message), zone);
    stats.tracked = tracked(cx, message, &scope, &sub(at, "track_cluster_stats"))?;
    let cluster = Cluster {
        name: message.name.as_str().into(),
        view: cx.view,
        logged: Arc::new(access_log::ClusterNames {
            name: message.name.as_str().into(),
            observability: stat_name.as_str().into(),
            metadata: metadata::metadata(message.metadata.as_ref()),
        }),
        zones: zones.clone().filter(|_| !is_local),
        local_zones: zones.filter(|_| is_local),
        local: cx.local.clone(),
        balancing,
        discovery,
        endpoints: ArcSwap::from_pointee(endpoints),
        drops: AtomicU32::new(0),
        hashed: ArcSwapOption::empty(),
        connect_timeout,
        transports,
        auto_names: forward::names(message, protocol.auto_names, at)?,
        policies: protocol.policies,
        errors: protocol.errors,
        protocol: protocol.protocol,
        http2: protocol.http2,
        http1: protocol.http1,
        idle_timeout: protocol.idle_timeout,
        max_connection_duration: protocol.max_connection_duration,
        max_stream_duration: protocol.max_stream_duration,
        response_heads: protocol.response_heads,
        socket: connect::settings(cx, message, at)?,
        preference: connect::preference(message.upstream_connection_options.as_ref()),
        max_requests_per_connection: protocol.max_requests_per_connection,
        breakers: default_limits,
        usage: Usage::default(),
        high: Breaker { limits: high_limits, usage: Usage::default() },
        outlier: outlier(cx, message.outlier_detection.as_ref(), &scope, &sub(at, "outlier_detection"))?,
        health,
        in_force: AtomicBool::new(false),
        closes_on_failure: message.close_connections_on_host_health_failure,
        ignore_health_on_removal: message.ignore_health_on_host_removal,
        wait_for_warm: message.wait_for_warm_on_init.unwrap_or(true),
        has_traffic: AtomicBool::new(false),
        changes: AtomicU64::new(1),
        merge: MergeWindow::new(window),
        membership: watch::Sender::new(()),
        stats,
    };
    cluster.begin();
    Ok(cluster)
}

/// What is tracked of a cluster's requests.
fn tracked(cx: &mut Context, message: &proto::Cluster, scope: &Scope, at: &str) -> Result<Tracked, Error> {
    #[expect(deprecated, reason = "published configurations use it")]
    let old = message.track_timeout_budgets;
    let Some(track) = &message.track_cluster_stats else { return Ok(Tracked::register(scope, old, false)) };
    cx.only(track, at, &["timeout_budgets", "request_response_sizes"], &[])?;
    Ok(Tracked::register(scope, old || track.timeout_budgets, track.request_response_sizes))
}

/// Whether the priorities DEFAULT and HIGH show what is left of their limits.
fn track_remaining(message: &proto::Cluster) -> [bool; 2] {
    let thresholds = message.circuit_breakers.iter().flat_map(|breakers| &breakers.thresholds);
    [core::RoutingPriority::Default, core::RoutingPriority::High].map(|priority| {
        thresholds.clone().find(|one| one.priority() == priority).is_some_and(|one| one.track_remaining)
    })
}

/// The limits of the priorities DEFAULT and HIGH.
fn breakers(cx: &mut Context, message: Option<&proto::CircuitBreakers>, at: &str) -> Result<[Thresholds; 2], Error> {
    let mut limits = [None, None];
    let Some(message) = message else { return Ok(limits.map(Option::unwrap_or_default)) };
    cx.only(message, at, &["thresholds", "per_host_thresholds"], &[])?;
    for (index, thresholds) in message.thresholds.iter().enumerate() {
        let at = item(at, "thresholds", index);
        let supported = [
            "priority",
            "max_connections",
            "max_pending_requests",
            "max_requests",
            "max_retries",
            "retry_budget",
            "track_remaining",
        ];
        cx.only(thresholds, &at, &supported, &["max_connection_pools"])?;
        let default = Thresholds::default();
        // Envoy takes the first of each priority.
        let of_priority = &mut limits[usize::from(thresholds.priority() == core::RoutingPriority::High)];
        of_priority.get_or_insert(Thresholds {
            max_connections: thresholds.max_connections.unwrap_or(default.max_connections),
            max_connections_per_host: per_host(message, thresholds.priority()),
            max_pending: thresholds.max_pending_requests.unwrap_or(default.max_pending),
            max_requests: thresholds.max_requests.unwrap_or(default.max_requests),
            max_retries: thresholds.max_retries.unwrap_or(default.max_retries),
            retry_budget: thresholds.retry_budget.as_ref().map(|budget| RetryBudget {
                percent: budget.budget_percent.as_ref().map_or(20.0, |percent| percent.value),
                least: budget.min_retry_concurrency.unwrap_or(3),
            }),
        });
    }
    for (index, thresholds) in message.per_host_thresholds.iter().enumerate() {
        let at = item(at, "per_host_thresholds", index);
        cx.only(thresholds, &at, &["priority", "max_connections"], &["track_remaining"])?;
    }
    let [default, high] = [core::RoutingPriority::Default, core::RoutingPriority::High]
        .map(|priority| Thresholds { max_connections_per_host: per_host(message, priority), ..Thresholds::default() });
    let [of_default, of_high] = limits;
    Ok([of_default.unwrap_or(default), of_high.unwrap_or(high)])
}

/// The connections that each host may have at a priority.
fn per_host(message: &proto::CircuitBreakers, priority: core::RoutingPriority) -> u32 {
    let mut of_hosts = message.per_host_thresholds.iter();
    let first = of_hosts.find(|thresholds| thresholds.priority() == priority);
    first.and_then(|thresholds| thresholds.max_connections).unwrap_or(u32::MAX)
}
