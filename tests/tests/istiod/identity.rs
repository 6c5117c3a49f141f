//! A certificate authority of the mesh, who it certifies, and tokens.

use std::sync::Arc;

use aws_lc_rs::hmac;
use prost_types::Any;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Who signs.
pub struct Authority {
    pub pem: String,
    der: CertificateDer<'static>,
    parameters: CertificateParams,
    key: KeyPair,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
    pkcs8: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), parameters, key }
    }

    fn certify(&self, name: SanType) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![name];
        let certificate = parameters.signed_by(&key, &Issuer::from_params(&self.parameters, &self.key)).unwrap();
        Identity {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().clone(),
            pkcs8: key.serialize_der(),
        }
    }

    /// Of a service account: `namespace/name`.
    pub fn workload(&self, account: &str) -> Identity {
        let (namespace, name) = account.split_once('/').unwrap();
        let uri = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
        self.certify(SanType::URI(uri.try_into().unwrap()))
    }

    /// Of a host.
    pub fn host(&self, name: &str) -> Identity {
        self.certify(SanType::DnsName(name.try_into().unwrap()))
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Arc::new(roots)
    }

    /// What verifies others by this authority, under this name.
    pub fn secret(&self, name: &str) -> Any {
        secret(name, &format!("validation_context: {{ trusted_ca: {{ inline_string: {:?} }} }}", self.pem))
    }
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.der.clone()]
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))
    }

    /// It as a secret of this name.
    pub fn secret(&self, name: &str) -> Any {
        let Self { chain, key, .. } = self;
        secret(
            name,
            &format!(
                "tls_certificate: {{ certificate_chain: {{ inline_string: {chain:?} }}, private_key: {{ inline_string: \
                 {key:?} }} }}"
            ),
        )
    }
}

fn secret(name: &str, content: &str) -> Any {
    one(&format!("- {{ \"@type\": {SECRET}, name: {name:?}, {content} }}"))
}

/// A message from YAML: a list of one with its `"@type"`.
pub fn one(list: &str) -> Any {
    let response: DiscoveryResponse =
        weir_proto::from_yaml_unvalidated(&format!("resources:\n{list}\n")).unwrap_or_else(|error| panic!("{error}"));
    response.resources.into_iter().next().unwrap()
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A token of the issuer that the recordings know, signed with what stands in the place of their made-up key.
pub fn token(claims: &str) -> String {
    let head = base64url(br#"{"alg":"HS256","kid":"k1"}"#);
    let signed = format!("{head}.{}", base64url(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", base64url(signature.as_ref()))
}

pub fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits = (0..=chunk.len()).map(|index| char::from(DIGITS[(word >> (18 - 6 * index) & 63) as usize]));
        text.extend(digits);
    }
    text
}
