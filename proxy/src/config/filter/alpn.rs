//! What TLS offers upstreams by ALPN, by the HTTP that they are spoken to in: istio's sidecars tell by it what is HTTP.

use std::sync::Arc;

use crate::config::cluster::{Cluster, UpstreamProtocol};

/// Names of protocols, the preferred first.
pub type Names = Arc<[Box<str>]>;

/// The switch in a cluster's metadata: namespace and key.
const SWITCH: (&str, &str) = ("istio", "alpn_override");

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

impl AlpnOverride {
    /// What a cluster is offered for a request; none: what it is offered anyway. `http10` and `http2`: what the client
    /// speaks.
    pub fn names(&self, cluster: &Cluster, http10: bool, http2: bool) -> Option<&Names> {
        let metadata = cluster.logged.metadata.as_ref();
        let switch = metadata.and_then(|metadata| metadata.get(SWITCH.0, &[SWITCH.1.into()]));
        if switch.and_then(serde_json::Value::as_str) == Some("false") {
            return None;
        }
        let names = match cluster.protocol {
            UpstreamProtocol::Http2 | UpstreamProtocol::Negotiated => &self.http2,
            UpstreamProtocol::Downstream if http2 => &self.http2,
            UpstreamProtocol::Downstream if http10 => &self.http10,
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => &self.http11,
        };
        names.as_ref()
    }
}
