//! Outlier detection.

use std::{path::Path, sync::Arc, time::Duration};

use weir_proto::envoy::config::{
    cluster::v3 as proto,
    common::matcher::v3::{
        MatchPredicate,
        match_predicate::{MatchSet, Rule},
    },
};

use super::{
    context::Context,
    fields::{duration, item, sub},
    matcher::headers,
};
use crate::{
    config::{
        cluster::{
            ErrorMatcher,
            outlier::{Detector, Settings},
        },
        error::Error,
    },
    telemetry::{events::EventLog, stats::Scope},
};

const SUPPORTED: [&str; 25] = [
    "consecutive_5xx",
    "interval",
    "base_ejection_time",
    "max_ejection_percent",
    "enforcing_consecutive_5xx",
    "enforcing_success_rate",
    "success_rate_minimum_hosts",
    "success_rate_request_volume",
    "success_rate_stdev_factor",
    "consecutive_gateway_failure",
    "enforcing_consecutive_gateway_failure",
    "split_external_local_origin_errors",
    "consecutive_local_origin_failure",
    "enforcing_consecutive_local_origin_failure",
    "enforcing_local_origin_success_rate",
    "failure_percentage_threshold",
    "enforcing_failure_percentage",
    "enforcing_failure_percentage_local_origin",
    "failure_percentage_minimum_hosts",
    "failure_percentage_request_volume",
    "max_ejection_time",
    "max_ejection_time_jitter",
    "successful_active_health_check_uneject_host",
    "always_eject_one_host",
    "detect_degraded_hosts",
];

/// Envoy's default of `max_ejection_time`.
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// What an empty `outlier_detection` means.
pub(crate) fn defaults() -> Settings {
    Settings {
        consecutive_5xx: 5,
        consecutive_gateway: 5,
        consecutive_local: 5,
        split: false,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: MAX_EJECTION,
        jitter: Duration::ZERO,
        max_percent: 10,
        always_one: false,
        uneject_by_check: true,
        rate_hosts: 5,
        rate_volume: 100,
        rate_stdev: 1900,
        failure_threshold: 85,
        failure_hosts: 5,
        failure_volume: 50,
        enforcing: [100, 0, 100, 100, 100, 0, 0],
        degrades: false,
    }
}

/// A cluster's outlier detection, if it has one.
pub(super) fn outlier(
    cx: &mut Context,
    message: Option<&proto::OutlierDetection>,
    scope: &Scope,
    at: &str,
) -> Result<Option<Detector>, Error> {
    let Some(message) = message else { return Ok(None) };
    cx.only(message, at, &SUPPORTED, &[])?;
    let time = |message: &Option<prost_types::Duration>, field: &str, default: Duration| match message {
        None => Ok(default),
        Some(message) => duration(message, &sub(at, field)),
    };
    let default = defaults();
    let base = time(&message.base_ejection_time, "base_ejection_time", default.base_ejection)?;
    let max = time(&message.max_ejection_time, "max_ejection_time", MAX_EJECTION.max(base))?;
    if max < base {
        return Err(Error::at(sub(at, "max_ejection_time"), "must not be smaller than base_ejection_time"));
    }
    let enforcing = [
        message.enforcing_consecutive_5xx,
        message.enforcing_consecutive_gateway_failure,
        message.enforcing_success_rate,
        message.enforcing_consecutive_local_origin_failure,
        message.enforcing_local_origin_success_rate,
        message.enforcing_failure_percentage,
        message.enforcing_failure_percentage_local_origin,
    ];
    let hosts = |hosts: Option<u32>, default: usize| hosts.map_or(default, |hosts| hosts as usize);
    let settings = Settings {
        consecutive_5xx: message.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        consecutive_gateway: message.consecutive_gateway_failure.unwrap_or(default.consecutive_gateway),
        consecutive_local: message.consecutive_local_origin_failure.unwrap_or(default.consecutive_local),
        split: message.split_external_local_origin_errors,
        interval: time(&message.interval, "interval", default.interval)?,
        base_ejection: base,
        max_ejection: max,
        jitter: time(&message.max_ejection_time_jitter, "max_ejection_time_jitter", default.jitter)?,
        max_percent: message.max_ejection_percent.unwrap_or(default.max_percent),
        always_one: message.always_eject_one_host.unwrap_or(default.always_one),
        uneject_by_check: message.successful_active_health_check_uneject_host.unwrap_or(default.uneject_by_check),
        rate_hosts: hosts(message.success_rate_minimum_hosts, default.rate_hosts),
        rate_volume: message.success_rate_request_volume.map_or(default.rate_volume, u64::from),
        rate_stdev: message.success_rate_stdev_factor.unwrap_or(default.rate_stdev),
        failure_threshold: message.failure_percentage_threshold.unwrap_or(default.failure_threshold),
        failure_hosts: hosts(message.failure_percentage_minimum_hosts, default.failure_hosts),
        failure_volume: message.failure_percentage_request_volume.map_or(default.failure_volume, u64::from),
        enforcing: std::array::from_fn(|kind| enforcing[kind].unwrap_or(default.enforcing[kind])),
        degrades: message.detect_degraded_hosts.unwrap_or(default.degrades),
    };
    if settings.interval.is_zero() {
        return Err(Error::at(sub(at, "interval"), "must be greater than 0s"));
    }
    Ok(Some(Detector::new(settings, scope, cx.outlier_log.clone())))
}

/// Which responses are errors.
pub(super) fn error_matcher(cx: &mut Context, message: &MatchPredicate, at: &str) -> Result<ErrorMatcher, Error> {
    let mut all = |set: &MatchSet, field: &str| -> Result<Vec<_>, Error> {
        let rules = set.rules.iter().enumerate();
        rules.map(|(index, rule)| error_matcher(cx, rule, &item(&sub(at, field), "rules", index))).collect()
    };
    Ok(match &message.rule {
        None => return Err(Error::at(at, "a rule is required")),
        Some(Rule::OrMatch(set)) => ErrorMatcher::Any(all(set, "or_match")?),
        Some(Rule::AndMatch(set)) => ErrorMatcher::All(all(set, "and_match")?),
        Some(Rule::NotMatch(rule)) => ErrorMatcher::Not(Box::new(error_matcher(cx, rule, &sub(at, "not_match"))?)),
        Some(Rule::AnyMatch(_)) => ErrorMatcher::Always,
        Some(Rule::HttpResponseHeadersMatch(message)) => {
            ErrorMatcher::Headers(headers(cx, &message.headers, &sub(at, "http_response_headers_match"), "headers")?)
        }
        // As in Envoy, which asks when a response begins, and only about the response.
        Some(
            Rule::HttpRequestHeadersMatch(_)
            | Rule::HttpRequestTrailersMatch(_)
            | Rule::HttpResponseTrailersMatch(_)
            | Rule::HttpRequestGenericBodyMatch(_)
            | Rule::HttpResponseGenericBodyMatch(_),
        ) => ErrorMatcher::Never,
    })
}

/// Opens an event log.
pub(super) fn event_log(path: &str, at: &str) -> Result<Arc<EventLog>, Error> {
    let log = EventLog::open(Path::new(path)).map_err(|error| Error::at(at, format!("{path}: {error}")))?;
    Ok(Arc::new(log))
}
