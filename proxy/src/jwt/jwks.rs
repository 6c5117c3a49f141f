//! Sets of keys.

use aws_lc_rs::{
    hmac, rsa,
    signature::{self, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm},
};
use serde_json::{Map, Value};
use x509_parser::{pem::Pem, public_key::PublicKey};

use super::{base64url, status::Status, token::Token};

/// Bytes of an Ed25519 signature.
const ED25519_SIGNATURE: usize = 64;

/// Exponents that RSA keys have in practice; others are refused, as in Envoy.
const EXPONENTS: [&[u8]; 2] = [&[3], &[1, 0, 1]];

/// A set of keys. Keys of it that are no good, or of kinds that are not known, are left out.
#[derive(Debug)]
pub struct Jwks(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// Empty: it is for tokens of any id.
    id: String,
    /// Empty: it is for every algorithm of its kind.
    algorithm: String,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// Of a curve, for the one algorithm that goes with it.
    EllipticCurve(&'static str, ParsedPublicKey),
    Ed25519(ParsedPublicKey),
    Secret(Vec<u8>),
}

impl Jwks {
    /// Reads a set of keys: a JWKS, or certificates by the ids of their keys.
    pub fn parse(text: &[u8]) -> Result<Self, Status> {
        let set: Map<String, Value> = serde_json::from_slice(text).map_err(|_| Status::KeysNotJson)?;
        let keys: Vec<Key> = match set.get("keys") {
            Some(Value::Array(keys)) => keys.iter().filter_map(|key| Key::read(key.as_object()?)).collect(),
            Some(_) => return Err(Status::KeysNotArray),
            None => certificates(&set).ok_or(Status::NoKeys)?,
        };
        if keys.is_empty() { Err(Status::NoValidKeys) } else { Ok(Self(keys)) }
    }

    /// Verifies a token's signature by the keys that are for it.
    pub fn verify(&self, token: &Token) -> Result<(), Status> {
        let mut status = Status::NoKeyMatches;
        for key in self.0.iter().filter(|key| key.is_for(token)) {
            match key.material.verify(token) {
                // Not the key's fault: no other one can do better.
                Err(Status::Ed25519Length) => return Err(Status::Ed25519Length),
                Err(_) => status = Status::VerificationFails,
                Ok(()) => return Ok(()),
            }
        }
        Err(status)
    }
}

/// Certificates by the ids of their keys, each in PEM.
fn certificates(set: &Map<String, Value>) -> Option<Vec<Key>> {
    let of = |(id, value): (&String, &Value)| {
        let text = value.as_str().filter(|text| text.starts_with("-----BEGIN CERTIFICATE-----") && !id.is_empty())?;
        let pem = Pem::iter_from_buffer(text.as_bytes()).next()?.ok()?;
        let certificate = pem.parse_x509().ok()?;
        let PublicKey::RSA(key) = certificate.public_key().parsed().ok()? else { return None };
        let material = Material::rsa(key.modulus, key.exponent)?;
        Some(Key { id: id.clone(), algorithm: String::new(), material })
    };
    (!set.is_empty()).then(|| set.iter().map(of).collect()).flatten()
}

impl Key {
    /// None: it is no good.
    fn read(members: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let (id, algorithm) = (text("kid").unwrap_or_default(), text("alg").unwrap_or_default());
        let bytes = |name: &str| base64url::decode(text(name)?);
        let (material, fits) = match text("kty")? {
            "RSA" => {
                (Material::rsa(&bytes("n")?, &bytes("e")?)?, algorithm.starts_with("RS") || algorithm.starts_with("PS"))
            }
            "EC" => {
                let curve = Curve::of(text("crv"), algorithm)?;
                (Material::elliptic_curve(curve, &bytes("x")?, &bytes("y")?)?, curve.algorithm == algorithm)
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                let key = ParsedPublicKey::new(&signature::ED25519, bytes("x")?).ok()?;
                (Material::Ed25519(key), algorithm == "EdDSA")
            }
            "oct" => {
                let secret = bytes("k").filter(|secret| !secret.is_empty())?;
                (Material::Secret(secret), ["HS256", "HS384", "HS512"].contains(&algorithm))
            }
            _ => return None,
        };
        (algorithm.is_empty() || fits).then(|| Self { id: id.to_owned(), algorithm: algorithm.to_owned(), material })
    }

    fn is_for(&self, token: &Token) -> bool {
        (token.key_id.is_empty() || self.id.is_empty() || self.id == token.key_id)
            && (self.algorithm.is_empty() || self.algorithm == token.algorithm)
    }
}

/// A curve, and the algorithm that goes with it.
#[derive(Clone, Copy)]
struct Curve {
    name: &'static str,
    algorithm: &'static str,
    verification: &'static dyn VerificationAlgorithm,
    /// Bytes of a coordinate.
    length: usize,
}

const CURVES: [Curve; 3] = [
    Curve { name: "P-256", algorithm: "ES256", verification: &signature::ECDSA_P256_SHA256_FIXED, length: 32 },
    Curve { name: "P-384", algorithm: "ES384", verification: &signature::ECDSA_P384_SHA384_FIXED, length: 48 },
    Curve { name: "P-521", algorithm: "ES512", verification: &signature::ECDSA_P521_SHA512_FIXED, length: 66 },
];

impl Curve {
    /// By its name, else by the key's algorithm, else P-256.
    fn of(name: Option<&str>, algorithm: &str) -> Option<Self> {
        let wanted = |curve: &&Self| match name {
            Some(name) if !name.is_empty() => curve.name == name,
            _ if !algorithm.is_empty() => curve.algorithm == algorithm,
            _ => curve.name == "P-256",
        };
        CURVES.iter().find(wanted).copied()
    }
}

impl Material {
    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let without_zeros = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|byte| *byte == 0).collect() };
        let (n, e) = (without_zeros(modulus), without_zeros(exponent));
        let components = RsaPublicKeyComponents { n, e };
        let valid = EXPONENTS.contains(&&*components.e)
            && TryInto::<rsa::PublicEncryptingKey>::try_into(RsaPublicKeyComponents {
                n: &components.n,
                e: &components.e,
            })
            .is_ok();
        valid.then_some(Self::Rsa(components))
    }

    fn elliptic_curve(curve: Curve, x: &[u8], y: &[u8]) -> Option<Self> {
        // An uncompressed point (SEC 1 section 2.3.3).
        let mut point = vec![4];
        for coordinate in [x, y] {
            point.resize(point.len() + curve.length.checked_sub(coordinate.len())?, 0);
            point.extend_from_slice(coordinate);
        }
        Some(Self::EllipticCurve(curve.algorithm, ParsedPublicKey::new(curve.verification, point).ok()?))
    }

    fn verify(&self, token: &Token) -> Result<(), Status> {
        let (signed, signature) = (token.signed.as_bytes(), &*token.signature);
        let fails = |_| Status::VerificationFails;
        match self {
            Self::Rsa(key) => {
                let parameters = match token.algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(Status::VerificationFails),
                };
                key.verify(parameters, signed, signature).map_err(fails)
            }
            Self::EllipticCurve(algorithm, key) if *algorithm == token.algorithm => {
                key.verify_sig(signed, signature).map_err(fails)
            }
            Self::Ed25519(_) if token.algorithm == "EdDSA" && signature.len() != ED25519_SIGNATURE => {
                Err(Status::Ed25519Length)
            }
            Self::Ed25519(key) if token.algorithm == "EdDSA" => key.verify_sig(signed, signature).map_err(fails),
            Self::Secret(secret) => {
                let algorithm = match token.algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return Err(Status::VerificationFails),
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), signed, signature).map_err(fails)
            }
            Self::EllipticCurve(..) | Self::Ed25519(_) => Err(Status::VerificationFails),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{EcdsaKeyPair, KeyPair},
    };
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};

    use super::*;

    fn token(header: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Token {
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode("{}"));
        let signature = BASE64.encode(sign(signed.as_bytes()));
        Token::parse(&format!("{signed}.{signature}")).unwrap()
    }

    fn hs256(header: &str, secret: &[u8]) -> Token {
        token(header, |signed| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed).as_ref().to_vec())
    }

    #[test]
    fn a_key_is_chosen_by_id_and_algorithm() {
        let keys = Jwks::parse(br#"{"keys":[{"kty":"oct","kid":"a","k":"YQ"},{"kty":"oct","alg":"HS256","k":"Yg"}]}"#);
        let keys = keys.unwrap();
        assert_eq!(keys.verify(&hs256(r#"{"alg":"HS256","kid":"a"}"#, b"a")), Ok(()));
        assert_eq!(keys.verify(&hs256(r#"{"alg":"HS256","kid":"z"}"#, b"b")), Ok(()));
        assert_eq!(keys.verify(&hs256(r#"{"alg":"HS256","kid":"z"}"#, b"a")), Err(Status::VerificationFails));
        assert_eq!(keys.verify(&hs256(r#"{"alg":"HS384","kid":"z"}"#, b"b")), Err(Status::NoKeyMatches));
    }

    #[test]
    fn a_public_key_is_no_secret_and_a_curve_has_one_algorithm() {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        let (x, y) = point[1..].split_at(32);
        let keys = format!(r#"{{"keys":[{{"kty":"EC","x":"{}","y":"{}"}}]}}"#, BASE64.encode(x), BASE64.encode(y));
        let keys = Jwks::parse(keys.as_bytes()).unwrap();
        let sign = |signed: &[u8]| pair.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec();
        assert_eq!(keys.verify(&token(r#"{"alg":"ES256"}"#, sign)), Ok(()));
        assert_eq!(keys.verify(&token(r#"{"alg":"ES384"}"#, sign)), Err(Status::VerificationFails));
        assert_eq!(keys.verify(&hs256(r#"{"alg":"HS256"}"#, &point)), Err(Status::VerificationFails));
    }

    #[test]
    fn keys_that_are_no_good_are_left_out() {
        for (text, status) in [
            ("[]", Status::KeysNotJson),
            ("{}", Status::NoKeys),
            (r#"{"keys":1}"#, Status::KeysNotArray),
            (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, Status::NoValidKeys),
            (r#"{"keys":[{"kty":"EC","x":"AQ","y":"AQ"}]}"#, Status::NoValidKeys),
            (r#"{"keys":[{"kty":"oct","alg":"RS256","k":"YQ"}]}"#, Status::NoValidKeys),
        ] {
            assert_eq!(Jwks::parse(text.as_bytes()).unwrap_err(), status, "{text}");
        }
    }
}
