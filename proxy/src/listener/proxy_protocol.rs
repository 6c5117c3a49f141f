//! The PROXY protocol, versions 1 and 2, as the `proxy_protocol` listener filter reads it
//! (<https://www.haproxy.org/download/3.1/doc/proxy-protocol.txt>).
//!
//! A pure function of the bytes that have come. Where the text of the protocol leaves room, this is as strict as Envoy:
//! addresses must be unicast, a version 1 line has single spaces and at most 108 bytes, a version 2 header of a PROXY
//! command has IPv4 or IPv6 addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use crate::{
    config::listener::{ProxyProtocol, TlvRule},
    matcher::metadata::Metadata,
};

/// How a version 2 header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How a version 1 line begins.
const PROXY: &[u8; 6] = b"PROXY ";
/// A version 2 header without addresses.
const FIXED: usize = 16;
/// The longest version 1 line that Envoy takes, with its end.
const LONGEST_LINE: usize = 108;
/// The longest header of all.
pub(super) const LONGEST: usize = FIXED + u16::MAX as usize;

/// The versions, as indices of what is counted.
const V1: usize = 0;
const V2: usize = 1;

/// What is known after some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// More bytes may tell.
    NeedsMore,
    /// No header; the connection may go on without.
    Absent,
    /// A header, all of which is there.
    Found(Header),
    /// A header of this version (by index), which is not to be read.
    Disallowed(usize),
    /// A header of this version that breaks the protocol; none: no header where there must be one.
    Malformed(Option<usize>),
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// By index.
    pub version: usize,
    /// Bytes that it takes.
    pub length: usize,
    /// The client, and where it went; none: the connection is the proxy's own, or it does not say.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Where its TLVs are.
    pub tlvs: Range<usize>,
}

/// Looks at the first bytes of a connection.
pub(super) fn look(bytes: &[u8], settings: &ProxyProtocol) -> Seen {
    if settings.optional {
        let may_be = |begin: &[u8]| {
            let common = bytes.len().min(begin.len());
            bytes[..common] == begin[..common]
        };
        let possible = settings.v2 && may_be(SIGNATURE) || settings.v1 && may_be(PROXY);
        if !possible {
            return Seen::Absent;
        }
    }
    if bytes.len() >= FIXED {
        if bytes.starts_with(SIGNATURE) {
            if !settings.v2 {
                return Seen::Disallowed(V2);
            }
            return version2(bytes).unwrap_or(Seen::Malformed(Some(V2)));
        }
        if !bytes.starts_with(PROXY) {
            return Seen::Malformed(None);
        }
    }
    // A line that ends at its second byte may be the beginning of version 2's signature.
    let end = (2..bytes.len()).find(|index| bytes[*index] == b'\n' && bytes[*index - 1] == b'\r');
    match end {
        Some(end) if bytes.starts_with(&SIGNATURE[..4]) && end < SIGNATURE.len() => Seen::NeedsMore,
        Some(end) => {
            if !settings.v1 {
                return Seen::Disallowed(V1);
            }
            let length = end + 1;
            match version1(&bytes[..length]).filter(|_| length <= LONGEST_LINE) {
                Some(addresses) => Seen::Found(Header { version: V1, length, addresses, tlvs: length..length }),
                None => Seen::Malformed(Some(V1)),
            }
        }
        None if bytes.len() > LONGEST_LINE => Seen::Malformed(None),
        None => Seen::NeedsMore,
    }
}

/// The addresses of a line; none: it is not one.
#[expect(clippy::option_option, reason = "a line may say that it does not know")]
fn version1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let mut parts = line.split(' ');
    if parts.next() != Some("PROXY") {
        return None;
    }
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (from, to, from_port, to_port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let ip = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let from = SocketAddr::new(ip(from)?, from_port.parse().ok()?);
    let to = SocketAddr::new(ip(to)?, to_port.parse().ok()?);
    unicast(from, to).map(Some)
}

