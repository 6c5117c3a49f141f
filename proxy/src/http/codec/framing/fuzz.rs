//! Connections' bytes for fuzzing, read by framing and by the parser after it.

use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::{Framing, Passed, Rules, Verdict, bytes};

/// More headers than these rules allow, or the parser would be the one to refuse.
const HEADERS: usize = 30;

/// The rules that a fuzzed input is read by. `choice`: its first byte.
fn rules(choice: u8) -> Rules {
    Rules {
        max_head_bytes: 600,
        max_headers: 20,
        any_method: choice & 0x80 != 0,
        http_10: choice & 0x40 != 0,
        trailers: choice & 0x20 != 0,
    }
}

/// What passes of `input` when it comes in pieces of this size, and what framing says in the end.
fn passed(rules: Rules, input: &[u8], size: usize) -> (Vec<u8>, Framing) {
    let mut framing = Framing::new(rules);
    let mut passed = Vec::new();
    for piece in input.chunks(size) {
        match framing.feed(piece) {
            Passed::Unchanged => passed.extend_from_slice(piece),
            Passed::Edited(edited) => passed.extend_from_slice(&edited),
        }
    }
    (passed, framing)
}

/// What passes of one connection's bytes does not depend on how they come, and the parser after framing sees the same
/// requests in it.
pub(crate) fn framing(input: &[u8]) {
    let Some((choice, input)) = input.split_first() else { return };
    let rules = rules(*choice);
    let (whole, one) = passed(rules, input, input.len().max(1));
    let (pieces, other) = passed(rules, input, usize::from(choice & 0x1f) + 1);
    let is_refused = |framing: &Framing| framing.verdict().map(|(_, verdict)| matches!(verdict, Verdict::Refused(_)));
    assert_eq!((one.heads, is_refused(&one)), (other.heads, is_refused(&other)));
    assert_eq!(one.broken().is_some(), other.broken().is_some());
    assert_eq!(one.after_upgrade(), other.after_upgrade());
    match one.broken() {
        None => assert!(whole == pieces, "{:?} and {:?}", text(&whole), text(&pieces)),
        // How much of a broken body passes depends on what came with what breaks it.
        Some(_) => {
            let shared = whole.len().min(pieces.len());
            assert!(whole[..shared] == pieces[..shared], "{:?} and {:?}", text(&whole), text(&pieces));
        }
    }
    assert_eq!(heads(&whole), one.heads, "{:?}", text(&whole));
}

/// The requests in `bytes`, which are whole but for the last one's body, each with one way of saying where it ends.
fn heads(mut bytes: &[u8]) -> u32 {
    let mut count = 0;
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else { panic!("no head: {:?}", text(bytes)) };
        count += 1;
        let target = head.path.unwrap_or_default();
        assert!(Method::from_bytes(head.method.unwrap_or_default().as_bytes()).is_ok());
        assert!(Uri::try_from(target).is_ok() && !target.contains('#'), "{target:?}");
        let (mut lengths, mut encodings) = (Vec::new(), Vec::new());
        for field in head.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a name");
            let value = HeaderValue::from_bytes(field.value).expect("a value");
            match name {
                header::CONTENT_LENGTH => lengths.push(bytes::decimal(value.as_bytes()).expect("a length")),
                header::TRANSFER_ENCODING => encodings.push(value.as_bytes().to_ascii_lowercase()),
                _ => {}
            }
        }
        assert!(lengths.len() + encodings.len() <= 1, "{:?}", text(bytes));
        assert!(
            encodings.iter().all(|encoding| encoding == b"chunked")
                && (encodings.is_empty() || head.version == Some(1))
        );
        bytes = &bytes[length..];
        if let Some(length) = lengths.first() {
            bytes = &bytes[usize::try_from(*length).unwrap_or(usize::MAX).min(bytes.len())..];
        } else if !encodings.is_empty() {
            bytes = after_chunks(bytes);
        }
    }
    count
}

/// What follows a body in chunks, each with nothing but its size before it, and its trailers.
fn after_chunks(mut bytes: &[u8]) -> &[u8] {
    loop {
        let Some(line) = bytes.windows(2).position(|two| two == b"\r\n") else {
            assert!(bytes.iter().all(u8::is_ascii_hexdigit), "{:?}", text(bytes));
            return &[];
        };
        let digits = std::str::from_utf8(&bytes[..line]).expect("digits");
        assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{digits:?}");
        let size = u64::from_str_radix(digits, 16).expect("a size");
        bytes = &bytes[line + 2..];
        if size == 0 {
            return match httparse::parse_headers(bytes, &mut [httparse::EMPTY_HEADER; HEADERS]) {
                Ok(httparse::Status::Complete((length, _))) => &bytes[length..],
                Ok(httparse::Status::Partial) => &[],
                Err(error) => panic!("{error}: {:?}", text(bytes)),
            };
        }
        let end = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(rest) = bytes.get(end..).filter(|rest| rest.len() >= 2) else {
            return &[];
        };
        assert_eq!(&rest[..2], b"\r\n");
        bytes = &rest[2..];
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
