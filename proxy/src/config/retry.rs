//! Retry policies.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName};

use crate::matcher::HeaderMatcher;

/// What is retried: the conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    bits: u32,
}

/// The conditions, in Envoy's spelling.
const CONDITIONS: [(&str, RetryOn); 15] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::RATE_LIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::STATUS_CODES),
    ("retriable-headers", RetryOn::HEADERS),
    ("cancelled", RetryOn::GRPC_CANCELLED),
    ("deadline-exceeded", RetryOn::GRPC_DEADLINE_EXCEEDED),
    ("internal", RetryOn::GRPC_INTERNAL),
    ("resource-exhausted", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::GRPC_UNAVAILABLE),
];

impl RetryOn {
    /// Any 5xx, and every way of not getting a response.
    pub const SERVER_ERROR: Self = Self { bits: 1 };
    /// 502, 503, 504, and every way of not getting a response.
    pub const GATEWAY_ERROR: Self = Self { bits: 1 << 1 };
    /// No response.
    pub const RESET: Self = Self { bits: 1 << 2 };
    /// No response, and nothing of the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self { bits: 1 << 3 };
    /// The connection was not made.
    pub const CONNECT_FAILURE: Self = Self { bits: 1 << 4 };
    /// `x-envoy-ratelimited` is in the response.
    pub const RATE_LIMITED: Self = Self { bits: 1 << 5 };
    /// 409.
    pub const RETRIABLE_4XX: Self = Self { bits: 1 << 6 };
    /// REFUSED_STREAM.
    pub const REFUSED_STREAM: Self = Self { bits: 1 << 7 };
    /// One of the policy's status codes.
    pub const STATUS_CODES: Self = Self { bits: 1 << 8 };
    /// One of the policy's response headers.
    pub const HEADERS: Self = Self { bits: 1 << 9 };
    /// grpc-status 1.
    pub const GRPC_CANCELLED: Self = Self { bits: 1 << 10 };
    /// grpc-status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self { bits: 1 << 11 };
    /// grpc-status 13.
    pub const GRPC_INTERNAL: Self = Self { bits: 1 << 12 };
    /// grpc-status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self { bits: 1 << 13 };
    /// grpc-status 14.
    pub const GRPC_UNAVAILABLE: Self = Self { bits: 1 << 14 };

    const ALL_OF_GRPC: u32 = 0b11111 << 10;

    /// Conditions that are known and never hold here.
    const NEVER: [&'static str; 1] = ["http3-post-connect-failure"];

    /// Parses a comma-separated list, into the conditions and the names that are none: Envoy ignores those.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut on = Self::default();
        let mut unknown = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match CONDITIONS.iter().find(|(known, _)| *known == name) {
                Some((_, condition)) => on.bits |= condition.bits,
                None if Self::NEVER.contains(&name) => {}
                None => unknown.push(name),
            }
        }
        (on, unknown)
    }

    /// The conditions of a list that are about HTTP; and whether there are no others.
    pub fn of_http(list: &str) -> (Self, bool) {
        Self::parse_some(list, !Self::ALL_OF_GRPC)
    }

    /// The conditions of a list that are about gRPC; and whether there are no others.
    pub fn of_grpc(list: &str) -> (Self, bool) {
        Self::parse_some(list, Self::ALL_OF_GRPC)
    }

    fn parse_some(list: &str, bits: u32) -> (Self, bool) {
        let (all, unknown) = Self::parse(list);
        let some = Self { bits: all.bits & bits };
        (some, some == all && unknown.is_empty())
    }

    /// Whether any of `conditions` is among these.
    pub fn any(self, conditions: Self) -> bool {
        self.bits & conditions.bits != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }
}

/// `RateLimitedRetryBackOff`.
#[derive(Clone, Debug)]
pub struct RateLimitedBackOff {
    /// Response headers that say when to come again; the first that is there counts.
    pub headers: Vec<(HeaderName, ResetFormat)>,
    /// A longer pause is none of these.
    pub max_interval: Duration,
}

/// What a number in a header means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

impl RateLimitedBackOff {
    /// Envoy's default of `max_interval`.
    pub const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(300);

