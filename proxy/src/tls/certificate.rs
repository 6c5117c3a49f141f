//! What a certificate says, in the words of OpenSSL, as Envoy shows it.
//!
//! A [`Certificate`] keeps its DER and reads it when somebody asks: most connections end without anybody having.

use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::distinguished_name;

/// An X.509 certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    content: Arc<OnceLock<Content>>,
}

/// The parts that are shown or matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The subject, as RFC 2253 writes it.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The common names of the subject.
    pub common_names: Vec<String>,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Subject alternative names, in the certificate's order.
    pub names: Vec<Name>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// The key and its algorithm, in DER.
    pub public_key: Vec<u8>,
    /// Which signatures the key makes.
    pub key: KeyKind,
    /// The issuer is the subject.
    pub self_issued: bool,
}

/// What kind of key a certificate has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// On P-256.
    P256,
    /// On P-384.
    P384,
    /// On P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Anything else.
    #[default]
    Other,
}

impl KeyKind {
    /// Whether it signs with ECDSA.
    pub fn is_ecdsa(self) -> bool {
        matches!(self, Self::P256 | Self::P384 | Self::P521)
    }

    /// The signature algorithm that such a key signs a handshake with first, by its IANA name: `ssl.sigalgs.*`.
    pub fn signature(self) -> Option<&'static str> {
        Some(match self {
            Self::Rsa => "rsa_pss_rsae_sha256",
            Self::P256 => "ecdsa_secp256r1_sha256",
            Self::P384 => "ecdsa_secp384r1_sha384",
            Self::P521 => "ecdsa_secp521r1_sha512",
            Self::Ed25519 => "ed25519",
            Self::Other => return None,
        })
    }
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `DNS`.
    Dns(String),
    /// `URI`.
    Uri(String),
    /// `IP_ADDRESS`.
    Ip(IpAddr),
    /// `EMAIL`.
    Email(String),
}

impl Name {
    /// The name as text.
    pub fn text(&self) -> String {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => text.clone(),
            Self::Ip(ip) => ip.to_string(),
        }
    }
}

impl Content {
    /// The DNS names.
    pub fn dns(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| if let Name::Dns(name) = name { Some(name.as_str()) } else { None })
    }

    /// The URIs.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| if let Name::Uri(name) = name { Some(name.as_str()) } else { None })
    }

    /// The IP addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.names.iter().filter_map(|name| if let Name::Ip(ip) = name { Some(*ip) } else { None })
    }

    /// The e-mail addresses.
    pub fn emails(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| if let Name::Email(name) = name { Some(name.as_str()) } else { None })
    }
}

/// DER that is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate")]
pub struct Malformed;

impl From<CertificateDer<'static>> for Certificate {
    fn from(der: CertificateDer<'static>) -> Self {
        Self { der, content: Arc::default() }
    }
}

impl Certificate {
    /// Its bytes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What it says; empty where it cannot be read.
    pub fn content(&self) -> &Content {
        self.content.get_or_init(|| read(&self.der).unwrap_or_default())
    }

