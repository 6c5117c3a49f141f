//! `net.ipv4.ip_local_reserved_ports` of the namespace that the calling thread is in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Error;

/// Adds `ports` to those that are reserved already: those that were not. procfs shows each thread the sysctls of its own
/// namespace.
pub(super) fn reserve(proc: &Path, ports: &[u16]) -> Result<Vec<u16>, Error> {
    let path = path(proc);
    let failed = |source| Error::Socket { action: format!("reserve ports in {}", path.display()), source };
    let present = ranges(&fs::read_to_string(&path).map_err(failed)?);
    let mut missing: Vec<u16> = ports.iter().copied().filter(|port| !has(&present, *port)).collect();
    missing.sort_unstable();
    if !missing.is_empty() {
        let all = present.into_iter().chain(missing.iter().map(|port| (*port, *port)));
        fs::write(&path, text(all)).map_err(failed)?;
    }
    Ok(missing)
}

/// Takes `ports` out of those that are reserved.
pub(super) fn release(proc: &Path, ports: &[u16]) -> Result<(), Error> {
    let path = path(proc);
    let failed = |source| Error::Socket { action: format!("release ports in {}", path.display()), source };
    let present = ranges(&fs::read_to_string(&path).map_err(failed)?);
    if !ports.iter().any(|port| has(&present, *port)) {
        return Ok(());
    }
    let left = ports.iter().fold(present, |ranges, port| without(ranges, *port));
    fs::write(&path, text(left.into_iter())).map_err(failed)
}

fn path(proc: &Path) -> PathBuf {
    proc.join("sys/net/ipv4/ip_local_reserved_ports")
}

fn ranges(text: &str) -> Vec<(u16, u16)> {
    text.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        })
        .collect()
}

fn has(ranges: &[(u16, u16)], port: u16) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
}

fn without(ranges: Vec<(u16, u16)>, port: u16) -> Vec<(u16, u16)> {
    let split = |(first, last): (u16, u16)| {
        let before = port.checked_sub(1).map(|end| (first, last.min(end)));
        let after = port.checked_add(1).map(|start| (first.max(start), last));
        [before, after].into_iter().flatten().filter(|(first, last)| first <= last)
    };
    ranges.into_iter().flat_map(split).collect()
}

/// The sysctl's value. A line of its own also where there is none: nothing written would change nothing.
fn text(ranges: impl Iterator<Item = (u16, u16)>) -> String {
    let range = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.map(range).collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A procfs with this value.
    fn proc(value: &str) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir_all(proc.path().join("sys/net/ipv4")).unwrap();
        fs::write(path(proc.path()), value).unwrap();
        proc
    }

    fn value(proc: &tempfile::TempDir) -> String {
        fs::read_to_string(path(proc.path())).unwrap()
    }

    #[test]
    fn ports_are_added_to_those_reserved_already_and_only_they_are_given_back() {
        for (before, during, added) in [
            ("\n", "15001,15006\n", &[15001, 15006][..]),
            ("8080,9000-9100\n", "8080,9000-9100,15001,15006\n", &[15001, 15006]),
            ("15000-15010\n", "15000-15010\n", &[]),
            ("15001\n", "15001,15006\n", &[15006]),
        ] {
            let proc = proc(before);
            assert_eq!(reserve(proc.path(), &[15006, 15001]).unwrap(), added, "{before:?}");
            assert_eq!(value(&proc), during, "{before:?}");
            release(proc.path(), added).unwrap();
            assert_eq!(value(&proc), before, "{before:?}");
        }
    }

    #[test]
    fn a_port_is_taken_out_of_a_range_too() {
        // The kernel joins what lies side by side.
        let proc = proc("15000-15002,15006,65535\n");
        release(proc.path(), &[15001, 15006, 65535]).unwrap();
        assert_eq!(value(&proc), "15000,15002\n");
    }
}
