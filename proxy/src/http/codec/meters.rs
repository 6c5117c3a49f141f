//! What a request's heads and bodies amount to on the wire, where an access log asks for it.
//!
//! hyper reads and writes the bytes, so heads are reckoned in the form in which it writes them: one space after the
//! colon, names in lower case. Of HTTP/2, whose headers are compressed, the sizes are those before compression.

use http::{HeaderMap, Method, StatusCode, header, request::Parts};

use crate::access_log::{Metered, size};

/// `: ` and the end of a line.
const SEPARATORS: u64 = 4;
/// Envoy does not count the space after a colon that it reads.
const READ_SEPARATORS: u64 = 3;
/// ` HTTP/1.1` and the end of a line.
const VERSION: u64 = 11;
/// `HTTP/1.1 200 ` and the end of a line.
const STATUS_LINE: u64 = 15;
/// `date: Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE: u64 = 33;

/// A request's head, read from a client.
pub(in crate::http) fn request_read(parts: &Parts) -> Metered {
    if parts.version == http::Version::HTTP_2 {
        return multiplexed(size(&parts.headers) as u64 + request_pseudo(parts));
    }
    let (bytes, lines) = (size(&parts.headers) as u64, parts.headers.len() as u64);
    let headers = bytes + lines * READ_SEPARATORS;
    let line = match (&parts.method, parts.uri.authority()) {
        (&Method::CONNECT, Some(authority)) => ("CONNECT ".len() + authority.as_str().len()) as u64 + VERSION,
        _ => request_line(parts.method.as_str(), &parts.uri),
    };
    let wire = bytes + lines * SEPARATORS + line + 2;
    Metered { headers, decompressed: headers, wire }
}

/// A request's head, written to an upstream.
pub(in crate::http) fn request_written<B>(request: &http::Request<B>) -> Metered {
    let headers = request.headers();
    if request.version() == http::Version::HTTP_2 {
        let path = request.uri().path_and_query().map_or(1, |path| path.as_str().len());
        let authority = request.uri().authority().map_or(0, |authority| ":authority".len() + authority.as_str().len());
        let pseudo = ":method:path:schemehttp".len() + request.method().as_str().len() + path + authority;
        return multiplexed((size(headers) + pseudo) as u64);
    }
    let written = size(headers) as u64 + headers.len() as u64 * SEPARATORS;
    let wire = written + request_line(request.method().as_str(), request.uri()) + 2;
    Metered { headers: written, decompressed: written, wire }
}

/// A response's head, read from an upstream.
pub(in crate::http) fn response_read<B>(response: &http::Response<B>, http2: bool) -> Metered {
    let headers = response.headers();
    let (bytes, lines) = (size(headers) as u64, headers.len() as u64);
    if http2 {
        return multiplexed(bytes + ":status200".len() as u64);
    }
    let status = match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(reason) => STATUS_LINE + reason.as_bytes().len() as u64,
        None => status_line(response.status()),
    };
    let read = bytes + lines * READ_SEPARATORS;
    Metered { headers: read, decompressed: read, wire: bytes + lines * SEPARATORS + status + 2 }
}

/// How it is known where the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Body {
    /// By its length.
    Of(u64),
    /// It comes in chunks.
    Chunked,
    /// There is none: what follows is not HTTP.
    Switched,
}

/// A response's head, written to a client, with what hyper adds.
pub(in crate::http) fn response_written(status: StatusCode, headers: &HeaderMap, http2: bool, body: Body) -> Metered {
    let (mut bytes, mut lines) = (size(headers) as u64, headers.len() as u64);
    let mut add = |more: u64| {
        bytes += more;
        lines += 1;
    };
    if !headers.contains_key(header::DATE) {
        add(DATE);
    }
    let framed = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    match body {
        Body::Of(length) if !framed => add(("content-length".len() + length.to_string().len()) as u64),
        Body::Chunked if !framed && !http2 => add("transfer-encodingchunked".len() as u64),
        _ => {}
    }
    if http2 {
        return multiplexed(bytes + ":status200".len() as u64);
    }
    let written = bytes + lines * SEPARATORS;
    Metered { headers: written, decompressed: written, wire: written + status_line(status) + 2 }
}

fn multiplexed(bytes: u64) -> Metered {
    Metered { headers: bytes, decompressed: bytes, wire: bytes }
}

fn request_pseudo(parts: &Parts) -> u64 {
    let path = parts.uri.path_and_query().map_or(1, |path| path.as_str().len());
    let authority = parts.uri.authority().map_or(0, |authority| ":authority".len() + authority.as_str().len());
    (":method:path:schemehttp".len() + parts.method.as_str().len() + path + authority) as u64
}

fn request_line(method: &str, uri: &http::Uri) -> u64 {
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    (method.len() + 1 + path) as u64 + VERSION
}

fn status_line(status: StatusCode) -> u64 {
    let reason = status.canonical_reason().unwrap_or_default();
    STATUS_LINE + reason.len() as u64
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    #[test]
    fn heads_are_as_long_as_they_are() {
        let request = Request::get("/echo?a").header("host", "any.test").header("x-a", "value").body(()).unwrap();
        let head = "GET /echo?a HTTP/1.1\r\nhost: any.test\r\nx-a: value\r\n\r\n";
        let written = request_written(&request);
        assert_eq!(written.wire, head.len() as u64);
        assert_eq!(written.headers, 28);
        let read = request_read(&request.into_parts().0);
        assert_eq!((read.wire, read.headers), (head.len() as u64, 26));
        let mut headers = HeaderMap::new();
        headers.insert("x-b", HeaderValue::from_static("c"));
        let mut response = http::Response::new(());
        response.headers_mut().clone_from(&headers);
        let head = "HTTP/1.1 200 OK\r\nx-b: c\r\n\r\n";
        assert_eq!(response_read(&response, false).wire, head.len() as u64);
        let head = "HTTP/1.1 200 OK\r\nx-b: c\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 12\r\n\r\n";
        assert_eq!(response_written(StatusCode::OK, &headers, false, Body::Of(12)).wire, head.len() as u64);
    }
}
