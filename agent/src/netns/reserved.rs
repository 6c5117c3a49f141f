//! `net.ipv4.ip_local_reserved_ports` of the namespace that the calling thread is in.

use std::{collections::BTreeSet, fs, path::Path};

use super::Error;

/// Adds `ports` to those that are reserved already. procfs shows each thread the sysctls of its own namespace.
pub(super) fn reserve(proc: &Path, ports: &[u16]) -> Result<(), Error> {
    let path = proc.join("sys/net/ipv4/ip_local_reserved_ports");
    let failed = |source| Error::Socket { action: format!("reserve ports in {}", path.display()), source };
    let present = fs::read_to_string(&path).map_err(failed)?;
    match merged(&present, ports) {
        Some(merged) => fs::write(&path, merged).map_err(failed),
        None => Ok(()),
    }
}

/// The sysctl's new value; none if it covers `ports` already.
fn merged(present: &str, ports: &[u16]) -> Option<String> {
    let present = present.trim();
    let mut missing: BTreeSet<u16> = ports.iter().copied().collect();
    for range in present.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            missing.retain(|port| !(first..=last).contains(port));
        }
    }
    if missing.is_empty() {
        return None;
    }
    let ranges = Some(present.to_owned()).filter(|present| !present.is_empty());
    Some(ranges.into_iter().chain(missing.iter().map(u16::to_string)).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_added_to_those_reserved_already() {
        assert_eq!(merged("\n", &[15006, 15001]).as_deref(), Some("15001,15006"));
        assert_eq!(merged("8080,9000-9100\n", &[15001, 15006]).as_deref(), Some("8080,9000-9100,15001,15006"));
        assert_eq!(merged("15000-15010\n", &[15001, 15006]), None);
        assert_eq!(merged("15001\n", &[15001, 15006]).as_deref(), Some("15001,15006"));
    }
}
