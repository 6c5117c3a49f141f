//! How long a request may take: what its route says, and what its client may ask for.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{config::route::Forward, http::call::EXPECTED_TIMEOUT};

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
pub(super) const PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
pub(super) const ALTERNATIVE: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
pub(super) const STREAM_DURATION: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
pub(super) const HEDGE_ON_PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the whole request and each attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeouts {
    pub global: Option<Duration>,
    pub per_try: Option<Duration>,
    /// How long nothing may move in an attempt.
    pub per_try_idle: Option<Duration>,
    /// An attempt that has had its time goes on beside the next one.
    pub hedge: bool,
    /// How long an attempt and its response may last.
    pub stream: Option<Duration>,
    /// The client's own `grpc-timeout` rules.
    pub grpc: bool,
    /// The client wants 204 for a timeout.
    pub alternative: bool,
}

impl Timeouts {
    /// Of a request with these headers. `steered`: some of them are Envoy's own, which only an internal client can have.
    /// `respects`: what another Envoy has made known as its timeout is this one's.
    pub fn of(forward: &Forward, grpc: bool, headers: &HeaderMap, (steered, respects): (bool, bool)) -> Self {
        let millis = |name: &HeaderName| if steered { headers.get(name)?.to_str().ok()?.parse().ok() } else { None };
        let mut timeouts = Timeouts {
            global: forward.timeout,
            // The route's counts, even if it retries nothing or the cluster has a policy of its own.
            per_try: forward.retry.as_ref().and_then(|policy| policy.per_try_timeout),
            per_try_idle: forward.retry.as_ref().and_then(|policy| policy.per_try_idle_timeout),
            hedge: match headers.get(&HEDGE_ON_PER_TRY_TIMEOUT).filter(|_| steered).map(HeaderValue::as_bytes) {
                Some(b"true") => true,
                Some(b"false") => false,
                _ => forward.hedge,
            },
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
        let asked = if respects && headers.contains_key(&EXPECTED_TIMEOUT) { &EXPECTED_TIMEOUT } else { &TIMEOUT };
        if let Some(asked) = millis(asked) {
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

    /// Of a request that has no end, nothing that begins there is limited. The upstream was told of the limits all the same.
    pub fn end_with_the_request(&mut self) {
        (self.global, self.per_try, self.per_try_idle) = (None, None, None);
    }

    /// Tells the upstream what is left for an attempt when `spent` has passed since the request was complete. `expected`:
    /// in Envoy's own header, too.
    pub fn tell(&self, headers: &mut HeaderMap, spent: Duration, expected: bool) {
        let Some(left) = self.left(spent) else { return };
        if expected {
            let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
        if self.grpc {
            headers.insert(GRPC_TIMEOUT, to_grpc_timeout(left));
        }
    }

    /// How long an attempt may take that begins when `spent` of the whole has passed; none: as long as it wants.
    fn left(&self, spent: Duration) -> Option<Duration> {
        // 0 would be any time.
        let of_all = self.global.map(|global| global.saturating_sub(spent).max(Duration::from_millis(1)));
        // A hedged one has as long as the whole.
        match (self.per_try.filter(|_| !self.hedge), of_all) {
            (Some(per_try), Some(of_all)) => Some(per_try.min(of_all)),
            (per_try, of_all) => per_try.or(of_all),
        }
    }
}

/// How long a stream may last whose client asks for that by `grpc-timeout`, where the route has it so.
fn stream_deadline(forward: &Forward, headers: &HeaderMap) -> Option<Duration> {
    forward.grpc_stream.and_then(|deadline| Some(deadline.apply(asked_by_grpc(headers)?)))
}

/// How long a stream may last by its route, if that says so; `Some(None)`: as long as it wants.
#[expect(clippy::option_option, reason = "not set and set to never differ")]
pub(in crate::http) fn stream_lasts(forward: &Forward, headers: &HeaderMap) -> Option<Option<Duration>> {
    stream_deadline(forward, headers).map(Some).or(forward.max_stream_duration)
}

/// What `grpc-timeout` asks for.
fn asked_by_grpc(headers: &HeaderMap) -> Option<Duration> {
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
    fn an_attempt_has_what_is_left() {
        let left = |per_try: Option<u64>, global: Option<u64>| {
            let [per_try, global] = [per_try, global].map(|millis| millis.map(Duration::from_millis));
            let timeouts = Timeouts {
                global,
                per_try,
                per_try_idle: None,
                hedge: false,
                stream: None,
                grpc: false,
                alternative: false,
            };
            timeouts.left(Duration::from_millis(300)).map(|left| left.as_millis())
        };
        assert_eq!(left(None, Some(1000)), Some(700));
        assert_eq!(left(Some(500), Some(1000)), Some(500));
        assert_eq!(left(Some(800), Some(1000)), Some(700));
        assert_eq!(left(None, Some(300)), Some(1));
        assert_eq!(left(Some(500), None), Some(500));
        assert_eq!(left(None, None), None);
    }

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
