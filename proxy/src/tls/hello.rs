//! What the first bytes of a connection say about TLS: the `tls_inspector` listener filter.
//!
//! A pure function of the bytes that have come. It reads the ClientHello (RFC 8446 section 4.1.2) out of its records
//! without keeping anything; rustls reads it again when this proxy is the one to answer.

use std::sync::Arc;

use super::{
    fingerprint::{Fingerprints, Parts, Wanted},
    vectors::{ALPN, Reader, SERVER_NAME, SUPPORTED_VERSIONS},
};

/// A ClientHello may be this long; Envoy's default limit.
pub const MAX_HELLO: usize = 16 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const STATUS_REQUEST: u16 = 5;
const PRE_SHARED_KEY: u16 = 41;
const TLS13: u16 = 0x0304;

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// More bytes may tell.
    NeedsMore,
    /// Not TLS.
    NotTls,
    /// Longer than allowed.
    TooLarge,
    /// TLS.
    Hello(Hello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// SNI, in lower case; empty: none.
    pub server_name: String,
    /// ALPN, the most preferred first.
    pub protocols: Vec<String>,
    /// TLS 1.3 is offered.
    pub tls13: bool,
    /// A stapled OCSP response is asked for.
    pub wants_staple: bool,
    /// A session of TLS 1.3 is to go on.
    pub resumes: bool,
    /// Those that were wanted; none: none were.
    pub fingerprints: Option<Arc<Fingerprints>>,
}

/// Looks at the first bytes of a connection.
pub fn look(bytes: &[u8]) -> Seen {
    look_for(bytes, Wanted::default())
}

/// The same, and takes fingerprints.
pub fn look_for(bytes: &[u8], wanted: Wanted) -> Seen {
    // Most ClientHellos are one record.
    let mut joined = Vec::new();
    let mut rest = bytes;
    loop {
        let record = match record(rest) {
            Ok(record) => record,
            Err(seen) => return if bytes.len() >= MAX_HELLO { too_large(seen) } else { seen },
        };
        rest = record.rest;
        let handshake = if joined.is_empty() {
            record.payload
        } else {
            joined.extend_from_slice(record.payload);
            &joined
        };
        match client_hello(handshake, wanted) {
            Seen::NeedsMore if record.complete => {
                if joined.is_empty() {
                    joined.extend_from_slice(record.payload);
                }
            }
            Seen::NeedsMore if bytes.len() >= MAX_HELLO => return Seen::TooLarge,
            seen => return seen,
        }
    }
}

fn too_large(seen: Seen) -> Seen {
    if seen == Seen::NeedsMore { Seen::TooLarge } else { seen }
}

struct Record<'a> {
    payload: &'a [u8],
    complete: bool,
    rest: &'a [u8],
}

/// One record (RFC 8446 section 5.1), perhaps not all of it there yet.
fn record(bytes: &[u8]) -> Result<Record<'_>, Seen> {
    match bytes {
        [kind, ..] if *kind != HANDSHAKE => return Err(Seen::NotTls),
        [_, major, ..] if *major != 3 => return Err(Seen::NotTls),
        _ => {}
    }
    let (Some(header), Some(body)) = (bytes.get(..5), bytes.get(5..)) else { return Err(Seen::NeedsMore) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > (1 << 14) + 2048 {
        return Err(Seen::NotTls);
    }
    Ok(match body.split_at_checked(length) {
        Some((payload, rest)) => Record { payload, complete: true, rest },
        None => Record { payload: body, complete: false, rest: &[] },
    })
}

fn client_hello(handshake: &[u8], wanted: Wanted) -> Seen {
    match handshake.first() {
        None => return Seen::NeedsMore,
        Some(&CLIENT_HELLO) => {}
        Some(_) => return Seen::NotTls,
    }
    let Some(header) = handshake.get(..4) else { return Seen::NeedsMore };
    let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    if length > MAX_HELLO {
        return Seen::TooLarge;
    }
    let Some(body) = handshake[4..].get(..length) else { return Seen::NeedsMore };
    parse(Reader(body), wanted).map_or(Seen::NotTls, Seen::Hello)
}

