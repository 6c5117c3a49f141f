//! What this host is called.

use std::net::{IpAddr, Ipv4Addr};

/// Its first IPv4 address that is not a loopback one.
pub(super) fn address() -> IpAddr {
    nix::ifaddrs::getifaddrs()
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface.address?.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())))
        .find(|address| !address.is_loopback())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
