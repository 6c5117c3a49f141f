//! Removes what a test process that was killed left behind: its namespaces, the processes in them, its pins and cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cgroup;

/// What the names of namespaces, instances and cgroups start with; the process id follows.
pub const PREFIX: &str = "weir-test-";
/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Sweeps, and mounts bpffs where it is missing, the first time that it is called.
pub fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        mount_bpffs();
        for name in stale(Path::new("/run/netns")) {
            if let Ok(pids) = Command::new("ip").args(["netns", "pids", &name]).output() {
                for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
        let pins = Path::new(BPFFS).join("weir");
        for name in stale(&pins) {
            let _ = fs::remove_dir_all(pins.join(name));
        }
        for name in stale(&cgroup::root()) {
            cgroup::remove(&cgroup::root().join(name));
        }
    });
}

/// Mounts bpffs at its usual place unless it is there.
fn mount_bpffs() {
    let is_mounted =
        || nix::sys::statfs::statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if !is_mounted() {
        // Another test process may be doing the same.
        let _ = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status();
        assert!(is_mounted(), "cannot mount bpffs at {BPFFS}");
    }
}

/// Names in `directory` that belong to test processes that are gone.
fn stale(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !PathBuf::from(format!("/proc/{pid}")).exists())
        })
        .collect()
}
