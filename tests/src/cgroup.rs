//! cgroups of a test: `<cgroup2>/<prefix>/kubepods/<pod>`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::poll::wait_for;

/// The cgroup2 mount point.
pub fn root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup2 ").then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or_default()))
        })
        .expect("a cgroup2 mount: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// The cgroups of one test; removed when dropped.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes them.
    pub fn create(name: &str) -> Self {
        let tree = Self { root: root().join(name) };
        make(&tree.pods());
        tree
    }

    /// A directory below the root that holds no pod.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that holds all pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("kubepods")
    }

    /// A pod's own.
    pub fn pod(&self, name: &str) -> PathBuf {
        let path = self.pods().join(name);
        make(&path);
        path
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

fn make(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("make the cgroup {}: {error}", path.display()));
}

/// Removes a cgroup and those below; processes in it must have ended.
pub fn remove(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    // The kernel lets go of a process's cgroup a moment after the process was waited for.
    if !std::thread::panicking() {
        wait_for(&format!("{} is removed", path.display()), Duration::from_secs(30), || match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(error),
            _ => Ok(()),
        });
    } else if let Err(error) = fs::remove_dir(path) {
        eprintln!("could not remove the cgroup {}: {error}", path.display());
    }
}
