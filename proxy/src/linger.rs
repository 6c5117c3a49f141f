//! How a socket ends when its last file descriptor is closed.

use std::{os::fd::AsFd, time::Duration};

use socket2::SockRef;

/// Has it end with RST instead of FIN: its peer must not take what it has for the whole. `false`: with FIN again.
pub(crate) fn close_by_reset(socket: &impl AsFd, reset: bool) {
    // A socket that cannot be set is gone already.
    let _ = SockRef::from(socket).set_linger(reset.then_some(Duration::ZERO));
}
