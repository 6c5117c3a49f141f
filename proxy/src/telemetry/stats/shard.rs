//! The numbers of one thread: only that thread writes them, anybody may read.

use std::{
    array,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    distribution,
    metric::{Counter, Gauge, Histogram},
};

/// The first chunk holds 2 to the power of this many entries, each next one twice as many.
const FIRST_CHUNK_BITS: u32 = 8;
/// Chunks: room for half a billion entries.
const CHUNKS: usize = 21;

/// An array that grows without moving what it holds: its chunks are made when they are first written.
#[derive(Debug)]
struct Chunked<T>([OnceLock<Box<[T]>>; CHUNKS]);

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self(array::from_fn(|_| OnceLock::new()))
    }
}

/// What a chunk is made of.
trait Cell: Sized {
    /// So many that nobody has written to.
    fn fresh(length: usize) -> Box<[Self]>;
}

impl Cell for AtomicU64 {
    /// As the kernel gives them: of fresh pages, those that are never written take no memory.
    fn fresh(length: usize) -> Box<[Self]> {
        zerocopy::FromZeros::new_box_zeroed_with_elems(length)
            .unwrap_or_else(|_| (0..length).map(|_| Self::new(0)).collect())
    }
}

impl Cell for OnceLock<Box<Bins>> {
    fn fresh(length: usize) -> Box<[Self]> {
        (0..length).map(|_| Self::new()).collect()
    }
}

impl<T: Cell> Chunked<T> {
    fn place(index: u32) -> (usize, usize) {
        let place = u64::from(index) + (1 << FIRST_CHUNK_BITS);
        let bits = 63 - place.leading_zeros();
        ((bits - FIRST_CHUNK_BITS) as usize, (place - (1 << bits)) as usize)
    }

    fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = Self::place(index);
        self.0.get(chunk)?.get()?.get(offset)
    }

    fn get_or_make(&self, index: u32) -> &T {
        let (chunk, offset) = Self::place(index);
        let length = 1 << (chunk as u32 + FIRST_CHUNK_BITS);
        &self.0[chunk].get_or_init(|| T::fresh(length))[offset]
    }
}

/// A gauge's part: the number in the upper 63 bits; the lowest bit says that it was ever touched.
const TOUCHED: u64 = 1;
/// The most that a gauge's cell can say: one bit is the sign, one tells that it was touched.
const WIDEST: u64 = (i64::MAX as u64) >> 1;

/// The bins of a histogram, by decade; those of a decade are made when a value falls into it.
#[derive(Debug, Default)]
pub(super) struct Bins {
    zero: AtomicU32,
    decades: [OnceLock<Box<[AtomicU32; distribution::BINS_PER_DECADE]>>; distribution::DECADES],
}

impl Bins {
    fn cell(&self, value: u64) -> &AtomicU32 {
        let Some((decade, bin)) = distribution::bin_of(value) else { return &self.zero };
        &self.decades[decade].get_or_init(|| Box::new(array::from_fn(|_| AtomicU32::new(0))))[bin]
    }

    /// Calls `see` with every bin that is not empty: its index in a [`distribution::Counts`], and its count, which wraps.
    pub(super) fn each(&self, mut see: impl FnMut(usize, u32)) {
        let mut see = |index, cell: &AtomicU32| match cell.load(Relaxed) {
            0 => {}
            count => see(index, count),
        };
        see(0, &self.zero);
        for (decade, bins) in self.decades.iter().enumerate() {
            for (bin, cell) in bins.get().into_iter().flat_map(|bins| bins.iter().enumerate()) {
                see(1 + decade * distribution::BINS_PER_DECADE + bin, cell);
            }
        }
    }

    fn clear(&self) {
        self.zero.store(0, Relaxed);
        for cell in self.decades.iter().filter_map(OnceLock::get).flat_map(|bins| bins.iter()) {
            cell.store(0, Relaxed);
        }
    }
}

#[derive(Debug, Default)]
struct Cells {
    counters: Chunked<AtomicU64>,
    gauges: Chunked<AtomicU64>,
    /// Gauges that were set to what the cells of `gauges` are too narrow for; 0: to something else.
    wide: Chunked<AtomicU64>,
    histograms: Chunked<OnceLock<Box<Bins>>>,
}

/// The numbers of one thread. Clones share them, and stay on the thread: an addition is a load and a store, and two
/// threads that add to one shard would lose some. A shard made by `default` belongs to no store.
#[derive(Clone, Debug, Default)]
pub struct Shard(Arc<Cells>);

