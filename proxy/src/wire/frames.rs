//! Frames of HTTP/2 as they pass (RFC 9113 section 4.1). They are only counted through: whether they are as they must be is for
//! hyper to say.

use std::io::IoSlice;

/// What a client begins with (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (section 6).
pub const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
pub const CONTINUATION: u8 = 0x9;
/// Flag of frames that hold a head: it ends here.
pub const END_HEADERS: u8 = 0x4;

/// The length of a frame's own header.
pub const FRAME_HEAD: usize = 9;

/// What a frame's own header says, but for its length.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Frame {
    /// It resets its stream.
    pub fn is_reset(self) -> bool {
        self.kind == RST_STREAM
    }
}

/// The frames of one direction of a connection.
#[derive(Debug, Default)]
pub struct Frames {
    /// What has passed of the next frame's header.
    head: [u8; FRAME_HEAD],
    /// So much of it.
    came: usize,
    /// So many bytes before it: of the preface, or of a payload.
    skip: usize,
}

impl Frames {
    /// What a client sends, before its preface.
    pub fn of_client() -> Self {
        Self { skip: PREFACE.len(), ..Self::default() }
    }

    /// Goes through `bytes`, which come next. `begins` hears of each frame whose header is whole with them.
    pub fn feed(&mut self, mut bytes: &[u8], mut begins: impl FnMut(Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (FRAME_HEAD - self.came).min(bytes.len());
            if self.skip > 0 || wanted == 0 {
                return;
            }
            self.head[self.came..self.came + wanted].copy_from_slice(&bytes[..wanted]);
            self.came += wanted;
            bytes = &bytes[wanted..];
            if self.came == FRAME_HEAD {
                let [high, middle, low, kind, flags, stream @ ..] = self.head;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.came = 0;
                begins(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff });
            }
        }
    }

    /// Whether more of a payload is to come.
    pub fn in_payload(&self) -> bool {
        self.skip > 0
    }

    /// How many streams `bytes`, which come next, reset.
    pub fn resets(&mut self, bytes: &[u8]) -> u64 {
        let mut resets = 0;
        self.feed(bytes, |frame| resets += u64::from(frame.is_reset()));
        resets
    }

    /// The same for the first `length` bytes of `slices`.
    pub fn resets_in(&mut self, slices: &[IoSlice<'_>], mut length: usize) -> u64 {
        let mut resets = 0;
        for slice in slices {
            let part = length.min(slice.len());
            resets += self.resets(&slice[..part]);
            length -= part;
        }
        resets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        // What would be headers of RST_STREAM.
        frame.extend(std::iter::repeat_n(RST_STREAM, length.into()));
        frame
    }

    #[test]
    fn resets_are_counted_wherever_reads_end() {
        let bytes = [PREFACE.to_vec(), frame(4, 0), frame(0, 70), frame(3, 4), frame(8, 4), frame(3, 4)].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::of_client();
            let resets: u64 = bytes.chunks(size).map(|chunk| frames.resets(chunk)).sum();
            assert_eq!(resets, 2, "{size} bytes at once");
        }
    }

    #[test]
    fn what_was_not_written_is_not_counted() {
        let (first, second) = (frame(3, 4), frame(3, 4));
        let slices = [IoSlice::new(&first), IoSlice::new(&second)];
        let mut frames = Frames::default();
        assert_eq!(frames.resets_in(&slices, first.len() + 3), 1);
        assert_eq!(frames.resets(&second[3..]), 1);
    }
}
