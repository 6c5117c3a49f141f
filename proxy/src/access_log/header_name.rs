//! Headers that formats and filters name.

/// The header that `%STREAM_ID%` repeats.
pub(super) const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");
/// gRPC's.
pub(super) const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
/// The host before it was rewritten.
pub(super) const ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");
/// The path before it was rewritten.
pub(super) const ORIGINAL_PATH: http::HeaderName = http::HeaderName::from_static("x-envoy-original-path");

/// A header that a format names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderName {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`; `host` of HTTP/1 is the same thing.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// A pseudo-header that there is not: never present.
    Unknown,
    /// Any other.
    Plain(http::HeaderName),
}
