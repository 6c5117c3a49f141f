//! How long a request may take: what its route says, and what its client may ask for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::route::Forward;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
pub(super) const PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
pub(super) const ALTERNATIVE: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
pub(super) const STREAM_DURATION: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the whole request and each attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub global: Option<Duration>,
    pub per_try: Option<Duration>,
    /// How long an attempt and its response may last.
    pub stream: Option<Duration>,
    /// The client's own `grpc-timeout` rules.
    pub grpc: bool,
    /// The client wants 204 for a timeout.
    pub alternative: bool,
}

impl Timeouts {
    /// Of a request with these headers. `steered`: some of them are Envoy's own, which only an internal client can have.
    pub fn of(forward: &Forward, grpc: bool, headers: &HeaderMap, steered: bool) -> Self {
        let millis = |name: &HeaderName| if steered { headers.get(name)?.to_str().ok()?.parse().ok() } else { None };
        let mut timeouts = Timeouts {
            global: forward.timeout,
            // The route's counts, even if it retries nothing or the cluster has a policy of its own.
            per_try: forward.retry.as_ref().and_then(|policy| policy.per_try_timeout),
            stream: millis(&STREAM_DURATION).map(Duration::from_millis).filter(|asked| !asked.is_zero()),
            grpc: false,
            alternative: steered && headers.contains_key(&ALTERNATIVE),
        };
        if let (true, Some(max)) = (grpc, forward.max_grpc_timeout) {
            // No timeout, or one of 0, asks for any time.
            let asked = asked_by_grpc(headers).filter(|asked| !asked.is_zero()).map(|asked| {
                let offset = forward.grpc_timeout_offset.filter(|offset| *offset < asked);
                asked - offset.unwrap_or_default()
            });
            timeouts.global = match (asked, max) {
                (Some(asked), Some(max)) => Some(asked.min(max)),
                (asked, max) => asked.or(max),
            };
            timeouts.grpc = true;
        }
        if let Some(asked) = millis(&TIMEOUT) {
            timeouts.global = Some(Duration::from_millis(asked)).filter(|asked| !asked.is_zero());
        }
        if let Some(asked) = millis(&PER_TRY_TIMEOUT) {
            timeouts.per_try = Some(Duration::from_millis(asked)).filter(|asked| !asked.is_zero());
        }
        // An attempt that may take longer than the whole has no timeout of its own.
        if let (Some(global), Some(per_try)) = (timeouts.global, timeouts.per_try)
            && per_try >= global
        {
            timeouts.per_try = None;
        }
        timeouts
    }
}

/// What `grpc-timeout` asks for.
pub(super) fn asked_by_grpc(headers: &HeaderMap) -> Option<Duration> {
    grpc_timeout(headers.get(&GRPC_TIMEOUT)?.as_bytes())
}

/// `grpc-timeout` for a duration: in the finest unit of which it has no more than eight digits.
pub(super) fn to_grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [(timeout.as_millis(), 'm'), (u128::from(timeout.as_secs()), 'S')];
    let text = match units.into_iter().find(|(number, _)| *number <= MOST) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{}H", (timeout.as_secs() / 3600).min(MOST as u64)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0m"))
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number.checked_mul(3600)?),
        b'M' => Duration::from_secs(number.checked_mul(60)?),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(grpc_timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc_timeout(b"2H"), Some(Duration::from_secs(7200)));
        assert_eq!(grpc_timeout(b"5"), None);
        assert_eq!(grpc_timeout(b""), None);
        assert_eq!(grpc_timeout(b"+1S"), None);
        // As a time from now it would overflow.
        assert_eq!(grpc_timeout(b"18446744073709551615S"), None);
    }
}
