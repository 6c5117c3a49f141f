//! Names, interned: which number stands behind which name, and who still uses it.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, OnceLock},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::metric::{Kind, Tagged, Unit};

/// The first number of every kind: it is written by handles that stand for no name, and never shown.
pub(super) const NOWHERE: u32 = 0;

/// A name with a number. A large mesh has a million of them: nothing is in here that may be elsewhere.
#[derive(Debug)]
pub(super) struct Entry {
    pub prefix: Arc<str>,
    /// Which of the [`Parts`].
    pub part: u32,
    /// Scopes that registered it.
    users: u32,
}

/// The last part of names, and what their values measure: these repeat from object to object.
#[derive(Debug)]
pub(super) struct Part {
    pub name: Arc<str>,
    pub unit: Unit,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(super) struct Parts {
    all: Vec<Part>,
    by_name: [HashMap<Arc<str>, u32>; Unit::COUNT],
}

impl Parts {
    pub(super) fn get(&self, number: u32) -> &Part {
        &self.all[number as usize]
    }

    fn intern(&mut self, name: &str, unit: Unit) -> u32 {
        let by_name = &mut self.by_name[unit as usize];
        if let Some(number) = by_name.get(name) {
            return *number;
        }
        let (name, number): (Arc<str>, _) = (name.into(), self.all.len() as u32);
        by_name.insert(name.clone(), number);
        self.all.push(Part { name, unit });
        number
    }
}

/// The names of one kind.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By number, from 1; none: free.
    pub entries: Vec<Option<Entry>>,
    /// What was extracted from those that somebody has read, likewise.
    tagged: Vec<Option<Arc<OnceLock<Tagged>>>>,
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

    /// Where what is extracted from a name is kept.
    pub(super) fn tagged(&mut self, number: u32) -> Arc<OnceLock<Tagged>> {
        let index = (number - 1) as usize;
        if self.tagged.len() <= index {
            self.tagged.resize_with(self.entries.len().max(index + 1), || None);
        }
        self.tagged[index].get_or_insert_with(Arc::default).clone()
    }

    /// The number of `prefix` followed by `name`, if somebody has it.
    fn find(&self, parts: &Parts, prefix: &str, name: &str) -> Option<u32> {
        let hash = Self::hash(&self.hasher, prefix, name);
        let same = |number: &u32| {
            Self::entry(&self.entries, *number)
                .is_some_and(|entry| same_text([&entry.prefix, &parts.get(entry.part).name], [prefix, name]))
        };
        self.by_name.find(hash, same).copied()
    }

    fn add(&mut self, parts: &Parts, entry: Entry) -> u32 {
        let hash = Self::hash(&self.hasher, &entry.prefix, &parts.get(entry.part).name);
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32
        });
        self.entries[(number - 1) as usize] = Some(entry);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_name.insert_unique(hash, number, |number| {
            let entry = Self::entry(entries, *number);
            entry.map_or(0, |entry| Self::hash(hasher, &entry.prefix, &parts.get(entry.part).name))
        });
        number
    }

    fn retain(&mut self, number: u32) {
        if let Some(Some(entry)) = self.entries.get_mut((number - 1) as usize) {
            entry.users += 1;
        }
    }

    /// One user less; true if it was the last, and the number is now free.
    fn release(&mut self, parts: &Parts, number: u32) -> bool {
        let Some(place) = self.entries.get_mut((number - 1) as usize) else { return false };
        let Some(entry) = place else { return false };
        entry.users -= 1;
        if entry.users > 0 {
            return false;
        }
        let hash = Self::hash(&self.hasher, &entry.prefix, &parts.get(entry.part).name);
        *place = None;
        if let Some(tagged) = self.tagged.get_mut((number - 1) as usize) {
            *tagged = None;
        }
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
    pub parts: Parts,
}

impl Registry {
    pub(super) fn register(&mut self, kind: Kind, prefix: &Arc<str>, name: &str, unit: Unit) -> u32 {
        let names = &mut self.names[kind as usize];
        if let Some(number) = names.find(&self.parts, prefix, name) {
            names.retain(number);
            return number;
        }
        let part = self.parts.intern(name, unit);
        names.add(&self.parts, Entry { prefix: prefix.clone(), part, users: 1 })
    }

    /// One user less; true if it was the last, and the number is now free.
    pub(super) fn release(&mut self, kind: Kind, number: u32) -> bool {
        self.names[kind as usize].release(&self.parts, number)
    }
}
