//! What keeps requests on the same endpoint.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use xxhash_rust::xxh64::xxh64;

use crate::{
    config::request::{RequestView, cookies},
    filter_state::Value,
    matcher::{MatchedHeader, RegexRewrite, query_value},
};

/// `HashPolicy`.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub input: HashInput,
    /// With a hash from here, later policies do not count.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug)]
pub enum HashInput {
    /// A header, rewritten perhaps.
    Header(MatchedHeader, Option<RegexRewrite>),
    /// A cookie.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// An absent one is made and sent to the client, to last so long: 0, for its session.
        ttl: Option<Duration>,
        /// The path of one that is made.
        path: Box<str>,
        /// What else one that is made says, as it is written.
        attributes: Box<str>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Box<str>),
    /// An object of the filter state that has a hash.
    FilterState(Box<str>),
    /// Nothing at all: `connection_properties` that ask for none.
    Nothing,
}

/// The hash of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hashed {
    /// None: nothing to hash was there.
    pub hash: Option<u64>,
    /// `set-cookie` for the response.
    pub cookies: Vec<HeaderValue>,
}

/// The hash of a request by several policies, as Envoy combines them. Absent cookies are made.
pub fn hash(policies: &[HashPolicy], request: &RequestView<'_>) -> Hashed {
    let mut cookies = Vec::new();
    let hash = combined(policies, request, Some(&mut cookies));
    Hashed { hash, cookies }
}

/// The hash of a request as it is: no cookie is made.
pub fn hash_of_present(policies: &[HashPolicy], request: &RequestView<'_>) -> Option<u64> {
    combined(policies, request, None)
}

/// The hash of a request, and in `made` the cookies that are made for it; none: none is.
fn combined(
    policies: &[HashPolicy],
    request: &RequestView<'_>,
    mut made: Option<&mut Vec<HeaderValue>>,
) -> Option<u64> {
    let mut hash: Option<u64> = None;
    for policy in policies {
        let new = match &policy.input {
            HashInput::Header(name, rewrite) => header_hash(name, rewrite.as_ref(), request),
            HashInput::Cookie { name, ttl, path, attributes } => {
                let present = cookies(request.headers).find(|(known, _)| *known == name.as_bytes());
                match (present, ttl, &mut made) {
                    (Some((_, value)), ..) if !value.is_empty() => Some(xxh64(value, 0)),
                    (_, Some(ttl), Some(made)) => {
                        let value = format!("{:016x}", fastrand::u64(..));
                        made.extend(set_cookie(name, &value, *ttl, path, attributes));
                        Some(xxh64(value.as_bytes(), 0))
                    }
                    _ => None,
                }
            }
            HashInput::SourceIp => Some(xxh64(request.remote.to_string().as_bytes(), 0)),
            HashInput::Query(name) => {
                query_value(request.uri.query().unwrap_or_default(), name).map(|value| xxh64(value.as_bytes(), 0))
            }
            HashInput::FilterState(key) => match request.filter_state.and_then(|state| state.get(key)) {
                Some(Value::Keyed(text)) => Some(xxh64(text.as_bytes(), 0)),
                _ => None,
            },
            HashInput::Nothing => None,
        };
        if let Some(new) = new {
            // Rotating keeps two equal hashes from cancelling out.
            hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

fn header_hash(name: &MatchedHeader, rewrite: Option<&RegexRewrite>, request: &RequestView<'_>) -> Option<u64> {
    let bytes = |value: &[u8]| match rewrite {
        Some(rewrite) => rewrite.apply(value),
        None => value.to_vec(),
    };
    let MatchedHeader::Plain(plain) = name else {
        return request.header(name).map(|value| xxh64(&bytes(value), 0));
    };
    let mut values: Vec<Vec<u8>> = header_values(plain, request).map(bytes).collect();
    // The order of several values does not count.
    values.sort();
    match values.as_slice() {
        [] => None,
        [one] => Some(xxh64(one, 0)),
        several => Some(several.iter().fold(0, |seed, value| xxh64(value, seed))),
    }
}

fn header_values<'a>(name: &HeaderName, request: &RequestView<'a>) -> impl Iterator<Item = &'a [u8]> {
    request.headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

fn set_cookie(name: &str, value: &str, ttl: Duration, path: &str, attributes: &str) -> Option<HeaderValue> {
    let mut cookie = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        cookie.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        cookie.push_str(&format!("; Path={path}"));
    }
    cookie.push_str(attributes);
    cookie.push_str("; HttpOnly");
    HeaderValue::try_from(cookie).ok()
}
