//! The eBPF object that is built into the agent, and loading it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapInfo};
use aya_obj::Object;
use weir_abi::map::{MAX_PODS, name};

use super::{Error, pins::Pins};
use crate::causes::on_one_line;

static OBJECT: &[u8] = include_bytes_aligned!("../../../ebpf/weir.bpf.o");
/// The ring buffer of aya-log's records.
pub(super) const LOGS: &str = "AYA_LOGS";
/// The maps of the ABI, in its order.
pub(super) const NAMES: [&str; 16] = [
    name::CONFIG,
    name::ENROLLED,
    name::SLOTS,
    name::PORT_RULES,
    name::EXCLUDED_CIDRS,
    name::LISTENERS,
    name::PEER,
    name::ACCEPTED,
    name::UPSTREAM,
    name::PENDING,
    name::NODE_SOCKETS,
    name::NODE_CONNECTIONS,
    name::COUNTERS,
    name::FLOWS,
    name::EVENTS,
    name::FAULTS,
];
/// The global of `weir_sklookup` that says which pod an instance serves.
const SLOT: &str = "SLOT";
/// Every slot's number, at an address that lives as long as a loader.
static SLOTS: [u32; MAX_PODS as usize] = {
    let mut slots = [0; MAX_PODS as usize];
    let mut slot = 0;
    while slot < MAX_PODS {
        slots[slot as usize] = slot;
        slot += 1;
    }
    slots
};
/// `Level::Trace` of aya-log: the programs write every record that they have.
static LOG_LEVEL: u8 = 5;

/// Loads the object, its maps pinned.
///
/// aya parses the object for every load, and the kernel's BTF for every loader: keeping the loader halves the cost of
/// enrolling a pod.
pub(super) struct Loader {
    loader: EbpfLoader<'static>,
    definitions: BTreeMap<&'static str, Definition>,
}

/// What must agree between a pinned map and the object's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Definition {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
}

impl Loader {
    /// For the maps of these pins. `logs` switches the programs' log records on.
    pub(super) fn new(pins: &Pins, logs: bool) -> Result<Self, Error> {
        let object = Object::parse(OBJECT).map_err(|error| Error::Object(error.to_string()))?;
        let mut definitions = BTreeMap::new();
        for name in maps() {
            let map = object.maps.get(name).ok_or(Error::NoMap(name))?;
            let definition = Definition {
                kind: map.map_type(),
                key_bytes: map.key_size(),
                value_bytes: map.value_size(),
                max_entries: map.max_entries(),
            };
            definitions.insert(name, definition);
        }
        let mut loader = EbpfLoader::new();
        // The programs read no kernel structure that would have to be relocated.
        loader.btf(None);
        for name in maps() {
            loader.map_pin_path(name, pins.map(name));
        }
        if logs {
            loader.override_global(aya_log::LEVEL, &LOG_LEVEL, true);
        }
        Ok(Self { loader, definitions })
    }

    /// Whether the maps that are pinned already are those of this object.
    pub(super) fn check_pinned(&self, pins: &Pins) -> Result<(), Error> {
        for (name, expected) in &self.definitions {
            let pin = pins.map(name);
            if pin.exists() {
                check(name, expected, &pin, pins.directory())?;
            }
        }
        Ok(())
    }

    /// Loads the maps, pinned ones as they are, and makes the programs ready to load; `weir_sklookup` for this slot.
    pub(super) fn load(&mut self, slot: u32) -> Result<Ebpf, Error> {
        let number = SLOTS.get(slot as usize).ok_or(Error::NoSlot)?;
        self.loader.override_global(SLOT, number, true);
        self.loader.load(OBJECT).map_err(|error| Error::Object(on_one_line(&error)))
    }
}

/// Every map of the object: all are pinned.
fn maps() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain([LOGS])
}

fn check(name: &str, expected: &Definition, pin: &Path, directory: &Path) -> Result<(), Error> {
    let info =
        MapInfo::from_pin(pin).map_err(|source| Error::Pinned { pin: PathBuf::from(pin), source: Box::new(source) })?;
    let kind = info.map_type().map_or(expected.kind, |kind| kind as u32);
    // aya rounds a ring buffer's size to pages, and gives it no key and no value.
    let ring_buffer = kind == aya::maps::MapType::RingBuf as u32;
    let found = if ring_buffer {
        Definition { kind, ..*expected }
    } else {
        Definition { kind, key_bytes: info.key_size(), value_bytes: info.value_size(), max_entries: info.max_entries() }
    };
    if found == *expected {
        return Ok(());
    }
    Err(Error::OtherAbi {
        map: name.to_owned(),
        directory: directory.to_owned(),
        difference: difference(expected, &found),
    })
}

fn difference(expected: &Definition, found: &Definition) -> String {
    let fields = [
        ("type", expected.kind, found.kind),
        ("bytes of a key", expected.key_bytes, found.key_bytes),
        ("bytes of a value", expected.value_bytes, found.value_bytes),
        ("entries", expected.max_entries, found.max_entries),
    ];
    let differing = fields.iter().filter(|(_, expected, found)| expected != found);
    differing
        .map(|(what, expected, found)| format!("{what} {found}, expected {expected}"))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::{NODE_PROGRAMS, POD_PROGRAM};
    use std::collections::BTreeSet;
    use weir_abi::map::PodConfig;

    #[test]
    fn the_object_has_the_maps_and_programs_of_the_abi() {
        let object = Object::parse(OBJECT).unwrap();
        let enrolled = &object.maps[name::ENROLLED];
        assert_eq!((enrolled.key_size(), enrolled.value_size()), (8, size_of::<PodConfig>() as u32));
        // The sections of globals are each loaded object's own.
        let maps: BTreeSet<&str> =
            object.maps.keys().map(String::as_str).filter(|name| !name.starts_with('.')).collect();
        assert_eq!(maps, super::maps().collect());
        for program in NODE_PROGRAMS.into_iter().chain([POD_PROGRAM]) {
            assert!(object.programs.contains_key(program), "{program}");
        }
    }

    #[test]
    fn differing_maps_are_named() {
        let expected = Definition { kind: 1, key_bytes: 8, value_bytes: 168, max_entries: 1024 };
        let found = Definition { value_bytes: 152, max_entries: 512, ..expected };
        assert_eq!(difference(&expected, &found), "bytes of a value 152, expected 168; entries 512, expected 1024");
    }
}
