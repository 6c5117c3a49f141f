//! TLS, both ways: contexts made from the configuration, handshakes, and what is known of a peer afterwards.
//!
//! `server` and `client` hold rustls configurations and shake hands; `verify` decides whether a certificate is trusted,
//! as Envoy's default validator does; `hello` reads a ClientHello without answering it; `session` is what remains of a
//! handshake. Texts and names that operators see (`names`, `failure`, `certificate`) are BoringSSL's and Envoy's.

pub mod certificate;
pub mod client;
pub mod der;
mod distinguished_name;
pub mod failure;
pub mod fingerprint;
mod greeting;
pub mod hello;
pub mod key_log;
pub mod key_usage;
mod md5;
pub mod names;
mod recast;
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
pub mod untrusted;
mod vectors;
pub mod verify;

use std::sync::{Arc, LazyLock};

use rustls::{
    SignatureScheme,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::default_provider},
};

pub use self::session::PeerTls;

/// Cipher suites and groups to use, out of what there is.
pub fn provider(
    suites: Vec<rustls::SupportedCipherSuite>,
    groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>,
) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: groups,
        signature_verification_algorithms: *VERIFIED,
        ..default_provider()
    })
}

/// With the signatures that peers may make in handshakes: those of Envoy's defaults. Certificates may be signed with all
/// that there are.
static VERIFIED: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let WebPkiSupportedAlgorithms { all, mapping } = default_provider().signature_verification_algorithms;
    let taken: Vec<_> = mapping.iter().filter(|(scheme, _)| SIGNATURES.contains(scheme)).copied().collect();
    WebPkiSupportedAlgorithms { all, mapping: taken.leak() }
});

const SIGNATURES: [SignatureScheme; 8] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA512,
];
