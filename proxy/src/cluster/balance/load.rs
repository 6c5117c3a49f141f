//! How the load is shared among priorities: Envoy's arithmetic, without I/O.

use crate::config::cluster::Tally;

/// Which hosts of a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Available {
    /// The healthy ones.
    Healthy,
    /// The degraded ones.
    Degraded,
}

/// Shares of the load, percent, by priority; they sum up to 100.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shares {
    /// To healthy hosts.
    pub healthy: Vec<u32>,
    /// To degraded hosts.
    pub degraded: Vec<u32>,
    /// Priorities whose hosts are used whatever their health.
    pub panic: Vec<bool>,
}

impl Shares {
    /// The shares of priorities with these hosts.
    pub fn of(tallies: &[Tally], panic_threshold: u32) -> Self {
        let able: Vec<_> = tallies.iter().map(|tally| tally.able).collect();
        let mut shares = Self::by_ability(&able);
        let total = total(&able);
        if tallies.is_empty() {
            return shares;
        }
        if panic_threshold == 0 && total == 0 {
            // Nobody is there and nobody panics: the choice falls on the first priority, and finds none.
            shares.healthy[0] = 100;
            return shares;
        }
        for (panic, tally) in shares.panic.iter_mut().zip(tallies) {
            *panic = total < 100 && tally.in_panic(panic_threshold);
        }
        if shares.panic.iter().all(|panic| *panic) {
            shares.spread(tallies);
        }
        shares
    }

    /// The shares if priorities in `excluded` are not to be used, or none if all are.
    pub fn without(tallies: &[Tally], excluded: &[u32]) -> Option<Self> {
        let able: Vec<_> = (0_u32..)
            .zip(tallies)
            .map(|(index, tally)| if excluded.contains(&index) { (0, 0) } else { tally.able })
            .collect();
        (total(&able) > 0).then(|| Self::by_ability(&able))
    }

    /// Every priority takes what it is able to, in order, healthy hosts first.
    fn by_ability(able: &[(u32, u32)]) -> Self {
        let total = total(able);
        let count = able.len();
        let mut shares = Self { healthy: vec![0; count], degraded: vec![0; count], panic: vec![false; count] };
        if total == 0 {
            return shares;
        }
        let mut left: u32 = 100;
        for (share, (healthy, _)) in shares.healthy.iter_mut().zip(able) {
            *share = left.min(healthy * 100 / total);
            left -= *share;
        }
        for (share, (_, degraded)) in shares.degraded.iter_mut().zip(able) {
            *share = left.min(degraded * 100 / total);
            left -= *share;
        }
        // What rounding left.
        if let Some(first) = able.iter().position(|(healthy, _)| *healthy > 0) {
            shares.healthy[first] += left;
        } else if let Some(first) = able.iter().position(|(_, degraded)| *degraded > 0) {
            shares.degraded[first] += left;
        }
        shares
    }

    /// Everything is in panic: the load goes where there are hosts at all, by their number.
    fn spread(&mut self, tallies: &[Tally]) {
        self.degraded.fill(0);
        let all: u64 = tallies.iter().map(|tally| tally.all).sum();
        let mut left: u32 = 100;
        for (share, tally) in self.healthy.iter_mut().zip(tallies) {
            *share = (tally.all * 100).checked_div(all).and_then(|share| u32::try_from(share).ok()).unwrap_or(0);
            left = left.saturating_sub(*share);
        }
        let first = tallies.iter().position(|tally| tally.all > 0).unwrap_or(0);
        self.healthy[first] += left;
    }

    /// The priority that `hash` falls on, and which of its hosts.
    pub fn choose(&self, hash: u64) -> Option<(usize, Available)> {
        let point = (hash % 100) as u32;
        let mut sum = 0;
        for (shares, available) in [(&self.healthy, Available::Healthy), (&self.degraded, Available::Degraded)] {
            for (index, share) in shares.iter().enumerate() {
                sum += share;
                if point < sum {
                    return Some((index, available));
                }
            }
        }
        None
    }
}

fn total(able: &[(u32, u32)]) -> u32 {
    able.iter().map(|(healthy, degraded)| healthy + degraded).sum::<u32>().min(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::AssignmentPolicy;

    fn tally(healthy: u64, degraded: u64, all: u64) -> Tally {
        Tally { all, healthy, degraded, ..Tally::default() }.rated(&AssignmentPolicy::default())
    }

    fn shares(tallies: &[Tally]) -> Shares {
        Shares::of(tallies, 50)
    }

    #[test]
    fn documented_spills() {
        // Envoy's documentation of priority levels.
        for (first, second, expected) in [
            (100, 100, [100, 0]),
            (72, 72, [100, 0]),
            (71, 71, [99, 1]),
            (50, 50, [70, 30]),
            (25, 100, [35, 65]),
            (25, 25, [50, 50]),
        ] {
            let shares = shares(&[tally(first, 0, 100), tally(second, 0, 100)]);
            assert_eq!(shares.healthy, expected, "{first} {second}");
        }
    }

    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        let shares = shares(&[tally(1, 1, 4), tally(1, 0, 1)]);
        assert_eq!((shares.healthy, shares.degraded), (vec![35, 65], vec![0, 0]));
        let shares = super::Shares::of(&[tally(1, 3, 4)], 50);
        assert_eq!((shares.healthy, shares.degraded, shares.panic), (vec![35], vec![65], vec![false]));
    }

    #[test]
    fn panic_spreads_by_number() {
        let shares = shares(&[tally(0, 0, 3), tally(0, 0, 1)]);
        assert_eq!((shares.healthy, shares.panic), (vec![75, 25], vec![true, true]));
        let none = Shares::of(&[tally(0, 0, 3)], 0);
        assert_eq!((none.healthy, none.panic), (vec![100], vec![false]));
    }

    #[test]
    fn a_retry_leaves_priorities_out() {
        let tallies = [tally(1, 0, 1), tally(1, 0, 1)];
        assert_eq!(Shares::without(&tallies, &[0]).unwrap().healthy, [0, 100]);
        assert_eq!(Shares::without(&tallies, &[0, 1]), None);
    }
}
