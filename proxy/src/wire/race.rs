//! Connecting to the first of several addresses that answers (RFC 8305, Happy Eyeballs version 2): they are tried in an
//! order that alternates between families, each a moment after the last or at once when that has failed.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};

/// After so long the next address is tried besides (RFC 8305, section 5, and Envoy's own).
const HEAD_START: Duration = Duration::from_millis(300);

/// `happy_eyeballs_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The family to begin with; none: the first address's.
    pub first: Option<Family>,
    /// So many addresses of that family come before one of the other.
    pub count: usize,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Default for Preference {
    fn default() -> Self {
        Self { first: None, count: 1 }
    }
}

/// The order in which addresses are tried: at first as many of the preferred family as the preference says, then both
/// families in turn.
pub fn order(addresses: &[SocketAddr], preference: Preference) -> Vec<SocketAddr> {
    let Some(head) = addresses.first() else { return Vec::new() };
    let v6_first = match preference.first {
        None => head.is_ipv6(),
        Some(family) => family == Family::V6,
    };
    let of = |first: bool| addresses.iter().copied().filter(move |address| (address.is_ipv6() == v6_first) == first);
    let (mut preferred, mut others) = (of(true), of(false));
    let mut ordered: Vec<_> = preferred.by_ref().take(preference.count).collect();
    loop {
        let (other, next) = (others.next(), preferred.next());
        if other.is_none() && next.is_none() {
            return ordered;
        }
        ordered.extend(other.into_iter().chain(next));
    }
}

/// What the first address that answers gives, or the last failure.
pub async fn first<T, E, F>(addresses: &[SocketAddr], mut connect: impl FnMut(SocketAddr) -> F) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut left = addresses.iter();
    let mut trying = FuturesUnordered::new();
    trying.push(connect(*left.next()?));
    loop {
        let next = async {
            if left.len() == 0 {
                return std::future::pending().await;
            }
            tokio::time::sleep(HEAD_START).await;
        };
        tokio::select! {
            Some(tried) = trying.next() => match (tried, left.next()) {
                (Err(_), Some(another)) => trying.push(connect(*another)),
                // Some are still being tried.
                (Err(_), None) if !trying.is_empty() => {}
                (ended, _) => return Some(ended),
            },
            () = next => trying.extend(left.next().map(|another| connect(*another))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn parsed<const N: usize>(addresses: [&str; N]) -> [SocketAddr; N] {
        addresses.map(|address| address.parse().unwrap())
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c] = parsed(["[::1]:1", "[::2]:1", "[::3]:1"]);
        let [d, e] = parsed(["1.0.0.1:1", "1.0.0.2:1"]);
        assert_eq!(order(&[a, b, c, d, e], Preference::default()), [a, d, b, e, c]);
        let first = Preference { first: Some(Family::V4), count: 2 };
        assert_eq!(order(&[a, b, c, d, e], first), [d, e, a, b, c]);
        assert_eq!(order(&[d, e], Preference { first: Some(Family::V6), count: 1 }), [d, e]);
        assert!(order(&[], first).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_is_tried_at_once_after_a_failure_and_else_after_a_while() {
        let addresses = parsed(["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1"]);
        let tried = RefCell::new(Vec::new());
        let began = tokio::time::Instant::now();
        let connect = |address: SocketAddr| {
            tried.borrow_mut().push((address, began.elapsed().as_millis()));
            async move {
                match address.to_string().as_str() {
                    "1.0.0.1:1" => Err("refused"),
                    "1.0.0.2:1" => std::future::pending().await,
                    _ => Ok(address),
                }
            }
        };
        assert_eq!(first(&addresses, connect).await, Some(Ok(addresses[2])));
        assert_eq!(tried.into_inner(), [(addresses[0], 0), (addresses[1], 0), (addresses[2], 300)]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_last_failure_counts() {
        let addresses = parsed(["1.0.0.1:1", "1.0.0.2:1"]);
        let failed: Option<Result<(), _>> = first(&addresses, |address| async move { Err(address) }).await;
        assert_eq!(failed, Some(Err(addresses[1])));
    }
}
