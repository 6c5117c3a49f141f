//! Certificates with their keys.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weir_proto::envoy::{config::core::v3 as core, extensions::transport_sockets::tls::v3::TlsCertificate};

use super::loading::Loading;
use crate::{
    config::{
        convert::fields::{data_source, sub},
        error::Error,
        tls::ShownCertificate,
    },
    tls::{certificate::Certificate, key_usage, server::KeyPair},
};

impl Loading {
    /// `secret` is the name of the secret that it is; empty: none.
    pub(super) fn certificate(&mut self, message: &TlsCertificate, secret: &str, at: &str) -> Result<KeyPair, Error> {
        let supported = ["certificate_chain", "private_key", "watched_directory", "ocsp_staple"];
        self.cx.only(message, at, &supported, &["signed_certificate_timestamp"])?;
        let chain_at = sub(at, "certificate_chain");
        let chain = self.source(message.certificate_chain.as_ref(), &chain_at)?;
        let chain = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::at(&chain_at, format!("failed to load certificate chain: {error}")))?;
        let Some(leaf) = chain.first() else {
            return Err(Error::at(chain_at, "failed to load certificate chain: there is no certificate in PEM"));
        };
        let leaf = Certificate::from(leaf.clone());
        let content = leaf.checked();
        let content =
            content.map_err(|error| Error::at(&chain_at, format!("failed to load certificate chain: {error}")))?;
        // As BoringSSL, which thinks of no key but RSA's that could do anything else.
        if content.key.is_ecdsa() && !key_usage::may_sign(leaf.der()) {
            let message = "failed to load certificate chain: keyUsage lacks digitalSignature";
            return Err(Error::at(chain_at, message));
        }
        let key_at = sub(at, "private_key");
        let key = self.source(message.private_key.as_ref(), &key_at)?;
        if String::from_utf8_lossy(&key).contains("ENCRYPTED") {
            return Err(Error::at(key_at, "failed to load private key: encrypted keys are not supported yet"));
        }
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|error| Error::at(&key_at, format!("failed to load private key: {error}")))?;
        let ocsp = match &message.ocsp_staple {
            None => Vec::new(),
            Some(source) => self.source(Some(source), &sub(at, "ocsp_staple"))?,
        };
        if message.watched_directory.is_some() || !secret.is_empty() {
            self.follow_source(message.certificate_chain.as_ref());
            self.follow_source(message.private_key.as_ref());
        }
        self.shown.certificates.push(ShownCertificate {
            path: path(message.certificate_chain.as_ref()).into(),
            secret: secret.into(),
            certificate: leaf,
        });
        Ok(KeyPair { chain, key, ocsp })
    }

    /// The bytes of a source that must be there.
    pub(super) fn source(&mut self, source: Option<&core::DataSource>, at: &str) -> Result<Vec<u8>, Error> {
        let source = source.ok_or_else(|| Error::at(at, "a data source is required"))?;
        data_source(source, at)
    }

    pub(super) fn follow_source(&mut self, source: Option<&core::DataSource>) {
        if let Some(core::data_source::Specifier::Filename(path)) = source.and_then(|source| source.specifier.as_ref())
        {
            self.follow(path);
        }
    }
}

/// Where a source's bytes are, as `/certs` says it.
pub(super) fn path(source: Option<&core::DataSource>) -> &str {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(core::data_source::Specifier::Filename(path)) => path,
        _ => "<inline>",
    }
}

/// Why rustls refuses a certificate or its key.
pub(super) fn why(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "failed to load private key: the private key does not match the certificate".into()
        }
        other => format!("failed to load certificate or private key: {other}"),
    }
}
