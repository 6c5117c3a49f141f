//! What tests with real Envoy and weir side by side need, whatever they look at: both proxies with the same bootstrap,
//! scripted servers, certificates, byte streams. The conformance tests use it too.

#[path = "case.rs"]
pub mod case;
#[path = "certificates.rs"]
pub mod certificates;
#[path = "dns.rs"]
pub mod dns;
#[path = "http1.rs"]
pub mod http1;
#[path = "proxy_protocol.rs"]
pub mod proxy_protocol;
#[path = "script.rs"]
pub mod script;
#[path = "seen.rs"]
pub mod seen;
#[path = "side.rs"]
pub mod side;
#[path = "tls.rs"]
pub mod tls;
#[path = "upstream.rs"]
pub mod upstream;
#[path = "upstream_h2.rs"]
pub mod upstream_h2;
#[path = "wire.rs"]
pub mod wire;
