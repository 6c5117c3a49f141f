//! Heads that are not plain, read as Envoy's parser (QUICHE's Balsa) reads them, and written in one form.

use super::{
    bytes, target,
    verdict::{Body, LONGEST_BODY, Refusal, Rules, Verdict},
};

/// The methods that Envoy's parser knows; the most frequent first.
const METHODS: [&[u8]; 35] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// A head that passes.
#[derive(Debug)]
pub(super) struct Head {
    /// It, written anew.
    pub bytes: Vec<u8>,
    pub body: Body,
    pub verdict: Option<Verdict>,
    /// Nothing of HTTP follows it: it is HTTP/0.9's.
    pub last: bool,
}

/// A request line's parts, which any whitespace separates.
#[derive(Debug)]
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    /// Empty in HTTP/0.9.
    version: &'a [u8],
}

/// A header, its value perhaps of several lines.
#[derive(Debug)]
struct Header<'a> {
    name: &'a [u8],
    value: &'a [u8],
}

impl Header<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value in one line.
    fn unfolded(&self) -> impl Iterator<Item = u8> {
        self.value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// Writes it, its value in one line.
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.name);
        to.extend_from_slice(b": ");
        to.extend(self.unfolded());
        to.extend_from_slice(b"\r\n");
    }
}

/// Whether a method may be used.
pub(super) fn is_method(method: &[u8], rules: &Rules) -> bool {
    METHODS.contains(&method) || (rules.any_method && !method.is_empty() && method.iter().all(|b| bytes::is_token(*b)))
}

/// Whether a request line has no version, so that it is the whole request (HTTP/0.9).
pub(super) fn is_without_version(line: &[u8]) -> bool {
    parts(line).version.is_empty()
}

/// Checks the request line at the beginning of a head that is not complete.
pub(super) fn request_line(head: &[u8], rules: &Rules) -> Result<(), Refusal> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    checked(parts(line), rules).map(|_| ())
}

/// Reads a complete head.
pub(super) fn read(head: &[u8], rules: &Rules) -> Result<Head, Refusal> {
    if head.len() > rules.max_head_bytes {
        return Err(Refusal::TooLong);
    }
    if head.iter().any(|byte| bytes::is_invalid(*byte)) {
        return Err(Refusal::Characters);
    }
    let newline = memchr::memchr(b'\n', head).ok_or(Refusal::Codec)?;
    let (line, lines) = head.split_at(newline + 1);
    let line = checked(parts(line), rules)?;
    let headers = headers(lines)?;
    let framing = Framing::of(&headers)?;
    if headers.iter().any(|header| !header.name.iter().all(|byte| bytes::is_token(*byte))) {
        return Err(Refusal::Codec);
    }
    if headers.len() > rules.max_headers {
        return Err(Refusal::TooMany);
    }
    let connect = line.method == b"CONNECT";
    if connect && framing.length.is_some_and(|length| length != 0) {
        return Err(Refusal::ConnectBody);
    }
    if framing.encodings > 0 {
        if framing.lengths > 0 {
            return Err(Refusal::LengthAndChunked);
        }
        if !framing.chunked || framing.encodings > 1 || connect {
            return Err(Refusal::Encoding);
        }
    }
    let target = target::read(line.target, line.method)?;
    let http_11 = line.version == b"HTTP/1.1";
    if !http_11 && !rules.http_10 {
        return Err(Refusal::Version);
    }
    if !http_11 && framing.encodings > 0 {
        // RFC 9112 section 6.1: a message of HTTP/1.0 with chunks is to be treated as if its framing were faulty.
        return Err(Refusal::Codec);
    }
    let upgrade = connect || is_upgrade(&headers);
    let body = match framing {
        _ if upgrade => Body::None,
        Framing { chunked: true, .. } => Body::Chunked,
        Framing { length: Some(length), .. } => Body::Length(length),
        Framing { .. } => Body::None,
    };
    let mut bytes = Vec::with_capacity(head.len() + target.text.len());
    for part in [line.method, b" ", &target.text, b" ", if http_11 { b"HTTP/1.1" } else { b"HTTP/1.0" }, b"\r\n"] {
        bytes.extend_from_slice(part);
    }
    for header in &headers {
        // What follows an upgrade's head is no body.
        let framing = header.is("transfer-encoding") || (header.is("content-length") && header.value != b"0");
        if upgrade && (framing || (connect && header.is("content-length"))) {
            continue;
        }
        header.write(&mut bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    let verdict = match () {
        () if target.fragment => Some(Verdict::Fragment),
        () if upgrade => Some(Verdict::Upgrade),
        () => None,
    };
    Ok(Head { bytes, body, verdict, last: line.version.is_empty() })
}

/// Reads trailers, which end with an empty line; they are written anew, without that.
pub(super) fn trailers(lines: &[u8]) -> Result<Vec<u8>, Refusal> {
    if lines.iter().any(|byte| bytes::is_invalid(*byte)) {
        return Err(Refusal::Characters);
    }
    let headers = headers(lines)?;
    if headers.iter().any(|header| !header.name.iter().all(|byte| bytes::is_token(*byte))) {
        return Err(Refusal::Codec);
    }
    let mut written = Vec::with_capacity(lines.len());
    headers.iter().for_each(|header| header.write(&mut written));
    Ok(written)
}

fn parts(line: &[u8]) -> RequestLine<'_> {
    let is_space = |byte: &u8| *byte <= b' ';
    let line = bytes::trimmed(line);
    let split = |text: &[u8]| text.iter().position(is_space).unwrap_or(text.len());
    let (method, rest) = line.split_at(split(line));
    let rest = bytes::trimmed(rest);
    let (target, version) = rest.split_at(split(rest));
    RequestLine { method, target, version: bytes::trimmed(version) }
}

fn checked<'a>(line: RequestLine<'a>, rules: &Rules) -> Result<RequestLine<'a>, Refusal> {
    let version = match line.version {
        [] => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    };
    match version && is_method(line.method, rules) && target::is_valid(line.target, line.method) {
        true => Ok(line),
        false => Err(Refusal::Codec),
    }
}

