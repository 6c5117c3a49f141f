//! Every network namespace of a node.

use std::{collections::HashSet, fs, path::Path};

use super::Netns;

/// Where `ip netns` and container runtimes keep them.
const NAMED: &str = "/run/netns";

/// The namespaces of the processes that `proc` shows, and those that have a name. What cannot be opened is left out:
/// processes end meanwhile.
pub fn all(proc: &Path) -> Vec<Netns> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let of_processes = entries(proc)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .map(|entry| entry.path().join("ns/net"));
    let named = entries(Path::new(NAMED)).map(|entry| entry.path());
    let mut seen = HashSet::new();
    of_processes
        .chain(named)
        // Looked at before it is opened: most are one that was seen.
        .filter(|path| Netns::identity_at(path).is_some_and(|identity| seen.insert(identity)))
        .filter_map(|path| Netns::open(&path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_once() {
        let all = all(Path::new("/proc"));
        let own = Netns::identity_at(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(all.iter().filter(|netns| netns.identity() == own).count(), 1);
    }
}
