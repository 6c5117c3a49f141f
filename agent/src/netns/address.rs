//! The addresses of the namespace that the calling thread is in.

use std::net::{IpAddr, Ipv6Addr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::Error;

/// Addresses of global scope that are not on a loopback interface, in the order of the interfaces.
pub(super) fn pod_addresses() -> Result<Vec<IpAddr>, Error> {
    let interfaces = getifaddrs()
        .map_err(|errno| Error::Socket { action: "list the pod's addresses".to_owned(), source: errno.into() })?;
    let mut addresses = Vec::new();
    for interface in interfaces.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)) {
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        if is_global(ip) && !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    Ok(addresses)
}

/// Whether other machines can reach it: not loopback, unspecified, link-local or multicast.
fn is_global(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => is_link_local(v6),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_addresses_count() {
        for (text, global) in [
            ("10.0.0.2", true),
            ("100.64.0.1", true),
            ("fd00::2", true),
            ("2001:db8::2", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_global(text.parse().unwrap()), global, "{text}");
        }
    }
}
