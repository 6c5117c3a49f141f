//! How a connection of HTTP/2 begins, when a request's head is coming on it, which hyper does not tell, and what went wrong
//! on one, looked for in what hyper says.

use crate::wire::frames::{CONTINUATION, END_HEADERS, Frames, HEADERS};

/// The error of HTTP/2 that an error is made of, if it is.
pub(in crate::http) fn error_of(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    loop {
        match source?.downcast_ref() {
            Some(error) => return Some(error),
            None => source = source?.source(),
        }
    }
}

/// Whether the other side has broken the protocol.
pub(in crate::http) fn broke_protocol(error: &hyper::Error) -> bool {
    error_of(error).is_some_and(h2::Error::is_library)
}

/// The heads of requests in what a client sends.
#[derive(Debug)]
pub(in crate::http) struct Heads {
    frames: Frames,
    /// The frame under way, or the last one, is of a request's head.
    of_head: bool,
    /// And no other follows it.
    is_last: bool,
    /// The stream of the last request.
    last: u32,
    /// A head began in what came last.
    began: bool,
}

impl Heads {
    /// Before the preface.
    pub fn new() -> Self {
        Self { frames: Frames::of_client(), of_head: false, is_last: false, last: 0, began: false }
    }

    /// Takes in what has come. How many streams it resets.
    pub fn feed(&mut self, bytes: &[u8]) -> u64 {
        let mut resets = 0;
        self.began = false;
        self.frames.feed(bytes, |frame| {
            // What comes on a stream that there is already are trailers.
            let begins = frame.kind == HEADERS && frame.stream > self.last;
            if begins {
                self.last = frame.stream;
                self.began = true;
            }
            self.of_head = begins || self.of_head && frame.kind == CONTINUATION;
            self.is_last = frame.flags & END_HEADERS != 0;
            resets += u64::from(frame.is_reset());
        });
        resets
    }

    /// Whether part of a request's head has come, and more is to.
    pub fn in_head(&self) -> bool {
        self.of_head && (!self.is_last || self.frames.in_payload())
    }

    /// Whether that head began in what came last.
    pub fn begins_another(&self) -> bool {
        self.began && self.in_head()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frames::{FRAME_HEAD, PREFACE};

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Feeds all of it byte by byte; where a head was under way.
    fn in_heads(heads: &mut Heads, bytes: &[u8]) -> Vec<bool> {
        bytes
            .iter()
            .map(|byte| {
                heads.feed(&[*byte]);
                heads.in_head()
            })
            .collect()
    }

    #[test]
    fn a_head_goes_on_until_its_last_frame_is_whole() {
        let mut heads = Heads::new();
        assert!(in_heads(&mut heads, PREFACE).iter().all(|in_head| !in_head));
        let settings = frame(4, 0, 0, &[0, 1, 0, 0, 0, 0]);
        assert!(in_heads(&mut heads, &settings).iter().all(|in_head| !in_head));
        let bytes =
            [frame(HEADERS, 0, 1, b"abc"), frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, b"d")];
        let bytes = bytes.concat();
        let expected: Vec<bool> = (1..=bytes.len()).map(|came| came >= FRAME_HEAD && came < bytes.len()).collect();
        assert_eq!(in_heads(&mut heads, &bytes), expected);
    }

    #[test]
    fn trailers_and_other_frames_are_no_heads() {
        let mut heads = Heads::new();
        let mut begins_in = |bytes: &[u8]| {
            assert_eq!(heads.feed(bytes), 0);
            (heads.begins_another(), heads.in_head())
        };
        assert_eq!(begins_in(PREFACE), (false, false));
        assert_eq!(begins_in(&frame(HEADERS, END_HEADERS, 3, b"abc")), (false, false));
        assert_eq!(begins_in(&frame(HEADERS, 0, 3, b"trailer")), (false, false));
        assert_eq!(begins_in(&frame(CONTINUATION, 0, 3, b"more")), (false, false));
        // The end of one head and the beginning of the next.
        let (one, next) = (frame(HEADERS, 0, 5, b"abc"), frame(HEADERS, END_HEADERS, 7, b"abc"));
        assert_eq!(begins_in(&one), (true, true));
        assert_eq!(begins_in(&[]), (false, true));
        let both = [frame(CONTINUATION, END_HEADERS, 5, b"d"), next[..next.len() - 1].to_vec()].concat();
        assert_eq!(begins_in(&both), (true, true));
        assert_eq!(begins_in(b"c"), (false, false));
    }
}