    /// What it says.
    pub fn checked(&self) -> Result<&Content, Malformed> {
        if let Some(content) = self.content.get() {
            return Ok(content);
        }
        let content = read(&self.der)?;
        Ok(self.content.get_or_init(|| content))
    }

    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fn sha256(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// SHA-1 of the DER, lower-case hexadecimal.
    pub fn sha1(&self) -> String {
        hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der).as_ref())
    }

    /// PEM, with lines of 64 characters.
    pub fn pem(&self) -> String {
        let body = BASE64.encode(&self.der);
        let mut pem = String::with_capacity(body.len() + body.len() / 64 + 60);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            pem.push_str(std::str::from_utf8(line).unwrap_or_default());
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// PEM as Envoy writes it into headers and logs: what would end a quoted or comma-separated value is escaped.
    pub fn url_encoded_pem(&self) -> String {
        let pem = self.pem();
        let mut encoded = String::with_capacity(pem.len() * 11 / 10);
        for character in pem.chars() {
            match character {
                '\n' => encoded.push_str("%0A"),
                ' ' => encoded.push_str("%20"),
                '+' => encoded.push_str("%2B"),
                '/' => encoded.push_str("%2F"),
                '=' => encoded.push_str("%3D"),
                other => encoded.push(other),
            }
        }
        encoded
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn read(der: &[u8]) -> Result<Content, Malformed> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
    let mut names = Vec::new();
    for extension in parsed.extensions() {
        if let ParsedExtension::SubjectAlternativeName(found) = extension.parsed_extension() {
            names.extend(found.general_names.iter().filter_map(alternative_name));
        }
    }
    Ok(Content {
        subject: distinguished_name::rfc2253(parsed.subject()),
        issuer: distinguished_name::rfc2253(parsed.issuer()),
        common_names: parsed
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .map(Into::into)
            .collect(),
        serial: serial(parsed.raw_serial()),
        names,
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        public_key: parsed.public_key().raw.to_vec(),
        key: key_kind(parsed.public_key()),
        self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
    })
}

fn alternative_name(name: &GeneralName<'_>) -> Option<Name> {
    Some(match name {
        GeneralName::DNSName(name) => Name::Dns((*name).into()),
        GeneralName::URI(name) => Name::Uri((*name).into()),
        GeneralName::RFC822Name(name) => Name::Email((*name).into()),
        GeneralName::IPAddress(bytes) => Name::Ip(match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok()?.into(),
            16 => <[u8; 16]>::try_from(*bytes).ok()?.into(),
            _ => return None,
        }),
        _ => return None,
    })
}

/// As OpenSSL prints a number: without leading zero bytes, two digits a byte.
fn serial(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let text = hex(&bytes[significant..]);
    if text.is_empty() { "0".into() } else { text }
}

fn key_kind(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> KeyKind {
    match key.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => KeyKind::Rsa,
        "1.3.101.112" => KeyKind::Ed25519,
        "1.2.840.10045.2.1" => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some("1.2.840.10045.3.1.7") => KeyKind::P256,
                Some("1.3.132.0.34") => KeyKind::P384,
                Some("1.3.132.0.35") => KeyKind::P521,
                _ => KeyKind::Other,
            }
        }
        _ => KeyKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{authority, leaf};

    #[test]
    fn what_a_certificate_says() {
        let issued = leaf(&authority("Test CA"), |params| {
            params.serial_number = Some(rcgen::SerialNumber::from(vec![0, 0x0a, 0xff]));
            params.subject_alt_names = vec![
                rcgen::SanType::URI("spiffe://td/ns/d/sa/client".try_into().unwrap()),
                rcgen::SanType::DnsName("client.test".try_into().unwrap()),
                rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap()),
                rcgen::SanType::Rfc822Name("a@b.test".try_into().unwrap()),
            ];
        });
        let certificate = Certificate::from(issued.certificate);
        let content = certificate.checked().unwrap();
        assert_eq!(content.serial, "0aff");
        assert_eq!(content.issuer, "CN=Test CA");
        assert_eq!(content.uris().collect::<Vec<_>>(), ["spiffe://td/ns/d/sa/client"]);
        assert_eq!(content.dns().collect::<Vec<_>>(), ["client.test"]);
        assert_eq!(content.ips().collect::<Vec<_>>(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(content.emails().collect::<Vec<_>>(), ["a@b.test"]);
        assert_eq!(content.key, KeyKind::P256);
        assert!(content.not_before < content.not_after);
        assert!(!content.self_issued);
        assert_eq!(certificate.sha256().len(), 64);
        assert_eq!(certificate.sha1().len(), 40);
        let encoded = certificate.url_encoded_pem();
        assert!(encoded.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"), "{encoded}");
        assert!(encoded.ends_with("%0A-----END%20CERTIFICATE-----%0A"), "{encoded}");
        assert!(!encoded.contains(['+', '/', '=', '\n', ' ']));
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let certificate = Certificate::from(CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]));
        assert_eq!(certificate.checked(), Err(Malformed));
        assert_eq!(certificate.content(), &Content::default());
    }
}
