//! The store: every shard, every name, and reading them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    metric::{Counter, Gauge, Histogram, Kind, Metric, TextReadout},
    numbers::{Keep, Numbers},
    process,
    registry::{NOWHERE, Registry},
    scope::Scope,
    shard::{Shard, Shared},
    views,
};

/// Names that are looked at under the registry's lock at a time: a worker that registers a name waits that long.
const BATCH: usize = 1024;

/// All metrics of a process. Clones share them.
#[derive(Clone, Debug)]
pub struct Store {
    numbers: Arc<Numbers>,
    /// Keeps the names of [`process`].
    _process: Scope,
    /// What the names below [`root`](Store::root) begin with.
    prefix: Arc<str>,
}

/// Shards of no worker: the control thread's, that of the thread that follows management servers, and the shared one.
const APART: usize = 3;

impl Default for Store {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Store {
    /// A store for `workers` workers and the other threads, that keeps every name.
    pub fn new(workers: usize) -> Self {
        Self::build(workers, None)
    }

    /// A store that keeps the names of which `keep` says so; what is counted under others is lost.
    pub fn keeping(workers: usize, keep: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self::build(workers, Some(Box::new(keep)))
    }

    fn build(workers: usize, keep: Option<Keep>) -> Self {
        let numbers = Arc::new(Numbers {
            shards: (0..workers + APART).map(|_| Shard::default()).collect(),
            registry: Mutex::default(),
            resets: Mutex::default(),
            histograms: Mutex::default(),
            texts: Mutex::default(),
            keep,
        });
        let process = process::register(&mut numbers.registry.lock(), Arc::downgrade(&numbers));
        Self { numbers, _process: process, prefix: "".into() }
    }

    /// The store that a scope is of, while it is there.
    pub fn of(scope: &Scope) -> Option<Self> {
        scope.numbers().map(|numbers| Self { numbers, _process: Scope::default(), prefix: "".into() })
    }

    /// The same for what has its names below `view.<name>.`.
    pub fn of_view(&self, name: &str) -> Self {
        Self { prefix: views::prefix(name).into(), ..self.clone() }
    }

    /// The scope of all names of the process, or of a view's.
    pub fn root(&self) -> Scope {
        Scope::new(Arc::downgrade(&self.numbers), &self.prefix)
    }

    /// How many workers it is for.
    pub fn workers(&self) -> usize {
        self.numbers.shards.len() - APART
    }

    /// The shard of a worker; only its thread may add to it.
    pub fn worker(&self, index: usize) -> Shard {
        self.numbers.shards[index].clone()
    }

    /// The shard of the control thread.
    pub fn control(&self) -> Shard {
        self.numbers.shards[self.workers()].clone()
    }

    /// The shard of the thread that follows management servers.
    pub fn following(&self) -> Shard {
        self.numbers.shards[self.workers() + 1].clone()
    }

    /// A shard that any thread may add to, for what happens rarely.
    pub fn shared(&self) -> Shared {
        Shared::of(&self.numbers.shards[self.numbers.shards.len() - 1])
    }

    /// Sets a gauge, which nobody then moves with [`Shard::gauge_add`].
    pub fn set(&self, gauge: Gauge, value: u64) {
        if gauge.0 != NOWHERE {
            self.shared().gauge_set(gauge, value);
        }
    }

    /// Sets a text.
    pub fn set_text(&self, readout: TextReadout, text: &str) {
        if readout.0 != NOWHERE {
            self.numbers.texts.lock().insert(readout.0, text.into());
        }
    }

    /// A counter over all shards, since it was last reset.
    pub fn total(&self, counter: Counter) -> u64 {
        let base = self.numbers.resets.lock().get(&counter.0).copied().unwrap_or(0);
        self.numbers.sum(counter).wrapping_sub(base)
    }

    /// A gauge over all shards.
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.numbers.gauge(gauge).unwrap_or(0)
    }

    /// Connections that clients have open now.
    pub fn open_connections(&self) -> u64 {
        self.level(process::OPEN_CONNECTIONS)
    }

    /// Sets every counter back to 0.
    pub fn reset_counters(&self) {
        let numbers = self.numbers.registry.lock().names[Kind::Counter as usize].entries.len() as u32;
        let mut resets = self.numbers.resets.lock();
        for number in 1..=numbers {
            let sum = self.numbers.sum(Counter(number));
            if sum > 0 {
                resets.insert(number, sum);
            }
        }
    }

    /// Shows a counter among those that were used, though it may still be 0.
    pub fn show_unused(&self, counter: Counter) {
        self.numbers.resets.lock().entry(counter.0).or_insert(0);
    }

    /// Ends the histograms' interval: what was recorded since the last call becomes what they show.
    pub fn merge_histograms(&self) {
        let numbers = self.numbers.registry.lock().names[Kind::Histogram as usize].entries.len() as u32;
        for number in 1..=numbers {
            // Held for one histogram at a time, with the registry: its number is not given out again meanwhile.
            let registry = self.numbers.registry.lock();
            if registry.names[Kind::Histogram as usize].entries[(number - 1) as usize].is_some() {
                self.numbers.merge(Histogram(number));
            }
        }
    }

