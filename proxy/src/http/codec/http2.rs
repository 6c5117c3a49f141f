//! How a connection of HTTP/2 begins, when a request's head is coming on it, which hyper does not tell, and what went wrong
//! on one, looked for in what hyper says.

/// What a client begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// The length of a frame's own header (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
/// Types of frames (section 6).
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
/// Flag of both.
const END_HEADERS: u8 = 0x4;

/// The heads of requests in what a client sends. Frames are only counted through: whether they are as they must be is for hyper to
/// say.
#[derive(Debug)]
pub(in crate::http) struct Heads {
    /// So many bytes before the next frame: of the preface, or of a payload.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// How much of the frame's header has come.
    came: usize,
    /// The frame under way, or the last one, is of a request's head.
    of_head: bool,
    /// And no other follows it.
    is_last: bool,
    /// The stream of the last request.
    last: u32,
}

impl Heads {
    /// Before the preface.
    pub fn new() -> Self {
        Self { skip: PREFACE.len(), head: [0; FRAME_HEAD], came: 0, of_head: false, is_last: false, last: 0 }
    }

    /// Takes in what has come. Whether part of a head is left that began in it.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        let mut began = false;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (FRAME_HEAD - self.came).min(bytes.len());
            if self.skip > 0 || wanted == 0 {
                return began && self.in_head();
            }
            self.head[self.came..self.came + wanted].copy_from_slice(&bytes[..wanted]);
            self.came += wanted;
            bytes = &bytes[wanted..];
            if self.came == FRAME_HEAD {
                self.came = 0;
                began |= self.begin_frame();
            }
        }
    }

    /// A frame begins; whether a head does with it.
    fn begin_frame(&mut self) -> bool {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        // What comes on a stream that there is already are trailers.
        let begins = kind == HEADERS && stream > self.last;
        if begins {
            self.last = stream;
        }
        self.of_head = begins || self.of_head && kind == CONTINUATION;
        self.is_last = flags & END_HEADERS != 0;
        begins
    }

    /// Whether part of a request's head has come, and more is to.
    pub fn in_head(&self) -> bool {
        self.of_head && !(self.is_last && self.skip == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        heads.feed(PREFACE);
        assert!(!heads.feed(&frame(HEADERS, END_HEADERS, 3, b"abc")));
        assert!(!heads.feed(&frame(HEADERS, 0, 3, b"trailer")));
        assert!(!heads.in_head());
        assert!(!heads.feed(&frame(CONTINUATION, 0, 3, b"more")) && !heads.in_head());
        // The end of one head and the beginning of the next.
        let (one, next) = (frame(HEADERS, 0, 5, b"abc"), frame(HEADERS, END_HEADERS, 7, b"abc"));
        assert!(heads.feed(&one) && heads.in_head());
        assert!(!heads.feed(&[]) && heads.in_head());
        let both = [frame(CONTINUATION, END_HEADERS, 5, b"d"), next[..next.len() - 1].to_vec()].concat();
        assert!(heads.feed(&both) && heads.in_head());
        assert!(!heads.feed(b"c") && !heads.in_head());
    }
}
