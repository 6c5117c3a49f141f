//! SOCK_SEQPACKET over a Unix socket, with file descriptors beside the bytes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The largest packet of the handoff protocol.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;
/// File descriptors that Linux passes with one packet (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// A packet.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its file descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A connected, non-blocking SOCK_SEQPACKET socket.
#[derive(Debug)]
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    /// Dials a listening socket.
    pub async fn dial(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        // A Unix socket connects at once; EAGAIN says that the backlog is full.
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::new(fd)
    }

    /// Takes a connected, non-blocking socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is this value's alone, and is closed only after `AsyncFd` has deregistered it.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket })
    }

    /// Sends one packet.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                let iov = [io::IoSlice::new(bytes)];
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                sendmsg::<()>(socket.as_raw_fd(), &iov, control, flags, None)?;
                Ok(())
            })
            .await
    }

    /// Receives one packet; none when the other side has closed.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        self.socket.async_io(Interest::READABLE, receive_now).await
    }
}

/// One recvmsg(2). Every descriptor that the kernel installed is owned before anything is checked, so that none leaks.
fn receive_now(socket: &OwnedFd) -> io::Result<Option<Packet>> {
    const CONTROL_BYTES: usize = 2048;
    #[repr(C, align(8))]
    struct Control([MaybeUninit<u8>; CONTROL_BYTES]);
    let mut control = Control([const { MaybeUninit::uninit() }; CONTROL_BYTES]);
    let mut bytes = vec![0u8; MAX_PACKET_BYTES];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: `message` points at buffers that outlive the call, with their true lengths.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled `message` in; the CMSG macros walk within `msg_controllen`, and each descriptor of an
    // SCM_RIGHTS message is new and ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let length = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..length / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(first.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other(format!(
            "file descriptors were lost: {} arrived (at the limit of open files?)",
            fds.len()
        )));
    }
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::other(format!("a packet of more than {MAX_PACKET_BYTES} bytes")));
    }
    if received == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received as usize);
    Ok(Some(Packet { bytes, fds }))
}