fn parse(mut body: Reader<'_>, wanted: Wanted) -> Option<Hello> {
    let version = body.short()?;
    let _random = body.take(32)?;
    let _session = body.vector8()?;
    let suites = body.vector16()?;
    let _compression = body.vector8()?;
    let mut hello = Hello::default();
    let fingerprinted = wanted != Wanted::default();
    let mut kinds = Vec::new();
    let mut extensions = if body.0.is_empty() { body } else { body.vector16()? };
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let content = extensions.vector16()?;
        if fingerprinted {
            kinds.push((kind, content));
        }
        match kind {
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN => hello.protocols = protocols(content)?,
            STATUS_REQUEST => hello.wants_staple = true,
            PRE_SHARED_KEY => hello.resumes = true,
            SUPPORTED_VERSIONS => hello.tls13 = offers_tls13(content)?,
            _ => {}
        }
    }
    if fingerprinted {
        let parts = Parts { version, suites, extensions: kinds };
        hello.fingerprints = Some(Arc::new(Fingerprints::of(&parts, wanted)));
    }
    Some(hello)
}

/// RFC 6066 section 3.
fn server_name(mut content: Reader<'_>) -> Option<String> {
    let mut names = content.vector16()?;
    while !names.0.is_empty() {
        let kind = names.byte()?;
        let name = names.vector16()?;
        if kind == 0 {
            return std::str::from_utf8(name.0).ok().map(str::to_ascii_lowercase);
        }
    }
    Some(String::new())
}

/// RFC 8446 section 4.2.1.
fn offers_tls13(mut content: Reader<'_>) -> Option<bool> {
    let mut versions = content.vector8()?;
    let mut found = false;
    while !versions.0.is_empty() {
        found |= versions.short()? == TLS13;
    }
    Some(found)
}

/// RFC 7301 section 3.1.
fn protocols(mut content: Reader<'_>) -> Option<Vec<String>> {
    let mut list = content.vector16()?;
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        names.push(String::from_utf8_lossy(name.0).into_owned());
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A ClientHello as rustls sends it.
    fn sent(name: &'static str, protocols: &[&str]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_is_known_when_it_is_complete_and_not_before() {
        let bytes = sent("A.Test", &["h2", "http/1.1"]);
        for length in 0..bytes.len() {
            assert_eq!(look(&bytes[..length]), Seen::NeedsMore, "{length}");
        }
        let protocols = vec!["h2".into(), "http/1.1".into()];
        let hello =
            Hello { server_name: "a.test".into(), protocols, tls13: true, wants_staple: true, ..Hello::default() };
        assert_eq!(look(&bytes), Seen::Hello(hello.clone()));
        // The same in records of 100 bytes.
        let mut split = Vec::new();
        for piece in bytes[5..].chunks(100) {
            split.extend([HANDSHAKE, 3, 1, 0, piece.len() as u8]);
            split.extend_from_slice(piece);
        }
        assert_eq!(look(&split), Seen::Hello(hello));
        assert_eq!(look(&split[..split.len() - 1]), Seen::NeedsMore);
    }

    #[test]
    fn an_address_is_no_name() {
        let hello = Hello { tls13: true, wants_staple: true, ..Hello::default() };
        assert_eq!(look(&sent("127.0.0.1", &[])), Seen::Hello(hello));
    }

    #[test]
    fn other_protocols_are_told_at_once() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\0"] {
            assert_eq!(look(bytes), Seen::NotTls, "{bytes:?}");
        }
        assert_eq!(look(&[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 0]), Seen::TooLarge);
        let broken = [HANDSHAKE, 3, 1, 0, 6, CLIENT_HELLO, 0, 0, 2, 3, 3];
        assert_eq!(look(&broken), Seen::NotTls);
    }
}
