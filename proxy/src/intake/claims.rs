//! At which addresses a view has listeners bound. No two views have one in common: connections would go to either's listener.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{config::Listener, view::ViewId};

/// The addresses that are taken. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<Claimed>>);

#[derive(Debug, Default)]
struct Claimed {
    numbers: u64,
    all: Vec<(u64, ViewId, SocketAddr)>,
}

/// The addresses of a listener, which no other view takes until this is dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Claims,
    number: u64,
}

impl Claims {
    /// Takes the addresses that a listener is to be bound at. Error: one that another view has.
    pub(super) fn claim(&self, view: ViewId, listener: &Listener) -> Result<Claim, SocketAddr> {
        let mut claimed = self.0.lock();
        let of_another =
            |address: &SocketAddr| claimed.all.iter().any(|(_, of, one)| *of != view && overlap(one, address));
        if let Some(taken) = listener.bound_at().find(of_another) {
            return Err(taken);
        }
        claimed.numbers += 1;
        let number = claimed.numbers;
        claimed.all.extend(listener.bound_at().map(|address| (number, view, address)));
        Ok(Claim { claims: self.clone(), number })
    }
}

/// Whether connections to one of these addresses may come to the other.
pub fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    if one.port() != other.port() || one.ip() == other.ip() {
        return one == other;
    }
    // What is bound at every IPv6 address mostly has IPv4, too.
    let covers = |any: IpAddr, ip: IpAddr| any.is_unspecified() && (any.is_ipv6() || ip.is_ipv4());
    covers(one.ip(), other.ip()) || covers(other.ip(), one.ip())
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().all.retain(|(number, ..)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ViewNames;

    #[test]
    fn addresses_that_cover_others_overlap_with_them() {
        let overlapping = |one: &str, other: &str| {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(&one, &other), overlap(&other, &one));
            overlap(&one, &other)
        };
        assert!(overlapping("127.0.0.1:1", "127.0.0.1:1") && overlapping("0.0.0.0:1", "127.0.0.1:1"));
        assert!(overlapping("[::]:1", "127.0.0.1:1") && overlapping("[::]:1", "[::1]:1"));
        assert!(overlapping("[::]:1", "0.0.0.0:1"));
        assert!(!overlapping("0.0.0.0:1", "[::1]:1") && !overlapping("0.0.0.0:1", "0.0.0.0:2"));
        assert!(!overlapping("127.0.0.1:1", "127.0.0.2:1"));
    }

    #[test]
    fn an_address_is_one_view_s_for_as_long_as_it_is_claimed() {
        let at = |address: &str, bind: bool| {
            let addresses = vec!["127.0.0.1:1".parse().unwrap(), address.parse().unwrap()];
            Listener { addresses, bind, ..Listener::named("l") }
        };
        let (own, shop) = (ViewId::OWN, ViewNames::new(["shop".into()]).unwrap().serving("shop"));
        let claims = Claims::default();
        let first = claims.claim(own, &at("127.0.0.1:2", true)).unwrap();
        // A listener that takes the place of another has what that has.
        let second = claims.claim(own, &at("127.0.0.1:3", true)).unwrap();
        assert_eq!(claims.claim(shop, &at("127.0.0.1:3", true)).err(), Some("127.0.0.1:1".parse().unwrap()));
        assert!(claims.claim(shop, &at("127.0.0.1:3", false)).is_ok());
        let every = at("0.0.0.0:3", true);
        assert_eq!(claims.claim(shop, &every).err(), Some("127.0.0.1:1".parse().unwrap()));
        drop(first);
        assert!(claims.claim(shop, &at("127.0.0.1:2", true)).is_err());
        drop(second);
        let any = Listener { addresses: vec!["127.0.0.1:0".parse().unwrap()], ..Listener::named("l") };
        let _both = [own, shop].map(|view| claims.claim(view, &any).unwrap());
        assert!(claims.claim(shop, &at("127.0.0.1:2", true)).is_ok());
    }
}
