//! Which HTTP a client speaks, from its first bytes, without taking them off the socket.

use super::peek::{self, Stuck};
use crate::{
    config::http::Codec,
    tls::PeerTls,
    wire::{frames::PREFACE, io::Io},
};

/// A request line is looked for in this many bytes.
const LOOK: usize = 64 * 1024;
/// Longest method name.
const LONGEST_METHOD: usize = 32;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// As Envoy's HTTP inspector names it.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Http10 => &["http/1.0"],
            Self::Http11 => &["http/1.1"],
            Self::Http2 => &["h2c"],
        }
    }

    /// What speaks it.
    pub fn codec(self) -> Codec {
        match self {
            Self::Http10 | Self::Http11 => Codec::Http1,
            Self::Http2 => Codec::Http2,
        }
    }

    /// Among what is counted.
    pub fn index(self) -> usize {
        match self {
            Self::Http10 => 0,
            Self::Http11 => 1,
            Self::Http2 => 2,
        }
    }
}

/// What is known after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guess {
    Is(Protocol),
    NotHttp,
    NeedsMore,
}

/// Waits for as many bytes as it takes. None: not HTTP.
pub(super) async fn sniff(stream: &Io) -> Result<Option<Protocol>, Stuck> {
    let guessed = peek::until(stream, LOOK, |bytes| match guess(bytes) {
        Guess::NeedsMore => None,
        guess => Some(guess),
    });
    match guessed.await {
        Ok(Guess::Is(protocol)) => Ok(Some(protocol)),
        Ok(Guess::NotHttp | Guess::NeedsMore) | Err(Stuck::Full) => Ok(None),
        Err(stuck) => Err(stuck),
    }
}

/// Which HTTP a client speaks by how it begins, as soon as that can be told: limits on heads hold from their first byte.
pub(super) async fn sniff_codec(stream: &Io) -> Codec {
    let began = peek::until(stream, PREFACE.len(), |bytes| {
        let common = bytes.len().min(PREFACE.len());
        match bytes[..common] == PREFACE[..common] {
            true => (common == PREFACE.len()).then_some(Codec::Http2),
            false => Some(Codec::Http1),
        }
    });
    // An error comes again when the connection is read.
    began.await.unwrap_or(Codec::Http1)
}

/// Which HTTP a client speaks that has said so in the handshake, or else by its first bytes under TLS.
pub(super) async fn sniff_tls(io: &mut Io, tls: &PeerTls) -> Codec {
    match tls.protocol.as_deref() {
        Some("h2") => Codec::Http2,
        Some(_) => Codec::Http1,
        None => {
            let mut first = Vec::new();
            // An error comes again when the connection is read.
            let _ = io.peek(PREFACE.len(), &mut first).await;
            match first.is_empty() || !PREFACE.starts_with(&first) {
                true => Codec::Http1,
                false => Codec::Http2,
            }
        }
    }
}

fn guess(bytes: &[u8]) -> Guess {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Guess::Is(Protocol::Http2) } else { Guess::NeedsMore };
    }
    // method SP target SP version
    let method = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    if method == 0 || method > LONGEST_METHOD || !bytes[..method].iter().all(|byte| is_token(*byte)) {
        return Guess::NotHttp;
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Guess::NeedsMore };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    match line.get(method) {
        Some(_) if line.ends_with(b" HTTP/1.1") => Guess::Is(Protocol::Http11),
        // Any other version, or none.
        Some(_) => Guess::Is(Protocol::Http10),
        None => Guess::NotHttp,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpStream};

    use super::*;

    #[test]
    fn guesses() {
        for (bytes, expected) in [
            (PREFACE, Guess::Is(Protocol::Http2)),
            (b"PRI * HT", Guess::NeedsMore),
            (b"PRI /x HTTP/1.1\r\n", Guess::Is(Protocol::Http11)),
            (b"GET / HTTP/1.1\r\nhost", Guess::Is(Protocol::Http11)),
            (b"GET / HTTP/1.0\n", Guess::Is(Protocol::Http10)),
            (b"GE", Guess::NeedsMore),
            (b"GET /", Guess::NeedsMore),
            (b"GET /\r\n", Guess::Is(Protocol::Http10)),
            (b"GET / HTTP/9.9\r\n", Guess::Is(Protocol::Http10)),
            (b"GET\r\n", Guess::NotHttp),
            (b"\x16\x03\x01", Guess::NotHttp),
            (b"", Guess::NeedsMore),
        ] {
            assert_eq!(guess(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn bytes_that_come_in_pieces_stay_on_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = Io::from(listener.accept().await.unwrap().0);
        let (protocol, ()) = tokio::join!(sniff(&server), async {
            for piece in [&PREFACE[..5], &PREFACE[5..20], &PREFACE[20..]] {
                client.write_all(piece).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        assert_eq!(protocol, Ok(Some(Protocol::Http2)));
        let mut bytes = [0; 64];
        assert_eq!(server.plain().unwrap().try_read(&mut bytes).unwrap(), PREFACE.len());
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for sent in [&b""[..], b"GET"] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let server = Io::from(listener.accept().await.unwrap().0);
            client.write_all(sent).await.unwrap();
            drop(client);
            assert_eq!(sniff(&server).await, Err(Stuck::Closed));
        }
    }
}
