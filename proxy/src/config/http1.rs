//! HTTP/1 on a connection, to a client or to an upstream.

/// HTTP/1 settings of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http1 {
    /// `enable_trailers`: trailers that come are passed on, and trailers are sent.
    pub trailers: bool,
    /// `header_key_format`.
    pub names: HeaderNames,
}

/// How names of headers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderNames {
    /// In lower case.
    #[default]
    Lower,
    /// `proper_case_words`: every word with a capital letter.
    Words,
    /// `preserve_case`: names that come on this side go on as they came, where the other side speaks HTTP/1 too.
    AsTheyCame {
        /// `forward_reason_phrase`.
        reason: bool,
    },
}

impl HeaderNames {
    /// Whether names that come are kept.
    pub fn kept(self) -> bool {
        matches!(self, Self::AsTheyCame { .. })
    }
}
