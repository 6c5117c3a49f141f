//! Zone-aware routing: the proxy's own zone first, as far as that is fair to the upstream hosts of all zones.

use std::sync::Arc;

use crate::config::cluster::{Locality, Zones, balancing::ZoneAware};

/// How the zones of one priority share its requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Routing {
    /// They do not count.
    Off(Why),
    /// All stay in the proxy's own zone.
    Direct,
    /// So many of 10,000 stay, and the others go where capacity is left: sums over the zones so far.
    Residual { stay: u64, capacity: Vec<u64> },
}

/// Why zones do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is nothing to choose from.
    OneZone,
    /// The cluster has too few hosts.
    TooSmall,
    /// The local cluster has no host in the proxy's own zone.
    NotLocal,
}

impl Routing {
    /// The routing to a priority with so many healthy hosts by locality, the first being the proxy's own if `own` is set.
    pub fn of(config: &ZoneAware, upstream: &[(Arc<Locality>, u64)], own: bool, local: &Zones) -> Self {
        if upstream.len() < 2 || local.localities.len() < 2 {
            return Self::Off(Why::OneZone);
        }
        if !local.own_first || local.localities.first().is_none_or(|(_, hosts)| *hosts == 0) {
            return Self::Off(Why::NotLocal);
        }
        let total: u64 = upstream.iter().map(|(_, hosts)| hosts).sum();
        if total < config.min_cluster_size {
            return Self::Off(Why::TooSmall);
        }
        let local_total: u64 = local.localities.iter().map(|(_, hosts)| hosts).sum();
        let share = |hosts: u64, total: u64| (10_000 * hosts).checked_div(total).unwrap_or(0);
        let shares: Vec<(u64, u64)> = upstream
            .iter()
            .map(|(locality, hosts)| {
                let of_local =
                    local.localities.iter().find(|(known, _)| known == locality).map_or(0, |(_, hosts)| *hosts);
                (share(*hosts, total), share(of_local, local_total))
            })
            .collect();
        let (ours, needed) = shares[0];
        if own && ours > 0 && ours >= needed {
            return Self::Direct;
        }
        let stay = if own { (ours * 10_000).checked_div(needed).unwrap_or(0) } else { 0 };
        let mut sum = 0;
        let capacity = shares
            .iter()
            .enumerate()
            .map(|(index, (upstream, local))| {
                if !(own && index == 0) {
                    sum += upstream.saturating_sub(*local);
                }
                sum
            })
            .collect();
        Self::Residual { stay, capacity }
    }

    /// The zone for a request that does not stay; `random` is any number.
    pub fn elsewhere(capacity: &[u64], random: u64) -> Option<usize> {
        let total = *capacity.last()?;
        let threshold = random.checked_rem(total)?;
        capacity.iter().position(|sum| threshold <= *sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::Tally;

    fn zones(counts: &[u64]) -> Vec<(Arc<Locality>, u64)> {
        ["a", "b", "c"]
            .iter()
            .zip(counts)
            .map(|(zone, hosts)| (Arc::new(Locality { zone: (*zone).into(), ..Locality::default() }), *hosts))
            .collect()
    }

    fn routing(upstream: &[u64], local: &[u64]) -> Routing {
        let local = Zones { localities: zones(local), own_first: true, tally: Tally::default() };
        Routing::of(&ZoneAware::default(), &zones(upstream), true, &local)
    }

    #[test]
    fn enough_hosts_in_the_own_zone_take_all() {
        assert_eq!(routing(&[3, 3], &[1, 1]), Routing::Direct);
        assert_eq!(routing(&[2, 2], &[1, 1]), Routing::Off(Why::TooSmall));
        assert_eq!(routing(&[9], &[1, 1]), Routing::Off(Why::OneZone));
        assert_eq!(routing(&[3, 3], &[0, 1]), Routing::Off(Why::NotLocal));
    }

    #[test]
    fn the_rest_goes_where_capacity_is_left() {
        // Local 40/40/20 percent, upstream 25/50/25 percent.
        let expected = Routing::Residual { stay: 6250, capacity: vec![0, 1000, 1500] };
        assert_eq!(routing(&[5, 10, 5], &[4, 4, 2]), expected);
        assert_eq!(Routing::elsewhere(&[0, 1000, 1500], 999), Some(1));
        assert_eq!(Routing::elsewhere(&[0, 1000, 1500], 1499), Some(2));
        assert_eq!(Routing::elsewhere(&[0, 0], 7), None);
    }
}
