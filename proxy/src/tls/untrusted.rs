//! Why a certificate is not trusted, in BoringSSL's words.

use std::{cell::RefCell, mem::discriminant, sync::Arc};

use rustls::{
    CertificateError, Error, OtherError, PeerMisbehaved,
    pki_types::{CertificateDer, UnixTime},
};

use super::certificate::Certificate;

/// A peer whose key is not for signing (`keyUsage`). rustls has no word for it; this one it has for QUIC only.
pub const KEY_USAGE: PeerMisbehaved = PeerMisbehaved::MissingQuicTransportParameters;

/// Why a certificate is not trusted. The texts are BoringSSL's and Envoy's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// `fail_verify_error`.
    #[error("X509_verify_cert: certificate verification error at depth {depth}: {what}")]
    Chain {
        /// Which certificate, the peer's own being 0.
        depth: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// `fail_verify_san`.
    #[error("SAN matcher, certificate SANs are [{0}]")]
    Names(String),
    /// `fail_verify_san`, of a name that was asked for.
    #[error("verify SAN list, expected SANs: [{asked}], certificate SANs: [{presented}]")]
    Asked {
        /// The name.
        asked: String,
        /// Those that the certificate has.
        presented: String,
    },
    /// `fail_verify_cert_hash`.
    #[error("cert hash and spki")]
    Hash,
}

thread_local! {
    /// Why a verifier on this thread refused a certificate last: rustls passes on a kind of error, which decides the alert,
    /// or a text, not both. A refusal comes out of the very call that led to it; nothing else is ever left here, as what
    /// else a handshake does may be interrupted by others' handshakes.
    static FOUND: RefCell<Option<Untrusted>> = const { RefCell::new(None) };
}

impl Untrusted {
    /// What it was that rustls reports as a bad certificate.
    pub fn find(error: &Error) -> Option<Self> {
        match error {
            Error::InvalidCertificate(kind) => {
                FOUND.take().filter(|found| discriminant(&found.kind()) == discriminant(kind))
            }
            _ => None,
        }
    }

    /// As BoringSSL tells peers of it.
    fn kind(&self) -> CertificateError {
        match self {
            Self::Chain { what, .. } if what.contains("expired") || what.contains("not yet valid") => {
                CertificateError::Expired
            }
            Self::Chain { what: "certificate revoked", .. } => CertificateError::Revoked,
            Self::Chain { what: "unsupported certificate purpose", .. } => CertificateError::InvalidPurpose,
            Self::Chain { .. } => CertificateError::UnknownIssuer,
            Self::Names(_) | Self::Asked { .. } | Self::Hash => {
                CertificateError::Other(OtherError(Arc::new(self.clone())))
            }
        }
    }

    pub(super) fn into_rustls(self) -> Error {
        let kind = self.kind();
        FOUND.set(Some(self));
        Error::InvalidCertificate(kind)
    }
}

/// The problem in BoringSSL's words, and which certificate of the chain has it.
pub(super) fn explain(error: &webpki::Error, chain: Vec<Certificate>, now: UnixTime) -> Untrusted {
    use webpki::Error as Problem;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let first_where = |wrong: &dyn Fn(&Certificate) -> bool| chain.iter().position(wrong).unwrap_or(0);
    let last = chain.len() - 1;
    let (depth, what) = match error {
        Problem::CertExpired { .. } => {
            (first_where(&|one| one.content().not_after < seconds), "certificate has expired")
        }
        Problem::CertNotValidYet { .. } => {
            (first_where(&|one| one.content().not_before > seconds), "certificate is not yet valid")
        }
        Problem::UnknownIssuer => match (last, chain[last].content().self_issued) {
            (0, true) => (0, "self signed certificate"),
            (depth, true) => (depth, "self signed certificate in certificate chain"),
            (depth, false) => (depth, "unable to get local issuer certificate"),
        },
        Problem::CertRevoked => (0, "certificate revoked"),
        Problem::UnknownRevocationStatus => (0, "unable to get certificate CRL"),
        Problem::CrlExpired { .. } => (0, "CRL has expired"),
        Problem::InvalidSignatureForPublicKey => (0, "certificate signature failure"),
        Problem::InvalidCrlSignatureForPublicKey => (0, "CRL signature failure"),
        Problem::RequiredEkuNotFoundContext(_) => (0, "unsupported certificate purpose"),
        Problem::EndEntityUsedAsCa => (last.min(1), "invalid CA certificate"),
        Problem::PathLenConstraintViolated => (last, "path length constraint exceeded"),
        Problem::MaximumPathDepthExceeded | Problem::MaximumPathBuildCallsExceeded => {
            (last, "certificate chain too long")
        }
        Problem::NameConstraintViolation => (0, "permitted subtree violation"),
        Problem::UnsupportedCriticalExtension => (0, "unhandled critical extension"),
        _ => (0, "unspecified certificate verification error"),
    };
    Untrusted::Chain { depth, what }
}

/// The certificates that lead up from the peer's own, as far as the peer sent them and anybody looks.
pub(super) fn presented_chain(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    max_depth: Option<u32>,
) -> Vec<Certificate> {
    let most = max_depth.map_or(usize::MAX, |most| most.max(1) as usize);
    let mut chain = vec![Certificate::from(leaf.clone().into_owned())];
    let mut left: Vec<Certificate> = rest.iter().map(|der| Certificate::from(der.clone().into_owned())).collect();
    while let Some(last) = chain.last().map(Certificate::content)
        && !last.self_issued
        && chain.len() <= most
        && let Some(next) = left.iter().position(|one| one.content().subject == last.issuer)
    {
        chain.push(left.swap_remove(next));
    }
    chain
}
