//! A request in the form of the protocol that an upstream speaks.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::ext::Protocol;

use crate::http::body::RequestBody;

/// The request in the form of the upstream's protocol. None: it has none, as its host is no authority.
pub(in crate::http) fn upstream_request(
    mut request: Request<RequestBody>,
    http2: bool,
    scheme: &str,
) -> Option<Request<RequestBody>> {
    if request.version() == Version::HTTP_2 {
        return Some(request);
    }
    if !http2 {
        if !matches!(request.body(), RequestBody::Empty) {
            // Said here: for a GET or HEAD request, hyper would take a body of unknown length for none.
            if !request.headers().contains_key(header::CONTENT_LENGTH) {
                request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        } else if has_body(request.method()) {
            // Envoy announces the end of a body that is none.
            request.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
        }
        return Some(request);
    }
    let authority = request.headers_mut().remove(header::HOST)?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::from_maybe_shared(Bytes::copy_from_slice(authority.as_bytes())).ok()?);
    let path = request.uri().path_and_query().cloned();
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = Version::HTTP_2;
    Some(request)
}

/// A request for an upgrade (RFC 8441) or a tunnel in the form of HTTP/2. None: as above.
pub(in crate::http) fn http2_connect(mut request: Request<RequestBody>, scheme: &str) -> Option<Request<RequestBody>> {
    if request.version() == Version::HTTP_2 {
        return Some(request);
    }
    let headers = request.headers_mut();
    headers.remove(header::CONNECTION);
    if headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0") {
        headers.remove(header::CONTENT_LENGTH);
    }
    let upgrade = headers.remove(header::UPGRADE);
    if request.method() == Method::CONNECT {
        let authority = request.headers_mut().remove(header::HOST)?;
        *request.uri_mut() = Uri::builder().authority(authority.as_bytes()).build().ok()?;
        *request.version_mut() = Version::HTTP_2;
        return Some(request);
    }
    let mut request = upstream_request(request, true, scheme)?;
    request.extensions_mut().insert(Protocol::from(upgrade?.to_str().ok()?));
    *request.method_mut() = Method::CONNECT;
    Some(request)
}

/// Whether requests by a method have a body, if an empty one.
fn has_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT)
}
