//! Listening sockets that this process binds: one per worker and address, in one SO_REUSEPORT group.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    config::{
        Listener,
        listener::{AddressOptions, ListenerSockets, Pipe},
        snapshot::Snapshot,
    },
    wire::{
        named::{Name, NamedAddress},
        pipe::{self, ListeningSocket},
        socket_option::{self, SocketOption, SocketState},
    },
};

/// Connections that may wait to be accepted when the configuration does not say; the kernel caps it at
/// `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot bind {address}: {source}")]
pub struct BindError {
    listener: Arc<str>,
    address: String,
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
    pub sockets: Vec<ListeningSocket>,
}

/// Binds every listener of `snapshot` that is to be bound, for `workers` workers.
pub fn bind(snapshot: &Snapshot, workers: usize) -> Result<Vec<BoundListener>, BindError> {
    let mut bound = Vec::new();
    for listener in snapshot.listeners() {
        bound.extend(bind_listener(listener, workers)?);
    }
    Ok(bound)
}

/// Binds a listener, if it is to be bound.
pub fn bind_listener(listener: &Listener, workers: usize) -> Result<Vec<BoundListener>, BindError> {
    let addresses = listener.addresses.iter().filter(|_| listener.bind);
    let bound = addresses.map(|address| {
        let failed =
            |source| BindError { listener: listener.name.clone(), address: NamedAddress::text(address), source };
        bind_one(listener, *address, workers).map_err(failed)
    });
    bound.collect()
}

impl BindError {
    /// In Envoy's words.
    pub fn told(&self) -> String {
        let reason = match self.source.raw_os_error() {
            Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
            None => self.source.to_string(),
        };
        format!("cannot bind '{}': {reason}", self.address)
    }
}

fn bind_one(listener: &Listener, mut address: SocketAddr, workers: usize) -> io::Result<BoundListener> {
    let mut sockets: Vec<ListeningSocket> = Vec::with_capacity(workers);
    let options = listener.sockets.of(address);
    let pipe = listener.pipes.iter().find(|pipe| pipe.address.address() == address);
    for _ in 0..workers {
        let socket = match (sockets.first(), pipe) {
            (Some(shared), _) if !listener.sockets.reuse_port || pipe.is_some() => shared.try_clone()?,
            (_, Some(pipe)) => listen_at(pipe, &listener.sockets)?,
            (_, None) => TcpListener::from(listen(&listener.sockets, options, address)?).into(),
        };
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(BoundListener { name: listener.name.clone(), address, sockets })
}

fn listen_at(pipe: &Pipe, settings: &ListenerSockets) -> io::Result<ListeningSocket> {
    let Name::Pipe(path) = &pipe.address.name else { return Err(io::ErrorKind::InvalidInput.into()) };
    let listener = pipe::listen(path, pipe.mode, backlog(settings))?;
    Ok(ListeningSocket::Pipe(listener, pipe.address.clone()))
}

fn backlog(settings: &ListenerSockets) -> i32 {
    settings.backlog.unwrap_or(BACKLOG).try_into().unwrap_or(i32::MAX)
}

fn listen(settings: &ListenerSockets, own: &AddressOptions, address: SocketAddr) -> io::Result<Socket> {
    let protocol = if settings.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(settings.reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(!settings.ipv4_compat)?;
    }
    let set = |options: &[SocketOption], state| socket_option::set(options, &socket, address, state);
    if settings.transparent {
        set(
            &[
                SocketOption { ipv6: Some(false), ..SocketOption::number(libc::SOL_IP, libc::IP_TRANSPARENT, 1) },
                SocketOption { ipv6: Some(true), ..SocketOption::number(libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1) },
            ],
            SocketState::PreBind,
        )?;
    }
    if settings.freebind {
        if address.is_ipv6() {
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = &own.keepalive {
        socket.set_tcp_keepalive(keepalive)?;
    }
    set(&own.options, SocketState::PreBind)?;
    socket.bind(&address.into())?;
    set(&own.options, SocketState::Bound)?;
    socket.listen(backlog(settings))?;
    set(&own.options, SocketState::Listening)?;
    if let Some(length) = settings.fast_open_queue {
        let length = length.try_into().unwrap_or(i32::MAX);
        set(&[SocketOption::number(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, length)], SocketState::PreBind)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use socket2::{SockRef, TcpKeepalive};

    use super::*;

    fn snapshot(addresses: &[SocketAddr], ipv4_compat: bool) -> Snapshot {
        with(addresses, ListenerSockets { ipv4_compat, ..ListenerSockets::default() })
    }

    fn with(addresses: &[SocketAddr], sockets: ListenerSockets) -> Snapshot {
        let listener = Listener { addresses: addresses.to_vec(), sockets, ..Listener::named("ingress") };
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
        assert_eq!(error.told(), format!("cannot bind '{address}': Address already in use"));
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

    #[test]
    fn sockets_get_what_the_listener_says() {
        let keep_idle = |seconds: u64| TcpKeepalive::new().with_time(Duration::from_secs(seconds));
        let receive = SocketOption::number(libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000);
        let addresses: [SocketAddr; 2] = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| address.parse().unwrap());
        let sockets = ListenerSockets {
            fast_open_queue: Some(7),
            options: AddressOptions { options: vec![receive], keepalive: Some(keep_idle(33)) },
            own: vec![(addresses[1], AddressOptions { options: Vec::new(), keepalive: Some(keep_idle(44)) })],
            ..ListenerSockets::default()
        };
        let bound = bind(&with(&addresses, sockets), 1).unwrap();
        let [first, second] = [0, 1].map(|index| match &bound[index].sockets[0] {
            ListeningSocket::Tcp(socket) => SockRef::from(socket),
            ListeningSocket::Pipe(socket, _) => SockRef::from(socket),
        });
        assert_eq!(first.recv_buffer_size().unwrap(), 100_000);
        assert_ne!(second.recv_buffer_size().unwrap(), 100_000);
        // What is accepted inherits it.
        let _client = TcpStream::connect(bound[0].address).unwrap();
        let accepted = first.accept().unwrap().0;
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(33));
        assert_eq!(second.tcp_keepalive_time().unwrap(), Duration::from_secs(44));
    }

    #[test]
    fn a_port_is_shared_only_if_the_listener_says_so() {
        for reuse_port in [true, false] {
            let sockets = ListenerSockets { reuse_port, ..ListenerSockets::default() };
            let bound = bind(&with(&["127.0.0.1:0".parse().unwrap()], sockets.clone()), 2).unwrap();
            assert_eq!(bound[0].sockets.len(), 2);
            assert_eq!(bind(&with(&[bound[0].address], sockets), 1).is_ok(), reuse_port);
        }
    }

    #[test]
    fn addresses_of_others_are_listened_on_where_that_is_wanted() {
        let elsewhere = ["192.0.2.7:0".parse().unwrap()];
        assert!(bind(&with(&elsewhere, ListenerSockets::default()), 1).is_err());
        bind(&with(&elsewhere, ListenerSockets { freebind: true, ..ListenerSockets::default() }), 1).unwrap();
    }
}
