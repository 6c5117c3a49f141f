//! What access logs want of a stream's headers, kept as they pass.

use http::{HeaderMap, HeaderValue, Method, Uri};
use smallvec::SmallVec;

use super::{
    access_log::AccessLog,
    entry::{Entry, LogType},
    format::{Bytes, Field, HeaderName, Selected, Span},
};

/// The header that `%STREAM_ID%` repeats.
const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");
const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
const ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");
const ORIGINAL_PATH: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");

/// `date` and its value.
const DATE: usize = 33;

/// What the formats and the filters of a set of access logs name: what [`Kept`] must keep, and what must be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    request: Vec<HeaderName>,
    /// For filters, which look at all values of a header.
    each: Vec<http::HeaderName>,
    response: Vec<http::HeaderName>,
    trailers: Vec<http::HeaderName>,
    /// The size of headers.
    sizes: bool,
    /// The bytes of the stream: [`Entry::meters`].
    pub meters: bool,
    /// Moments: [`Entry::timing`].
    pub times: bool,
    /// Metadata of routes and virtual hosts.
    pub route_metadata: bool,
}

impl Wanted {
    /// What `logs` want.
    pub fn by(logs: &[AccessLog]) -> Self {
        let mut wanted = Self::default();
        for log in logs {
            log.format.each_field(&mut |field| wanted.add(field));
            if let Some(filter) = &log.filter {
                filter.each_header(&mut |name| wanted.add_each(name));
                if filter.samples() {
                    wanted.add_request(&HeaderName::Plain(REQUEST_ID));
                }
                if filter.looks_at_grpc_status() {
                    wanted.add_status();
                }
            }
        }
        wanted
    }

    fn add(&mut self, field: &Field) {
        match field {
            Field::Request { names, .. } => names.each(&mut |name| self.add_request(name)),
            Field::Response(names) => names.each(&mut |name| add_plain(&mut self.response, name)),
            Field::Trailer(names) => names.each(&mut |name| add_plain(&mut self.trailers, name)),
            Field::Path { selected, .. } => {
                if *selected != Selected::Path {
                    self.add_request(&HeaderName::Plain(ORIGINAL_PATH));
                }
                self.add_request(&HeaderName::Path);
            }
            Field::QueryParameter { .. } => self.add_request(&HeaderName::Path),
            Field::Query(selected) => {
                if *selected == Selected::Original {
                    self.add_request(&HeaderName::Plain(ORIGINAL_PATH));
                }
                self.add_request(&HeaderName::Path);
            }
            Field::RequestedServerName { host, .. } if host.is_some() => {
                self.add_request(&HeaderName::Authority);
                self.add_request(&HeaderName::Plain(ORIGINAL_HOST));
            }
            Field::GrpcStatus(_) => self.add_status(),
            Field::StreamId => self.add_request(&HeaderName::Plain(REQUEST_ID)),
            Field::Size(_) => self.sizes = true,
            Field::Bytes(Bytes::Body, _) => {}
            Field::Bytes(..) => self.meters = true,
            Field::Between { .. } | Field::Duration(Span::RequestSent | Span::ResponseSent | Span::PoolReady) => {
                self.times = true;
            }
            Field::Metadata { .. } => self.route_metadata = true,
            _ => {}
        }
    }

    fn add_status(&mut self) {
        self.add_request(&HeaderName::Plain(http::header::CONTENT_TYPE));
        for list in [&mut self.response, &mut self.trailers] {
            add_plain(list, &HeaderName::Plain(GRPC_STATUS));
        }
    }

    fn add_request(&mut self, name: &HeaderName) {
        if !self.request.contains(name) {
            self.request.push(name.clone());
        }
    }

    fn add_each(&mut self, name: &HeaderName) {
        match name {
            HeaderName::Plain(name) => {
                if !self.each.contains(name) {
                    self.each.push(name.clone());
                }
            }
            pseudo => self.add_request(pseudo),
        }
    }
}

fn add_plain(list: &mut Vec<http::HeaderName>, name: &HeaderName) {
    if let HeaderName::Plain(name) = name
        && !list.contains(name)
    {
        list.push(name.clone());
    }
}

/// Bytes of names and values, pseudo-headers included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Of the request's headers.
    pub request: usize,
    /// Of the response's headers.
    pub response: usize,
    /// Of the response's trailers.
    pub trailers: usize,
}

