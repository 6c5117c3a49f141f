//! `x-request-id`: the client's own, or one that is made here. It says whether the request is traced, and decides on it.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded::Client;
use crate::{
    config::http::{HttpConnectionManager, Sampling},
    matcher::fraction::Fraction,
    runtime::Runtime,
};

pub(in crate::http) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Has a request traced, and its id sent back.
pub(in crate::http) const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// Gives a request an id, unless it has one that may stay.
pub(in crate::http) fn set(manager: &HttpConnectionManager, headers: &mut HeaderMap, client: Client) {
    if !manager.generate_request_id {
        return;
    }
    let replace = client.edge && !manager.preserve_external_request_id;
    if replace || !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, random());
    } else if client.edge && manager.pack_trace_reason {
        // Clients outside do not decide on what is traced.
        Trace::No.note(headers);
    }
}

/// Why a request is traced, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Trace {
    No,
    Sampled,
    /// A service asks for it.
    Service,
    /// The client asks for it.
    Client,
}

/// Where in an id its version stands, which is 4 in one that says nothing else.
const VERSION: usize = 14;
/// Length of an id that has one.
const LENGTH: usize = 36;

impl Trace {
    /// What an id says.
    fn of(id: &[u8]) -> Self {
        match id.get(VERSION).filter(|_| id.len() == LENGTH) {
            Some(b'9') => Self::Sampled,
            Some(b'a') => Self::Service,
            Some(b'b') => Self::Client,
            _ => Self::No,
        }
    }

    fn note(self, headers: &mut HeaderMap) {
        let Some(id) = headers.get_mut(X_REQUEST_ID).filter(|id| id.len() == LENGTH) else { return };
        let version = match self {
            Self::No => b'4',
            Self::Sampled => b'9',
            Self::Service => b'a',
            Self::Client => b'b',
        };
        if id.as_bytes()[VERSION] != version {
            let mut noted = id.as_bytes().to_vec();
            noted[VERSION] = version;
            if let Ok(noted) = HeaderValue::from_bytes(&noted) {
                *id = noted;
            }
        }
    }
}

/// Decides whether a request is traced, by its id, and notes that there.
pub(in crate::http) fn sample(sampling: &Sampling, pack: bool, runtime: &Runtime, headers: &mut HeaderMap) -> Trace {
    if !sampling.by_id {
        return Trace::Sampled;
    }
    let number = headers.get(X_REQUEST_ID).and_then(|id| {
        let digits = std::str::from_utf8(id.as_bytes().get(..8)?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    });
    let Some(number) = number.map(|number| number % 10_000) else { return Trace::No };
    let takes = |key: &str, numerator: u32, denominator: u32, number: u64| {
        let numerator = runtime.integer(key).and_then(|set| u32::try_from(set).ok()).unwrap_or(numerator);
        Fraction { numerator, denominator }.takes(number)
    };
    let noted = headers.get(X_REQUEST_ID).filter(|_| pack).map_or(Trace::No, |id| Trace::of(id.as_bytes()));
    let mut trace = noted;
    if trace == Trace::No {
        if headers.contains_key("x-client-trace-id")
            && takes("tracing.client_enabled", sampling.client, 100, fastrand::u64(..))
        {
            trace = Trace::Client;
        } else if headers.contains_key(FORCE_TRACE) {
            trace = Trace::Service;
        } else if takes("tracing.random_sampling", sampling.random, 10_000, number) {
            trace = Trace::Sampled;
        }
    }
    if trace != Trace::No && !takes("tracing.global_enabled", sampling.overall, 100, number) {
        trace = Trace::No;
    }
    if pack && trace != noted {
        trace.note(headers);
    }
    trace
}

/// A random UUID (version 4).
fn random() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in random.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_random_uuids() {
        let (one, two) = (random(), random());
        let text = one.to_str().unwrap();
        assert_ne!(one, two);
        assert_eq!(&text[14..15], "4");
        assert!("89ab".contains(&text[19..20]));
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }
}
