//! The object's ELF sections, as far as comparing two objects needs them (System V ABI, chapter 4; 64 bits, little
//! endian).

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// `EM_BPF` of elf.h.
const EM_BPF: u64 = 247;
/// `SHT_NOBITS`: a section without bytes in the file.
const SHT_NOBITS: u64 = 8;

/// Refuses what is not a little-endian eBPF object.
pub fn expect_ebpf(object: &[u8]) -> Result<()> {
    ensure!(object.starts_with(b"\x7fELF\x02\x01"), "the object is not a 64-bit little-endian ELF file");
    ensure!(number(object, 18, 2) == Some(EM_BPF), "the object is not for eBPF");
    Ok(())
}

/// Which sections of two objects differ, as text.
pub fn differences(committed: &[u8], fresh: &[u8]) -> Result<String> {
    let committed = sections(committed).context("the committed object")?;
    let fresh = sections(fresh).context("the new object")?;
    let size =
        |bytes: Option<&&[u8]>| bytes.map_or_else(|| "absent".to_owned(), |bytes| format!("{} bytes", bytes.len()));
    let mut names: Vec<&String> = committed.keys().chain(fresh.keys()).collect();
    names.sort();
    names.dedup();
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| committed.get(*name) != fresh.get(*name))
        .map(|name| format!("{name} (committed {}, new {})", size(committed.get(name)), size(fresh.get(name))))
        .collect();
    if differing.is_empty() {
        return Ok("no section differs, only the layout of the file".to_owned());
    }
    Ok(format!("sections that differ: {}", differing.join(", ")))
}

/// Symbols whose name bears the hash that cargo gave their crate, which depends on where the sources lie; with the name
/// that they have without it.
pub fn hashed_symbols(object: &[u8]) -> Result<Vec<(String, String)>> {
    let sections = sections(object)?;
    let names = sections.get(".strtab").context("the object has no .strtab")?;
    Ok(names
        .split(|byte| *byte == 0)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .filter_map(|name| Some((without_crate_hash(&name)?, name)))
        .map(|(without, name)| (name, without))
        .collect())
}

/// A mangled name without its crates' hashes, if it has any (RFC 2603: `C`, the hash as `s` BASE62 `_`, the crate's name
/// with its length before it).
fn without_crate_hash(name: &str) -> Option<String> {
    let (mut rest, mut without, mut found) = (name.strip_prefix("_R")?, String::from("_R"), false);
    while let Some((before, after)) = rest.split_once("Cs") {
        without.push_str(before);
        let hash = after.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(after.len());
        let crate_name = after[hash..].strip_prefix('_').filter(|name| name.starts_with(|c: char| c.is_ascii_digit()));
        (rest, found) = match crate_name {
            Some(crate_name) => (crate_name, true),
            None => (after, found),
        };
        without.push_str(if crate_name.is_some() { "C" } else { "Cs" });
    }
    without.push_str(rest);
    found.then_some(without)
}

/// Every section's bytes, by name.
fn sections(object: &[u8]) -> Result<BTreeMap<String, &[u8]>> {
    expect_ebpf(object)?;
    read_sections(object).context("the ELF section headers are broken")
}

fn read_sections(object: &[u8]) -> Option<BTreeMap<String, &[u8]>> {
    let table = number(object, 40, 8)?;
    let (entry_size, count, names_index) = (number(object, 58, 2)?, number(object, 60, 2)?, number(object, 62, 2)?);
    // Name, type, bytes.
    let header = |index: u64| {
        let at = usize::try_from(table.checked_add(index.checked_mul(entry_size)?)?).ok()?;
        let (name, kind) = (number(object, at, 4)?, number(object, at.checked_add(4)?, 4)?);
        let (offset, size) = (number(object, at.checked_add(24)?, 8)?, number(object, at.checked_add(32)?, 8)?);
        let range = usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(size)?).ok()?;
        Some((name, if kind == SHT_NOBITS { &[][..] } else { object.get(range)? }))
    };
    let (_, names) = header(names_index)?;
    let mut sections = BTreeMap::new();
    for index in 1..count {
        let (name, bytes) = header(index)?;
        let name = names.get(usize::try_from(name).ok()?..)?.split(|byte| *byte == 0).next()?;
        sections.insert(String::from_utf8_lossy(name).into_owned(), bytes);
    }
    Some(sections)
}

/// A little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::object_path;

    fn committed() -> Vec<u8> {
        std::fs::read(object_path()).unwrap()
    }

    #[test]
    fn the_committed_object_has_every_program_and_btf() {
        let object = committed();
        let sections = sections(&object).unwrap();
        for name in [
            "cgroup/connect4",
            "cgroup/connect6",
            "cgroup/getpeername4",
            "cgroup/getpeername6",
            "sockops",
            "sk_lookup",
            ".maps",
            ".BTF",
            "license",
        ] {
            assert!(sections.contains_key(name), "{name}");
        }
        assert!(!sections.keys().any(|name| name.starts_with(".debug")), "{:?}", sections.keys());
        assert_eq!(sections["license"], b"GPL\0");
    }

    #[test]
    fn a_difference_names_its_section() {
        let object = committed();
        let license = sections(&object).unwrap()["license"].as_ptr() as usize - object.as_ptr() as usize;
        let mut other = object.clone();
        other[license] = b'X';
        assert_eq!(
            differences(&object, &other).unwrap(),
            "sections that differ: license (committed 4 bytes, new 4 bytes)"
        );
        assert_eq!(differences(&object, &object).unwrap(), "no section differs, only the layout of the file");
    }

    #[test]
    fn crate_hashes_are_left_out_of_names() {
        assert_eq!(
            without_crate_hash("_RNCNvNtCsbL5SbV4xUhf_4weir7connect6decides_0B5_").as_deref(),
            Some("_RNCNvNtC4weir7connect6decides_0B5_")
        );
        assert_eq!(without_crate_hash("_RNvNtC4weir3FooCsum"), None);
        assert_eq!(without_crate_hash("weir_connect4"), None);
        assert_eq!(hashed_symbols(&committed()).unwrap(), [], "they depend on the directory");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert_eq!(
            differences(b"#!/bin/sh", b"").unwrap_err().root_cause().to_string(),
            "the object is not a 64-bit little-endian ELF file"
        );
        let object = committed();
        assert_eq!(
            differences(&object, &object[..100]).unwrap_err().root_cause().to_string(),
            "the ELF section headers are broken"
        );
    }
}
