//! A token, taken apart. Nothing of it is verified yet.

use serde_json::{Map, Value};

use super::{base64url, status::Status};

/// Algorithms that can be verified.
const ALGORITHMS: [&str; 13] = [
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
];

/// The first number that is none of 64 bits.
const OUT_OF_RANGE: f64 = 18_446_744_073_709_551_616.0;

/// A token, taken apart.
#[derive(Clone, Debug)]
pub struct Token {
    /// `alg`, one of those that can be verified.
    pub algorithm: &'static str,
    /// `kid`; empty: none.
    pub key_id: String,
    /// `iss`; empty: none.
    pub issuer: String,
    /// `sub`; empty: none.
    pub subject: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// `nbf`, seconds since the epoch; 0: none.
    pub not_before: u64,
    /// `exp`, seconds since the epoch; 0: none.
    pub expires: u64,
    /// The header.
    pub header: Map<String, Value>,
    /// The claims.
    pub payload: Map<String, Value>,
    /// What is signed: header and payload as they stand in the token.
    pub signed: String,
    /// Where the payload begins in `signed`.
    payload_at: usize,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Token {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        let (Some(header_text), Some(payload_text), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        let bytes = base64url::decode(header_text).ok_or(Status::HeaderNotBase64)?;
        let header: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| Status::HeaderNotJson)?;
        let claimed = text_of(&header, "alg").ok().flatten().ok_or(Status::HeaderAlgorithm)?;
        let known = ALGORITHMS.iter().find(|known| **known == claimed);
        let algorithm = known.copied().ok_or(Status::AlgorithmNotSupported)?;
        let key_id = text_of(&header, "kid").map_err(|_| Status::HeaderKeyId)?.unwrap_or_default().to_owned();
        let bytes = base64url::decode(payload_text).ok_or(Status::PayloadNotBase64)?;
        let payload: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| Status::PayloadNotJson)?;
        let text = |claim, otherwise| Ok(text_of(&payload, claim).map_err(|_| otherwise)?.unwrap_or_default());
        let issuer = text("iss", Status::IssuerNotString)?.to_owned();
        let subject = text("sub", Status::SubjectNotString)?.to_owned();
        seconds(&payload, "iat", Status::IssuedNotInteger, Status::IssuedOutOfRange)?;
        let not_before = seconds(&payload, "nbf", Status::NotBeforeNotInteger, Status::NotBeforeOutOfRange)?;
        let expires = seconds(&payload, "exp", Status::ExpiresNotInteger, Status::ExpiresOutOfRange)?;
        text("jti", Status::IdNotString)?;
        let audiences = audiences(&payload).ok_or(Status::AudienceNotString)?;
        let signature = base64url::decode(signature).ok_or(Status::SignatureNotBase64)?;
        let signed = format!("{header_text}.{payload_text}");
        let payload_at = header_text.len() + 1;
        Ok(Self {
            algorithm,
            key_id,
            issuer,
            subject,
            audiences,
            not_before,
            expires,
            header,
            payload,
            signed,
            payload_at,
            signature,
        })
    }

    /// The payload as it stands in the token.
    pub fn payload_text(&self) -> &str {
        &self.signed[self.payload_at..]
    }

    /// Whether it is valid at a time, seconds since the epoch, give or take so many.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Status> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Status::NotYetValid);
        }
        if self.expires != 0 && now > self.expires.saturating_add(skew) {
            return Err(Status::Expired);
        }
        Ok(())
    }

    /// The claim at the end of a path of names.
    pub fn claim<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Value> {
        let mut path = path.into_iter();
        let first = self.payload.get(path.next()?)?;
        path.try_fold(first, |value, name| value.as_object()?.get(name))
    }
}

/// A member that is a string, if there is one.
fn text_of<'a>(members: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ()> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(()),
    }
}

fn seconds(payload: &Map<String, Value>, claim: &str, not_integer: Status, range: Status) -> Result<u64, Status> {
    let Some(value) = payload.get(claim) else { return Ok(0) };
    let number = value.as_f64().ok_or(not_integer)?;
    if !(0.0..OUT_OF_RANGE).contains(&number) {
        return Err(range);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
    let whole = number as u64;
    Ok(value.as_u64().unwrap_or(whole))
}

fn audiences(payload: &Map<String, Value>) -> Option<Vec<String>> {
    match payload.get("aud") {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(several)) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};

    use super::*;

    fn token(header: &str, payload: &str) -> Result<Token, Status> {
        Token::parse(&format!("{}.{}.AAAA", BASE64.encode(header), BASE64.encode(payload)))
    }

    #[test]
    fn what_is_wrong_with_a_token_is_named() {
        let rs256 = r#"{"alg":"RS256"}"#;
        for (header, payload, status) in [
            ("{", "{}", Status::HeaderNotJson),
            ("{}", "{}", Status::HeaderAlgorithm),
            (r#"{"alg":"none"}"#, "{}", Status::AlgorithmNotSupported),
            (r#"{"alg":"RS256","kid":1}"#, "{}", Status::HeaderKeyId),
            (rs256, "[]", Status::PayloadNotJson),
            (rs256, r#"{"iss":1}"#, Status::IssuerNotString),
            (rs256, r#"{"sub":1}"#, Status::SubjectNotString),
            (rs256, r#"{"iat":"x"}"#, Status::IssuedNotInteger),
            (rs256, r#"{"nbf":-1}"#, Status::NotBeforeOutOfRange),
            (rs256, r#"{"exp":1e30}"#, Status::ExpiresOutOfRange),
            (rs256, r#"{"jti":1}"#, Status::IdNotString),
            (rs256, r#"{"aud":["a",1]}"#, Status::AudienceNotString),
        ] {
            assert_eq!(token(header, payload).unwrap_err(), status, "{header} {payload}");
        }
        for (text, status) in [
            ("a.b", Status::BadFormat),
            ("a..b.", Status::BadFormat),
            ("@@.e30.AAAA", Status::HeaderNotBase64),
            ("eyJhbGciOiJSUzI1NiJ9.@@.AAAA", Status::PayloadNotBase64),
            ("eyJhbGciOiJSUzI1NiJ9.e30.@@", Status::SignatureNotBase64),
        ] {
            assert_eq!(Token::parse(text).unwrap_err(), status, "{text}");
        }
    }

    #[test]
    fn claims_are_found_by_path_and_times_have_a_skew() {
        let token = token(r#"{"alg":"HS256"}"#, r#"{"a":{"b.c":1},"nbf":100,"exp":200,"aud":"x"}"#).unwrap();
        assert_eq!(token.claim(["a", "b.c"]), Some(&1.into()));
        assert_eq!(token.claim(["a", "b", "c"]), None);
        assert_eq!(token.audiences, ["x"]);
        let at = |now| token.check_time(now, 10);
        assert_eq!(
            [at(89), at(90), at(210), at(211)],
            [Err(Status::NotYetValid), Ok(()), Ok(()), Err(Status::Expired)]
        );
        assert_eq!(BASE64.decode(token.payload_text()).unwrap(), br#"{"a":{"b.c":1},"nbf":100,"exp":200,"aud":"x"}"#);
    }
}
