//! How large the head of a message may be.

use http::HeaderMap;

/// How large the head of a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// `max_response_headers_kb`, in bytes: names and values; none: as much as Envoy takes of each protocol.
    pub bytes: Option<u32>,
    /// `max_headers_count`: `:status` among them.
    pub fields: u32,
}

impl Default for HeadLimits {
    /// Envoy's.
    fn default() -> Self {
        Self { bytes: None, fields: 100 }
    }
}

impl HeadLimits {
    /// `:status` and its value.
    const STATUS: usize = 10;

    /// How long the head of a response of HTTP/1 may be.
    pub fn http1_bytes(self) -> usize {
        const DEFAULT: u32 = 80 * 1024;
        self.bytes.unwrap_or(DEFAULT) as usize
    }

    /// The same of HTTP/2: names and values, `:status` among them.
    fn http2_bytes(self) -> u32 {
        const DEFAULT: u32 = 60 * 1024;
        self.bytes.unwrap_or(DEFAULT)
    }

    /// Whether a response of HTTP/2 may have these headers.
    pub fn take(self, headers: &HeaderMap) -> bool {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        headers.len() < self.fields as usize && bytes + Self::STATUS <= self.http2_bytes() as usize
    }

    /// What HTTP/2 takes before it counts as Envoy does: RFC 9113 section 6.5.2 reckons more for each field. Twice as much
    /// as is allowed, so that most of what is too large can be told as Envoy tells it.
    pub fn list_size(self) -> u32 {
        const OVERHEAD: u32 = 32;
        self.http2_bytes().saturating_add(self.fields.saturating_mul(OVERHEAD)).saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_counts() {
        let headers = HeaderMap::from_iter([("a".parse().unwrap(), "12345".parse().unwrap())]);
        let take = |bytes, fields| HeadLimits { bytes: Some(bytes), fields }.take(&headers);
        assert!(take(16, 2) && !take(15, 2) && !take(16, 1));
    }
}
