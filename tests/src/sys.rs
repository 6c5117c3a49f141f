//! The one system call that no safe wrapper has.

use std::{io, os::fd::AsRawFd};

/// `connect(AF_UNSPEC)`: makes a connected TCP socket one that may connect again (`connect(2)`).
pub fn disconnect(socket: &impl AsRawFd) -> io::Result<()> {
    let address = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the address is `length` bytes of initialised memory.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