    /// Every metric of a kind for which `wanted` holds, by its name, in no particular order.
    pub fn read(&self, kind: Kind, mut wanted: impl FnMut(&str) -> bool) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut name = String::new();
        let mut from = 0;
        loop {
            let mut registry = self.numbers.registry.lock();
            let Registry { names, parts } = &mut *registry;
            let names = &mut names[kind as usize];
            let count = names.entries.len();
            let to = count.min(from + BATCH);
            for index in from..to {
                let Some(entry) = &names.entries[index] else { continue };
                let part = parts.get(entry.part);
                name.clear();
                name.push_str(&entry.prefix);
                name.push_str(&part.name);
                // What the process itself counts has its names whatever is kept.
                let rejected = || entry.prefix.is_empty() && self.numbers.rejects("", &name);
                if !wanted(&name) || rejected() {
                    continue;
                }
                let number = index as u32 + 1;
                let (used, value) = self.numbers.value(kind, number);
                metrics.push(Metric {
                    unit: part.unit,
                    used,
                    value,
                    prefix: entry.prefix.clone(),
                    name: part.name.clone(),
                    tagged: names.tagged(number),
                });
            }
            if to == count {
                return metrics;
            }
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Unit, Value};

    fn names(store: &Store, kind: Kind) -> Vec<String> {
        let mut names: Vec<_> = store.read(kind, |name| name.starts_with("t.")).iter().map(Metric::name).collect();
        names.sort();
        names
    }

    #[test]
    fn shards_add_up() {
        let store = Store::new(2);
        let scope = store.root().scope("t");
        let counter = scope.counter("a");
        store.worker(0).inc(counter);
        store.worker(1).add(counter, 2);
        store.control().inc(counter);
        store.shared().add(counter, 5);
        assert_eq!(store.total(counter), 9);
        let gauge = scope.gauge("g");
        store.worker(0).gauge_add(gauge, 3);
        store.worker(1).gauge_add(gauge, -1);
        assert_eq!(store.level(gauge), 2);
        store.set(scope.gauge("set"), 7);
        assert_eq!(store.level(scope.gauge("set")), 7);
    }

    #[test]
    fn a_name_has_one_number_and_lives_as_long_as_somebody_claims_it() {
        let store = Store::new(1);
        let (one, two) = (store.root().scope("t"), store.root().scope("t."));
        let counter = one.counter("a.b");
        assert_eq!(two.counter("a.b"), counter);
        assert_eq!(store.root().scope("t.a").counter("b"), counter);
        store.worker(0).inc(counter);
        drop(one);
        assert_eq!((names(&store, Kind::Counter), store.total(counter)), (vec!["t.a.b".to_owned()], 1));
        drop(two);
        assert!(names(&store, Kind::Counter).is_empty());
        let scope = store.root().scope("t");
        assert_eq!(scope.counter("other"), counter);
        assert_eq!(store.total(counter), 0);
    }

    #[test]
    fn thousands_of_scopes() {
        let store = Store::new(1);
        let worker = store.worker(0);
        let scopes: Vec<_> = (0..5000).map(|index| store.root().scope("t").scope(&format!("c{index}"))).collect();
        for (index, scope) in scopes.iter().enumerate() {
            for name in ["upstream_rq_total", "upstream_cx_total"] {
                worker.add(scope.counter(name), index as u64);
            }
        }
        assert_eq!(names(&store, Kind::Counter).len(), 10_000);
        assert_eq!(store.total(scopes[4999].counter("upstream_cx_total")), 4999);
        drop(scopes);
        assert!(names(&store, Kind::Counter).is_empty());
    }

    #[test]
    fn counters_are_reset_and_stay_used() {
        let store = Store::new(1);
        let scope = store.root().scope("t");
        let (used, unused) = (scope.counter("used"), scope.counter("unused"));
        store.worker(0).add(used, 3);
        store.reset_counters();
        store.worker(0).inc(used);
        assert_eq!((store.total(used), store.total(unused)), (1, 0));
        let used: Vec<_> = store.read(Kind::Counter, |_| true).into_iter().filter(|metric| metric.used).collect();
        assert_eq!(used.iter().map(Metric::name).collect::<Vec<_>>(), ["t.used"]);
    }

    #[test]
    fn histograms_show_an_interval_and_everything() {
        let store = Store::new(2);
        let scope = store.root().scope("t");
        let histogram = scope.histogram("h", Unit::Milliseconds);
        let counts = || match &store.read(Kind::Histogram, |name| name == "t.h")[0] {
            Metric { value: Value::Histogram(merged), used, .. } => {
                (*used, merged.interval.count(), merged.cumulative.count())
            }
            other => panic!("{other:?}"),
        };
        store.worker(0).record(histogram, 5);
        assert_eq!(counts(), (false, 0, 0));
        store.merge_histograms();
        assert_eq!(counts(), (true, 1, 1));
        store.worker(0).record(histogram, 5);
        store.worker(1).record(histogram, 0);
        store.merge_histograms();
        assert_eq!(counts(), (true, 2, 3));
        store.merge_histograms();
        assert_eq!(counts(), (true, 0, 3));
    }

    #[test]
    fn what_is_not_kept_has_no_name_and_counts_nowhere() {
        let store = Store::keeping(1, |name| !name.ends_with("secret"));
        let scope = store.root().scope("t");
        let counter = scope.counter("secret");
        assert_eq!(counter, Counter::default());
        store.worker(0).inc(counter);
        scope.counter("shown");
        assert_eq!(names(&store, Kind::Counter), ["t.shown"]);
    }

    #[test]
    fn texts_and_colons() {
        let store = Store::new(0);
        let scope = store.root().scope("t.[::1]:80");
        store.set_text(scope.text_readout("version"), "v1");
        let read = store.read(Kind::TextReadout, |_| true);
        assert_eq!(read[0].name(), "t.[__1]_80.version");
        assert!(matches!(&read[0].value, Value::Text(text) if &**text == "v1"));
    }
}
