//! Responses of upstreams that HTTP/1 parsers may read in two ways.

use http::{HeaderMap, StatusCode, header};

/// Whether an HTTP/1 response's headers say in two ways where it ends, or that it has a body which it cannot have: on its
/// way on, its end would be guessed (RFC 9112 section 6.3).
pub(in crate::http) fn is_ambiguous(status: StatusCode, headers: &HeaderMap) -> bool {
    let several = |name| headers.get_all(name).iter().nth(1).is_some();
    let length = headers.get(header::CONTENT_LENGTH);
    if let Some(encoding) = headers.get(header::TRANSFER_ENCODING) {
        let chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
        return !chunked || length.is_some() || status == StatusCode::NO_CONTENT || several(header::TRANSFER_ENCODING);
    }
    length.is_some_and(|length| {
        let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
        !digits || (status == StatusCode::NO_CONTENT && length != "0") || several(header::CONTENT_LENGTH)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn responses_that_end_in_two_ways_are_ambiguous() {
        let ambiguous = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_ambiguous(StatusCode::from_u16(status).unwrap(), &headers)
        };
        let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "Chunked"));
        for fields in [
            &[length, chunked][..],
            &[length, length],
            &[chunked, chunked],
            &[("content-length", "5, 5")],
            &[("transfer-encoding", "gzip, chunked")],
        ] {
            assert!(ambiguous(200, fields), "{fields:?}");
        }
        for (status, fields) in
            [(200, &[][..]), (200, &[length]), (200, &[chunked]), (304, &[length]), (204, &[("content-length", "0")])]
        {
            assert!(!ambiguous(status, fields), "{status} {fields:?}");
        }
        assert!(ambiguous(204, &[length]) && ambiguous(204, &[chunked]));
    }
}
