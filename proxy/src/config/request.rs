//! A request, as the configuration looks at it: routes, filters and access logs ask the same things of it.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::{
    filter_state::FilterState,
    matcher::{HeaderMatcher, MatchedHeader, metadata::Metadata},
};

/// What is known of the client's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsView {
    /// There is one.
    pub presented: bool,
    /// It was verified.
    pub validated: bool,
}

/// A request, as far as routing looks at it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// `:authority`.
    pub authority: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The client's certificate.
    pub tls: TlsView,
    /// Dynamic metadata.
    pub metadata: Option<&'a Metadata>,
    /// The client's address.
    pub remote: IpAddr,
    /// Its filter state.
    pub filter_state: Option<&'a FilterState>,
}

impl<'a> RequestView<'a> {
    /// A header's first value, pseudo-headers among them.
    pub fn header(&self, name: &MatchedHeader) -> Option<&'a [u8]> {
        match name {
            MatchedHeader::Method => Some(self.method.as_str().as_bytes()),
            MatchedHeader::Path => Some(self.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes()),
            MatchedHeader::Authority => Some(self.authority),
            MatchedHeader::Scheme => Some(self.scheme.as_bytes()),
            MatchedHeader::Status => None,
            MatchedHeader::Plain(name) => self.headers.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// All of a header's values, joined by commas.
    pub fn joined(&self, name: &MatchedHeader) -> Option<Cow<'a, [u8]>> {
        let first = self.header(name)?;
        let MatchedHeader::Plain(name) = name else { return Some(Cow::Borrowed(first)) };
        let mut joined = Cow::Borrowed(first);
        for value in self.headers.get_all(name).iter().skip(1) {
            let joined = joined.to_mut();
            joined.push(b',');
            joined.extend_from_slice(value.as_bytes());
        }
        Some(joined)
    }
}

/// Whether a header matcher takes a request.
pub fn header_matches(matcher: &HeaderMatcher, request: &RequestView<'_>) -> bool {
    match &matcher.name {
        MatchedHeader::Plain(name) => plain_header_matches(matcher, name, request.headers),
        pseudo => matcher.matches(request.header(pseudo)),
    }
}

/// Whether it takes a response.
pub fn response_header_matches(matcher: &HeaderMatcher, status: StatusCode, headers: &HeaderMap) -> bool {
    match &matcher.name {
        MatchedHeader::Plain(name) => plain_header_matches(matcher, name, headers),
        MatchedHeader::Status => matcher.matches(Some(status.as_str().as_bytes())),
        MatchedHeader::Method | MatchedHeader::Path | MatchedHeader::Authority | MatchedHeader::Scheme => {
            matcher.matches(None)
        }
    }
}

/// Whether it takes headers of this name. Of several values one that matches is enough.
fn plain_header_matches(matcher: &HeaderMatcher, name: &HeaderName, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    if values.peek().is_none() {
        return matcher.matches(None);
    }
    // An inverted matcher holds when no value is what it must not be.
    if matcher.invert {
        values.all(|value| matcher.matches(Some(value)))
    } else {
        values.any(|value| matcher.matches(Some(value)))
    }
}

/// The cookies of a request: names and values, quotes around these removed.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let values = headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes);
    values.flat_map(|value| value.split(|byte| *byte == b';')).filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some((name, bare.unwrap_or(value)))
    })
}

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_by_content_type() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), grpc, "{value}");
        }
    }
}
