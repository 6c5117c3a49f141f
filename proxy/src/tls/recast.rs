//! Certificates that BoringSSL takes for a peer's own and webpki does not: those of X.509 v1 and v2, which it cannot
//! read, and those of authorities (`CA:TRUE`).
//!
//! A [`Recast`] is such a certificate written anew as webpki would have it, for the sake of building a chain. Its
//! issuer has signed other bytes: [`Recast::algorithms`] verify its signature over those, so that nothing is trusted
//! that has not been signed.

use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm};

use super::der::{self, Element};

/// `id-ce-basicConstraints`.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// `[0] { INTEGER 2 }`.
const VERSION_3: [u8; 5] = [der::VERSION, 3, 2, 1, 2];
/// `[1]` and `[2]`, unique identifiers of issuer and subject: of v2, and nobody's.
const UNIQUE_IDENTIFIERS: [u8; 2] = [0x81, 0x82];

/// A certificate as v3, without basic constraints.
#[derive(Debug)]
pub struct Recast {
    certificate: CertificateDer<'static>,
    /// What stands in it to be signed.
    written: Vec<u8>,
    /// What was signed.
    signed: Vec<u8>,
}

impl Recast {
    /// Of a certificate; none if it cannot be read, or says what its version cannot say.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (signed, signature) = der::to_be_signed(certificate)?;
        let v3 = signed.content.starts_with(&VERSION_3);
        let mut content = VERSION_3.to_vec();
        for part in signed.parts().filter(|part| part.tag != der::VERSION && !UNIQUE_IDENTIFIERS.contains(&part.tag)) {
            match (part.tag, v3) {
                (der::EXTENSIONS, true) => content.extend(unconstrained(&part)?),
                (der::EXTENSIONS, false) => return None,
                _ => content.extend_from_slice(part.whole),
            }
        }
        let written = der::write(der::SEQUENCE, &content);
        let whole = der::write(der::SEQUENCE, &[&*written, signature].concat());
        Some(Self { certificate: whole.into(), written, signed: signed.whole.to_vec() })
    }

    /// The certificate as webpki reads it.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// `known` algorithms, which verify this certificate's signature over what was signed.
    pub fn algorithms<'a>(&'a self, known: &[&'a dyn SignatureVerificationAlgorithm]) -> Vec<OverSigned<'a>> {
        known.iter().map(|algorithm| OverSigned { algorithm: *algorithm, recast: self }).collect()
    }
}

/// The extensions but for basic constraints.
fn unconstrained(extensions: &Element<'_>) -> Option<Vec<u8>> {
    let list = extensions.parts().next()?;
    let kept = list.parts().filter(|one| !der::is(one, BASIC_CONSTRAINTS)).map(|one| one.whole);
    Some(der::write(der::EXTENSIONS, &der::write(der::SEQUENCE, &kept.collect::<Vec<_>>().concat())))
}

/// A signature algorithm that knows what was signed of one certificate.
#[derive(Debug)]
pub struct OverSigned<'a> {
    algorithm: &'a dyn SignatureVerificationAlgorithm,
    recast: &'a Recast,
}

impl SignatureVerificationAlgorithm for OverSigned<'_> {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let message = if message == self.recast.written { &self.recast.signed } else { message };
        self.algorithm.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}
