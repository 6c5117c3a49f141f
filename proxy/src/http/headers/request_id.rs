//! `x-request-id`: the client's own, or one that is made here.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded::Client;
use crate::config::http::HttpConnectionManager;

pub(in crate::http) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives a request an id, unless it has one that may stay.
pub(in crate::http) fn set(manager: &HttpConnectionManager, headers: &mut HeaderMap, client: Client) {
    if !manager.generate_request_id {
        return;
    }
    let replace = client.edge && !manager.preserve_external_request_id;
    if replace || !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, random());
    }
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
