//! What a response is to the host that gave it: a success or an error. Of a call of gRPC its trailers may be the first to tell.

use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::config::{cluster::Endpoint, request::is_grpc};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a response answers, as far as that says how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Asked {
    /// A call of gRPC, whose own status counts.
    Grpc,
    Http,
}

/// What a response is to the host that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Verdict {
    Success,
    Error,
    /// Its trailers will tell.
    Later,
}

impl Asked {
    /// By a request with these headers.
    pub fn by(headers: &HeaderMap) -> Self {
        if is_grpc(headers) { Self::Grpc } else { Self::Http }
    }

    /// What the head of a response is to its host. `ends`: nothing follows it.
    pub fn verdict(self, status: StatusCode, headers: &HeaderMap, ends: bool) -> Verdict {
        match self {
            _ if status.is_server_error() => Verdict::Error,
            Self::Http => Verdict::Success,
            Self::Grpc if ends => Verdict::of_trailers(headers),
            Self::Grpc => Verdict::Later,
        }
    }
}

impl Verdict {
    /// What the last headers of a call of gRPC tell.
    pub fn of_trailers(trailers: &HeaderMap) -> Self {
        match grpc_as_http(trailers) {
            Some(code) if code < 500 => Self::Success,
            _ => Self::Error,
        }
    }

    /// Counts it.
    pub fn charge(self, endpoint: &Endpoint) {
        let host = &endpoint.host.stats;
        match self {
            Self::Success => host.rq_success.fetch_add(1, Relaxed),
            Self::Error => host.rq_error.fetch_add(1, Relaxed),
            Self::Later => 0,
        };
    }
}

/// The HTTP status that the gRPC status among headers stands for, if there is one. What is none of gRPC's is an error, too.
pub(in crate::http) fn grpc_as_http(headers: &HeaderMap) -> Option<u16> {
    const CODES: [u16; 17] = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    let status = headers.get(GRPC_STATUS).filter(|status| !status.is_empty())?;
    let code = status.to_str().ok().and_then(|status| CODES.get(status.parse::<usize>().ok()?));
    Some(code.copied().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR.as_u16()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn grpc_statuses_count_as_http_ones() {
        let code = |status: &'static str| grpc_as_http(&headers(status));
        assert_eq!(
            [code("0"), code("14"), code("4"), code("99"), code("x"), code("")],
            [Some(200), Some(503), Some(504), Some(500), Some(500), None]
        );
        assert_eq!(grpc_as_http(&HeaderMap::new()), None);
    }

    #[test]
    fn calls_of_grpc_are_judged_by_their_end() {
        let (ok, none) = (StatusCode::OK, HeaderMap::new());
        assert_eq!(Asked::Http.verdict(ok, &headers("14"), true), Verdict::Success);
        assert_eq!(Asked::Grpc.verdict(ok, &headers("14"), true), Verdict::Error);
        assert_eq!(Asked::Grpc.verdict(ok, &headers("5"), true), Verdict::Success);
        assert_eq!(Asked::Grpc.verdict(ok, &none, true), Verdict::Error);
        assert_eq!(Asked::Grpc.verdict(ok, &headers("0"), false), Verdict::Later);
        assert_eq!(Asked::Grpc.verdict(StatusCode::BAD_GATEWAY, &none, false), Verdict::Error);
    }

    fn headers(status: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))])
    }
}
