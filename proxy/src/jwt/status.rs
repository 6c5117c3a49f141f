//! What can be wrong with a token, or with the keys that should verify it.

macro_rules! statuses {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// Why a token is not accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Status {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Status {
            /// Envoy's number of it.
            pub const fn code(self) -> u16 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Envoy's words for it.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

statuses! {
    Missing = 1, "Jwt is missing";
    NotYetValid = 2, "Jwt not yet valid";
    Expired = 3, "Jwt is expired";
    BadFormat = 4, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    HeaderNotBase64 = 5, "Jwt header is an invalid Base64url encoded";
    HeaderNotJson = 6, "Jwt header is an invalid JSON";
    HeaderAlgorithm = 7, "Jwt header [alg] field is required and must be a string";
    AlgorithmNotSupported = 8, "Jwt header [alg] is not supported";
    HeaderKeyId = 9, "Jwt header [kid] field is not a string";
    PayloadNotBase64 = 10, "Jwt payload is an invalid Base64url encoded";
    PayloadNotJson = 11, "Jwt payload is an invalid JSON";
    IssuerNotString = 12, "Jwt payload [iss] field is not a string";
    SubjectNotString = 13, "Jwt payload [sub] field is not a string";
    IssuedNotInteger = 14, "Jwt payload [iat] field is not an integer";
    IssuedOutOfRange = 15, "Jwt payload [iat] field is not a positive 64 bit integer";
    NotBeforeNotInteger = 16, "Jwt payload [nbf] field is not an integer";
    NotBeforeOutOfRange = 17, "Jwt payload [nbf] field is not a positive 64 bit integer";
    ExpiresNotInteger = 18, "Jwt payload [exp] field is not an integer";
    ExpiresOutOfRange = 19, "Jwt payload [exp] field is not a positive 64 bit integer";
    IdNotString = 20, "Jwt payload [jti] field is not a string";
    AudienceNotString = 21, "Jwt payload [aud] field is not a string or string list";
    SignatureNotBase64 = 22, "Jwt signature is an invalid Base64url encoded";
    Ed25519Length = 23, "Jwt ED25519 signature is wrong length";
    UnknownIssuer = 24, "Jwt issuer is not configured";
    AudienceNotAllowed = 25, "Audiences in Jwt are not allowed";
    VerificationFails = 26, "Jwt verification fails";
    KeysNotJson = 28, "Jwks is an invalid JSON";
    NoKeys = 29, "Jwks does not have [keys] field";
    KeysNotArray = 30, "[keys] in Jwks is not an array";
    NoValidKeys = 31, "Jwks doesn't have any valid public key";
    NoKeyMatches = 32, "Jwks doesn't have key to match kid or alg from Jwt";
    FetchFailed = 40, "Jwks remote fetch is failed";
}
