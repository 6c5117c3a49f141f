//! TLS, both ways: contexts made from the configuration, handshakes, and what is known of a peer afterwards.
//!
//! `server` and `client` hold rustls configurations and shake hands; `verify` decides whether a certificate is trusted,
//! as Envoy's default validator does; `hello` reads a ClientHello without answering it; `session` is what remains of a
//! handshake. Texts and names that operators see (`names`, `failure`, `certificate`) are BoringSSL's and Envoy's.

pub mod certificate;
pub mod client;
mod distinguished_name;
pub mod failure;
pub mod fingerprint;
mod greeting;
pub mod hello;
pub mod key_log;
mod md5;
pub mod names;
pub mod san;
pub mod server;
pub mod session;
pub mod stats;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tickets;
pub mod tls13;
mod vectors;
pub mod verify;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};

pub use self::session::PeerTls;

/// Cipher suites and groups to use, out of what there is.
pub fn provider(
    suites: Vec<rustls::SupportedCipherSuite>,
    groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: suites, kx_groups: groups, ..default_provider() })
}
