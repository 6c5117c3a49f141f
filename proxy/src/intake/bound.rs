//! Listening sockets that this process binds: one per worker and address, in one SO_REUSEPORT group.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Listener, snapshot::Snapshot};

/// Connections that may wait to be accepted when the configuration does not say; the kernel caps it at
/// `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot bind {address}: {source}")]
pub struct BindError {
    listener: Arc<str>,
    address: SocketAddr,
    source: io::Error,
}

/// The sockets of one address of a listener, one per worker.
#[derive(Debug)]
pub struct BoundListener {
    /// The listener's name.
    pub name: Arc<str>,
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub address: SocketAddr,
    /// One per worker.
    pub sockets: Vec<TcpListener>,
}

/// Binds every listener of `snapshot` that is to be bound, for `workers` workers.
pub fn bind(snapshot: &Snapshot, workers: usize) -> Result<Vec<BoundListener>, BindError> {
    let mut bound = Vec::new();
    for listener in snapshot.listeners().iter().filter(|listener| listener.bind) {
        for address in &listener.addresses {
            let failed = |source| BindError { listener: listener.name.clone(), address: *address, source };
            bound.push(bind_one(listener, *address, workers).map_err(failed)?);
        }
    }
    Ok(bound)
}

fn bind_one(listener: &Listener, mut address: SocketAddr, workers: usize) -> io::Result<BoundListener> {
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = TcpListener::from(listen(listener, address)?);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(BoundListener { name: listener.name.clone(), address, sockets })
}

fn listen(listener: &Listener, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!listener.ipv4_compat)?;
    }
    if listener.freebind {
        if address.is_ipv6() {
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(listener.backlog.unwrap_or(BACKLOG).try_into().unwrap_or(i32::MAX))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn snapshot(addresses: &[SocketAddr], ipv4_compat: bool) -> Snapshot {
        let listener = Listener { addresses: addresses.to_vec(), ipv4_compat, ..Listener::named("ingress") };
        Snapshot::new(vec![Arc::new(listener)], Vec::new())
    }

    #[test]
    fn a_port_in_use_names_the_listener_and_the_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&snapshot(&[address], false), 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("listener ingress: cannot bind {address}: Address already in use (os error 98)")
        );
    }

    #[test]
    fn every_worker_gets_a_socket_of_the_same_port() {
        let bound = bind(&snapshot(&["127.0.0.1:0".parse().unwrap()], false), 3).unwrap();
        assert_ne!(bound[0].address.port(), 0);
        assert_eq!(bound[0].sockets.len(), 3);
        for socket in &bound[0].sockets {
            assert_eq!(socket.local_addr().unwrap(), bound[0].address);
        }
    }

    #[test]
    fn ipv4_compat_decides_whether_the_wildcard_takes_ipv4() {
        for ipv4_compat in [true, false] {
            let bound = bind(&snapshot(&["[::]:0".parse().unwrap()], ipv4_compat), 1).unwrap();
            let reached = TcpStream::connect(("127.0.0.1", bound[0].address.port())).is_ok();
            assert_eq!(reached, ipv4_compat);
        }
    }
}
