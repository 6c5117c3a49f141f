//! Changes of the addresses in a network namespace, as rtnetlink(7) tells them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Error, Netns};

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x100;
/// What a message says does not matter: the addresses are read again.
const UNREAD_BYTES: usize = 4096;

/// Tells that a namespace's addresses may have changed since this was made.
#[derive(Debug)]
pub struct AddressChanges(AsyncFd<OwnedFd>);

impl AddressChanges {
    /// Listens in a namespace. Blocks; within the runtime.
    pub fn of(netns: &Netns) -> Result<Self, Error> {
        let failed = |source| Error::Socket { action: "follow the pod's addresses".to_owned(), source };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listening = || {
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
            Ok(socket)
        };
        let socket = netns.run(|| listening().map_err(|errno: nix::Error| failed(errno.into())))?;
        // SAFETY: the socket is owned by the `AsyncFd` from here on, which nothing takes it out of or replaces it in.
        let registered = unsafe { AsyncFd::register(socket) };
        registered.map(Self).map_err(|error| failed(io::Error::from(error)))
    }

    /// Returns when something changed after the last call.
    pub async fn next(&self) -> io::Result<()> {
        self.0.async_io(Interest::READABLE, drain).await
    }
}

/// Reads all that is there; fails with `WouldBlock` if it is nothing.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    let mut bytes = [0; UNREAD_BYTES];
    let mut any = false;
    loop {
        match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => any = true,
            // More happened than the socket holds: something changed all the same.
            Err(nix::errno::Errno::ENOBUFS) => any = true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) if any => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
