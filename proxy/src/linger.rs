//! How a socket ends when its last file descriptor is closed, and what it, or a pipe, still holds.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use socket2::SockRef;

/// Has it end with RST instead of FIN: its peer must not take what it has for the whole. `false`: with FIN again.
pub(crate) fn close_by_reset(socket: &impl AsFd, reset: bool) {
    // A socket that cannot be set is gone already.
    let _ = SockRef::from(socket).set_linger(reset.then_some(Duration::ZERO));
}

/// Has what is written from here on wait for more, or for the end, which goes in the same packet then. The kernel waits for
/// 200 ms (tcp(7), `TCP_CORK`).
pub(crate) fn write_with_the_end(socket: &impl AsFd) {
    // One that cannot be set sends at once.
    let _ = SockRef::from(socket).set_tcp_cork(true);
}

/// How many bytes of what was written the peer has not acknowledged (tcp(7), `SIOCOUTQ`); none: the socket cannot tell.
pub(crate) fn unacknowledged(socket: &impl AsRawFd) -> Option<usize> {
    bytes_in(socket, libc::TIOCOUTQ).ok()
}

/// How many bytes are in a pipe.
pub(crate) fn readable(pipe: &OwnedFd) -> io::Result<usize> {
    bytes_in(pipe, libc::FIONREAD)
}

fn bytes_in(of: &impl AsRawFd, request: libc::Ioctl) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one c_int to where the pointer leads, which outlives the call.
    let result = unsafe { libc::ioctl(of.as_raw_fd(), request, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}
