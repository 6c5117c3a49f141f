//! Services whose methods are called.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// A service of gRPC.
#[derive(Debug)]
pub struct GrpcService {
    /// Its cluster.
    pub cluster: Box<str>,
    /// `:authority`.
    pub authority: HeaderValue,
    /// For the whole call; none: any time.
    pub timeout: Option<Duration>,
    /// Headers that the call has besides.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// Without Envoy's own.
    pub bare: bool,
    /// Bytes that an answer may have; none: as many as anybody's.
    pub longest: Option<usize>,
}
