//! Names of versions, cipher suites, curves and signatures: OpenSSL's, which Envoy's configuration, statistics and
//! access logs use, and what this proxy has of them.

use rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite,
    crypto::{
        SupportedKxGroup,
        aws_lc_rs::{cipher_suite as suite, kx_group},
    },
};

/// A name in the configuration that gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// BoringSSL has it and this proxy does not: leaving it out makes the configuration stricter, not other.
    NotHere,
    /// Nobody has it.
    Unknown,
}

/// Envoy's default cipher suites of TLS 1.2, in its order, without those that have no forward secrecy.
pub const TLS12_SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Envoy's default key exchange groups.
pub const SERVER_GROUPS: [&dyn SupportedKxGroup; 3] = [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];

/// The same towards upstreams, without the one that costs half as much again.
pub const CLIENT_GROUPS: [&dyn SupportedKxGroup; 2] = [kx_group::X25519, kx_group::SECP256R1];

/// Cipher suites of TLS 1.2 that BoringSSL has besides [`TLS12_SUITES`].
const BORINGSSL_ONLY: [&str; 18] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "AES128-SHA256",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
    "ECDHE-RSA-AES256-SHA384",
];

/// The suite of a name in `cipher_suites`.
pub fn cipher_suite(name: &str) -> Result<SupportedCipherSuite, Missing> {
    let found = TLS12_SUITES.into_iter().find(|suite| suite_name(suite.suite()) == name);
    found.ok_or(if BORINGSSL_ONLY.contains(&name) { Missing::NotHere } else { Missing::Unknown })
}

/// The group of a name in `ecdh_curves`.
pub fn group(name: &str) -> Result<&'static dyn SupportedKxGroup, Missing> {
    Ok(match name {
        "X25519" => kx_group::X25519,
        "P-256" | "prime256v1" => kx_group::SECP256R1,
        "P-384" | "secp384r1" => kx_group::SECP384R1,
        "X25519MLKEM768" => kx_group::X25519MLKEM768,
        "P-521" | "secp521r1" | "P-224" | "X25519Kyber768Draft00" | "MLKEM1024" => return Err(Missing::NotHere),
        _ => return Err(Missing::Unknown),
    })
}

/// `%DOWNSTREAM_TLS_CIPHER%`, `ssl.ciphers.*`.
pub fn suite_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

/// `%DOWNSTREAM_TLS_VERSION%`, `ssl.versions.*`.
pub fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "unknown",
    }
}

/// `%DOWNSTREAM_TLS_GROUP%`, `ssl.curves.*`.
pub fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_offered_has_a_name_and_is_found_by_it() {
        for suite in TLS12_SUITES {
            assert_eq!(cipher_suite(suite_name(suite.suite())).unwrap().suite(), suite.suite());
        }
        for suite in crate::tls::tls13::SUITES {
            assert_ne!(suite_name(suite.suite()), "unknown");
        }
        for name in ["X25519", "P-256", "P-384", "X25519MLKEM768"] {
            assert_eq!(group_name(group(name).unwrap().name()), name);
        }
    }

    #[test]
    fn what_only_boringssl_has_is_told_from_what_nobody_has() {
        assert_eq!(cipher_suite("AES128-SHA").unwrap_err(), Missing::NotHere);
        assert_eq!(cipher_suite("BOGUS").unwrap_err(), Missing::Unknown);
        assert!(matches!(group("P-521"), Err(Missing::NotHere)));
        assert!(matches!(group("P-1"), Err(Missing::Unknown)));
    }
}