/// None: it breaks the protocol.
fn version2(bytes: &[u8]) -> Option<Seen> {
    let [version_command, family_transport, high, low] = *bytes.get(12..FIXED)?.first_chunk()?;
    let said = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return None;
    }
    let addresses = match version_command & 0x0f {
        // The proxy's own connection: nothing of the header counts.
        0 => 0,
        1 => match family_transport >> 4 {
            1 => 12,
            2 => 36,
            _ => return None,
        },
        _ => return None,
    };
    if said < addresses || (addresses > 0 && !matches!(family_transport & 0x0f, 1 | 2)) {
        return None;
    }
    let length = FIXED + said;
    let Some(header) = bytes.get(..length) else { return Some(Seen::NeedsMore) };
    let (fields, tlvs) = (&header[FIXED..FIXED + addresses], FIXED + addresses..length);
    let port = |at: usize| Some(u16::from_be_bytes(*fields.get(at..)?.first_chunk()?));
    let pair = match addresses {
        12 => {
            let ip = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*fields.get(at..)?.first_chunk::<4>()?)));
            Some((SocketAddr::new(ip(0)?, port(8)?), SocketAddr::new(ip(4)?, port(10)?)))
        }
        36 => {
            let ip = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*fields.get(at..)?.first_chunk::<16>()?)));
            Some((SocketAddr::new(ip(0)?, port(32)?), SocketAddr::new(ip(16)?, port(34)?)))
        }
        _ => None,
    };
    let pair = match pair {
        Some((from, to)) => Some(unicast(from, to)?),
        None => None,
    };
    // Of the proxy's own connection the rest is not read.
    let tlvs = if pair.is_some() { tlvs } else { length..length };
    if !each_tlv(&header[tlvs.clone()], |_, _| {}) {
        return None;
    }
    Some(Seen::Found(Header { version: V2, length, addresses: pair, tlvs }))
}

fn unicast(from: SocketAddr, to: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let is_unicast = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    (is_unicast(from) && is_unicast(to)).then_some((from, to))
}

