//! What the sockets that a listener listens on are given.

use std::{net::SocketAddr, sync::Arc};

use socket2::TcpKeepalive;

use crate::wire::{named::NamedAddress, socket_option::SocketOption};

/// A Unix socket that a listener listens on.
#[derive(Clone, Debug)]
pub struct Pipe {
    /// Its path, and what stands for it among addresses.
    pub address: Arc<NamedAddress>,
    /// The file's mode; 0: as it comes.
    pub mode: u32,
}

/// The settings of a listener's sockets.
#[derive(Clone, Debug)]
pub struct ListenerSockets {
    /// `[::]` accepts IPv4 as well.
    pub ipv4_compat: bool,
    /// Backlog of listen(2).
    pub backlog: Option<u32>,
    /// The addresses need not be of this machine (IP_FREEBIND).
    pub freebind: bool,
    /// Connections to any address may arrive (IP_TRANSPARENT).
    pub transparent: bool,
    /// Connections may be Multipath TCP (RFC 8684).
    pub mptcp: bool,
    /// A socket for each worker, in one SO_REUSEPORT group; else one that all share.
    pub reuse_port: bool,
    /// Connections whose first bytes have come and whose handshake has not ended (TCP_FASTOPEN, RFC 7413).
    pub fast_open_queue: Option<u32>,
    /// Options, in order, and keep-alive of what is accepted.
    pub options: AddressOptions,
    /// The same for some of the addresses.
    pub own: Vec<(SocketAddr, AddressOptions)>,
}

/// What sockets of one address are given.
#[derive(Clone, Debug, Default)]
pub struct AddressOptions {
    /// In order.
    pub options: Vec<SocketOption>,
    /// What the kernel does about silent connections; none: nothing.
    pub keepalive: Option<TcpKeepalive>,
}

impl Default for ListenerSockets {
    fn default() -> Self {
        Self {
            ipv4_compat: false,
            backlog: None,
            freebind: false,
            transparent: false,
            mptcp: false,
            reuse_port: true,
            fast_open_queue: None,
            options: AddressOptions::default(),
            own: Vec::new(),
        }
    }
}

impl ListenerSockets {
    /// What sockets of an address are given.
    pub fn of(&self, address: SocketAddr) -> &AddressOptions {
        self.own.iter().find(|(own, _)| *own == address).map_or(&self.options, |(_, options)| options)
    }
}
