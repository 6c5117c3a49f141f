//! Retry and hedge policies.

use std::sync::Arc;

use weir_proto::envoy::{
    config::route::v3 as route,
    extensions::retry::{
        host::omit_host_metadata::v3 as omit_host_metadata, priority::previous_priorities::v3 as previous_priorities,
    },
};

use super::{
    context::Context,
    fields::{duration, header_name, item, limit, sub, type_name, unpack},
    matcher, metadata,
};
use crate::config::{
    error::Error,
    retry::{RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy},
};

/// How often Envoy picks another host when one is to be avoided and the policy does not say.
const DEFAULT_HOST_SELECTION_ATTEMPTS: u32 = 1;

/// The policy of a message, if it has one.
pub(super) fn retry(
    cx: &mut Context,
    message: Option<&route::RetryPolicy>,
    at: &str,
) -> Result<Option<Arc<RetryPolicy>>, Error> {
    message.map(|message| retry_policy(cx, message, &sub(at, "retry_policy")).map(Arc::new)).transpose()
}

/// Whether an attempt that takes too long goes on beside the next one; none: there is no policy for that.
pub(super) fn hedge(cx: &mut Context, message: Option<&route::HedgePolicy>, at: &str) -> Result<Option<bool>, Error> {
    let Some(message) = message else { return Ok(None) };
    // Envoy, too, only ever has one request at first.
    let harmless = ["initial_requests", "additional_request_chance"];
    cx.only(message, &sub(at, "hedge_policy"), &["hedge_on_per_try_timeout"], &harmless)?;
    Ok(Some(message.hedge_on_per_try_timeout))
}

fn retry_policy(cx: &mut Context, message: &route::RetryPolicy, at: &str) -> Result<RetryPolicy, Error> {
    cx.only(
        message,
        at,
        &[
            "retry_on",
            "num_retries",
            "per_try_timeout",
            "retry_host_predicate",
            "host_selection_retry_max_attempts",
            "retriable_status_codes",
            "retry_back_off",
            "retriable_headers",
            "retriable_request_headers",
            "per_try_idle_timeout",
            "rate_limited_retry_back_off",
            "retry_priority",
        ],
        &[],
    )?;
    let (on, unknown) = RetryOn::parse(&message.retry_on);
    for name in unknown {
        cx.ignored.push(format!("{at}.retry_on: {name}"));
    }
    let mut policy = RetryPolicy::new(on);
    if let Some(retries) = message.num_retries {
        policy.retries = retries;
    }
    policy.per_try_timeout = limit(message.per_try_timeout.as_ref(), None, &sub(at, "per_try_timeout"))?;
    policy.per_try_idle_timeout = limit(message.per_try_idle_timeout.as_ref(), None, &sub(at, "per_try_idle_timeout"))?;
    // What is no status is none that comes.
    policy.status_codes = message.retriable_status_codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect();
    policy.response_headers = matcher::headers(cx, &message.retriable_headers, at, "retriable_headers")?;
    policy.request_headers = matcher::headers(cx, &message.retriable_request_headers, at, "retriable_request_headers")?;
    if let Some(back_off) = &message.retry_back_off {
        let at = sub(at, "retry_back_off");
        let base_at = sub(&at, "base_interval");
        let base = back_off.base_interval.as_ref().ok_or_else(|| Error::at(&base_at, "an interval is required"))?;
        policy.base_interval = duration(base, &base_at)?.max(std::time::Duration::from_millis(1));
        policy.max_interval = match &back_off.max_interval {
            Some(max) => duration(max, &sub(&at, "max_interval"))?,
            None => policy.base_interval * RetryPolicy::DEFAULT_MAX_FACTOR,
        };
        if policy.max_interval < policy.base_interval {
            return Err(Error::at(sub(&at, "max_interval"), "must not be less than base_interval"));
        }
    }
    if let Some(back_off) = &message.rate_limited_retry_back_off {
        policy.rate_limited = Some(rate_limited(cx, back_off, &sub(at, "rate_limited_retry_back_off"))?);
    }
    let attempts = u32::try_from(message.host_selection_retry_max_attempts).unwrap_or_default();
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        use route::retry_policy::retry_host_predicate::ConfigType;
        let at = item(at, "retry_host_predicate", index);
        let Some(ConfigType::TypedConfig(any)) = &predicate.config_type else {
            return Err(Error::at(sub(&at, "typed_config"), "a configuration is required"));
        };
        policy.repicks = attempts.max(DEFAULT_HOST_SELECTION_ATTEMPTS);
        match type_name(any) {
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => {
                policy.avoid_previous_hosts = true;
            }
            "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate" => policy.omit_canaries = true,
            "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig" => {
                let at = sub(&at, "typed_config");
                let config: omit_host_metadata::OmitHostMetadataConfig = unpack(any, &at)?;
                let metadata = config.metadata_match.as_ref().map(|message| &message.filter_metadata);
                let wanted = metadata.and_then(|metadata| metadata.get("envoy.lb"));
                policy.omit_metadata = wanted.map(|wanted| Arc::new(metadata::object(wanted)));
            }
            other => {
                return Err(Error::at(at, format!("predicate {other} is not supported yet")));
            }
        }
    }
    if let Some(priority) = &message.retry_priority {
        use route::retry_policy::retry_priority::ConfigType;
        let at = sub(at, "retry_priority");
        let Some(ConfigType::TypedConfig(any)) = &priority.config_type else {
            return Err(Error::at(sub(&at, "typed_config"), "a configuration is required"));
        };
        let at = sub(&at, "typed_config");
        let kind = type_name(any);
        if kind != "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" {
            return Err(Error::at(at, format!("{kind} is not supported yet")));
        }
        let previous: previous_priorities::PreviousPrioritiesConfig = unpack(any, &at)?;
        policy.previous_priorities = Some(u32::try_from(previous.update_frequency).unwrap_or(1).max(1));
    }
    Ok(policy)
}

fn rate_limited(
    cx: &mut Context,
    message: &route::retry_policy::RateLimitedRetryBackOff,
    at: &str,
) -> Result<RateLimitedBackOff, Error> {
    use route::retry_policy::ResetHeaderFormat;
    cx.only(message, at, &["reset_headers", "max_interval"], &[])?;
    let headers = message.reset_headers.iter().enumerate();
    Ok(RateLimitedBackOff {
        headers: headers
            .map(|(index, header)| {
                let format = match header.format() {
                    ResetHeaderFormat::Seconds => ResetFormat::Seconds,
                    ResetHeaderFormat::UnixTimestamp => ResetFormat::UnixTimestamp,
                };
                Ok((header_name(&header.name, &sub(&item(at, "reset_headers", index), "name"))?, format))
            })
            .collect::<Result<_, Error>>()?,
        max_interval: match &message.max_interval {
            Some(max) => duration(max, &sub(at, "max_interval"))?,
            None => RateLimitedBackOff::DEFAULT_MAX_INTERVAL,
        },
    })
}
