//! Bodies in chunks (RFC 9112 section 7.1): they pass with their framing made plain. Extensions do not pass, nor does
//! what stands between a chunk and the end of its line, nor do trailers where they are not wanted.

use super::{
    head,
    passing::Passing,
    verdict::{Refusal, Rules},
};

/// Where in a body in chunks the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a chunk's size; `digits`: it has some.
    Size { digits: bool },
    /// In what follows the size in its line. `cr`: after a CR that has not passed.
    Extension { cr: bool },
    /// In a chunk's bytes.
    Chunk,
    /// After them, before the end of the line.
    AfterChunk,
    /// After the last chunk, which is empty.
    Trailers,
}

/// A body in chunks.
#[derive(Debug)]
pub(super) struct Chunked {
    at: At,
    /// Bytes of the chunk that have not come.
    left: u64,
    /// Where in the trailers the line begins that is not complete.
    line: usize,
}

impl Chunked {
    pub fn new() -> Self {
        Self { at: At::Size { digits: false }, left: 0, line: 0 }
    }

    /// Whether all its bytes have come: the last chunk's size has.
    pub fn has_all(&self) -> bool {
        self.at == At::Trailers || (self.left == 0 && matches!(self.at, At::Extension { .. }))
    }

    /// Decides on some of the rest: true at the body's end. `held` is for trailers.
    pub fn feed(&mut self, out: &mut Passing<'_>, held: &mut Vec<u8>, rules: &Rules) -> Result<bool, Refusal> {
        let rest = out.rest();
        match self.at {
            At::Size { digits } => self.size(out, digits)?,
            At::Extension { cr: true } => {
                if rest[0] != b'\n' {
                    return Err(Refusal::Codec);
                }
                out.drop(1);
                out.put(b"\r\n");
                self.end_size();
            }
            At::Extension { cr: false } => {
                let length = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
                out.drop(length);
                match out.rest() {
                    [] => {}
                    [b'\r', b'\n', ..] => {
                        out.keep(2);
                        self.end_size();
                    }
                    [b'\r'] => {
                        out.drop(1);
                        self.at = At::Extension { cr: true };
                    }
                    _ => return Err(Refusal::Codec),
                }
            }
            At::Chunk => {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                out.keep(length);
                self.left -= length as u64;
                if self.left == 0 {
                    self.at = At::AfterChunk;
                }
            }
            At::AfterChunk => {
                if rest.starts_with(b"\r\n") {
                    out.keep(2);
                } else {
                    // As in Envoy, what is there too much is passed over up to the end of the line.
                    let Some(newline) = memchr::memchr(b'\n', rest) else {
                        out.drop_rest();
                        return Ok(false);
                    };
                    out.drop(newline + 1);
                    out.put(b"\r\n");
                }
                self.at = At::Size { digits: false };
            }
            At::Trailers => return self.trailers(out, held, rules),
        }
        Ok(false)
    }

    fn size(&mut self, out: &mut Passing<'_>, mut digits: bool) -> Result<(), Refusal> {
        let mut length = 0;
        for byte in out.rest() {
            let Some(digit) = char::from(*byte).to_digit(16) else {
                if !digits || !matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b';') {
                    return Err(Refusal::Codec);
                }
                self.at = At::Extension { cr: false };
                break;
            };
            digits = true;
            self.at = At::Size { digits };
            self.left = self.left.checked_mul(16).ok_or(Refusal::Codec)? + u64::from(digit);
            length += 1;
        }
        out.keep(length);
        Ok(())
    }

    fn end_size(&mut self) {
        self.at = if self.left == 0 { At::Trailers } else { At::Chunk };
    }

    fn trailers(&mut self, out: &mut Passing<'_>, held: &mut Vec<u8>, rules: &Rules) -> Result<bool, Refusal> {
        if held.is_empty() && out.rest().starts_with(b"\r\n") {
            out.keep(2);
            return Ok(true);
        }
        let mut from = held.len();
        held.extend_from_slice(out.rest());
        while let Some(found) = memchr::memchr(b'\n', &held[from..]) {
            let end = from + found + 1;
            let line = &held[self.line..end];
            if matches!(line, b"\n" | b"\r\n") {
                if end > rules.max_head_bytes {
                    return Err(Refusal::TooLong);
                }
                let surplus = held.len() - end;
                let trailers = head::trailers(&held[..end])?;
                out.drop(out.rest().len() - surplus);
                if rules.trailers {
                    out.put(&trailers);
                }
                out.put(b"\r\n");
                *held = Vec::new();
                return Ok(true);
            }
            self.line = end;
            from = end;
        }
        if held.len() > rules.max_head_bytes {
            return Err(Refusal::TooLong);
        }
        out.drop_rest();
        Ok(false)
    }
}
