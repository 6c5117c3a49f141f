//! What TLS offers upstreams by ALPN, by the HTTP that they are spoken to in: istio's sidecars tell by it what is HTTP.

use std::sync::Arc;

/// Names of protocols, the preferred first.
pub type Names = Arc<[Box<str>]>;

/// `istio.alpn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnOverride {
    /// Where HTTP/1.0 is spoken.
    pub http10: Option<Names>,
    /// Where HTTP/1.1 is.
    pub http11: Option<Names>,
    /// Where HTTP/2 is.
    pub http2: Option<Names>,
}
