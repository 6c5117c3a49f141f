//! What the programs know of the node: its network namespace, and the cgroup that holds all pods.
//!
//! A process in the node's namespace and outside that cgroup is the node's own. An id that is no directory's any more
//! would make every process the node's own, so the directory is looked at again and again, and no id is written unless
//! the directory is there.

use std::{
    fs, io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use weir_abi::map::{Config, OUTBOUND_PORT};

use super::ConfigHandle;
use crate::netns::{self, Netns};

/// How often the pods' cgroup is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Why a path is not the cgroup that holds all pods.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error("node_processes.pods_cgroup: {}: {source}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is elsewhere.
    #[error(
        "node_processes.pods_cgroup: {} is not a directory below the root of cgroup2, {}", path.display(), root.display()
    )]
    Elsewhere {
        /// The path.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// The node's network namespace cannot be looked into.
    #[error(
        "node_processes.netns: {0}; expected a path of the node's network namespace that the agent may open (for \
         /proc/1/ns/net it may need CAP_SYS_PTRACE)"
    )]
    Netns(#[from] netns::Error),
}

/// The cgroup that holds all pods, as the programs know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodsCgroup {
    /// Its id; 0: no process counts as the node's own.
    pub id: u64,
    /// Its depth below the root.
    pub level: u32,
}

impl PodsCgroup {
    /// Looks at the directory. `root` is the root of cgroup2.
    pub fn find(path: &Path, root: &Path) -> Result<Self, Error> {
        let missing = |source| Error::Missing { path: path.to_owned(), source };
        let elsewhere = || Error::Elsewhere { path: path.to_owned(), root: root.to_owned() };
        let found = fs::canonicalize(path).map_err(missing)?;
        let base = fs::canonicalize(root).map_err(missing)?;
        let below = found.strip_prefix(&base).map_err(|_| elsewhere())?;
        let level = below.components().count() as u32;
        let metadata = fs::metadata(&found).map_err(missing)?;
        let kind = statfs(&found).map_err(|errno| missing(errno.into()))?.filesystem_type();
        if level == 0 || !metadata.is_dir() || kind != CGROUP2_SUPER_MAGIC {
            return Err(elsewhere());
        }
        // On cgroup2 the inode number is the cgroup's id (Linux 5.5).
        Ok(Self { id: metadata.st_ino(), level })
    }

    /// Writes it.
    pub fn apply(self, config: &mut Config) {
        (config.pods_cgroup, config.pods_cgroup_level) = (self.id, self.level);
    }
}

/// The cookie of the node's own network namespace. Blocks.
pub fn netns_cookie(path: &Path) -> Result<u64, Error> {
    Ok(Netns::open(path)?.look()?.cookie)
}

/// Writes what does not change while the agent runs.
pub fn apply(config: &mut Config, node_netns: u64) {
    (config.node_netns, config.outbound_port) = (node_netns, OUTBOUND_PORT.into());
}

/// Follows the directory: its id changes when it is removed and made again.
pub async fn watch(path: PathBuf, root: PathBuf, config: ConfigHandle) {
    let mut ticks = tokio::time::interval(WATCH);
    loop {
        ticks.tick().await;
        let now = PodsCgroup::find(&path, &root);
        let known = config.get().map(|config| PodsCgroup { id: config.pods_cgroup, level: config.pods_cgroup_level });
        let found = now.as_ref().copied().unwrap_or_default();
        if known.as_ref().is_ok_and(|known| *known == found) {
            continue;
        }
        match now {
            Ok(found) => tracing::info!(path = %path.display(), id = found.id, "the pods' cgroup is another one now"),
            Err(error) => tracing::warn!(%error, "no process counts as the node's own until it is there"),
        }
        if let Err(error) = config.update(|config| found.apply(config)) {
            tracing::error!(%error, "the kernel has a wrong idea of the pods' cgroup");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("kubepods");
        let missing = PodsCgroup::find(&below, directory.path()).unwrap_err().to_string();
        assert_eq!(
            missing,
            format!("node_processes.pods_cgroup: {}: No such file or directory (os error 2)", below.display())
        );
        fs::create_dir(&below).unwrap();
        let elsewhere = PodsCgroup::find(&below, directory.path()).unwrap_err().to_string();
        assert_eq!(
            elsewhere,
            format!(
                "node_processes.pods_cgroup: {} is not a directory below the root of cgroup2, {}",
                below.display(),
                directory.path().display()
            )
        );
    }
}
