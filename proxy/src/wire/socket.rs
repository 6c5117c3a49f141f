//! Upstream sockets before they connect: their source address and options (`upstream_bind_config`,
//! `upstream_connection_options.tcp_keepalive`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{SockRef, TcpKeepalive};

/// What sockets towards a cluster are given before they connect.
#[derive(Clone, Debug, Default)]
pub struct SocketSettings {
    /// Source addresses, at most one of each family; port 0: any. None: the kernel's choice.
    pub sources: Vec<SocketAddr>,
    /// The source address need not be one of this machine.
    pub freebind: bool,
    /// Options, in order.
    pub options: Vec<SocketOption>,
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

/// An option of a socket (`SocketOption`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption {
    kind: Kind,
    value: i32,
    state: SocketState,
}

/// When an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// Before the source address is taken.
    PreBind,
    /// After.
    Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ReuseAddress,
    ReusePort,
    SendBuffer,
    ReceiveBuffer,
    KeepAlive,
    Mark,
    Priority,
    NoDelay,
    MaxSegment,
    KeepIdle,
    KeepInterval,
    KeepCount,
    UserTimeout,
    QuickAck,
    TypeOfService,
    TimeToLive,
    FreeBind,
    Transparent,
    BindAddressNoPort,
    TrafficClass,
}

impl SocketOption {
    /// The option of that level and name, as `setsockopt(2)` numbers them on Linux; none: it is not known here.
    pub fn new(level: i64, name: i64, value: i32, state: SocketState) -> Option<Self> {
        let kind = match (i32::try_from(level).ok()?, i32::try_from(name).ok()?) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => Kind::ReuseAddress,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => Kind::ReusePort,
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => Kind::SendBuffer,
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => Kind::ReceiveBuffer,
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => Kind::KeepAlive,
            (libc::SOL_SOCKET, libc::SO_MARK) => Kind::Mark,
            (libc::SOL_SOCKET, libc::SO_PRIORITY) => Kind::Priority,
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => Kind::NoDelay,
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => Kind::MaxSegment,
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => Kind::KeepIdle,
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => Kind::KeepInterval,
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => Kind::KeepCount,
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => Kind::UserTimeout,
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => Kind::QuickAck,
            (libc::IPPROTO_IP, libc::IP_TOS) => Kind::TypeOfService,
            (libc::IPPROTO_IP, libc::IP_TTL) => Kind::TimeToLive,
            (libc::IPPROTO_IP, libc::IP_FREEBIND) => Kind::FreeBind,
            (libc::IPPROTO_IP, libc::IP_TRANSPARENT) => Kind::Transparent,
            (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) => Kind::BindAddressNoPort,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => Kind::TrafficClass,
            _ => return None,
        };
        Some(Self { kind, value, state })
    }

    fn set(self, socket: &impl AsFd) -> io::Result<()> {
        let fd = SockRef::from(socket);
        let on = self.value != 0;
        let unsigned = || u32::try_from(self.value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let size = || usize::try_from(self.value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let seconds = || Ok::<_, io::Error>(Duration::from_secs(unsigned()?.into()));
        match self.kind {
            Kind::ReuseAddress => fd.set_reuse_address(on),
            Kind::ReusePort => fd.set_reuse_port(on),
            Kind::SendBuffer => fd.set_send_buffer_size(size()?),
            Kind::ReceiveBuffer => fd.set_recv_buffer_size(size()?),
            Kind::KeepAlive => fd.set_keepalive(on),
            Kind::Mark => fd.set_mark(unsigned()?),
            Kind::Priority => Ok(setsockopt(socket, sockopt::Priority, &self.value)?),
            Kind::NoDelay => Ok(setsockopt(socket, sockopt::TcpNoDelay, &on)?),
            Kind::MaxSegment => fd.set_tcp_mss(unsigned()?),
            Kind::KeepIdle => fd.set_tcp_keepalive(&TcpKeepalive::new().with_time(seconds()?)),
            Kind::KeepInterval => fd.set_tcp_keepalive(&TcpKeepalive::new().with_interval(seconds()?)),
            Kind::KeepCount => fd.set_tcp_keepalive(&TcpKeepalive::new().with_retries(unsigned()?)),
            Kind::UserTimeout => Ok(setsockopt(socket, sockopt::TcpUserTimeout, &unsigned()?)?),
            Kind::QuickAck => fd.set_tcp_quickack(on),
            Kind::TypeOfService => Ok(setsockopt(socket, sockopt::Ipv4Tos, &self.value)?),
            Kind::TimeToLive => Ok(setsockopt(socket, sockopt::Ipv4Ttl, &self.value)?),
            Kind::FreeBind => Ok(setsockopt(socket, sockopt::IpFreebind, &on)?),
            Kind::Transparent => Ok(setsockopt(socket, sockopt::IpTransparent, &on)?),
            Kind::BindAddressNoPort => Ok(setsockopt(socket, sockopt::IpBindAddressNoPort, &on)?),
            Kind::TrafficClass => Ok(setsockopt(socket, sockopt::Ipv6TClass, &self.value)?),
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
        self.set(socket, SocketState::PreBind).map_err(refused)?;
        if let Some(source) = self.source(to.ip()) {
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
        self.set(socket, SocketState::Bound).map_err(refused)
    }

    fn set(&self, socket: &impl AsFd, state: SocketState) -> io::Result<()> {
        self.options.iter().filter(|option| option.state == state).try_for_each(|option| option.set(socket))
    }

    /// The source address for a destination: of its family, if there is one, as in Envoy.
    fn source(&self, to: IpAddr) -> Option<SocketAddr> {
        let fits = self.sources.iter().find(|source| source.is_ipv4() == to.is_ipv4());
        fits.or(self.sources.first()).copied()
    }
}

/// strerror's words, without the number that `io::Error` adds.
fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

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
        let option =
            |level: i32, name: i32, value, state| SocketOption::new(level.into(), name.into(), value, state).unwrap();
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
        assert!(SocketOption::new(1, 4711, 1, SocketState::Bound).is_none());
    }
}
