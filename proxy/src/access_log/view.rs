//! What a line, or a header to add, is written from.

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::{
    entry::{Entry, LogType},
    header_name::{GRPC_STATUS, HeaderName, ORIGINAL_HOST, ORIGINAL_PATH, REQUEST_ID},
};
use crate::wire::grpc;

/// A live request, for formats in headers to add.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// What a format is written from: an entry, and headers that are still at hand.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is known.
    pub entry: &'a Entry,
    /// The request, if it is still at hand.
    pub request: Option<Live<'a>>,
    /// The response's headers, if they are still at hand.
    pub response: Option<&'a HeaderMap>,
    /// The response's trailers, likewise.
    pub trailers: Option<&'a HeaderMap>,
    /// Why a line is written.
    pub log_type: LogType,
}

impl<'a> View<'a> {
    /// At the end of a stream.
    pub fn of(entry: &'a Entry) -> Self {
        Self { entry, request: None, response: None, trailers: None, log_type: LogType::NotSet }
    }

    /// While a request is still at hand.
    pub fn live(entry: &'a Entry, request: Live<'a>) -> Self {
        Self { request: Some(request), ..Self::of(entry) }
    }

    /// While a request is still at hand, if it ever was known.
    pub fn perhaps_live(entry: &'a Entry, request: Option<Live<'a>>) -> Self {
        Self { request, ..Self::of(entry) }
    }

    /// Of a request to an upstream that has no connection, as Envoy does, little is said.
    pub fn is_unconnected(&self) -> bool {
        self.log_type.is_upstreams() && self.entry.protocol.is_none()
    }

    /// A request header's value.
    pub fn request_header(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let kept = &self.entry.kept;
        match (name, &self.request) {
            (HeaderName::Method, Some(live)) => Some(live.method.as_str().as_bytes()),
            (HeaderName::Method, None) => kept.method.as_ref().map(|method| method.as_str().as_bytes()),
            (HeaderName::Path, Some(live)) => path_of(live.uri),
            (HeaderName::Path, None) => kept.uri.as_ref().and_then(path_of),
            (HeaderName::Scheme, Some(live)) => Some(live.scheme.as_bytes()),
            (HeaderName::Scheme, None) => kept.scheme.map(str::as_bytes),
            (HeaderName::Authority, Some(live)) => live
                .headers
                .get(http::header::HOST)
                .map(HeaderValue::as_bytes)
                .or_else(|| live.uri.authority().map(|authority| authority.as_str().as_bytes())),
            (HeaderName::Authority, None) => kept.authority.as_ref().map(HeaderValue::as_bytes),
            (HeaderName::Status | HeaderName::Unknown, _) => None,
            (HeaderName::Plain(name), Some(live)) => live.headers.get(name).map(HeaderValue::as_bytes),
            (HeaderName::Plain(name), None) => find(&kept.request, name),
        }
    }

    /// All values of a request header that a filter names.
    pub fn request_values(&self, name: &http::HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let (live, entry) = (self.request, self.entry);
        let kept = live.is_none().then(|| entry.kept.values(name));
        let values = live.map(|live| live.headers.get_all(name).into_iter().map(HeaderValue::as_bytes));
        values.into_iter().flatten().chain(kept.into_iter().flatten())
    }

    /// A response header's value; `:status` is written from the entry.
    pub fn response_header(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let HeaderName::Plain(name) = name else { return None };
        match self.response {
            Some(headers) => headers.get(name).map(HeaderValue::as_bytes),
            None => find(&self.entry.kept.response, name),
        }
    }

    /// A trailer's value.
    pub fn trailer(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let HeaderName::Plain(name) = name else { return None };
        match self.trailers {
            Some(trailers) => trailers.get(name).map(HeaderValue::as_bytes),
            None => find(&self.entry.kept.trailers, name),
        }
    }

    /// The path before it was rewritten.
    pub fn original_path(&self) -> Option<&'a [u8]> {
        self.request_header(&HeaderName::Plain(ORIGINAL_PATH))
    }

    /// The host before it was rewritten.
    pub fn original_host(&self) -> Option<&'a [u8]> {
        self.request_header(&HeaderName::Plain(ORIGINAL_HOST))
    }

    /// `x-request-id`.
    pub fn request_id(&self) -> Option<&'a [u8]> {
        self.request_header(&HeaderName::Plain(REQUEST_ID))
    }

    /// The gRPC status: of the trailers, the headers, or what the response code stands for. The request need not be
    /// gRPC's.
    pub fn grpc_status(&self) -> Option<i64> {
        let name = HeaderName::Plain(GRPC_STATUS);
        let told = self.trailer(&name).or_else(|| self.response_header(&name));
        match told {
            // As Envoy: what is no number is InvalidCode.
            Some(value) => {
                Some(std::str::from_utf8(value).ok().and_then(|text| text.parse::<u32>().ok()).map_or(-1, i64::from))
            }
            None => (self.entry.response_code > 0).then(|| grpc::status_of(self.entry.response_code).into()),
        }
    }

    /// Whether the request says that it is gRPC's.
    pub fn is_grpc(&self) -> bool {
        let content = self.request_header(&HeaderName::Plain(http::header::CONTENT_TYPE));
        content
            .and_then(|content| content.strip_prefix(b"application/grpc"))
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    }
}

fn path_of(uri: &Uri) -> Option<&[u8]> {
    uri.path_and_query().map(|path| path.as_str().as_bytes())
}

fn find<'a>(kept: &'a [(http::HeaderName, HeaderValue)], name: &http::HeaderName) -> Option<&'a [u8]> {
    kept.iter().find(|(kept, _)| kept == name).map(|(_, value)| value.as_bytes())
}
