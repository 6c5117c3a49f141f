//! Scopes: prefixes of names, and who still uses what was registered under them.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::{self, Write as _},
    mem,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{
    metric::{Counter, Gauge, Histogram, Kind, TextReadout, Unit},
    numbers::Numbers,
    registry::NOWHERE,
};

/// By so many a claim grows.
const STEP: usize = 16;
/// So many counters does a thread know by names that traffic has brought; then it begins anew.
const MOST_SEEN: usize = 4096;

thread_local! {
    /// Counters that this thread has had by their names.
    static SEEN: RefCell<Seen> = RefCell::default();
}

/// Counters by name.
type Named = HashMap<Box<str>, Counter>;

/// Counters by claim and by name. A claim that is known here keeps its address to itself, also when it has ended.
#[derive(Default)]
struct Seen {
    claims: HashMap<usize, (Weak<Claim>, Named)>,
    count: usize,
    /// Where names are spelled.
    name: String,
}

/// A prefix of names, and the claim to the names registered through it. Clones share the claim; it ends with the last
/// one, and with it the handles.
#[derive(Clone)]
pub struct Scope(Arc<Claim>);

struct Claim {
    store: Weak<Numbers>,
    prefix: Arc<str>,
    /// A list and no set: there are many claims, none has many numbers, and each is looked for when it is registered only.
    numbers: Mutex<Vec<(Kind, u32)>>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.0.prefix).finish()
    }
}

impl Default for Scope {
    /// A scope whose handles lead nowhere.
    fn default() -> Self {
        Self(Arc::new(Claim { store: Weak::new(), prefix: "".into(), numbers: Mutex::default() }))
    }
}

impl Scope {
    pub(super) fn new(store: Weak<Numbers>, prefix: &str) -> Self {
        Self::claiming(store, prefix, Vec::new())
    }

    /// A claim to numbers that are registered already.
    pub(super) fn claiming(store: Weak<Numbers>, prefix: &str, numbers: Vec<(Kind, u32)>) -> Self {
        Self(Arc::new(Claim { store, prefix: prefix.into(), numbers: Mutex::new(numbers) }))
    }

    /// A scope below this one, with a claim of its own: `name` is sanitised, and a dot follows it unless it is there.
    pub fn scope(&self, name: &str) -> Self {
        let mut prefix = String::with_capacity(self.0.prefix.len() + name.len() + 1);
        let _ = write!(prefix, "{}{}", self.0.prefix, sanitised(name));
        if !prefix.is_empty() && !prefix.ends_with('.') {
            prefix.push('.');
        }
        Self::new(self.0.store.clone(), &prefix)
    }

    /// What names registered here begin with.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// A counter. Keep the handle: this takes a lock. What only a request can name has [`counter_seen`](Self::counter_seen).
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.register(Kind::Counter, &sanitised(name), Unit::Unspecified))
    }

    /// A counter whose name traffic brings, and is not sanitised. A thread that has had it before takes no lock for it.
    pub fn counter_seen(&self, name: fmt::Arguments<'_>) -> Counter {
        SEEN.with_borrow_mut(|seen| {
            let mut text = mem::take(&mut seen.name);
            text.clear();
            let _ = text.write_fmt(name);
            let key = Arc::as_ptr(&self.0) as usize;
            let known = seen.claims.get(&key).and_then(|(_, names)| names.get(&*text)).copied();
            let counter = known.unwrap_or_else(|| {
                if seen.count >= MOST_SEEN {
                    seen.claims.clear();
                    seen.count = 0;
                }
                seen.count += 1;
                let counter = Counter(self.register(Kind::Counter, &text, Unit::Unspecified));
                let (_, names) = seen.claims.entry(key).or_insert_with(|| (Arc::downgrade(&self.0), Named::new()));
                names.insert(text.as_str().into(), counter);
                counter
            });
            seen.name = text;
            counter
        })
    }

    /// A gauge; see [`counter`](Self::counter).
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.register(Kind::Gauge, &sanitised(name), Unit::Unspecified))
    }

    /// A histogram; see [`counter`](Self::counter).
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        Histogram(self.register(Kind::Histogram, &sanitised(name), unit))
    }

    /// A text; see [`counter`](Self::counter).
    pub fn text_readout(&self, name: &str) -> TextReadout {
        TextReadout(self.register(Kind::TextReadout, &sanitised(name), Unit::Unspecified))
    }

    /// What its handles lead to, while that is there.
    pub(super) fn numbers(&self) -> Option<Arc<Numbers>> {
        self.0.store.upgrade()
    }

    fn register(&self, kind: Kind, name: &str, unit: Unit) -> u32 {
        let Some(store) = self.0.store.upgrade() else { return NOWHERE };
        if store.rejects(&self.0.prefix, name) {
            return NOWHERE;
        }
        let mut numbers = self.0.numbers.lock();
        let mut registry = store.registry.lock();
        let number = registry.register(kind, &self.0.prefix, name, unit);
        if numbers.contains(&(kind, number)) {
            registry.release(kind, number);
            return number;
        }
        if numbers.len() == numbers.capacity() {
            numbers.reserve_exact(STEP);
        }
        numbers.push((kind, number));
        number
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else { return };
        let mut registry = store.registry.lock();
        for (kind, number) in self.numbers.get_mut().drain(..) {
            if registry.release(kind, number) {
                // Before the lock is let go, and the number given out again.
                store.clear(kind, number);
            }
        }
    }
}

/// Envoy replaces `:` in names, and NUL.
fn sanitised(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains([':', '\0']) { name.replace([':', '\0'], "_").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Store;

    #[test]
    fn names_that_traffic_brings_are_those_that_are_registered() {
        let store = Store::new(1);
        let count = |scope: &Scope| {
            store.worker(0).inc(scope.counter_seen(format_args!("policy.{}", "a")));
            store.total(scope.counter("policy.a"))
        };
        let scope = store.root().scope("s");
        assert_eq!((count(&scope), count(&scope)), (1, 2));
        drop(scope);
        // One that has ended leaves nothing to the next, wherever that lies.
        assert_eq!(count(&store.root().scope("s")), 1);
    }

    #[test]
    fn there_may_be_any_number_of_them() {
        let store = Store::new(1);
        let scope = store.root().scope("s");
        let all = || (0..MOST_SEEN + 10).map(|number| scope.counter_seen(format_args!("{number}"))).collect::<Vec<_>>();
        assert_eq!(all(), all());
    }
}
