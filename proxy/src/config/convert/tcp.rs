//! `tcp_proxy`.

use std::time::Duration;

use weir_proto::envoy::{
    extensions::filters::network::tcp_proxy::v3::{TcpProxy as Proto, tcp_proxy},
    r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
};

use super::{
    access_log,
    context::Context,
    fields::{duration, item, limit, sub},
    headers,
};
use crate::{
    access_log::{Moments, format::Format},
    config::{
        error::Error,
        tcp::{IDLE_TIMEOUT, Settings, Target, TcpProxy, TcpStats, Tunneling, WeightedCluster},
    },
};

const SUPPORTED: [&str; 15] = [
    "tunneling_config",
    "stat_prefix",
    "cluster",
    "weighted_clusters",
    "idle_timeout",
    "access_log",
    "access_log_options",
    "access_log_flush_interval",
    "flush_access_log_on_connected",
    "max_connect_attempts",
    "backoff_options",
    "hash_policy",
    "max_downstream_connection_duration",
    "max_downstream_connection_duration_jitter_percentage",
    "check_drain_close",
];

/// Without subsets, metadata chooses nothing.
const HARMLESS: [&str; 1] = ["metadata_match"];

pub(super) fn proxy(cx: &mut Context, message: &Proto, at: &str) -> Result<TcpProxy, Error> {
    cx.only(message, at, &SUPPORTED, &HARMLESS)?;
    let at_jitter = sub(at, "max_downstream_connection_duration_jitter_percentage");
    let jitter = message.max_downstream_connection_duration_jitter_percentage.as_ref().map_or(0.0, |part| part.value);
    if !(0.0..=100.0).contains(&jitter) {
        return Err(Error::at(at_jitter, format!("{jitter} is not a percentage")));
    }
    let at_duration = sub(at, "max_downstream_connection_duration");
    let tunnel = message.tunneling_config.as_ref();
    Ok(TcpProxy {
        tunnel: tunnel.map(|message| tunneling(cx, message, &sub(at, "tunneling_config"))).transpose()?,
        settings: Settings {
            target: Target::Clusters(clusters(cx, message, at)?.into()),
            idle_timeout: limit(message.idle_timeout.as_ref(), Some(IDLE_TIMEOUT), &sub(at, "idle_timeout"))?,
            max_duration: limit(message.max_downstream_connection_duration.as_ref(), None, &at_duration)?,
            max_duration_jitter: jitter,
            max_connect_attempts: message.max_connect_attempts.unwrap_or(1).max(1),
            backoff: backoff(message, &sub(at, "backoff_options"))?,
            hash_source: hash_source(&message.hash_policy, at)?,
            log: log_moments(cx, message, at)?,
        },
        access_log: access_log::access_logs(cx, &message.access_log, at, "access_log")?,
        stats: TcpStats::new(cx.stats.scope(&format!("tcp.{}", message.stat_prefix))),
    })
}

fn tunneling(cx: &mut Context, message: &tcp_proxy::TunnelingConfig, at: &str) -> Result<Tunneling, Error> {
    cx.only(message, at, &["hostname", "headers_to_add"], &[])?;
    let hostname_at = sub(at, "hostname");
    Ok(Tunneling {
        hostname: Format::text(&message.hostname).map_err(|error| Error::at(hostname_at, error.to_string()))?,
        headers: headers::additions(cx, &message.headers_to_add, at, "headers_to_add")?,
    })
}

/// A cluster that does not exist is no mistake, as it may come later: connections to it are refused.
fn clusters(cx: &mut Context, message: &Proto, at: &str) -> Result<Vec<WeightedCluster>, Error> {
    match &message.cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => {
            Ok(vec![WeightedCluster { name: name.as_str().into(), weight: 1 }])
        }
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
            let at = sub(at, "weighted_clusters");
            let mut clusters = Vec::new();
            for (index, entry) in weighted.clusters.iter().enumerate() {
                let at = item(&at, "clusters", index);
                cx.only(entry, &at, &["name", "weight"], &["metadata_match"])?;
                clusters.push(WeightedCluster { name: entry.name.as_str().into(), weight: entry.weight });
            }
            if clusters.iter().all(|cluster| cluster.weight == 0) {
                return Err(Error::at(at, "the sum of the weights must be greater than 0"));
            }
            Ok(clusters)
        }
        None => Err(Error::at(at, "expected one of cluster, weighted_clusters")),
    }
}

/// The least and the most between two connect attempts.
fn backoff(message: &Proto, at: &str) -> Result<Option<(Duration, Duration)>, Error> {
    let Some(strategy) = &message.backoff_options else { return Ok(None) };
    let least_at = sub(at, "base_interval");
    let least = strategy.base_interval.as_ref().ok_or_else(|| Error::at(&least_at, "an interval is required"))?;
    let least = duration(least, &least_at)?;
    let most_at = sub(at, "max_interval");
    let most = match &strategy.max_interval {
        Some(most) => duration(most, &most_at)?,
        None => least.saturating_mul(10),
    };
    if most < least {
        return Err(Error::at(most_at, "must be greater than or equal to the base_interval"));
    }
    Ok(Some((least, most)))
}

fn hash_source(policies: &[HashPolicy], at: &str) -> Result<bool, Error> {
    for (index, policy) in policies.iter().enumerate() {
        if let Some(PolicySpecifier::FilterState(_)) = &policy.policy_specifier {
            return Err(Error::at(sub(&item(at, "hash_policy", index), "filter_state"), "not supported yet"));
        }
    }
    Ok(!policies.is_empty())
}

#[expect(deprecated, reason = "published configurations use the fields that access_log_options replaces")]
fn log_moments(cx: &mut Context, message: &Proto, at: &str) -> Result<Moments, Error> {
    let Some(options) = &message.access_log_options else {
        return Ok(Moments {
            on_start: false,
            on_established: message.flush_access_log_on_connected,
            interval: access_log::interval(
                message.access_log_flush_interval.as_ref(),
                &sub(at, "access_log_flush_interval"),
            )?,
        });
    };
    let at = sub(at, "access_log_options");
    if message.flush_access_log_on_connected || message.access_log_flush_interval.is_some() {
        let error = "access_log_flush_interval and flush_access_log_on_connected are not to be set beside it";
        return Err(Error::at(at, error));
    }
    let supported = ["access_log_flush_interval", "flush_access_log_on_connected", "flush_access_log_on_start"];
    cx.only(options, &at, &supported, &[])?;
    Ok(Moments {
        on_start: options.flush_access_log_on_start,
        on_established: options.flush_access_log_on_connected,
        interval: access_log::interval(
            options.access_log_flush_interval.as_ref(),
            &sub(&at, "access_log_flush_interval"),
        )?,
    })
}
