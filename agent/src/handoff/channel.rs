//! A SOCK_SEQPACKET socket: packets with file descriptors beside them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg},
};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

/// The longest packet; a Unix socket takes what fits its send buffer.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;
/// File descriptors that Linux passes with one packet (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// A packet.
#[derive(Debug)]
pub(crate) struct Packet {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The file descriptors beside it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// A socket of the runtime.
#[derive(Debug)]
pub(crate) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Takes over a non-blocking socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        // As much as the system allows; a failure leaves the default, which holds any sensible message.
        let _ = SockRef::from(&socket).set_send_buffer_size(MAX_PACKET_BYTES);
        // SAFETY: the socket is owned by the `AsyncFd` from here on, which nothing takes it out of or replaces it in.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// The socket.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }

    /// Accepts a connection, if this is a listening socket.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        let accept = |socket: &OwnedFd| {
            let (accepted, _) = SockRef::from(socket).accept_raw()?;
            accepted.set_cloexec(true)?;
            accepted.set_nonblocking(true)?;
            Ok(accepted.into())
        };
        self.0.async_io(tokio::io::Interest::READABLE, accept).await
    }

    /// Sends one packet.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(tokio::io::Interest::WRITABLE, |socket| send(socket, bytes, fds)).await
    }

    /// Receives one packet; none when the other side has closed.
    pub(crate) async fn receive(&self) -> io::Result<Option<Packet>> {
        self.0.async_io(tokio::io::Interest::READABLE, receive).await
    }
}

/// Sends one packet if there is room for it.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None);
    sent.map(drop).map_err(io::Error::from)
}

/// Receives one packet if there is one; none when the other side has closed.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_PACKET_BYTES];
    // With room for as many file descriptors as a packet can have, none is ever cut off and lost.
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let (received, flags, fds) = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let mut fds = Vec::new();
        for control in message.cmsgs().map_err(|_: Errno| cut_off("file descriptors"))? {
            if let ControlMessageOwned::ScmRights(received) = control {
                // SAFETY: the kernel has just made these file descriptors for this process; nothing else owns them.
                fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, message.flags, fds)
    };
    if flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(cut_off("a packet"));
    }
    if received == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received);
    Ok(Some(Packet { bytes, fds }))
}

fn cut_off(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} came in cut off"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::io::{Read, Seek, Write};

    /// Two connected channels.
    pub(crate) fn pair() -> (Channel, Channel) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (left, right) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (Channel::new(left).unwrap(), Channel::new(right).unwrap())
    }

    #[tokio::test]
    async fn packets_keep_their_bounds_and_their_file_descriptors() {
        let (left, right) = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through").unwrap();
        left.send(b"one", &[]).await.unwrap();
        left.send(b"two", &[file.as_fd(), file.as_fd()]).await.unwrap();
        let one = right.receive().await.unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.fds.len()), (&b"one"[..], 0));
        let mut two = right.receive().await.unwrap().unwrap();
        assert_eq!((two.bytes.as_slice(), two.fds.len()), (&b"two"[..], 2));
        let mut passed = std::fs::File::from(two.fds.remove(1));
        let mut text = String::new();
        passed.rewind().unwrap();
        passed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(left);
        assert!(right.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn as_many_file_descriptors_as_linux_passes_get_through() {
        let (left, right) = pair();
        let file = tempfile::tempfile().unwrap();
        left.send(b"many", &[file.as_fd(); MAX_FDS]).await.unwrap();
        assert_eq!(right.receive().await.unwrap().unwrap().fds.len(), MAX_FDS);
        assert!(left.send(b"more", &[file.as_fd(); MAX_FDS + 1]).await.is_err());
    }
}