/// The headers of lines that end with an empty one. A line that begins with a space or tab goes on with the one before
/// (RFC 9112 section 5.2).
fn headers(lines: &[u8]) -> Result<Vec<Header<'_>>, Refusal> {
    let mut headers = Vec::new();
    let mut rest = lines;
    while !matches!(rest, [] | [b'\n', ..] | [b'\r', b'\n', ..]) {
        let mut end = memchr::memchr(b'\n', rest).ok_or(Refusal::Codec)? + 1;
        while let Some(b' ' | b'\t') = rest.get(end) {
            end += memchr::memchr(b'\n', &rest[end..]).ok_or(Refusal::Codec)? + 1;
        }
        let (line, others) = rest.split_at(end);
        let colon = memchr::memchr(b':', line).filter(|colon| *colon > 0).ok_or(Refusal::Codec)?;
        let name = &line[..colon];
        // Whitespace in a name, or before the first, is found with its other characters.
        headers.push(Header { name, value: bytes::trimmed(&line[colon + 1..]) });
        rest = others;
    }
    Ok(headers)
}

/// What headers say of where the body ends.
#[derive(Clone, Copy, Debug)]
struct Framing {
    lengths: usize,
    /// The length, if it is one.
    length: Option<u64>,
    encodings: usize,
    /// The last encoding is chunks.
    chunked: bool,
}

impl Framing {
    /// Error: several lengths, or one that is none.
    fn of(headers: &[Header<'_>]) -> Result<Self, Refusal> {
        let mut framing = Self { lengths: 0, length: None, encodings: 0, chunked: false };
        for header in headers {
            if header.is("content-length") {
                framing.lengths += 1;
                framing.length = bytes::decimal(header.value).filter(|length| *length <= LONGEST_BODY);
            } else if header.is("transfer-encoding") {
                framing.encodings += 1;
                framing.chunked = header.unfolded().map(|byte| byte.to_ascii_lowercase()).eq(*b"chunked");
            }
        }
        let bad_length = framing.lengths > 0 && framing.length.is_none() && framing.encodings == 0;
        if framing.lengths > 1 || bad_length { Err(Refusal::Codec) } else { Ok(framing) }
    }
}

/// Whether what follows is not HTTP if the upgrade is accepted. Upgrades to HTTP/2 are ignored.
fn is_upgrade(headers: &[Header<'_>]) -> bool {
    let is = |text: &[u8], what: &str| text.trim_ascii().eq_ignore_ascii_case(what.as_bytes());
    let mut upgrades = headers.iter().filter(|header| header.is("upgrade"));
    let asked = headers
        .iter()
        .filter(|header| header.is("connection"))
        .any(|header| header.value.split(|byte| *byte == b',').any(|token| is(token, "upgrade")));
    asked && upgrades.any(|header| !is(header.value, "h2c"))
}