    /// The pause that a response asks for at `now`, if it does and it is not too long.
    pub fn pause(&self, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
        self.headers.iter().find_map(|(name, format)| {
            let number: u64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let pause = match format {
                ResetFormat::Seconds => Duration::from_secs(number),
                ResetFormat::UnixTimestamp => {
                    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(number))?.duration_since(now).ok()?
                }
            };
            (pause <= self.max_interval && !pause.is_zero()).then_some(pause)
        })
    }

    /// A pause that was asked for, somewhat longer, so that not all come back at once. `random` is in 0..1.
    pub fn spread(pause: Duration, random: f64) -> Duration {
        pause.mul_f64(1.0 + random / 2.0)
    }
}

/// `RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// What is retried.
    pub on: RetryOn,
    /// Retries after the first attempt.
    pub retries: u32,
    /// An attempt that has no response after this long is over.
    pub per_try_timeout: Option<Duration>,
    /// An attempt on which nothing moves for so long is over.
    pub per_try_idle_timeout: Option<Duration>,
    /// Of `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// Of `retriable-headers`.
    pub response_headers: Vec<HeaderMatcher>,
    /// Only requests that match one of these; empty: all.
    pub request_headers: Vec<HeaderMatcher>,
    /// Mean of the first pause is half of this.
    pub base_interval: Duration,
    /// Longest pause.
    pub max_interval: Duration,
    /// How long upstreams may ask for a pause.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// Avoid endpoints that were tried.
    pub avoid_previous_hosts: bool,
    /// Avoid canary endpoints.
    pub omit_canaries: bool,
    /// Avoid endpoints whose `envoy.lb` metadata has all of this.
    pub omit_metadata: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    /// To avoid an endpoint, pick again so many times.
    pub repicks: u32,
    /// Avoid priorities that were tried; the load is spread anew after so many attempts.
    pub previous_priorities: Option<u32>,
}

impl RetryPolicy {
    /// Envoy's `base_interval`.
    pub const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);
    /// Envoy's `max_interval` is this many base intervals.
    pub const DEFAULT_MAX_FACTOR: u32 = 10;

    /// A policy with Envoy's defaults.
    pub fn new(on: RetryOn) -> Self {
        Self {
            on,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            status_codes: Vec::new(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            base_interval: Self::DEFAULT_BASE_INTERVAL,
            max_interval: Self::DEFAULT_BASE_INTERVAL * Self::DEFAULT_MAX_FACTOR,
            rate_limited: None,
            avoid_previous_hosts: false,
            omit_canaries: false,
            omit_metadata: None,
            repicks: 0,
            previous_priorities: None,
        }
    }

    /// The pause before retry `retry` (from 1): full jitter over an exponential interval. `random` is in 0..1.
    pub fn pause(&self, retry: u32, random: f64) -> Duration {
        let factor = 1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base_interval.saturating_mul(factor).min(self.max_interval).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_parse() {
        let (on, unknown) = RetryOn::parse("5xx, connect-failure,nonsense,");
        assert!(on.any(RetryOn::SERVER_ERROR) && on.any(RetryOn::CONNECT_FAILURE) && !on.any(RetryOn::RESET));
        assert_eq!(unknown, ["nonsense"]);
    }

    #[test]
    fn upstreams_ask_for_pauses() {
        let policy = RateLimitedBackOff {
            headers: vec![
                (HeaderName::from_static("retry-after"), ResetFormat::Seconds),
                (HeaderName::from_static("reset"), ResetFormat::UnixTimestamp),
            ],
            max_interval: Duration::from_secs(10),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let pause = |name: &'static str, value: &'static str| {
            policy.pause(&HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]), now)
        };
        assert_eq!(pause("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(pause("retry-after", "11"), None);
        assert_eq!(pause("retry-after", "x"), None);
        assert_eq!(pause("reset", "1005"), Some(Duration::from_secs(5)));
        assert_eq!(pause("reset", "999"), None);
        assert_eq!(pause("reset", "18446744073709551615"), None);
    }

    #[test]
    fn pauses_grow_to_the_maximum() {
        let policy = RetryPolicy::new(RetryOn::RESET);
        let full = |retry| policy.pause(retry, 1.0).as_millis();
        assert_eq!([full(1), full(2), full(3), full(4), full(5), full(64)], [25, 50, 100, 200, 250, 250]);
        assert_eq!(policy.pause(3, 0.0), Duration::ZERO);
    }
}
