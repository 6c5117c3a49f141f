//! Options of sockets that the configuration names by their numbers (`SocketOption`): any that setsockopt(2) knows.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc;

/// An option of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// `SOL_SOCKET`, `IPPROTO_TCP` ...
    pub level: i32,
    /// Its number at that level.
    pub name: i32,
    /// As the kernel reads it.
    pub value: Box<[u8]>,
    /// When it is set.
    pub state: SocketState,
    /// For sockets of IPv6 only, or of IPv4; none: for both.
    pub ipv6: Option<bool>,
}

/// When an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// Before the socket has its address.
    PreBind,
    /// After.
    Bound,
    /// While it listens.
    Listening,
}

/// Sets those of the options that are for this state of a socket and for the family of `address`.
pub fn set(options: &[SocketOption], socket: &impl AsFd, address: SocketAddr, state: SocketState) -> io::Result<()> {
    let fits =
        |option: &&SocketOption| option.state == state && option.ipv6.is_none_or(|ipv6| ipv6 == address.is_ipv6());
    options.iter().filter(fits).try_for_each(|option| option.set(socket))
}

impl SocketOption {
    /// A number, before the socket has its address.
    pub fn number(level: i32, name: i32, value: i32) -> Self {
        Self { level, name, value: value.to_ne_bytes().into(), state: SocketState::PreBind, ipv6: None }
    }

    fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        let length = libc::socklen_t::try_from(self.value.len()).map_err(io::Error::other)?;
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call; the descriptor is borrowed, hence open.
        let refused = unsafe { libc::setsockopt(socket, self.level, self.name, self.value.as_ptr().cast(), length) };
        if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn options_are_set_in_their_state_on_sockets_of_their_family() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let keep_alive = SocketOption::number(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        let is_on = || socket2::SockRef::from(&socket).keepalive().unwrap();
        let other_family = SocketOption { ipv6: Some(true), ..keep_alive.clone() };
        let options = [other_family, SocketOption { state: SocketState::Listening, ..keep_alive.clone() }];
        set(&options, &socket, address, SocketState::PreBind).unwrap();
        assert!(!is_on());
        set(&options, &socket, address, SocketState::Listening).unwrap();
        assert!(is_on());
        let congestion = SocketOption { value: (*b"reno").into(), ..SocketOption::number(6, libc::TCP_CONGESTION, 0) };
        set(&[congestion], &socket, address, SocketState::PreBind).unwrap();
        let unknown = SocketOption::number(libc::SOL_SOCKET, 4711, 1);
        let refused = set(&[unknown], &socket, address, SocketState::PreBind).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOPROTOOPT));
    }
}
