//! Headers of which Envoy keeps one line: what comes in several, or is appended, is joined.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Envoy's inline headers of requests, sorted, but for those that say how a message is framed and where it goes.
const OF_REQUESTS: [&str; 54] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "cdn-loop",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "proxy-status",
    "referer",
    "te",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// The same of responses.
const OF_RESPONSES: [&str; 31] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-allow-private-network",
    "access-control-expose-headers",
    "access-control-max-age",
    "age",
    "cache-control",
    "content-encoding",
    "content-type",
    "date",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "last-modified",
    "location",
    "proxy-status",
    "server",
    "vary",
    "via",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-degraded",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-ratelimited",
    "x-envoy-upstream-canary",
    "x-envoy-upstream-healthchecked-cluster",
    "x-envoy-upstream-service-time",
    "x-request-id",
];

/// What headers are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Of {
    Request,
    Response,
}

impl Of {
    fn has_one_line(self, name: &HeaderName) -> bool {
        let names: &[&str] = match self {
            Self::Request => &OF_REQUESTS,
            Self::Response => &OF_RESPONSES,
        };
        names.binary_search(&name.as_str()).is_ok()
    }

    /// Puts what came in several lines into one, of each header that has no more.
    pub fn join(self, headers: &mut HeaderMap) {
        // As nearly always: no header came twice.
        if headers.len() == headers.keys_len() {
            return;
        }
        let names: Vec<HeaderName> = headers.keys().filter(|name| self.has_one_line(name)).cloned().collect();
        for name in &names {
            join(headers, name, ",");
        }
    }

    /// Adds a value to those that a header has.
    pub fn append(self, headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
        if headers.append(name, value) && self.has_one_line(name) {
            join(headers, name, ",");
        }
    }
}

/// Puts the values of a header into one line; those that say nothing leave nothing, as in Envoy.
pub(in crate::http) fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &str) {
    let values = headers.get_all(name);
    if values.iter().nth(1).is_none() {
        return;
    }
    let values = values.iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    let joined = values.collect::<Vec<_>>().join(separator.as_bytes());
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_searched() {
        assert!(OF_REQUESTS.is_sorted() && OF_RESPONSES.is_sorted());
    }

    #[test]
    fn lines_are_joined_where_there_is_one() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "a"), ("accept", "b"), ("x-mine", "a"), ("x-mine", "b"), ("vary", "a")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        Of::Request.join(&mut headers);
        let values = |headers: &HeaderMap, name: &str| {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((values(&headers, "accept"), values(&headers, "x-mine").len()), (vec!["a,b".to_owned()], 2));
        Of::Request.append(&mut headers, &http::header::VARY, HeaderValue::from_static("b"));
        assert_eq!(values(&headers, "vary"), ["a", "b"]);
        Of::Response.append(&mut headers, &http::header::VARY, HeaderValue::from_static("c"));
        assert_eq!(values(&headers, "vary"), ["a,b,c"]);
    }
}
