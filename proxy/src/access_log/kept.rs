//! What access logs want of a stream's headers, kept as they pass.

use http::{HeaderMap, HeaderValue, Method, Uri};
use smallvec::SmallVec;

use super::{header_name::HeaderName, wanted::Wanted};

/// `date` and its value.
const DATE: usize = 33;

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
    pub(super) request: SmallVec<[(http::HeaderName, HeaderValue); 4]>,
    pub(super) each: SmallVec<[(http::HeaderName, HeaderValue); 0]>,
    pub(super) response: SmallVec<[(http::HeaderName, HeaderValue); 1]>,
    pub(super) trailers: SmallVec<[(http::HeaderName, HeaderValue); 0]>,
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

    /// The request is for another host.
    pub fn rename_host(&mut self, host: &HeaderValue) {
        if let Some(authority) = &mut self.authority {
            authority.clone_from(host);
        }
    }

    /// Keeps what is wanted of a response as an upstream sent it.
    pub fn received_response(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.response.clear();
        for name in &wanted.response {
            keep(&mut self.response, name, headers);
        }
        if wanted.sizes {
            self.sizes.response = size(headers) + ":status".len() + "200".len();
        }
    }

    /// Keeps what is wanted of a response.
    pub fn response(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.received_response(wanted, headers);
        if wanted.sizes {
            // hyper adds the date.
            let date = if headers.contains_key(http::header::DATE) { 0 } else { DATE };
            self.sizes.response += date;
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
