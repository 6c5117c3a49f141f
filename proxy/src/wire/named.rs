//! Addresses that are names: of listeners inside of this process, and of Unix sockets.
//!
//! What goes by socket addresses goes by them too: each has one of its own, in a network that leads nowhere (RFC 6666), for as
//! long as somebody names it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

/// The first part of the network, 100::/64.
const DISCARD: u16 = 0x0100;
/// The port of what stands for a Unix socket. What stands for a listener inside of this process has none: many share one.
const PIPE_PORT: u16 = 1;

/// All that somebody names, by number.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Known {
    by_number: HashMap<u64, Weak<NamedAddress>>,
    by_name: HashMap<Name, Weak<NamedAddress>>,
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an address names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A listener inside of this process.
    Internal {
        /// The listener's name.
        listener: Box<str>,
        /// Tells endpoints apart that lead to one listener; empty: there are no others.
        endpoint: Box<str>,
    },
    /// A Unix socket's path, or after `@` its name among the abstract ones; empty: it has none.
    Pipe(Box<str>),
}

/// A name, with the socket address that stands for it.
#[derive(Debug)]
pub struct NamedAddress {
    /// The name.
    pub name: Name,
    number: u64,
}

impl NamedAddress {
    /// That of a name.
    pub fn new(name: Name) -> Arc<Self> {
        let mut known = known();
        // Nothing that is upgraded here is dropped here, which would lock again.
        if let Some(one) = known.by_name.get(&name).and_then(Weak::upgrade) {
            return one;
        }
        // At random: who names addresses of a network that leads nowhere is not to find one.
        let number = std::iter::repeat_with(|| fastrand::u64(..)).find(|number| !known.by_number.contains_key(number));
        let number = number.unwrap_or_default();
        let address = Arc::new(Self { name: name.clone(), number });
        known.by_number.insert(number, Arc::downgrade(&address));
        known.by_name.insert(name, Arc::downgrade(&address));
        address
    }

    /// That of a listener inside of this process.
    pub fn internal(listener: &str, endpoint: &str) -> Arc<Self> {
        Self::new(Name::Internal { listener: listener.into(), endpoint: endpoint.into() })
    }

    /// That of a Unix socket.
    pub fn pipe(path: &str) -> Arc<Self> {
        Self::new(Name::Pipe(path.into()))
    }

    /// What stands for a Unix socket that has no name, as those have that connect.
    pub fn unnamed_pipe() -> SocketAddr {
        static UNNAMED: LazyLock<Arc<NamedAddress>> = LazyLock::new(|| NamedAddress::pipe(""));
        UNNAMED.address()
    }

    /// The listener inside of this process that it names, if it does.
    pub fn listener(&self) -> Option<&str> {
        match &self.name {
            Name::Internal { listener, .. } => Some(listener),
            Name::Pipe(_) => None,
        }
    }

    /// What stands for whoever connects inside of this process.
    pub fn client() -> SocketAddr {
        static CLIENT: LazyLock<Arc<NamedAddress>> =
            LazyLock::new(|| NamedAddress::internal("internal_client_address", ""));
        CLIENT.address()
    }

    /// What stands for it among socket addresses.
    pub fn address(&self) -> SocketAddr {
        let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (self.number >> shift) as u16);
        let port = match self.name {
            Name::Internal { .. } => 0,
            Name::Pipe(_) => PIPE_PORT,
        };
        SocketAddr::new(Ipv6Addr::new(DISCARD, 0, 0, 0, a, b, c, d).into(), port)
    }

    /// The one that a socket address stands for.
    pub fn of(address: &SocketAddr) -> Option<Arc<Self>> {
        let SocketAddr::V6(v6) = address else { return None };
        let [DISCARD, 0, 0, 0, a, b, c, d] = v6.ip().segments() else { return None };
        let number = [a, b, c, d].iter().fold(0, |number, part| number << 16 | u64::from(*part));
        let named = known().by_number.get(&number).and_then(Weak::upgrade);
        named.filter(|named| named.address() == *address)
    }

    /// The IP address of a socket address that stands for nothing else.
    pub fn ip(address: &SocketAddr) -> Option<IpAddr> {
        Self::of(address).is_none().then(|| address.ip())
    }

    /// A socket address as text: of one that stands for something else, that.
    pub fn text(address: &SocketAddr) -> String {
        Self::of(address).map_or_else(|| address.to_string(), |named| named.to_string())
    }
}

impl std::fmt::Display for NamedAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Name::Internal { listener, endpoint } => write!(f, "envoy://{listener}/{endpoint}"),
            Name::Pipe(path) => f.write_str(path),
        }
    }
}

impl PartialEq for NamedAddress {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Drop for NamedAddress {
    fn drop(&mut self) {
        let mut known = known();
        known.by_number.remove(&self.number);
        // Another one may have the name by now.
        if known.by_name.get(&self.name).is_some_and(|one| one.strong_count() == 0) {
            known.by_name.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_addresses_while_somebody_has_them() {
        let (one, same) = (NamedAddress::internal("listener", "a"), NamedAddress::internal("listener", "a"));
        let other = NamedAddress::internal("listener", "b");
        assert!(Arc::ptr_eq(&one, &same) && one.address() != other.address());
        let address = one.address();
        assert_eq!(NamedAddress::of(&address).as_ref(), Some(&one));
        assert_eq!(NamedAddress::text(&address), "envoy://listener/a");
        drop((one, same));
        assert_eq!(NamedAddress::of(&address), None);
        let (other, plain) = (SocketAddr::new(other.address().ip(), 80), "[100::1:0:0:1]:80".parse().unwrap());
        assert_eq!(NamedAddress::of(&other), None);
        assert_eq!(NamedAddress::text(&plain), "[100::1:0:0:1]:80");
    }

    #[test]
    fn a_unix_socket_is_told_by_its_path() {
        let pipe = NamedAddress::pipe("/run/a.sock");
        let (address, without) = (pipe.address(), SocketAddr::new(pipe.address().ip(), 0));
        assert_eq!(NamedAddress::text(&address), "/run/a.sock");
        assert_eq!(NamedAddress::of(&address), Some(pipe));
        assert_eq!(NamedAddress::of(&without), None);
        assert_eq!(NamedAddress::text(&NamedAddress::unnamed_pipe()), "");
    }
}