/// Calls `see` with the type and value of every TLV; false: the last is cut short.
fn each_tlv<'a>(mut bytes: &'a [u8], mut see: impl FnMut(u8, &'a [u8])) -> bool {
    while let [kind, rest @ ..] = bytes {
        let Some((length, rest)) = rest.split_first_chunk() else { return false };
        let Some((value, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { return false };
        see(*kind, value);
        bytes = rest;
    }
    true
}

/// What the rules make of TLVs. Of several of one type the first counts.
pub(super) fn metadata(tlvs: &[u8], rules: &[TlvRule]) -> Option<Box<Metadata>> {
    let mut metadata: Option<Box<Metadata>> = None;
    each_tlv(tlvs, |kind, value| {
        for rule in rules.iter().filter(|rule| rule.kind == kind) {
            let known = metadata.get_or_insert_default();
            if known.get(&rule.namespace, std::slice::from_ref(&rule.key)).is_none() {
                known.set(&rule.namespace, &rule.key, text(value, rule.base64));
            }
        }
    });
    metadata
}

fn text(value: &[u8], base64: bool) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if base64 {
        return STANDARD.encode(value);
    }
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz {
    use super::*;
    use crate::config::listener::ProxyProtocolStats;

    pub(super) fn settings(optional: bool, v1: bool, v2: bool) -> ProxyProtocol {
        let rules = vec![
            TlvRule { kind: 2, namespace: "n".into(), key: "authority".into(), base64: false },
            TlvRule { kind: 5, namespace: "n".into(), key: "id".into(), base64: true },
        ];
        ProxyProtocol { optional, v1, v2, rules, stats: ProxyProtocolStats::new(&Default::default(), "") }
    }

    /// Bytes are a header or not, and whether more are needed is said before all are there: what is decided stays.
    pub fn proxy_protocol(input: &[u8]) {
        let Some((flags, bytes)) = input.split_first() else { return };
        let settings = settings(flags & 1 != 0, flags & 2 == 0, flags & 4 == 0);
        let seen = look(bytes, &settings);
        if let Seen::Found(header) = &seen {
            assert!(header.length <= bytes.len() && header.tlvs.end <= header.length);
            metadata(&bytes[header.tlvs.clone()], &settings.rules);
            assert_eq!(look(&bytes[..header.length], &settings), seen, "what follows a header does not count");
            if header.version == V2 {
                assert_eq!(look(&bytes[..header.length - 1], &settings), Seen::NeedsMore);
            }
        }
        if seen == Seen::NeedsMore {
            for length in 0..bytes.len().min(256) {
                assert_eq!(look(&bytes[..length], &settings), Seen::NeedsMore, "at {length}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(bytes: &[u8]) -> Seen {
        look(bytes, &fuzz::settings(false, true, true))
    }

    fn addresses(from: &str, to: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((from.parse().unwrap(), to.parse().unwrap()))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    const FOUR: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 3, 232, 7, 208];

    #[test]
    fn lines() {
        let found = |text: &str| match see(text.as_bytes()) {
            Seen::Found(header) => {
                assert_eq!(header.length, text.len());
                header.addresses
            }
            other => panic!("{text:?}: {other:?}"),
        };
        assert_eq!(found("PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n"), addresses("1.2.3.4:1000", "5.6.7.8:2000"));
        assert_eq!(found("PROXY TCP6 ::1 ::2 1 2\r\n"), addresses("[::1]:1", "[::2]:2"));
        assert_eq!(found("PROXY UNKNOWN\r\n"), None);
        assert_eq!(found("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        assert_eq!(found(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92))), None);
        for line in [
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 70000 2000\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 2000\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000 3\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1000 2000\r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1000 2000\r\n",
            "PROXY TCP4 239.2.3.4 5.6.7.8 1000 2000\r\n",
            "PROXY TCP4 0.0.0.0 5.6.7.8 1000 2000\r\n",
            "PROXY\r\n",
            "hello\r\n",
        ] {
            assert_eq!(see(line.as_bytes()), Seen::Malformed(Some(V1)), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(93));
        assert_eq!(see(long.as_bytes()), Seen::Malformed(Some(V1)));
        for text in ["", "PROXY TC", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\n", "GE", "\r\n"] {
            assert_eq!(see(text.as_bytes()), Seen::NeedsMore, "{text:?}");
        }
        assert_eq!(see(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Seen::Malformed(None));
        assert_eq!(see(format!("PROXY {}", "x".repeat(200)).as_bytes()), Seen::Malformed(None));
    }

    #[test]
    fn binary_headers() {
        let found = |bytes: &[u8]| match see(&[bytes, b"hello"].concat()) {
            Seen::Found(header) => {
                assert_eq!(header.length, bytes.len());
                header.addresses
            }
            other => panic!("{bytes:?}: {other:?}"),
        };
        let expected = addresses("1.2.3.4:1000", "5.6.7.8:2000");
        assert_eq!(found(&v2(0x21, 0x11, FOUR)), expected);
        assert_eq!(found(&v2(0x21, 0x12, FOUR)), expected);
        assert_eq!(found(&v2(0x20, 0, &[])), None);
        assert_eq!(found(&v2(0x20, 0x11, FOUR)), None);
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 1, 2);
        assert_eq!(found(&v2(0x21, 0x21, &six)), addresses("[::1]:1", "[::2]:2"));
        for (command, family, rest) in [
            (0x22, 0x11, FOUR),
            (0x11, 0x11, FOUR),
            (0x21, 0x00, &[]),
            (0x21, 0x31, &[1; 216]),
            (0x21, 0x10, FOUR),
            (0x21, 0x11, &FOUR[..8]),
            (0x21, 0x11, &[FOUR, &[2, 0]].concat()),
            (0x21, 0x11, &[FOUR, &[2, 0, 9, 1]].concat()),
        ] {
            assert_eq!(see(&v2(command, family, rest)), Seen::Malformed(Some(V2)), "{command:x} {family:x} {rest:?}");
        }
        let whole = v2(0x21, 0x11, &[FOUR, &[2, 0, 1, b'a']].concat());
        for length in 0..whole.len() {
            assert_eq!(see(&whole[..length]), Seen::NeedsMore, "{length}");
        }
    }

    #[test]
    fn what_is_optional_and_what_is_not_to_be_read() {
        let line = b"PROXY UNKNOWN\r\nxxxxxxxxxxxxxx";
        let binary = v2(0x20, 0, &[]);
        let optional = fuzz::settings(true, true, false);
        assert_eq!(look(b"GE", &optional), Seen::Absent);
        assert_eq!(look(b"PRO", &optional), Seen::NeedsMore);
        assert_eq!(look(&binary, &optional), Seen::Absent);
        assert_eq!(look(line, &fuzz::settings(false, false, true)), Seen::Disallowed(V1));
        assert_eq!(look(&binary, &fuzz::settings(false, true, false)), Seen::Disallowed(V2));
    }

    #[test]
    fn rules_pick_tlvs() {
        let tlvs = [2, 0, 4, b'a', 0xff, 0x80, b'b', 5, 0, 1, 255, 2, 0, 1, b'c', 9, 0, 0];
        let metadata = metadata(&tlvs, &fuzz::settings(false, true, true).rules).unwrap();
        let get = |key: &str| metadata.get("n", &[key.into()]).and_then(|value| value.as_str()).unwrap().to_owned();
        assert_eq!(get("authority"), "a!!b");
        assert_eq!(get("id"), "/w==");
        assert!(super::metadata(&tlvs, &[]).is_none());
    }
}
