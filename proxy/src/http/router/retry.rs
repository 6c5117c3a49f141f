//! Whether an attempt is followed by another: a decision, made without I/O.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::{
    config::{
        request::response_header_matches,
        retry::{RetryOn, RetryPolicy},
    },
    http::stream::failure::Failure,
};

/// Headers that ask for retries.
pub(super) const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
pub(super) const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");

/// The header by which Envoy's rate limiting marks its answers.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// With a response.
    Response(StatusCode, &'a HeaderMap),
    /// Without one.
    Failed(&'a Failure),
    /// It took too long.
    TimedOut,
}

/// Whether the policy's conditions hold for an outcome.
pub(super) fn wanted(policy: &RetryPolicy, outcome: Outcome<'_>) -> bool {
    let on = policy.on;
    match outcome {
        Outcome::Response(status, headers) => {
            if headers.contains_key(RATE_LIMITED) && !on.any(RetryOn::RATE_LIMITED) {
                return false;
            }
            wanted_response(policy, status, headers)
        }
        Outcome::TimedOut => on.any(RetryOn::SERVER_ERROR.and(RetryOn::GATEWAY_ERROR).and(RetryOn::RESET)),
        Outcome::Failed(Failure::Overflow | Failure::NoWaiting | Failure::Downstream) => false,
        Outcome::Failed(failure) => {
            on.any(RetryOn::SERVER_ERROR.and(RetryOn::GATEWAY_ERROR).and(RetryOn::RESET))
                || (on.any(RetryOn::CONNECT_FAILURE.and(RetryOn::RESET_BEFORE_REQUEST)) && failure.before_connection())
                || (on.any(RetryOn::REFUSED_STREAM) && *failure == Failure::RefusedStream)
        }
    }
}

fn wanted_response(policy: &RetryPolicy, status: StatusCode, headers: &HeaderMap) -> bool {
    let on = policy.on;
    let code = status.as_u16();
    (on.any(RetryOn::SERVER_ERROR) && status.is_server_error())
        || (on.any(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code))
        || (on.any(RetryOn::RETRIABLE_4XX) && code == 409)
        || (on.any(RetryOn::STATUS_CODES) && policy.status_codes.contains(&code))
        || (on.any(RetryOn::RATE_LIMITED) && headers.contains_key(RATE_LIMITED))
        || (on.any(RetryOn::HEADERS)
            && policy.response_headers.iter().any(|matcher| response_header_matches(matcher, status, headers)))
        || grpc(on, headers)
}

/// gRPC errors that come with the headers.
fn grpc(on: RetryOn, headers: &HeaderMap) -> bool {
    const CODES: [(RetryOn, &[u8]); 5] = [
        (RetryOn::GRPC_CANCELLED, b"1"),
        (RetryOn::GRPC_DEADLINE_EXCEEDED, b"4"),
        (RetryOn::GRPC_RESOURCE_EXHAUSTED, b"8"),
        (RetryOn::GRPC_INTERNAL, b"13"),
        (RetryOn::GRPC_UNAVAILABLE, b"14"),
    ];
    let Some(status) = headers.get("grpc-status") else { return false };
    CODES.iter().any(|(condition, code)| on.any(*condition) && status.as_bytes() == *code)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy::new(RetryOn::parse(on).0)
    }

    fn response(policy: &RetryPolicy, code: u16) -> bool {
        wanted(policy, Outcome::Response(StatusCode::from_u16(code).unwrap(), &HeaderMap::new()))
    }

    #[test]
    fn responses() {
        let five = policy("5xx");
        assert!(response(&five, 500) && response(&five, 599) && !response(&five, 404));
        let gateway = policy("gateway-error");
        assert!(response(&gateway, 503) && !response(&gateway, 500));
        assert!(response(&policy("retriable-4xx"), 409));
        let mut codes = policy("retriable-status-codes");
        codes.status_codes = vec![418];
        assert!(response(&codes, 418) && !response(&codes, 503));
    }

    #[test]
    fn rate_limited_answers_are_retried_only_when_asked_for() {
        let headers =
            HeaderMap::from_iter([("x-envoy-ratelimited".parse().unwrap(), HeaderValue::from_static("true"))]);
        let outcome = Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &headers);
        assert!(!wanted(&policy("5xx"), outcome));
        assert!(wanted(&policy("5xx,envoy-ratelimited"), outcome));
    }

    #[test]
    fn failures() {
        let refused = Failure::Connect("Connection refused".into());
        for (on, failure, expected) in [
            ("5xx", &refused, true),
            ("connect-failure", &refused, true),
            ("connect-failure", &Failure::ConnectTimeout, true),
            ("connect-failure", &Failure::Terminated, false),
            ("reset", &Failure::Terminated, true),
            ("refused-stream", &Failure::RefusedStream, true),
            ("refused-stream", &Failure::Reset, false),
            ("5xx,reset", &Failure::Overflow, false),
            ("retriable-4xx", &Failure::Terminated, false),
        ] {
            assert_eq!(wanted(&policy(on), Outcome::Failed(failure)), expected, "{on} {failure:?}");
        }
        assert!(wanted(&policy("gateway-error"), Outcome::TimedOut));
        assert!(!wanted(&policy("connect-failure"), Outcome::TimedOut));
    }

    #[test]
    fn grpc_status_in_headers() {
        let headers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("14"))]);
        assert!(wanted(&policy("unavailable"), Outcome::Response(StatusCode::OK, &headers)));
        assert!(!wanted(&policy("cancelled"), Outcome::Response(StatusCode::OK, &headers)));
    }
}
