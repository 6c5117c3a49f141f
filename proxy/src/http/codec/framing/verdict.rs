//! What requests are judged by, and what is said of them.

/// The longest target that [`http::Uri`] holds, in bytes.
pub(super) const LONGEST_TARGET: usize = 65_533;

/// The longest body that hyper can count, in bytes.
pub(super) const LONGEST_BODY: u64 = u64::MAX - 2;

/// What requests are judged by.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Rules {
    /// The longest head, in bytes.
    pub max_head_bytes: usize,
    /// The most headers of a request.
    pub max_headers: usize,
    /// `allow_custom_methods`: any token is a method.
    pub any_method: bool,
    /// `accept_http_10`: versions other than 1.1 are read as 1.0.
    pub http_10: bool,
    /// `enable_trailers`: trailers pass.
    pub trailers: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Refusal {
    /// It is not HTTP.
    Codec,
    /// It has control characters.
    Characters,
    /// Its head or its trailers are too long.
    TooLong,
    /// It has too many headers.
    TooMany,
    /// It says in two ways where its body ends.
    LengthAndChunked,
    /// Its body is encoded in a way that is not supported.
    Encoding,
    /// It is a CONNECT request with a body.
    ConnectBody,
    /// Its target makes no sense.
    Target,
    /// Its target has another scheme than HTTP's.
    Scheme,
    /// It is of another version.
    Version,
}

/// What there is to say of a request before it is looked at. It is the last of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Verdict {
    /// It is refused: what goes on only stands for it.
    Refused(Refusal),
    /// It is to be refused as its target has a fragment, which was cut off.
    Fragment,
    /// It asks for an upgrade, or is a CONNECT request: what follows it is not HTTP.
    Upgrade,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
}
