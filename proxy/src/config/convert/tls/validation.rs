//! What is asked of peers' certificates.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use weir_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SubjectAltNameMatcher, certificate_validation_context::TrustChainVerification,
    subject_alt_name_matcher::SanType,
};

use super::{super::matcher, certificate, loading::Loading};
use crate::{
    config::{
        convert::fields::{item, sub},
        error::Error,
        tls::ShownCertificate,
    },
    tls::{
        certificate::Certificate,
        san::{NameMatcher, NameType},
        verify::{Root, Validation},
    },
};

/// How long a SHA-256 hash is with a colon between its bytes, where Envoy knows them.
const WITH_COLONS: usize = 95;

impl Loading {
    /// What is asked, and whether clients are told the names of the roots.
    pub(super) fn validation(
        &mut self,
        message: &CertificateValidationContext,
        secret: &str,
        at: &str,
    ) -> Result<(Validation, bool), Error> {
        let supported = [
            "trusted_ca",
            "watched_directory",
            "verify_certificate_spki",
            "verify_certificate_hash",
            "match_typed_subject_alt_names",
            "match_subject_alt_names",
            "crl",
            "allow_expired_certificate",
            "trust_chain_verification",
            "only_verify_leaf_cert_crl",
            "max_verify_depth",
            "suppress_client_ca_list",
        ];
        if message.require_signed_certificate_timestamp == Some(true) {
            return Err(Error::at(sub(at, "require_signed_certificate_timestamp"), "not supported"));
        }
        self.cx.only(message, at, &supported, &["require_signed_certificate_timestamp"])?;
        let roots = self.roots(message, secret, at)?;
        let names = names(message, at)?;
        if !names.is_empty() && roots.is_empty() {
            let message = "SAN-based verification of peer certificates without trusted CA is insecure and not allowed";
            return Err(Error::at(at, message));
        }
        if message.allow_expired_certificate && roots.is_empty() {
            let at = sub(at, "allow_expired_certificate");
            return Err(Error::at(at, "the validity of certificates is not looked at without trusted_ca"));
        }
        let crls = self.crls(message, at)?;
        if !crls.is_empty() && roots.is_empty() {
            return Err(Error::at(sub(at, "crl"), "a CRL needs trusted_ca"));
        }
        if message.watched_directory.is_some() || !secret.is_empty() {
            self.follow_source(message.trusted_ca.as_ref());
            self.follow_source(message.crl.as_ref());
        }
        let validation = Validation {
            roots,
            crls,
            only_leaf_crl: message.only_verify_leaf_cert_crl,
            names,
            hashes: pins(&message.verify_certificate_hash, at, "verify_certificate_hash", |text| {
                if text.len() == WITH_COLONS { decode_hex(&text.replace(':', "")) } else { decode_hex(text) }
            })?,
            keys: pins(&message.verify_certificate_spki, at, "verify_certificate_spki", |text| {
                BASE64.decode(text).ok()
            })?,
            allow_expired: message.allow_expired_certificate,
            accept_untrusted: message.trust_chain_verification() == TrustChainVerification::AcceptUntrusted,
            max_depth: message.max_verify_depth,
        };
        Ok((validation, !message.suppress_client_ca_list))
    }

    fn roots(&mut self, message: &CertificateValidationContext, secret: &str, at: &str) -> Result<Vec<Root>, Error> {
        let Some(source) = &message.trusted_ca else { return Ok(Vec::new()) };
        let at = sub(at, "trusted_ca");
        let failed = |error: String| Error::at(&at, format!("failed to load trusted CA certificates: {error}"));
        let pem = self.source(Some(source), &at)?;
        let mut roots = Vec::new();
        for der in CertificateDer::pem_slice_iter(&pem) {
            let der = der.map_err(|error| failed(error.to_string()))?;
            let anchor = anchor_from_trusted_cert(&der).map_err(|error| failed(error.to_string()))?.to_owned();
            let certificate = Certificate::from(der);
            self.shown.roots.push(ShownCertificate {
                path: certificate::path(Some(source)).into(),
                secret: secret.into(),
                certificate: certificate.clone(),
            });
            roots.push(Root { certificate, anchor });
        }
        if roots.is_empty() {
            return Err(failed("there is no certificate in PEM".into()));
        }
        Ok(roots)
    }

    fn crls(
        &mut self,
        message: &CertificateValidationContext,
        at: &str,
    ) -> Result<Vec<CertRevocationList<'static>>, Error> {
        let Some(source) = &message.crl else { return Ok(Vec::new()) };
        let at = sub(at, "crl");
        let failed = |error: String| Error::at(&at, format!("failed to load CRL: {error}"));
        let pem = self.source(Some(source), &at)?;
        let mut crls = Vec::new();
        for der in CertificateRevocationListDer::pem_slice_iter(&pem) {
            let der = der.map_err(|error| failed(error.to_string()))?;
            let crl = OwnedCertRevocationList::from_der(&der).map_err(|error| failed(error.to_string()))?;
            crls.push(CertRevocationList::Owned(crl));
        }
        if crls.is_empty() {
            return Err(failed("there is no CRL in PEM".into()));
        }
        Ok(crls)
    }
}

fn names(message: &CertificateValidationContext, at: &str) -> Result<Vec<NameMatcher>, Error> {
    let mut names = Vec::new();
    for (index, message) in message.match_typed_subject_alt_names.iter().enumerate() {
        names.push(name(message, &item(at, "match_typed_subject_alt_names", index))?);
    }
    #[expect(deprecated, reason = "published configurations use it")]
    let untyped = &message.match_subject_alt_names;
    for (index, message) in untyped.iter().enumerate() {
        let pattern = matcher::string(message, &item(at, "match_subject_alt_names", index))?;
        for kind in [NameType::Dns, NameType::Uri, NameType::Email, NameType::Ip] {
            names.push(NameMatcher { kind, pattern: pattern.clone() });
        }
    }
    Ok(names)
}

fn name(message: &SubjectAltNameMatcher, at: &str) -> Result<NameMatcher, Error> {
    let kind = match message.san_type() {
        SanType::Dns => NameType::Dns,
        SanType::Uri => NameType::Uri,
        SanType::Email => NameType::Email,
        SanType::IpAddress => NameType::Ip,
        other => return Err(Error::at(sub(at, "san_type"), format!("{} is not supported", other.as_str_name()))),
    };
    let at = sub(at, "matcher");
    let pattern = message.matcher.as_ref().ok_or_else(|| Error::at(&at, "a matcher is required"))?;
    Ok(NameMatcher { kind, pattern: matcher::string(pattern, &at)? })
}

fn pins(
    texts: &[String],
    at: &str,
    field: &str,
    decode: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<[u8; 32]>, Error> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            decode(text)
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| Error::at(item(at, field, index), format!("\"{text}\" is not a SHA-256 hash")))
        })
        .collect()
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
