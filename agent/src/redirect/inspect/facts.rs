//! Facts about the pinned programs, their links and the pinned maps, with bpftool's names of types.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aya::{
    maps::{MapData, MapType},
    programs::{
        ProgramInfo,
        links::{LinkType, PinnedLink},
    },
};
use aya_obj::generated::bpf_prog_type;

use super::Error;

/// A pinned program and its link.
#[derive(Clone, Debug)]
pub struct ProgramFacts {
    /// File name of the pin: the program's name, with the pod's slot for `sk_lookup`.
    pub pinned_as: String,
    /// The pin.
    pub pin: PathBuf,
    /// Kernel id.
    pub id: u32,
    /// Name as the kernel has it (15 bytes at most).
    pub name: String,
    /// Type, as bpftool names it.
    pub kind: &'static str,
    /// Hash of its instructions.
    pub tag: u64,
    /// Its pinned link; none: it is loaded and attached to nothing.
    pub link: Option<LinkFacts>,
    /// Runs while the kernel counted them.
    pub run_count: u64,
    /// Time spent in them.
    pub run_time: Duration,
    /// When it was loaded.
    pub loaded: Option<SystemTime>,
    /// Bytes of eBPF after the verifier's rewriting.
    pub bytes_translated: u32,
    /// Bytes of machine code; 0 without a JIT compiler.
    pub bytes_jited: u32,
    /// Bytes that the kernel accounts to it.
    pub memlock: u64,
}

/// A pinned link.
#[derive(Clone, Copy, Debug)]
pub struct LinkFacts {
    /// Kernel id.
    pub id: u32,
    /// The program that it runs.
    pub program_id: u32,
    /// What it attaches to.
    pub target: LinkTarget,
}

/// What a link attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// A cgroup.
    Cgroup,
    /// A network namespace.
    Netns,
    /// Something that weir does not use.
    Other,
}

/// A pinned map.
#[derive(Clone, Debug)]
pub struct MapFacts {
    /// File name of the pin.
    pub name: String,
    /// The pin.
    pub pin: PathBuf,
    /// Kernel id.
    pub id: u32,
    /// Type, as bpftool names it.
    pub kind: &'static str,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Entries that fit; bytes of a ring buffer.
    pub max_entries: u32,
    /// Bytes that the kernel accounts to it.
    pub memlock: u64,
}

/// The programs pinned in `directory`, with their links of the same names in `links`, by name.
pub(super) fn programs(directory: &Path, links: &Path) -> Result<Vec<ProgramFacts>, Error> {
    let mut programs = Vec::new();
    // While a program is replaced its successor is pinned under another name for a moment.
    for name in pins(directory)?.into_iter().filter(|name| !name.ends_with("_new")) {
        let pin = directory.join(&name);
        let info = match ProgramInfo::from_pin(&pin) {
            Ok(info) => info,
            // Unpinned since the directory was read: a pod was withdrawn.
            Err(_) if !pin.exists() => continue,
            Err(source) => return Err(Error::Program { pin, source: Box::new(source) }),
        };
        let memlock = info.memory_locked().unwrap_or_default().into();
        programs.push(ProgramFacts {
            id: info.id(),
            name: String::from_utf8_lossy(info.name()).into_owned(),
            kind: program_type(info.program_type()),
            tag: info.tag(),
            link: link(links.join(&name))?,
            run_count: info.run_count(),
            run_time: info.run_time(),
            loaded: info.loaded_at(),
            bytes_translated: info.size_translated().unwrap_or_default(),
            bytes_jited: info.size_jitted(),
            memlock,
            pinned_as: name,
            pin,
        });
    }
    Ok(programs)
}

fn link(pin: PathBuf) -> Result<Option<LinkFacts>, Error> {
    if !pin.exists() {
        return Ok(None);
    }
    let info = PinnedLink::from_pin(&pin).and_then(|link| aya::programs::links::FdLink::from(link).info());
    let info = match info {
        Ok(info) => info,
        Err(_) if !pin.exists() => return Ok(None),
        Err(source) => return Err(Error::Link { pin, source: Box::new(source) }),
    };
    let target = match info.link_type() {
        Ok(LinkType::Cgroup) => LinkTarget::Cgroup,
        Ok(LinkType::Netns) => LinkTarget::Netns,
        _ => LinkTarget::Other,
    };
    Ok(Some(LinkFacts { id: info.id(), program_id: info.program_id(), target }))
}

/// The maps pinned in `directory`, by name.
pub(super) fn maps(directory: &Path) -> Result<Vec<MapFacts>, Error> {
    pins(directory)?
        .into_iter()
        .map(|name| {
            let pin = directory.join(&name);
            let facts = MapData::from_pin(&pin).and_then(|map| Ok((map.info()?, memlock(map.fd()))));
            let (info, memlock) = facts.map_err(|source| Error::Map {
                name: name.clone(),
                pin: pin.clone(),
                source: Box::new(source),
            })?;
            Ok(MapFacts {
                id: info.id(),
                kind: info.map_type().map_or("unknown", map_type),
                key_bytes: info.key_size(),
                value_bytes: info.value_size(),
                max_entries: info.max_entries(),
                memlock,
                name,
                pin,
            })
        })
        .collect()
}

/// Names of the files in a directory of pins, sorted; none if there is no such directory.
fn pins(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Io { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_by_cached_key(|name| natural(name));
    Ok(names)
}

/// Sorts `weir_sklookup_2` before `weir_sklookup_10`.
fn natural(name: &str) -> (String, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.to_owned(), name[stem.len()..].parse().unwrap_or_default())
}

/// What the kernel says in fdinfo, which is the only place where it says it; 0 if it does not.
fn memlock(map: &impl AsFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    fs::read_to_string(path).ok().and_then(|fdinfo| memlock_line(&fdinfo)).unwrap_or_default()
}

fn memlock_line(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn program_type(kind: bpf_prog_type) -> &'static str {
    match kind {
        bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR => "cgroup_sock_addr",
        bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS => "sock_ops",
        bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP => "sk_lookup",
        _ => "unknown",
    }
}

fn map_type(kind: MapType) -> &'static str {
    match kind {
        MapType::Hash => "hash",
        MapType::Array => "array",
        MapType::PerCpuArray => "percpu_array",
        MapType::LruHash => "lru_hash",
        MapType::LruPerCpuHash => "lru_percpu_hash",
        MapType::LpmTrie => "lpm_trie",
        MapType::SockMap => "sockmap",
        MapType::SkStorage => "sk_storage",
        MapType::RingBuf => "ringbuf",
        MapType::PerfEventArray => "perf_event_array",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_sort_as_numbers() {
        let mut names = ["weir_sklookup_10", "weir_connect6", "weir_sklookup_2", "weir_connect4"];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["weir_connect4", "weir_connect6", "weir_sklookup_2", "weir_sklookup_10"]);
    }

    #[test]
    fn memlock_is_read_from_fdinfo() {
        assert_eq!(memlock_line("pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t7\n"), Some(4096));
        assert_eq!(memlock_line("pos:\t0\n"), None);
    }

    #[test]
    fn a_missing_directory_of_pins_is_empty() {
        assert!(pins(Path::new("/nonexistent/weir/programs")).unwrap().is_empty());
    }
}
