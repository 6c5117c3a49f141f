//! Sockets in a pod's network namespace: listening ones for the proxy to accept from, and unconnected ones for it to
//! dial with.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use weir_abi::{
    map::{INBOUND_PORT, OUTBOUND_PORT},
    verdict::Direction,
};

use super::{Error, Netns};

/// More than any namespace's `net.core.somaxconn`, which is what limits the backlog then.
const BACKLOG: i32 = 65_535;
/// Accepted connections inherit keepalive, so that a peer that vanished is noticed: first probe after this.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(180);
/// Between the probes of a silent connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A listening socket in a pod, held for the proxies.
#[derive(Clone, Debug)]
pub struct PodListener {
    /// Which connections come in by it.
    pub direction: Direction,
    /// Which worker should accept from it.
    pub worker: u32,
    /// Where it is bound.
    pub address: SocketAddr,
    /// The socket; shared with messages to proxies that are on their way.
    pub socket: Arc<OwnedFd>,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The cookie of the namespace that the calling thread is in.
pub(super) fn netns_cookie() -> Result<u64, Error> {
    let failed = |source| Error::Socket { action: "read the network namespace's cookie".to_owned(), source };
    // Not every namespace has IPv6, nor IPv4 for that matter; all have Unix sockets.
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None).map_err(failed)?;
    cookie_of(&socket).map_err(failed)
}

/// `SO_NETNS_COOKIE` (Linux 5.14).
fn cookie_of(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `length` live over the call, and `length` is the size of `cookie`, which is all that the
    // kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Makes the listening sockets of a pod with these redirect addresses: per worker one outbound socket on each address
/// and one inbound socket for both families. Blocks.
pub fn listeners(netns: &Netns, redirect: &[IpAddr], workers: u32) -> Result<Vec<PodListener>, Error> {
    netns.run(|| {
        let mut made = Vec::new();
        for worker in 0..workers {
            for ip in redirect {
                made.push(listener(Direction::Outbound, worker, SocketAddr::new(*ip, OUTBOUND_PORT))?);
            }
            made.push(inbound_listener(worker)?);
        }
        Ok(made)
    })
}

/// sk_lookup assigns a dual-stack socket to connections of either family. Where IPv6 is switched off at boot, there is
/// only IPv4 to assign to.
fn inbound_listener(worker: u32) -> Result<PodListener, Error> {
    let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), INBOUND_PORT);
    match listener(Direction::Inbound, worker, v6) {
        Err(Error::Socket { source, .. }) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listener(Direction::Inbound, worker, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), INBOUND_PORT))
        }
        made => made,
    }
}

fn listener(direction: Direction, worker: u32, address: SocketAddr) -> Result<PodListener, Error> {
    let socket = bound(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { address },
        _ => Error::Socket { action: format!("listen on {address} in the pod"), source },
    })?;
    Ok(PodListener { direction, worker, address, socket: Arc::new(socket.into()) })
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // An IPv6 address cannot be bound before duplicate address detection is over, which takes a second or two.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(!address.ip().is_unspecified())?;
            socket.set_freebind_v6(true)?;
        }
    }
    // Accepted connections inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Whether some process listens on weir's outbound port at one of these addresses of a namespace: a proxy that outlived its
/// agent, whose listening sockets are to be had back. Blocks.
pub fn is_held(netns: &Netns, redirect: &[IpAddr]) -> Result<bool, Error> {
    let probe = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, OUTBOUND_PORT);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        // Without SO_REUSEPORT the port must be free of listeners; connections that linger do not count.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    netns.run(|| Ok(redirect.iter().any(|ip| probe(ip).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse))))
}

/// Makes unconnected, non-blocking TCP sockets in a namespace. Blocks.
pub fn upstream(netns: &Netns, family: Family, count: u32) -> Result<Vec<OwnedFd>, Error> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    netns.run(|| {
        let make = |_| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None).map(OwnedFd::from);
        (0..count)
            .map(make)
            .collect::<io::Result<_>>()
            .map_err(|source| Error::Socket { action: "make an upstream socket in the pod".to_owned(), source })
    })
}

/// Whether a socket still listens: whoever shares it can end that by shutdown(2).
pub fn is_listening(socket: &OwnedFd) -> bool {
    SockRef::from(socket).is_listener().unwrap_or(false)
}

/// Whether a socket that a proxy handed back is what it says: a listening socket of the namespace with this cookie,
/// bound to this address.
pub fn check_handed_back(socket: BorrowedFd<'_>, cookie: u64, address: SocketAddr) -> Result<(), Error> {
    let wrong = |problem: String| Error::HandedBack { address: address.to_string(), problem };
    let failed = |error: io::Error| wrong(error.to_string());
    let reference = SockRef::from(&socket);
    if !reference.is_listener().map_err(failed)? {
        return Err(wrong("it does not listen".to_owned()));
    }
    let (bound, namespace) = (reference.local_addr().map_err(failed)?.as_socket(), cookie_of(&socket).map_err(failed)?);
    if bound != Some(address) {
        return Err(wrong(format!("it is bound to {bound:?}")));
    }
    if namespace != cookie {
        return Err(wrong("it is in another network namespace".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_cookie_of_this_namespace_is_not_zero_and_stays() {
        let cookie = netns_cookie().unwrap();
        assert!(cookie > 0);
        assert_eq!(netns_cookie().unwrap(), cookie);
    }

    #[test]
    fn sockets_of_a_group_share_their_port_and_are_checked_when_they_come_back() {
        let cookie = netns_cookie().unwrap();
        let first = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let second = bound(address).unwrap();
        assert!(second.is_listener().unwrap() && second.tcp_nodelay().unwrap() && second.keepalive().unwrap());
        check_handed_back(second.as_fd(), cookie, address).unwrap();

        let other = check_handed_back(second.as_fd(), cookie, "127.0.0.1:1".parse().unwrap()).unwrap_err();
        assert!(other.to_string().contains("it is bound to"), "{other}");
        let other = check_handed_back(second.as_fd(), cookie + 1, address).unwrap_err();
        assert!(other.to_string().ends_with("it is in another network namespace"), "{other}");
        let unconnected = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let other = check_handed_back(unconnected.as_fd(), cookie, address).unwrap_err();
        assert!(other.to_string().ends_with("it does not listen"), "{other}");
    }

    #[test]
    fn a_port_that_another_socket_has_alone_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = listener(Direction::Outbound, 0, address).unwrap_err();
        assert!(matches!(error, Error::PortTaken { address: named } if named == address), "{error}");
    }
}
