//! Addresses as the kernel's socket contexts hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `htonl(0xffff)` on a little-endian machine: the third word of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
pub const MAPPED: u32 = 0xffff_0000;

/// An IP address: four 32-bit words in network byte order, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ip(pub [u32; 4]);

impl Ip {
    /// `::`, which also stands for "none".
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address from its word in network byte order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Whether this is an IPv4 address (held in its mapped form).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Equality word by word: `==` on arrays becomes a call to `bcmp`, which eBPF has not.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.0[0] == other.0[0] && self.0[1] == other.0[1] && self.0[2] == other.0[2] && self.0[3] == other.0[3]
    }

    /// 127.0.0.0/8 and `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            self.0[3].to_ne_bytes()[0] == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1u32.to_be()
        }
    }

    /// Loopback, and the unspecified addresses, which Linux connects to the loopback.
    #[inline(always)]
    pub const fn is_loopback_or_unspecified(&self) -> bool {
        self.is_loopback() || (self.is_v4() && self.0[3] == 0) || self.same(&Self::UNSPECIFIED)
    }

    /// IPv6 link-local unicast, fe80::/10 (RFC 4291, section 2.5.6).
    #[inline(always)]
    pub const fn is_v6_link_local(&self) -> bool {
        self.0[0] & 0xffc0_0000u32.to_be() == 0xfe80_0000u32.to_be()
    }
}

impl From<IpAddr> for Ip {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Ip> for IpAddr {
    /// IPv4-mapped addresses come back as IPv4.
    fn from(ip: Ip) -> Self {
        if ip.is_v4() {
            return Ipv4Addr::from(ip.0[3].to_ne_bytes()).into();
        }
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(ip.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).into()
    }
}

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub ip: Ip,
    /// The port, in host byte order.
    pub port: u32,
    /// What the address stands for: a value of [`EndpointRole`].
    pub role: u32,
}
const _: () = assert!(size_of::<Endpoint>() == 24);

/// What an [`Endpoint`] in socket storage stands for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointRole {
    /// An upstream socket of the proxy that leaves the pod; the address is unused.
    Upstream = 0,
    /// The original destination of a redirected outbound connection.
    OriginalDestination = 1,
    /// The real client of an inbound connection, which the proxy dials on to the application.
    RealClient = 2,
}

impl Endpoint {
    /// An endpoint with its role.
    pub fn new(address: SocketAddr, role: EndpointRole) -> Self {
        Self { ip: address.ip().into(), port: address.port().into(), role: role as u32 }
    }

    /// Address and port, IPv4-mapped addresses as IPv4.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip.into(), self.port as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::1", "fd77::10", "fe80::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Ip::from(ip)), ip, "{text}");
        }
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(IpAddr::from(Ip::from(mapped)), "10.1.2.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn loopback_and_link_local_are_recognised() {
        let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1"] {
            assert!(ip(text).is_loopback_or_unspecified(), "{text}");
            assert_eq!(ip(text).is_loopback(), !["0.0.0.0", "::"].contains(&text), "{text}");
        }
        for text in ["128.0.0.1", "10.0.0.127", "::2", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!ip(text).is_loopback_or_unspecified(), "{text}");
        }
        assert!(ip("fe80::1").is_v6_link_local() && ip("febf::1").is_v6_link_local());
        assert!(!ip("fec0::1").is_v6_link_local() && !ip("169.254.1.1").is_v6_link_local());
    }
}
