//! What access logs want to be kept of a stream.

use super::header_name::HeaderName;

/// What the formats and the filters of a set of access logs name: what [`Kept`](super::kept::Kept) must keep, and what must be counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of the request.
    pub(super) request: Vec<HeaderName>,
    /// For filters, which look at all values of a header.
    pub(super) each: Vec<http::HeaderName>,
    /// Of the response.
    pub(super) response: Vec<http::HeaderName>,
    /// Of the response's trailers.
    pub(super) trailers: Vec<http::HeaderName>,
    /// The size of headers.
    pub(super) sizes: bool,
    /// The bytes of the stream: [`Entry::meters`](super::entry::Entry::meters).
    pub meters: bool,
    /// Moments: [`Entry::timing`](super::entry::Entry::timing).
    pub times: bool,
}

impl Wanted {
    /// What is counted for all logs of a stream is counted if `other` wants it, too.
    pub fn with_times_of(self, other: &Self) -> Self {
        Self { meters: self.meters || other.meters, times: self.times || other.times, ..self }
    }
}
