//! Cipher suites of TLS 1.3, with a key schedule (RFC 8446 section 7.1) that hashes no more than it must.
//!
//! They are aws-lc-rs's but for HKDF, which there extracts anew for every secret and prepares the same HMAC key for each
//! that comes of it: a third of what a resumed handshake hashes, which is most of what it computes. HMAC is `hmac`'s, whose
//! keys are a fifth of the size of aws-lc-rs's: each of the two dozen signatures of a handshake copies one.

use std::marker::PhantomData;

use hmac::{KeyInit, Mac};
use rustls::{
    CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        aws_lc_rs::cipher_suite as suite,
        hmac::{Hmac, Key, Tag},
        tls13::{Hkdf, HkdfUsingHmac},
    },
};
use sha2::{Sha256, Sha384};

/// All of them. AES-128 first: the cheapest that is strong enough.
pub const SUITES: [SupportedCipherSuite; 3] = [
    SupportedCipherSuite::Tls13(&AES_128_GCM_SHA256),
    SupportedCipherSuite::Tls13(&AES_256_GCM_SHA384),
    SupportedCipherSuite::Tls13(&CHACHA20_POLY1305_SHA256),
];

static AES_128_GCM_SHA256: Tls13CipherSuite = with_hkdf(suite::TLS13_AES_128_GCM_SHA256, &HKDF_SHA256);
static AES_256_GCM_SHA384: Tls13CipherSuite = with_hkdf(suite::TLS13_AES_256_GCM_SHA384, &HKDF_SHA384);
static CHACHA20_POLY1305_SHA256: Tls13CipherSuite = with_hkdf(suite::TLS13_CHACHA20_POLY1305_SHA256, &HKDF_SHA256);

static HKDF_SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&Algorithm(PhantomData::<hmac::Hmac<Sha256>>));
static HKDF_SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&Algorithm(PhantomData::<hmac::Hmac<Sha384>>));

const fn with_hkdf(suite: SupportedCipherSuite, hkdf_provider: &'static dyn Hkdf) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { panic!("a suite of TLS 1.3") };
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit },
        hkdf_provider,
        aead_alg: suite.aead_alg,
        quic: None,
    }
}

/// HMAC with a digest.
struct Algorithm<M>(PhantomData<M>);

impl<M: Mac + KeyInit + Clone + Send + Sync + 'static> Hmac for Algorithm<M> {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(Prepared(M::new_from_slice(key).expect("HMAC takes keys of any length")))
    }

    fn hash_output_len(&self) -> usize {
        M::output_size()
    }
}

/// A key with which hashing has begun.
struct Prepared<M>(M);

impl<M: Mac + Clone + Send + Sync> Key for Prepared<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut signing = self.0.clone();
        signing.update(first);
        middle.iter().for_each(|part| signing.update(part));
        signing.update(last);
        Tag::new(&signing.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_those_of_aws_lc_rs() {
        let theirs =
            [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
        for (ours, theirs) in SUITES.into_iter().zip(theirs) {
            assert_eq!(ours.suite(), theirs.suite());
            let secrets = [ours, theirs].map(|suite| {
                let hkdf = suite.tls13().unwrap().hkdf_provider;
                let secret = hkdf.extract_from_secret(Some(&[1; 32]), &[2; 48]).expand_block(&[b"one", b"two"]);
                let mut derived = [0; 100];
                hkdf.expander_for_okm(&secret).expand_slice(&[b"three"], &mut derived).unwrap();
                let early = hkdf.extract_from_zero_ikm(None).expand_block(&[b"four"]);
                let signed = hkdf.hmac_sign(&secret, b"five");
                (secret.as_ref().to_vec(), derived, early.as_ref().to_vec(), signed.as_ref().to_vec())
            });
            assert_eq!(secrets[0], secrets[1]);
        }
    }
}
