//! HTTP/2 frames by hand (RFC 9113 section 4.1): written as they stand, also where they break the rules, and taken apart.

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING.
pub const ACK: u8 = 0x1;
/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// Of DATA and HEADERS.
pub const PADDED: u8 = 0x8;
/// Of HEADERS: they tell a priority.
pub const WITH_PRIORITY: u8 = 0x20;
/// Head and end of a message without a body.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Of SETTINGS (section 6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;

/// What a client sends before its first frame (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's own header.
pub const HEAD: usize = 9;

/// Error codes (section 7), by their numbers.
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// A frame that was read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The first frame of `bytes`, if it is there whole, and how long it is.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = bytes.first_chunk::<HEAD>()?;
        let length = HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = bytes.get(HEAD..length)?.to_vec();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some((Self { kind: head[3], flags: head[4], stream, payload }, length))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether its stream ends with it.
    pub fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.has(END_STREAM)
    }

    /// The name of the error that RST_STREAM or GOAWAY tells.
    pub fn error(&self) -> String {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        match self.payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()) {
            Some(code) => {
                let code = u32::from_be_bytes(*code);
                ERRORS.get(code as usize).map_or_else(|| format!("error {code}"), |name| (*name).to_owned())
            }
            None => "(cut off)".to_owned(),
        }
    }

    /// The status of a response's HEADERS: its first field, encoded without a dynamic table.
    pub fn status(&self) -> Option<u16> {
        let mut block = &self.payload[..];
        if self.has(PADDED) {
            block = block.get(1..)?;
        }
        if self.has(WITH_PRIORITY) {
            block = block.get(5..)?;
        }
        // Dynamic table size updates.
        while block.first()? & 0xe0 == 0x20 {
            block = &block[1..];
        }
        let first = *block.first()?;
        if first & 0x80 != 0 {
            return [200, 204, 206, 304, 400, 404, 500].get(usize::from(first & 0x7f).checked_sub(8)?).copied();
        }
        // A literal of the static table's `:status`, in each of its three forms.
        let (index, length) = (first & if first & 0x40 != 0 { 0x3f } else { 0x0f }, *block.get(1)?);
        let value = block.get(2..2 + usize::from(length & 0x7f))?;
        let digits = if length & 0x80 != 0 { huffman_digits(value) } else { String::from_utf8(value.to_vec()).ok()? };
        if (8..=14).contains(&index) { digits.parse().ok() } else { None }
    }
}

/// Three digits in the Huffman code (RFC 7541 appendix B: 0 to 2 are 00000 to 00010, 3 to 9 are 011001 to 011111).
fn huffman_digits(bytes: &[u8]) -> String {
    let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = bytes.len() * 8;
    let mut digits = String::new();
    while digits.len() < 3 && left >= 5 {
        let five = (bits >> (left - 5)) & 0x1f;
        if five < 3 {
            digits.push((b'0' + five as u8) as char);
            left -= 5;
        } else if left >= 6 {
            digits.push((b'0' + ((bits >> (left - 6)) & 0x3f) as u8 - 0x19 + 3) as char);
            left -= 6;
        } else {
            break;
        }
    }
    digits
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()).collect::<Vec<_>>())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A PRIORITY payload, or what stands before a header block: depends on `on`, weight 16.
pub fn priority(on: u32) -> Vec<u8> {
    let mut bytes = on.to_be_bytes().to_vec();
    bytes.push(15);
    bytes
}

/// A header block: literals that are added to no table, in no Huffman code.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name.as_ref());
        string(&mut bytes, value.as_ref());
    }
    bytes
}

/// A string of a header block (RFC 7541 section 5.2), as it stands.
pub fn string(into: &mut Vec<u8>, text: &[u8]) {
    const PREFIX: usize = 0x7f;
    if text.len() < PREFIX {
        into.push(text.len() as u8);
    } else {
        into.push(PREFIX as u8);
        let mut rest = text.len() - PREFIX;
        while rest >= 0x80 {
            into.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        into.push(rest as u8);
    }
    into.extend(text);
}

/// A HEADERS frame with these fields.
pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(flags: u8, stream: u32, fields: &[(N, V)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(fields))
}

pub fn data(flags: u8, stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}
