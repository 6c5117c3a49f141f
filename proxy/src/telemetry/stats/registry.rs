//! Names, interned: which number stands behind which name, and who still uses it.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    hash::BuildHasher,
    sync::{Arc, OnceLock, Weak},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    Counter, Gauge, Histogram, TextReadout,
    store::{Inner, Kind, Store, Tagged},
};

/// What a histogram's values measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of something.
    #[default]
    Unspecified,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Parts of a million, shown as parts of one.
    Percent,
}

/// The first number of every kind: it is written by handles that stand for no name, and never shown.
pub(super) const NOWHERE: u32 = 0;

/// A name with a number.
#[derive(Debug)]
pub(super) struct Entry {
    pub prefix: Arc<str>,
    pub name: Arc<str>,
    pub unit: Unit,
    /// Scopes that registered it.
    users: u32,
    /// What was extracted from the name, once somebody asked.
    pub tagged: Arc<OnceLock<Tagged>>,
}

/// The names of one kind.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By number, from 1; none: free.
    pub entries: Vec<Option<Entry>>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
}

impl Names {
    fn hash(hasher: &DefaultHashBuilder, prefix: &str, name: &str) -> u64 {
        // In one piece: where a name is split must not matter, and to a hasher it does.
        let mut whole: SmallVec<[u8; 128]> = SmallVec::from_slice(prefix.as_bytes());
        whole.extend_from_slice(name.as_bytes());
        hasher.hash_one(&whole[..])
    }

    fn entry(entries: &[Option<Entry>], number: u32) -> Option<&Entry> {
        entries.get((number - 1) as usize)?.as_ref()
    }

    /// The number of `prefix` followed by `name`, if somebody has it.
    fn find(&self, prefix: &str, name: &str) -> Option<u32> {
        let hash = Self::hash(&self.hasher, prefix, name);
        let same = |number: &u32| {
            Self::entry(&self.entries, *number)
                .is_some_and(|entry| same_text([&entry.prefix, &entry.name], [prefix, name]))
        };
        self.by_name.find(hash, same).copied()
    }

    fn add(&mut self, entry: Entry) -> u32 {
        let hash = Self::hash(&self.hasher, &entry.prefix, &entry.name);
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32
        });
        self.entries[(number - 1) as usize] = Some(entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_name.insert_unique(hash, number, |number| {
            Self::entry(entries, *number).map_or(0, |entry| Self::hash(hasher, &entry.prefix, &entry.name))
        });
        number
    }

    fn retain(&mut self, number: u32) {
        if let Some(Some(entry)) = self.entries.get_mut((number - 1) as usize) {
            entry.users += 1;
        }
    }

    /// One user less; true if it was the last, and the number is now free.
    fn release(&mut self, number: u32) -> bool {
        let Some(place) = self.entries.get_mut((number - 1) as usize) else { return false };
        let Some(entry) = place else { return false };
        entry.users -= 1;
        if entry.users > 0 {
            return false;
        }
        let hash = Self::hash(&self.hasher, &entry.prefix, &entry.name);
        *place = None;
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == number) {
            found.remove();
        }
        self.free.push(number);
        true
    }
}

fn same_text(one: [&str; 2], other: [&str; 2]) -> bool {
    let length = |parts: [&str; 2]| parts[0].len() + parts[1].len();
    length(one) == length(other)
        && one.iter().flat_map(|part| part.bytes()).eq(other.iter().flat_map(|part| part.bytes()))
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub names: [Names; Kind::COUNT],
    /// The last parts of names repeat from object to object.
    parts: HashSet<Arc<str>>,
}

impl Registry {
    pub(super) fn register(&mut self, kind: Kind, prefix: &Arc<str>, name: &str, unit: Unit) -> u32 {
        let names = &mut self.names[kind as usize];
        if let Some(number) = names.find(prefix, name) {
            names.retain(number);
            return number;
        }
        let name = match self.parts.get(name) {
            Some(part) => part.clone(),
            None => {
                let part: Arc<str> = name.into();
                self.parts.insert(part.clone());
                part
            }
        };
        names.add(Entry { prefix: prefix.clone(), name, unit, users: 1, tagged: Arc::default() })
    }
}

/// A prefix of names, and the claim to the names registered through it. Clones share the claim; it ends with the last
/// one, and with it the handles.
#[derive(Clone)]
pub struct Scope(Arc<Claim>);

struct Claim {
    store: Weak<Inner>,
    prefix: Arc<str>,
    numbers: Mutex<HashSet<(Kind, u32)>>,
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
    pub(super) fn new(store: Weak<Inner>, prefix: &str) -> Self {
        Self::claiming(store, prefix, HashSet::new())
    }

    /// A claim to numbers that are registered already.
    pub(super) fn claiming(store: Weak<Inner>, prefix: &str, numbers: HashSet<(Kind, u32)>) -> Self {
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

    /// The store, while it is there.
    pub fn store(&self) -> Option<Store> {
        self.0.store.upgrade().map(Store::from_inner)
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
        if !numbers.insert((kind, number)) {
            registry.names[kind as usize].release(number);
        }
        number
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else { return };
        let mut registry = store.registry.lock();
        for (kind, number) in self.numbers.get_mut().drain() {
            if registry.names[kind as usize].release(number) {
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
