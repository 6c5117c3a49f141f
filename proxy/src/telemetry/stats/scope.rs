//! Scopes: prefixes of names, and who still uses what was registered under them.

use std::{
    fmt::{self, Write as _},
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

    /// A counter. May also be called on a worker for a name that is known late; keep the handle, for this takes a lock.
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.register(Kind::Counter, name, Unit::Unspecified))
    }

    /// A gauge; see [`counter`](Self::counter).
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.register(Kind::Gauge, name, Unit::Unspecified))
    }

    /// A histogram; see [`counter`](Self::counter).
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        Histogram(self.register(Kind::Histogram, name, unit))
    }

    /// A text; see [`counter`](Self::counter).
    pub fn text_readout(&self, name: &str) -> TextReadout {
        TextReadout(self.register(Kind::TextReadout, name, Unit::Unspecified))
    }

    /// What its handles lead to, while that is there.
    pub(super) fn numbers(&self) -> Option<Arc<Numbers>> {
        self.0.store.upgrade()
    }

    fn register(&self, kind: Kind, name: &str, unit: Unit) -> u32 {
        let Some(store) = self.0.store.upgrade() else { return NOWHERE };
        let name = sanitised(name);
        if store.rejects(&self.0.prefix, &name) {
            return NOWHERE;
        }
        let mut numbers = self.0.numbers.lock();
        let mut registry = store.registry.lock();
        let number = registry.register(kind, &self.0.prefix, &name, unit);
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
