//! Requests of HTTP/2 that end their streams before anything looks at them: what the library lets pass, and RFC 9113
//! section 8.1.1 and Envoy do not.

use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use super::framing;
use crate::{access_log::Flag, config::http::Underscores};

/// Why a request's stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("{details}")]
pub(in crate::http) struct Malformed {
    /// For the access log, as Envoy writes it.
    pub flag: Flag,
    /// The same.
    pub details: &'static str,
    /// What the client is told: hyper looks for it here.
    #[source]
    reset: h2::Error,
}

impl Malformed {
    fn new(reason: Reason, flag: Flag, details: &'static str) -> Self {
        Self { flag, details, reset: reason.into() }
    }
}

/// Whether a request may pass. More than `most` header fields may not; as in Envoy, pseudo-header fields count, and each
/// cookie that comes as a field of its own. Names with underscores may not where they are refused.
pub(in crate::http) fn check(parts: &Parts, most: usize, underscores: Underscores) -> Result<(), Malformed> {
    let refused = |details| Err(Malformed::new(Reason::INTERNAL_ERROR, Flag::DownstreamRemoteReset, details));
    if underscores == Underscores::Reject && parts.headers.keys().any(|name| name.as_str().contains('_')) {
        return refused("http2.unexpected_underscore");
    }
    if fields(parts) > most {
        return refused("http2.too_many_headers");
    }
    let authority = parts.uri.authority();
    // Section 8.3.1 (an asterisk is for OPTIONS only, user information for nobody), section 8.5 (where a tunnel leads).
    let bad = parts.uri.path() == "*" && parts.method != Method::OPTIONS
        || authority.is_some_and(|authority| authority.as_str().contains('@'))
        || parts.method == Method::CONNECT && authority.is_none();
    if bad {
        let details = "http2.violation.of.messaging.rule";
        return Err(Malformed::new(Reason::PROTOCOL_ERROR, Flag::DownstreamProtocolError, details));
    }
    if authority.is_none() && !has_valid_hosts(&parts.headers) {
        let details = "http2.invalid.header.field";
        return Err(Malformed::new(Reason::PROTOCOL_ERROR, Flag::DownstreamProtocolError, details));
    }
    Ok(())
}

/// Whether what goes on as the authority, where there is none, may be one.
fn has_valid_hosts(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let valid = |host: &HeaderValue| {
        !host.is_empty() && host.as_bytes().iter().all(|byte| framing::is_authority(*byte) && *byte != b'@')
    };
    hosts.next().is_none_or(valid) && hosts.next().is_none()
}

/// How many fields its head has.
fn fields(parts: &Parts) -> usize {
    let uri = &parts.uri;
    let pseudo = [true, uri.scheme().is_some(), uri.authority().is_some(), uri.path_and_query().is_some()];
    parts.headers.len() + pseudo.into_iter().filter(|there| *there).count()
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::*;

    fn parts(method: &str, uri: &str) -> Parts {
        Request::builder().version(Version::HTTP_2).method(method).uri(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn what_may_pass() {
        for (method, uri, passes) in [
            ("GET", "http://a.test/", true),
            ("GET", "/", true),
            ("OPTIONS", "*", true),
            ("GET", "*", false),
            ("GET", "http://u@a.test/", false),
            ("CONNECT", "a.test:80", true),
            ("CONNECT", "/", false),
        ] {
            assert_eq!(check(&parts(method, uri), 100, Underscores::Reject).is_ok(), passes, "{method} {uri}");
        }
    }

    #[test]
    fn a_host_in_place_of_the_authority_is_one() {
        for (hosts, passes) in [
            (&[][..], true),
            (&[&b"a.test:80"[..]], true),
            (&[b"a b/c?d"], false),
            (&[b"u@a.test"], false),
            (&[b"a\xff"], false),
            (&[b""], false),
            (&[b"a.test", b"b.test"], false),
        ] {
            let mut parts = parts("GET", "/");
            for host in hosts {
                parts.headers.append(header::HOST, HeaderValue::from_bytes(host).unwrap());
            }
            assert_eq!(check(&parts, 100, Underscores::Drop).is_ok(), passes, "{hosts:?}");
        }
    }

    #[test]
    fn header_fields_are_limited() {
        let mut parts = parts("GET", "http://a.test/");
        parts.headers.append("x", "1".parse().unwrap());
        parts.headers.append("x", "2".parse().unwrap());
        assert!(check(&parts, 6, Underscores::Drop).is_ok());
        assert_eq!(check(&parts, 5, Underscores::Drop).unwrap_err().details, "http2.too_many_headers");
    }

    #[test]
    fn the_reason_is_where_hyper_looks_for_it() {
        let malformed = check(&parts("GET", "*"), 100, Underscores::Drop).unwrap_err();
        let reset = std::error::Error::source(&malformed).and_then(|source| source.downcast_ref::<h2::Error>());
        assert_eq!(reset.and_then(h2::Error::reason), Some(Reason::PROTOCOL_ERROR));
    }
}