impl Shard {
    /// Counts one.
    pub fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = self.0.counters.get_or_make(counter.0);
        cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Moves a gauge up, or down.
    pub fn gauge_add(&self, gauge: Gauge, n: i64) {
        let cell = self.0.gauges.get_or_make(gauge.0);
        cell.store(cell.load(Relaxed).wrapping_add((n as u64) << 1) | TOUCHED, Relaxed);
    }

    /// Records one value, in the histogram's unit.
    pub fn record(&self, histogram: Histogram, value: u64) {
        let bins = self.0.histograms.get_or_make(histogram.0).get_or_init(Box::default);
        let cell = bins.cell(value);
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// This shard's part of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.counters.get(counter.0).map_or(0, |cell| cell.load(Relaxed))
    }

    /// This shard's part of a gauge, if it was ever touched.
    pub(super) fn gauge(&self, gauge: Gauge) -> Option<i64> {
        let value = self.0.gauges.get(gauge.0)?.load(Relaxed);
        (value & TOUCHED != 0).then_some(value as i64 >> 1)
    }

    /// A gauge that was set to more than its part here can say.
    pub(super) fn wide(&self, gauge: Gauge) -> Option<u64> {
        self.0.wide.get(gauge.0).map(|cell| cell.load(Relaxed)).filter(|value| *value > 0)
    }

    /// This shard's part of a histogram, if anything was recorded.
    pub(super) fn bins(&self, histogram: Histogram) -> Option<&Bins> {
        self.0.histograms.get(histogram.0)?.get().map(|bins| &**bins)
    }

    /// Clears a number that nobody writes any more.
    pub(super) fn clear_counter(&self, counter: Counter) {
        if let Some(cell) = self.0.counters.get(counter.0) {
            cell.store(0, Relaxed);
        }
    }

    /// The same for a gauge.
    pub(super) fn clear_gauge(&self, gauge: Gauge) {
        for cells in [&self.0.gauges, &self.0.wide] {
            if let Some(cell) = cells.get(gauge.0) {
                cell.store(0, Relaxed);
            }
        }
    }

    /// The same for a histogram.
    pub(super) fn clear_histogram(&self, histogram: Histogram) {
        if let Some(bins) = self.bins(histogram) {
            bins.clear();
        }
    }
}

/// A shard that any thread may add to, by atomic additions.
#[derive(Clone, Debug, Default)]
pub struct Shared(Shard);

impl Shared {
    pub(super) fn of(shard: &Shard) -> Self {
        Self(shard.clone())
    }

    /// Counts one.
    pub fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    pub fn add(&self, counter: Counter, n: u64) {
        self.0.0.counters.get_or_make(counter.0).fetch_add(n, Relaxed);
    }

    /// Moves a gauge up, or down.
    pub fn gauge_add(&self, gauge: Gauge, n: i64) {
        let cell = self.0.0.gauges.get_or_make(gauge.0);
        cell.fetch_add((n as u64) << 1, Relaxed);
        cell.fetch_or(TOUCHED, Relaxed);
    }

    /// Adds a value to a histogram.
    pub fn record(&self, histogram: Histogram, value: u64) {
        let bins = self.0.0.histograms.get_or_make(histogram.0).get_or_init(Box::default);
        bins.cell(value).fetch_add(1, Relaxed);
    }

    /// Sets a gauge's part here.
    pub(super) fn gauge_set(&self, gauge: Gauge, value: u64) {
        let wide = value > WIDEST;
        if wide || self.0.0.wide.get(gauge.0).is_some() {
            self.0.0.wide.get_or_make(gauge.0).store(if wide { value } else { 0 }, Relaxed);
        }
        self.0.0.gauges.get_or_make(gauge.0).store((value << 1) | TOUCHED, Relaxed);
    }

    /// What is counted here.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_each_other_without_a_gap() {
        let mut next = (0, 0);
        for index in 0..100_000 {
            let (chunk, offset) = Chunked::<AtomicU64>::place(index);
            assert_eq!((chunk, offset), next, "{index}");
            next = if offset + 1 == 256 << chunk { (chunk + 1, 0) } else { (chunk, offset + 1) };
        }
    }

    #[test]
    fn gauges_go_down_again_and_remember_that_they_were_up() {
        let shard = Shard::default();
        let gauge = Gauge(700);
        assert_eq!(shard.gauge(gauge), None);
        shard.gauge_add(gauge, 2);
        shard.gauge_add(gauge, -3);
        assert_eq!(shard.gauge(gauge), Some(-1));
        shard.gauge_add(gauge, 1);
        assert_eq!(shard.gauge(gauge), Some(0));
        Shared::of(&shard).gauge_set(gauge, u64::from(u32::MAX));
        assert_eq!(shard.gauge(gauge), Some(i64::from(u32::MAX)));
    }
}