/// The headers that some format or filter names, as they passed.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub(super) method: Option<Method>,
    pub(super) uri: Option<Uri>,
    pub(super) authority: Option<HeaderValue>,
    pub(super) scheme: Option<&'static str>,
    request: SmallVec<[(http::HeaderName, HeaderValue); 4]>,
    each: SmallVec<[(http::HeaderName, HeaderValue); 0]>,
    response: SmallVec<[(http::HeaderName, HeaderValue); 1]>,
    trailers: SmallVec<[(http::HeaderName, HeaderValue); 0]>,
    /// Of the headers, where something asks for them.
    pub sizes: Sizes,
}

impl Kept {
    /// Keeps what is wanted of a request; a second call replaces the first.
    pub fn request(&mut self, wanted: &Wanted, method: &Method, uri: &Uri, scheme: &'static str, headers: &HeaderMap) {
        self.request.clear();
        for name in &wanted.request {
            match name {
                HeaderName::Method => self.method = Some(method.clone()),
                HeaderName::Path => self.uri = Some(uri.clone()),
                HeaderName::Scheme => self.scheme = Some(scheme),
                HeaderName::Authority => {
                    self.authority = headers.get(http::header::HOST).cloned().or_else(|| {
                        uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
                    });
                }
                HeaderName::Status | HeaderName::Unknown => {}
                HeaderName::Plain(name) => keep(&mut self.request, name, headers),
            }
        }
        if !wanted.each.is_empty() {
            self.each.clear();
            for name in &wanted.each {
                self.each.extend(headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
            }
        }
        if wanted.sizes {
            let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
            let pseudo = [(":method", method.as_str().len()), (":path", path), (":scheme", scheme.len())];
            let host = if headers.contains_key(http::header::HOST) { ":authority".len() - "host".len() } else { 0 };
            self.sizes.request =
                size(headers) + host + pseudo.iter().map(|(name, value)| name.len() + value).sum::<usize>();
        }
    }

    /// Keeps what is wanted of a response.
    pub fn response(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.response.clear();
        for name in &wanted.response {
            keep(&mut self.response, name, headers);
        }
        if wanted.sizes {
            // hyper adds the date.
            let date = if headers.contains_key(http::header::DATE) { 0 } else { DATE };
            self.sizes.response = size(headers) + date + ":status".len() + "200".len();
        }
    }

    /// Counts a header that hyper adds to the response.
    pub fn add_response(&mut self, wanted: &Wanted, name: &str, value: u64) {
        if wanted.sizes {
            self.sizes.response += name.len() + itoa::Buffer::new().format(value).len();
        }
    }

    /// Keeps what is wanted of the response's trailers.
    pub fn trailers(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.trailers.clear();
        for name in &wanted.trailers {
            keep(&mut self.trailers, name, headers);
        }
        if wanted.sizes {
            self.sizes.trailers = size(headers);
        }
    }

    /// The values of a request header that a filter names.
    pub fn values(&self, name: &http::HeaderName) -> impl Iterator<Item = &[u8]> {
        self.each.iter().filter(move |(kept, _)| kept == name).map(|(_, value)| value.as_bytes())
    }
}

/// Bytes of the names and values.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn keep<const N: usize>(
    kept: &mut SmallVec<[(http::HeaderName, HeaderValue); N]>,
    name: &http::HeaderName,
    headers: &HeaderMap,
) where
    [(http::HeaderName, HeaderValue); N]: smallvec::Array<Item = (http::HeaderName, HeaderValue)>,
{
    if let Some(value) = headers.get(name) {
        kept.push((name.clone(), value.clone()));
    }
}

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
    /// Why a line is written.
    pub log_type: LogType,
}

impl<'a> View<'a> {
    /// At the end of a stream.
    pub fn of(entry: &'a Entry) -> Self {
        Self { entry, request: None, response: None, log_type: LogType::NotSet }
    }

    /// While a request is still at hand.
    pub fn live(entry: &'a Entry, request: Live<'a>) -> Self {
        Self { request: Some(request), ..Self::of(entry) }
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
        find(&self.entry.kept.trailers, name)
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
            None => (self.entry.response_code > 0).then(|| status_of(self.entry.response_code)),
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

/// The gRPC status that an HTTP status stands for.
fn status_of(code: u16) -> i64 {
    match code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn path_of(uri: &Uri) -> Option<&[u8]> {
    uri.path_and_query().map(|path| path.as_str().as_bytes())
}

fn find<'a>(kept: &'a [(http::HeaderName, HeaderValue)], name: &http::HeaderName) -> Option<&'a [u8]> {
    kept.iter().find(|(kept, _)| kept == name).map(|(_, value)| value.as_bytes())
}
