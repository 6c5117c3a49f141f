//! JSON web tokens (RFC 7519), and sets of keys (RFC 7517) that verify them.
//!
//! What is wrong with a token is told in Envoy's words ([`Status`]), which clients and access logs see. Signatures are
//! verified by aws-lc, as TLS's are. A key is for the algorithms of its kind and, an elliptic curve's, of its curve only
//! (RFC 7518 section 3.4): what a token's header claims never chooses among them.

mod base64url;
mod jwks;
mod status;
mod token;

pub use self::{jwks::Jwks, status::Status, token::Token};
