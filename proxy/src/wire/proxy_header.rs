//! PROXY protocol towards upstreams: whose connection it is, said before its first byte.
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>: version 1 is section 2.1, version 2 section 2.2.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Begins every header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the connection was made on behalf of another one.
const PROXY: u8 = 0x21;
/// Version 2, and the connection is the proxy's own: a health check.
const LOCAL: u8 = 0x20;
/// TCP over IPv4, TCP over IPv6.
const FAMILIES: [u8; 2] = [0x11, 0x21];

/// How upstreams are told (`ProxyProtocolConfig`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary, with these type-length-values.
    V2(Box<[Tlv]>),
}

/// A type-length-value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: Box<[u8]>,
}

/// Who connected where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The client.
    pub source: SocketAddr,
    /// Where it wanted to go.
    pub destination: SocketAddr,
}

impl ProxyHeader {
    /// The most that the values may take together, with their types and lengths.
    pub const MAX_TLVS: usize = 65535 - 36;

    /// The header of a connection on behalf of `client`. None: it is the proxy's own, from and to the addresses that
    /// `own` gives, which only version 1 says.
    pub fn bytes(&self, client: Option<Client>, own: Client) -> Vec<u8> {
        match self {
            Self::V1 => {
                let (family, source, destination) = match same_family(client.unwrap_or(own)) {
                    (IpAddr::V4(source), destination) => ("TCP4", source.to_string(), destination.to_string()),
                    (IpAddr::V6(source), destination) => ("TCP6", source.to_string(), destination.to_string()),
                };
                let Client { source: from, destination: to } = client.unwrap_or(own);
                format!("PROXY {family} {source} {destination} {} {}\r\n", from.port(), to.port()).into_bytes()
            }
            Self::V2(tlvs) => {
                let mut header = SIGNATURE.to_vec();
                let Some(client) = client else {
                    header.extend([LOCAL, 0, 0, 0]);
                    return header;
                };
                let mut body = Vec::new();
                let family = match same_family(client) {
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        body.extend(source.octets().into_iter().chain(destination.octets()));
                        FAMILIES[0]
                    }
                    (source, destination) => {
                        body.extend(v6(source).octets().into_iter().chain(v6(destination).octets()));
                        FAMILIES[1]
                    }
                };
                body.extend(client.source.port().to_be_bytes());
                body.extend(client.destination.port().to_be_bytes());
                for tlv in tlvs {
                    let length = u16::try_from(tlv.value.len()).unwrap_or(u16::MAX);
                    body.push(tlv.kind);
                    body.extend(length.to_be_bytes());
                    body.extend(&tlv.value[..length.into()]);
                }
                header.extend([PROXY, family]);
                header.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
                header.extend(body);
                header
            }
        }
    }
}

/// Both addresses, of the same family.
fn same_family(client: Client) -> (IpAddr, IpAddr) {
    match (client.source.ip(), client.destination.ip()) {
        (source @ IpAddr::V4(_), destination @ IpAddr::V4(_)) => (source, destination),
        (source, destination) => (v6(source).into(), v6(destination).into()),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, destination: &str) -> Client {
        Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn version_1() {
        let line = |client, own| String::from_utf8(ProxyHeader::V1.bytes(client, own)).unwrap();
        let own = client("10.0.0.1:1", "10.0.0.2:2");
        assert_eq!(line(Some(client("1.2.3.4:5", "6.7.8.9:10")), own), "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
        assert_eq!(line(Some(client("[::1]:5", "[::2]:10")), own), "PROXY TCP6 ::1 ::2 5 10\r\n");
        assert_eq!(line(Some(client("[::1]:5", "6.7.8.9:10")), own), "PROXY TCP6 ::1 ::ffff:6.7.8.9 5 10\r\n");
        assert_eq!(line(None, own), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    }

    #[test]
    fn version_2() {
        let own = client("10.0.0.1:1", "10.0.0.2:2");
        let header = ProxyHeader::V2([Tlv { kind: 5, value: (*b"foo").into() }].into());
        let bytes = header.bytes(Some(client("1.2.3.4:5", "6.7.8.9:258")), own);
        assert_eq!(bytes[..12], SIGNATURE);
        assert_eq!(bytes[12..], *b"\x21\x11\0\x12\x01\x02\x03\x04\x06\x07\x08\x09\0\x05\x01\x02\x05\0\x03foo");
        assert_eq!(header.bytes(Some(client("[::1]:5", "[::2]:1")), own)[13..16], [0x21, 0, 36 + 6]);
        assert_eq!(header.bytes(None, own)[12..], [0x20, 0, 0, 0]);
    }
}
