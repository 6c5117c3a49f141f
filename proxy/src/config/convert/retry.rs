//! Retry policies.

use weir_proto::envoy::config::route::v3 as route;

use super::{Context, Error, duration, item, limit, matcher, sub};
use crate::config::retry::{RetryOn, RetryPolicy};

/// How often Envoy picks another host when one is to be avoided and the policy does not say.
const DEFAULT_HOST_SELECTION_ATTEMPTS: u32 = 1;

pub(super) fn retry_policy(cx: &mut Context, message: &route::RetryPolicy, at: &str) -> Result<RetryPolicy, Error> {
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
        ],
        // Envoy's rate-limited back-off replaces the pause only.
        &["rate_limited_retry_back_off"],
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
    for (index, code) in message.retriable_status_codes.iter().enumerate() {
        let code = u16::try_from(*code).ok().filter(|code| (100..600).contains(code));
        policy
            .status_codes
            .push(code.ok_or_else(|| Error::at(item(at, "retriable_status_codes", index), "expected an HTTP status"))?);
    }
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
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        if predicate.name != "envoy.retry_host_predicates.previous_hosts" && !is_previous_hosts(predicate) {
            let at = item(at, "retry_host_predicate", index);
            return Err(Error::at(at, format!("predicate \"{}\" is not supported yet", predicate.name)));
        }
        let attempts = u32::try_from(message.host_selection_retry_max_attempts).unwrap_or_default();
        policy.avoid_previous_hosts = Some(attempts.max(DEFAULT_HOST_SELECTION_ATTEMPTS));
    }
    Ok(policy)
}

fn is_previous_hosts(predicate: &route::retry_policy::RetryHostPredicate) -> bool {
    use route::retry_policy::retry_host_predicate::ConfigType;
    predicate.config_type.as_ref().is_some_and(|ConfigType::TypedConfig(any)| {
        super::type_name(any) == "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    })
}
