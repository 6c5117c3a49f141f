//! How a client's HTTP/1 bytes are cut into requests: judged before the parser sees them, as Envoy 1.40 judges them.
//!
//! Two parsers that disagree on where a request ends are how requests are smuggled (RFC 9112 section 11.2). What comes
//! from a client is therefore read here first. A head that is plain (`plain`: nearly all are) passes as it came, and so
//! do bodies, which are only counted. Any other is read exactly (`head`): refused, or written anew in the one form that
//! every parser understands alike. Bodies in chunks (`chunked`) lose what is ambiguous in their framing.
//!
//! A pure state machine: bytes in, bytes and a verdict out. What is refused goes on as a request that stands for it
//! ([`Verdict`] says which one), so that it is answered in its turn, after the answers to those before it.
//!
//! Invariant: what passes has, in each head, at most one `content-length` or one `transfer-encoding: chunked`, and is
//! followed by just that body. After an upgrade's head nothing passes: what comes is kept for whom it is upgraded to.

mod bytes;
mod chunked;
#[cfg(test)]
mod corpus;
#[cfg(any(test, feature = "fuzz"))]
pub(in crate::http) mod fuzz;
mod head;
mod passing;
mod plain;
mod target;
mod verdict;

pub(in crate::http) use self::{
    bytes::is_authority,
    passing::Passed,
    verdict::{Refusal, Rules, Verdict},
};
use self::{chunked::Chunked, passing::Passing, verdict::Body};

/// Stands for a refused request. It is never routed: whoever gets it knows its number.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";

/// Where in the stream of requests the next byte is.
#[derive(Debug)]
enum State {
    /// Before a head or in it.
    Head,
    /// So many bytes before the end of a body.
    Length(u64),
    Chunked(Chunked),
    /// After the head of an upgrade.
    Upgrade,
    /// Nothing more passes: the last request is refused, or is one of HTTP/0.9.
    Over,
    /// In a body that is not framed as it must be.
    Broken,
}

/// One connection's requests.
#[derive(Debug)]
pub(in crate::http) struct Framing {
    rules: Rules,
    state: State,
    /// Of a head or of trailers, what has come so far; after an upgrade's head, what has come since.
    held: Vec<u8>,
    /// Where in `held` the line begins that is not complete.
    line: usize,
    /// How many heads have passed.
    heads: u32,
    verdict: Option<(u32, Verdict)>,
    broken: Option<Refusal>,
}

impl Framing {
    pub fn new(rules: Rules) -> Self {
        let state = State::Head;
        Self { rules, state, held: Vec::new(), line: 0, heads: 0, verdict: None, broken: None }
    }

    /// What of `input`, which came from the client, goes on.
    pub fn feed(&mut self, input: &[u8]) -> Passed {
        let mut out = Passing::new(input);
        // The body's bytes before this are not of this input.
        let mut body_begins = 0;
        while !out.rest().is_empty() {
            match &mut self.state {
                State::Head => {
                    self.head(&mut out);
                    body_begins = out.passed();
                }
                State::Length(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(out.rest().len());
                    out.keep(length);
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Chunked(chunked) => match chunked.feed(&mut out, &mut self.held, &self.rules) {
                    Ok(false) => {}
                    Ok(true) => self.state = State::Head,
                    Err(refusal) => {
                        // As in Envoy, which passes a body's bytes on when all that came has been read, or a body has
                        // ended but for its trailers.
                        if !chunked.has_all() {
                            out.take_back(body_begins);
                        }
                        self.broken = Some(refusal);
                        self.state = State::Broken;
                        self.held = Vec::new();
                    }
                },
                State::Upgrade => {
                    self.held.extend_from_slice(out.rest());
                    out.drop_rest();
                }
                State::Over | State::Broken => out.drop_rest(),
            }
        }
        out.finish()
    }

    /// The verdict on a request, the n-th of its connection from 1, if there is one.
    pub fn verdict(&self) -> Option<(u32, Verdict)> {
        self.verdict
    }

    /// Why the body that has begun is refused, if it is.
    pub fn broken(&self) -> Option<Refusal> {
        self.broken
    }

    /// Whether nothing will pass, whatever comes.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over | State::Broken)
    }

    /// Whether what comes next is a head, or its rest: the request before it has come as a whole, if there was one.
    pub fn awaits_no_body(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Whether all that has come belongs to requests that are complete.
    pub fn between_requests(&self) -> bool {
        matches!(self.state, State::Head) && self.held.is_empty()
    }

    /// Whether part of a head has come.
    pub fn in_head(&self) -> bool {
        matches!(self.state, State::Head) && !self.held.is_empty()
    }

    /// What has come after an upgrade's head.
    pub fn after_upgrade(&self) -> &[u8] {
        if matches!(self.state, State::Upgrade) { &self.held } else { &[] }
    }

    fn head(&mut self, out: &mut Passing<'_>) {
        if self.held.is_empty() {
            if let Some((length, body)) = plain::recognise(out.rest(), &self.rules) {
                out.keep(length);
                self.passed(body);
                return;
            }
            // RFC 9112 section 2.2: empty lines before a request are none of it.
            let newlines = out.rest().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            out.drop(newlines);
            match out.rest().first() {
                None => return,
                Some(0..=b' ') => return self.refuse(Refusal::Codec, out),
                Some(_) => {}
            }
        }
        let before = self.held.len();
        self.held.extend_from_slice(out.rest());
        match self.end_of_head(before) {
            Some(length) => {
                out.drop(length - before);
                self.held.truncate(length);
                let held = std::mem::take(&mut self.held);
                self.line = 0;
                self.judge(&held, out);
            }
            None => {
                out.drop_rest();
                if self.held.len() >= self.rules.max_head_bytes {
                    self.refuse(Refusal::TooLong, out);
                } else if self.line > 0
                    && let Err(refusal) = head::request_line(&self.held, &self.rules)
                {
                    self.refuse(refusal, out);
                }
            }
        }
    }

    /// How long the head in `held` is, if it is complete. The first `searched` bytes were searched before.
    fn end_of_head(&mut self, searched: usize) -> Option<usize> {
        let mut from = searched;
        while let Some(found) = memchr::memchr(b'\n', &self.held[from..]) {
            let end = from + found + 1;
            let first = self.line == 0;
            let line = &self.held[self.line..end];
            self.line = end;
            from = end;
            if matches!(line, b"\n" | b"\r\n") || (first && head::is_without_version(line)) {
                return Some(end);
            }
        }
        None
    }

    fn judge(&mut self, held: &[u8], out: &mut Passing<'_>) {
        if let Some((length, body)) = plain::recognise(held, &self.rules)
            && length == held.len()
        {
            out.put(held);
            self.passed(body);
            return;
        }
        match head::read(held, &self.rules) {
            Err(refusal) => self.refuse(refusal, out),
            Ok(read) => {
                out.put(&read.bytes);
                self.passed(read.body);
                if let Some(verdict) = read.verdict {
                    self.verdict = Some((self.heads, verdict));
                    self.state = if verdict == Verdict::Upgrade { State::Upgrade } else { State::Over };
                }
                if read.last {
                    self.state = State::Over;
                }
            }
        }
    }

    fn passed(&mut self, body: Body) {
        self.heads += 1;
        self.state = match body {
            Body::None | Body::Length(0) => State::Head,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Chunked(Chunked::new()),
        };
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Passing<'_>) {
        self.heads += 1;
        self.verdict = Some((self.heads, Verdict::Refused(refusal)));
        self.state = State::Over;
        self.held = Vec::new();
        out.put(REFUSED);
        out.drop_rest();
    }
}

#[cfg(test)]
mod tests;
