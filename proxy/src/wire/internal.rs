//! Addresses of listeners inside of this process.
//!
//! What goes by socket addresses goes by them too: each has one of its own, in a network that leads nowhere (RFC 6666), for as
//! long as somebody names it.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

/// The first part of the network, 100::/64.
const DISCARD: u16 = 0x0100;

/// All that somebody names, by number.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Known {
    by_number: HashMap<u64, Weak<InternalAddress>>,
    by_name: HashMap<(Box<str>, Box<str>), Weak<InternalAddress>>,
}

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener, and which of its endpoints is meant.
#[derive(Debug)]
pub struct InternalAddress {
    /// The listener's name.
    pub listener: Box<str>,
    /// Tells endpoints apart that lead to one listener; empty: there are no others.
    pub endpoint: Box<str>,
    number: u64,
}

impl InternalAddress {
    /// The one of these names.
    pub fn new(listener: &str, endpoint: &str) -> Arc<Self> {
        let name: (Box<str>, Box<str>) = (listener.into(), endpoint.into());
        let mut known = known();
        // Nothing that is upgraded here is dropped here, which would lock again.
        if let Some(one) = known.by_name.get(&name).and_then(Weak::upgrade) {
            return one;
        }
        // At random: who names addresses of a network that leads nowhere is not to find one.
        let number = std::iter::repeat_with(|| fastrand::u64(..)).find(|number| !known.by_number.contains_key(number));
        let number = number.unwrap_or_default();
        let address = Arc::new(Self { listener: listener.into(), endpoint: endpoint.into(), number });
        known.by_number.insert(number, Arc::downgrade(&address));
        known.by_name.insert(name, Arc::downgrade(&address));
        address
    }

    /// What stands for whoever connects inside of this process.
    pub fn client() -> SocketAddr {
        static CLIENT: LazyLock<Arc<InternalAddress>> =
            LazyLock::new(|| InternalAddress::new("internal_client_address", ""));
        CLIENT.address()
    }

    /// What stands for it among socket addresses.
    pub fn address(&self) -> SocketAddr {
        let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (self.number >> shift) as u16);
        SocketAddr::new(Ipv6Addr::new(DISCARD, 0, 0, 0, a, b, c, d).into(), 0)
    }

    /// The one that a socket address stands for.
    pub fn of(address: &SocketAddr) -> Option<Arc<Self>> {
        let SocketAddr::V6(v6) = address else { return None };
        if v6.port() != 0 {
            return None;
        }
        let [DISCARD, 0, 0, 0, a, b, c, d] = v6.ip().segments() else { return None };
        let number = [a, b, c, d].iter().fold(0, |number, part| number << 16 | u64::from(*part));
        known().by_number.get(&number).and_then(Weak::upgrade)
    }

    /// A socket address as text: of one that stands for something else, that.
    pub fn text(address: &SocketAddr) -> String {
        Self::of(address).map_or_else(|| address.to_string(), |internal| internal.to_string())
    }
}

impl std::fmt::Display for InternalAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "envoy://{}/{}", self.listener, self.endpoint)
    }
}

impl PartialEq for InternalAddress {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Drop for InternalAddress {
    fn drop(&mut self) {
        let mut known = known();
        known.by_number.remove(&self.number);
        let name = (std::mem::take(&mut self.listener), std::mem::take(&mut self.endpoint));
        // Another one may have the name by now.
        if known.by_name.get(&name).is_some_and(|one| one.strong_count() == 0) {
            known.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_addresses_while_somebody_has_them() {
        let (one, same) = (InternalAddress::new("listener", "a"), InternalAddress::new("listener", "a"));
        let other = InternalAddress::new("listener", "b");
        assert!(Arc::ptr_eq(&one, &same) && one.address() != other.address());
        let address = one.address();
        assert_eq!(InternalAddress::of(&address).as_ref(), Some(&one));
        assert_eq!(InternalAddress::text(&address), "envoy://listener/a");
        drop((one, same));
        assert_eq!(InternalAddress::of(&address), None);
        let (other, plain) = (SocketAddr::new(other.address().ip(), 80), "[100::1:0:0:1]:80".parse().unwrap());
        assert_eq!(InternalAddress::of(&other), None);
        assert_eq!(InternalAddress::text(&plain), "[100::1:0:0:1]:80");
    }
}
