//! The numbers behind the handles of a store: what shards hold, added up.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use super::{
    distribution::Distribution,
    metric::{Counter, Gauge, Histogram, Kind, Merged, Value},
    registry::Registry,
    shard::Shard,
};

/// What is kept of a histogram from one merge to the next.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What each shard's bins held at the last merge.
    shards: Vec<HashMap<usize, u32>>,
    merged: Arc<Merged>,
}

/// Says which names are kept.
pub(super) type Keep = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Every shard and every name, and what is kept of metrics besides.
pub(super) struct Numbers {
    /// The workers', the control thread's, and the one that anybody may add to.
    pub(super) shards: Box<[Shard]>,
    pub(super) registry: Mutex<Registry>,
    /// What counters held when they were reset.
    pub(super) resets: Mutex<HashMap<u32, u64>>,
    pub(super) histograms: Mutex<HashMap<u32, Seen>>,
    pub(super) texts: Mutex<HashMap<u32, Arc<str>>>,
    pub(super) keep: Option<Keep>,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Numbers {
    /// Whether a name is not kept.
    pub(super) fn rejects(&self, prefix: &str, name: &str) -> bool {
        self.keep.as_ref().is_some_and(|keep| !keep(&format!("{prefix}{name}")))
    }

    /// Clears a number whose last user is gone.
    pub(super) fn clear(&self, kind: Kind, number: u32) {
        for shard in &self.shards {
            match kind {
                Kind::Counter => shard.clear_counter(Counter(number)),
                Kind::Gauge => shard.clear_gauge(Gauge(number)),
                Kind::Histogram => shard.clear_histogram(Histogram(number)),
                Kind::TextReadout => {}
            }
        }
        match kind {
            Kind::Counter => drop(self.resets.lock().remove(&number)),
            Kind::Gauge => {}
            Kind::Histogram => drop(self.histograms.lock().remove(&number)),
            Kind::TextReadout => drop(self.texts.lock().remove(&number)),
        }
    }

    /// A counter over all shards, whatever it was reset at.
    pub(super) fn sum(&self, counter: Counter) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.get(counter)))
    }

    /// A gauge over all shards; none: it was never written.
    pub(super) fn gauge(&self, gauge: Gauge) -> Option<u64> {
        // Gauges are set in the last shard only.
        if let Some(value) = self.shards.last().and_then(|shard| shard.wide(gauge)) {
            return Some(value);
        }
        let parts = self.shards.iter().filter_map(|shard| shard.gauge(gauge));
        // Parts are read one after the other: an end may be seen without its begin.
        parts.reduce(i64::wrapping_add).map(|sum| sum.max(0) as u64)
    }

    /// What a metric says, and whether it was ever written.
    pub(super) fn value(&self, kind: Kind, number: u32) -> (bool, Value) {
        match kind {
            Kind::Counter => {
                let sum = self.sum(Counter(number));
                let base = self.resets.lock().get(&number).copied();
                (sum > 0 || base.is_some(), Value::Counter(sum.wrapping_sub(base.unwrap_or(0))))
            }
            Kind::Gauge => {
                let value = self.gauge(Gauge(number));
                (value.is_some(), Value::Gauge(value.unwrap_or(0)))
            }
            Kind::Histogram => {
                let merged = self.histograms.lock().get(&number).map(|seen| seen.merged.clone()).unwrap_or_default();
                (!merged.cumulative.is_empty(), Value::Histogram(merged))
            }
            Kind::TextReadout => {
                let text = self.texts.lock().get(&number).cloned();
                (text.is_some(), Value::Text(text.unwrap_or_else(|| "".into())))
            }
        }
    }

    /// Ends a histogram's interval.
    pub(super) fn merge(&self, histogram: Histogram) {
        if self.shards.iter().all(|shard| shard.bins(histogram).is_none()) {
            return;
        }
        let mut histograms = self.histograms.lock();
        let seen = histograms.entry(histogram.0).or_default();
        seen.shards.resize_with(self.shards.len(), HashMap::default);
        let mut interval = Distribution::default();
        for (shard, seen) in self.shards.iter().zip(&mut seen.shards) {
            let Some(bins) = shard.bins(histogram) else { continue };
            bins.each(|index, count| {
                let before = seen.insert(index, count).unwrap_or(0);
                let new = count.wrapping_sub(before);
                if new > 0 {
                    interval.add(index, u64::from(new));
                }
            });
        }
        if interval.is_empty() && seen.merged.interval.is_empty() {
            return;
        }
        let merged = Arc::make_mut(&mut seen.merged);
        merged.cumulative.merge(&interval);
        merged.interval = interval;
    }
}
