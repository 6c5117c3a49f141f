//! Names, interned: which number stands behind which name, and who still uses it.

use std::{
    collections::HashSet,
    hash::BuildHasher,
    sync::{Arc, OnceLock},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::metric::{Kind, Tagged, Unit};

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
    /// What was extracted from the name, once somebody asked. Until somebody has read it there is no place for that: a large
    /// mesh has a million names.
    tagged: Option<Arc<OnceLock<Tagged>>>,
}

impl Entry {
    /// Where what is extracted from the name is kept.
    pub(super) fn tagged(&mut self) -> Arc<OnceLock<Tagged>> {
        self.tagged.get_or_insert_with(Arc::default).clone()
    }
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
    pub(super) fn release(&mut self, number: u32) -> bool {
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
        names.add(Entry { prefix: prefix.clone(), name, unit, users: 1, tagged: None })
    }
}
