//! The heads that nearly all clients send, recognised in one pass: nothing in them is to be changed or refused.

use super::{
    bytes, head,
    verdict::{Body, LONGEST_BODY, LONGEST_TARGET, Rules},
};

const VERSION: &[u8] = b" HTTP/1.1\r\n";

/// How long the head at the beginning of `bytes` is, and how its body ends, if it is complete and plain: an origin-form
/// target without characters that need escapes, version 1.1, whole lines with CRLF, no control characters, and one way
/// at most of saying where the body ends. Nothing it recognises is read otherwise by [`head::read`].
pub(super) fn recognise(bytes: &[u8], rules: &Rules) -> Option<(usize, Body)> {
    let space = bytes.iter().position(|byte| !bytes::is_token(*byte))?;
    let (method, rest) = bytes.split_at(space);
    if !rest.starts_with(b" /") || method == b"CONNECT" || !head::is_method(method, rules) {
        return None;
    }
    let target = rest[1..].iter().position(|byte| !bytes::is_plain_target(*byte))?;
    let version = space + 1 + target;
    if target > LONGEST_TARGET || !bytes[version..].starts_with(VERSION) {
        return None;
    }
    let mut at = version + VERSION.len();
    let mut headers = 0;
    let mut body = Body::None;
    loop {
        let line = &bytes[at..];
        if line.starts_with(b"\r\n") {
            at += 2;
            break;
        }
        let colon = line.iter().position(|byte| !bytes::is_token(*byte))?;
        if colon == 0 || line[colon] != b':' {
            return None;
        }
        let newline = colon + memchr::memchr(b'\n', &line[colon..])?;
        if line[newline - 1] != b'\r' {
            return None;
        }
        // The names that say how a body ends, or that none follows, told apart by their lengths.
        if matches!(colon, 7 | 14 | 17) {
            let (name, value) = (&line[..colon], &line[colon + 1..newline]);
            if name.eq_ignore_ascii_case(b"upgrade") {
                return None;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let length = bytes::decimal(bytes::trimmed(value)).filter(|length| *length <= LONGEST_BODY)?;
                body = (body == Body::None).then_some(Body::Length(length))?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                let chunked = bytes::trimmed(value).eq_ignore_ascii_case(b"chunked");
                body = (chunked && body == Body::None).then_some(Body::Chunked)?;
            }
        }
        headers += 1;
        at += newline + 1;
    }
    // Each line has two control characters: its end.
    let whole_lines = bytes::controls(&bytes[..at]) == 2 * (headers + 2);
    (whole_lines && headers <= rules.max_headers && at <= rules.max_head_bytes).then_some((at, body))
}
