//! Upstream sockets before they connect: their source address and options (`upstream_bind_config`,
//! `upstream_connection_options.tcp_keepalive`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};

use super::socket_option::{self, SocketOption, SocketState};

/// What sockets towards a cluster are given before they connect.
#[derive(Clone, Debug, Default)]
pub struct SocketSettings {
    /// Source addresses, at most one of each family; port 0: any. None: the kernel's choice.
    pub sources: Vec<SocketAddr>,
    /// The source address need not be one of this machine.
    pub freebind: bool,
    /// Options, in order.
    pub options: Vec<SocketOption>,
    /// Instead of those, where the second source address is taken.
    pub extra_options: Option<Vec<SocketOption>>,
    /// What the kernel does about connections that are silent; none: nothing.
    pub keepalive: Option<TcpKeepalive>,
}

/// A socket could not be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The source address could not be taken.
    #[error("failed to bind to {0}: {1}")]
    Bind(SocketAddr, String),
    /// An option was refused.
    #[error("socket option: {0}")]
    Option(String),
}

impl NotReady {
    /// The transport failure reason: Envoy has none for options.
    pub fn transport(&self) -> String {
        match self {
            Self::Bind(..) => self.to_string(),
            Self::Option(_) => String::new(),
        }
    }
}

impl SocketSettings {
    /// Gives them to a socket that is to connect to `to`.
    pub fn apply(&self, socket: &impl AsFd, to: SocketAddr) -> Result<(), NotReady> {
        let refused = |error: io::Error| NotReady::Option(error.to_string());
        if let Some(keepalive) = &self.keepalive {
            SockRef::from(socket).set_tcp_keepalive(keepalive).map_err(refused)?;
        }
        let source = self.source(to.ip());
        let extra = self.extra_options.as_ref().filter(|_| source.is_some() && source == self.sources.get(1).copied());
        let options = extra.unwrap_or(&self.options);
        socket_option::set(options, socket, to, SocketState::PreBind).map_err(refused)?;
        if let Some(source) = source {
            if self.freebind {
                setsockopt(socket, sockopt::IpFreebind, &true).map_err(|error| refused(error.into()))?;
            }
            if source.port() == 0 {
                // The port is chosen by connect(2), which can reuse one that is taken towards other destinations; where
                // the option is refused, by bind(2).
                let _ = setsockopt(socket, sockopt::IpBindAddressNoPort, &true);
            }
            SockRef::from(socket).bind(&source.into()).map_err(|error| NotReady::Bind(source, why(&error)))?;
        }
        socket_option::set(options, socket, to, SocketState::Bound).map_err(refused)
    }

    /// The source address for a destination: of its family, if there is one, as in Envoy.
    fn source(&self, to: IpAddr) -> Option<SocketAddr> {
        let fits = self.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4());
        fits.or(self.sources.first()).copied()
    }
}

/// strerror's words, without the number that `io::Error` adds.
pub(crate) fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::libc;

    use super::*;

    #[test]
    fn the_source_is_of_the_destinations_family_or_the_first() {
        let sources = ["127.0.0.3:0", "[::1]:0"].map(|source| source.parse().unwrap());
        let mut settings = SocketSettings { sources: sources.into(), ..SocketSettings::default() };
        assert_eq!(settings.source("::2".parse().unwrap()), Some(sources[1]));
        settings.sources.pop();
        assert_eq!(settings.source("::2".parse().unwrap()), Some(sources[0]));
        assert_eq!(SocketSettings::default().source("::2".parse().unwrap()), None);
    }

    #[test]
    fn options_are_set_and_an_address_that_is_not_here_is_refused() {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let option = |level, name, value, state| SocketOption { state, ..SocketOption::number(level, name, value) };
        let to = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut settings = SocketSettings {
            options: vec![
                option(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1, SocketState::PreBind),
                option(libc::IPPROTO_IP, libc::IP_TOS, 0x10, SocketState::Bound),
            ],
            ..SocketSettings::default()
        };
        let set = socket();
        settings.apply(&set, to).unwrap();
        assert!(set.keepalive().unwrap());
        assert_eq!(nix::sys::socket::getsockopt(&set, sockopt::Ipv4Tos).unwrap(), 0x10);
        settings.sources = vec!["192.0.2.1:0".parse().unwrap()];
        let refused = settings.apply(&socket(), to).unwrap_err();
        assert_eq!(refused.to_string(), "failed to bind to 192.0.2.1:0: Cannot assign requested address");
        settings.freebind = true;
        settings.apply(&socket(), to).unwrap();
    }
}
