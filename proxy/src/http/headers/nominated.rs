//! Headers that `connection` names: they end at this hop (RFC 9110 section 7.6.1), within limits.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::forwarded::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// So many names are too many, as in Envoy.
const TOO_MANY: usize = 10;

/// So many bytes of `te`, if it is named, are too many, as in Envoy.
const TE_TOO_LONG: usize = 256;

/// A request may not have named what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Rejected;

/// Whether `connection` has an option, or names a header, in any case.
pub(in crate::http) fn has(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| lists(value, option))
}

fn lists(value: &HeaderValue, option: &str) -> bool {
    let mut options = value.as_bytes().split(|byte| *byte == b',');
    options.any(|token| token.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether `proxy-connection`, which is of no standard, says that nothing follows.
pub(in crate::http) fn is_last_by_proxy(headers: &HeaderMap) -> bool {
    headers.get(PROXY_CONNECTION).is_some_and(|value| lists(value, "close"))
}

/// Whether `connection` says that nothing follows, or that of HTTP/1.0 does not say that something may.
pub(in crate::http) fn is_last(version: Version, headers: &HeaderMap) -> bool {
    has(headers, "close") || (version == Version::HTTP_10 && !has(headers, "keep-alive"))
}

/// Whether no response follows this one of HTTP/1.
pub(in crate::http) fn is_last_response(version: Version, headers: &HeaderMap) -> bool {
    is_last(version, headers) || is_last_by_proxy(headers)
}

/// Removes the headers that `connection` names, and not itself. A client that could remove what proxies before this one
/// say of it would hide from those behind it: that is refused.
pub(in crate::http) fn remove(headers: &mut HeaderMap) -> Result<(), Rejected> {
    if !headers.contains_key(header::CONNECTION) {
        return Ok(());
    }
    let mut names: Vec<HeaderName> = Vec::new();
    let mut count = 0;
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.is_empty() {
                continue;
            }
            count += 1;
            if token.starts_with(b":") {
                return Err(Rejected);
            }
            // What is no name names no header.
            names.extend(HeaderName::from_bytes(token));
        }
    }
    if count >= TOO_MANY {
        return Err(Rejected);
    }
    for name in names {
        match name.as_str() {
            "close" | "keep-alive" | "upgrade" | "http2-settings" | "connection" => {}
            // Of this, only what concerns the whole path is passed on anyway.
            "te" => {
                if headers.get(header::TE).is_some_and(|te| te.len() >= TE_TOO_LONG) {
                    return Err(Rejected);
                }
            }
            _ if [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO].contains(&name) => return Err(Rejected),
            _ => {
                headers.remove(name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(connection: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in connection {
            headers.append(header::CONNECTION, HeaderValue::from_static(value));
        }
        for name in ["x-hop", "x-end", "te", "keep-alive", "x-forwarded-for"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers
    }

    #[test]
    fn a_client_of_http_1_0_says_that_more_follows() {
        for (version, values, last) in [
            (Version::HTTP_11, &[][..], false),
            (Version::HTTP_11, &["x, Close"], true),
            (Version::HTTP_11, &["x", "close"], true),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &["Keep-Alive"], false),
            (Version::HTTP_10, &["keep-alive", "close"], true),
        ] {
            assert_eq!(is_last(version, &headers(values)), last, "{version:?} {values:?}");
        }
    }

    #[test]
    fn named_headers_are_removed() {
        for connection in [&["close, X-Hop ,te"][..], &["keep-alive", "x-other,x-hop"]] {
            let mut headers = headers(connection);
            remove(&mut headers).unwrap();
            assert!(!headers.contains_key("x-hop"), "{connection:?}");
            assert!(headers.contains_key("x-end") && headers.contains_key("te"), "{connection:?}");
        }
    }

    #[test]
    fn what_others_rely_on_may_not_be_named() {
        for connection in ["x-forwarded-for", "X-Forwarded-Proto", "a, :path", "1,2,3,4,5,6,7,8,9,10"] {
            assert_eq!(remove(&mut headers(&[connection])), Err(Rejected), "{connection}");
        }
        let mut long = headers(&["te"]);
        long.insert(header::TE, HeaderValue::from_bytes(&[b'x'; TE_TOO_LONG]).unwrap());
        assert_eq!(remove(&mut long), Err(Rejected));
    }
}
