//! Interim responses (1xx) of upstreams that speak HTTP/1: hyper reads on to the one that answers, and says nothing of
//! them.

use std::cell::Cell;

use http::StatusCode;

/// Length of a status line's beginning, the status included.
const LENGTH: usize = "HTTP/1.1 100".len();

/// The status that the first response to the request under way begins with: an interim one is seen only there.
#[derive(Debug, Default)]
pub(in crate::http) struct Interim(Cell<Line>);

/// As much of a status line as has come.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Interim {
    /// Another request goes out.
    pub fn begin(&self) {
        self.0.set(Line::default());
    }

    /// These bytes have come.
    pub fn pass(&self, bytes: &[u8]) {
        let mut line = self.0.get();
        if line.length == LENGTH {
            return;
        }
        for byte in bytes {
            // RFC 9112 section 2.2: an empty line before a message is none of it.
            if line.length == 0 && matches!(byte, b'\r' | b'\n') {
                continue;
            }
            let Some(next) = line.bytes.get_mut(line.length) else { break };
            *next = *byte;
            line.length += 1;
        }
        self.0.set(line);
    }

    /// The status of an interim response, if one came first.
    pub fn status(&self) -> Option<StatusCode> {
        let line = self.0.get();
        let status = line.bytes.strip_prefix(b"HTTP/1.1 ").and_then(|status| StatusCode::from_bytes(status).ok());
        status.filter(|status| status.is_informational() && *status != StatusCode::SWITCHING_PROTOCOLS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_status_counts_if_it_is_interim() {
        for (pieces, status) in [
            (&["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"][..], Some(103)),
            (&["\r\nHTT", "P/1.1 10", "0 Continue\r\n\r\n", "HTTP/1.1 103 x"], Some(100)),
            (&["HTTP/1.1 101 Switching Protocols\r\n"], None),
            (&["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 103 x"], None),
            (&["HTTP/1.1 10"], None),
        ] {
            let interim = Interim::default();
            pieces.iter().for_each(|piece| interim.pass(piece.as_bytes()));
            assert_eq!(interim.status().map(|status| status.as_u16()), status, "{pieces:?}");
            interim.begin();
            assert_eq!(interim.status(), None);
        }
    }
}
