//! Log-linear histograms as Envoy keeps them (libcircllhist): two significant decimal digits per bin, so bins, and with
//! them quantiles and counts below a bound, come out equal to Envoy's.

/// Bins of a decade: the significant digits 10 to 99.
pub(super) const BINS_PER_DECADE: usize = 90;
/// Decades of what a u64 can hold: 1 to 9, 10 to 99, and so on.
pub(super) const DECADES: usize = 20;
const BINS: usize = 1 + DECADES * BINS_PER_DECADE;

/// The quantiles that are shown, as Envoy's.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// The decade of a value and its bin there; none for 0, which has a bin of its own.
pub(super) fn bin_of(value: u64) -> Option<(usize, usize)> {
    let decade = value.checked_ilog10()?;
    let digits = if decade == 0 { value * 10 } else { value / 10u64.pow(decade - 1) };
    Some((decade as usize, digits as usize - 10))
}

/// How many values fell into each bin; the vector ends with the last bin that is not empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    counts: Vec<u64>,
}

impl Distribution {
    /// Adds to the bin at `index`: 0 is the value 0's, then come those of the decades in order.
    pub(super) fn add(&mut self, index: usize, count: u64) {
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += count;
    }

    /// Takes another one's values in.
    pub(super) fn merge(&mut self, other: &Self) {
        for (index, count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.add(index, *count);
        }
    }

    /// The values of which this is the distribution; for tests.
    #[cfg(test)]
    fn of(values: &[u64]) -> Self {
        let mut this = Self::default();
        for value in values {
            this.add(bin_of(*value).map_or(0, |(decade, bin)| 1 + decade * BINS_PER_DECADE + bin), 1);
        }
        this
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The sum of the values, each taken as the middle of its bin, as Envoy does.
    pub fn approximate_sum(&self) -> f64 {
        // Not `sum()`, which makes -0 of no values.
        self.bins().fold(0.0, |sum, bin| sum + bin.middle() * bin.count as f64)
    }

    /// The bins that are not empty, in order.
    pub fn bins(&self) -> impl Iterator<Item = Bin> + '_ {
        self.counts.iter().take(BINS).enumerate().filter(|(_, count)| **count > 0).map(|(index, count)| {
            let (lower, width) = bounds(index);
            Bin { lower, width, count: *count }
        })
    }

    /// The values at `quantiles`, which must ascend: the k-th of n values in a bin is taken to lie at k/(n+1) of its
    /// width. None without values.
    pub fn quantiles(&self, quantiles: &[f64]) -> Option<Vec<f64>> {
        let total = self.count() as f64;
        let mut bins = self.bins();
        let mut bin = bins.next()?;
        let (mut below, mut up_to) = (0.0, bin.count as f64);
        let values = quantiles.iter().map(|quantile| {
            let wanted = (quantile * total).ceil().max(1.0);
            while up_to < wanted {
                let Some(next) = bins.next() else { break };
                bin = next;
                (below, up_to) = (up_to, up_to + bin.count as f64);
            }
            if bin.width == 0.0 {
                return bin.lower;
            }
            bin.lower + (wanted - below) / (up_to - below + 1.0) * bin.width
        });
        Some(values.collect())
    }

    /// How many values are in bins that begin at `bound` or before, as Envoy counts: also those above it in its own bin.
    pub fn count_below(&self, bound: f64) -> u64 {
        self.bins().take_while(|bin| bin.lower <= bound).map(|bin| bin.count).sum()
    }
}

/// Values that are not told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// The least of them.
    pub lower: f64,
    /// How far they reach; 0 for the value 0.
    pub width: f64,
    /// How many there are.
    pub count: u64,
}

impl Bin {
    fn middle(&self) -> f64 {
        if self.width == 0.0 {
            return self.lower;
        }
        // libcircllhist's midpoint: the harmonic one, which halves the worst relative error.
        let upper = self.lower + self.width;
        2.0 * self.lower * upper / (self.lower + upper)
    }
}

/// Lower bound and width.
fn bounds(index: usize) -> (f64, f64) {
    let Some(index) = index.checked_sub(1) else { return (0.0, 0.0) };
    let power = 10f64.powi((index / BINS_PER_DECADE) as i32);
    let digits = (index % BINS_PER_DECADE + 10) as f64;
    // In this order, so that rounding is libcircllhist's too.
    (digits / 10.0 * power, power / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_bins_of_two_digits() {
        for (value, expected) in [
            (0, (0.0, 0.0)),
            (1, (1.0, 0.1)),
            (9, (9.0, 0.1)),
            (10, (10.0, 1.0)),
            (99, (99.0, 1.0)),
            (100, (100.0, 10.0)),
            (1234, (1200.0, 100.0)),
        ] {
            let bin = Distribution::of(&[value]).bins().next().unwrap();
            assert_eq!((bin.lower, bin.width), expected, "{value}");
        }
        assert_eq!(Distribution::of(&[u64::MAX]).bins().next().unwrap().lower, 1.8e19);
    }

    /// As Envoy 1.40 printed them.
    #[test]
    fn quantiles_are_envoys() {
        let quantiles = |values: &[u64]| Distribution::of(values).quantiles(&QUANTILES).unwrap();
        assert_eq!(quantiles(&[26]), [26.5; 10]);
        assert_eq!(quantiles(&[0, 0, 0, 0]), [0.0; 10]);
        assert_eq!(quantiles(&[0, 0, 1, 3, 3])[..5], [0.0, 0.0, 1.05, 3.033_333_333_333_333, 3.066_666_666_666_667]);
        assert_eq!(
            quantiles(&[1; 5])[..6],
            [
                1.016_666_666_666_666_6,
                1.033_333_333_333_333_4,
                1.05,
                1.066_666_666_666_666_7,
                1.083_333_333_333_333_3,
                1.083_333_333_333_333_3
            ]
        );
        assert_eq!(Distribution::default().quantiles(&QUANTILES), None);
    }

    /// As Envoy 1.40 printed them.
    #[test]
    fn a_bin_counts_below_the_bound_that_it_begins_at() {
        let distribution = Distribution::of(&[1, 4, 5, 6, 10, 25, 26, 100, 1000, 1001]);
        let counts = [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 3_600_000.0]
            .map(|bound| distribution.count_below(bound));
        assert_eq!(counts, [0, 1, 3, 5, 6, 7, 8, 8, 8, 10, 10]);
    }
}
