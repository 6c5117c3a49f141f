//! What the programs know of the node: its network namespace, and the cgroup that holds all pods.
//!
//! A process in the node's namespace and outside that cgroup is the node's own. An id that is no directory's any more
//! would make every process the node's own, so the directory is looked at again and again, and no id is written unless
//! the directory is there. The kubelet makes it when it starts, which may be after the agent.

use std::{
    fs, io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use weir_abi::map::{Config, OUTBOUND_PORT};

use super::ConfigHandle;
use crate::{
    config, locate,
    netns::{self, Netns},
};

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
    /// There is none yet.
    #[error(
        "node_processes.pods_cgroup: no directory kubepods or kubepods.slice below {}: the kubelet makes it when it \
         starts; expected its path if it has another name", .0.display()
    )]
    NotFound(PathBuf),
    /// There are several that have processes.
    #[error(
        "node_processes.pods_cgroup: several directories may hold all pods: {0}; expected the path of the kubelet's"
    )]
    Several(String),
    /// The node's network namespace cannot be looked into.
    #[error(
        "node_processes.netns: {0}; expected a path of the node's network namespace that the agent may open (for \
         /proc/1/ns/net it may need CAP_SYS_PTRACE)"
    )]
    Netns(#[from] netns::Error),
}

/// Root of cgroup2, as the node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Its depth below the true root: more than 0 where the node itself is in a cgroup.
    pub level: u32,
}

/// The cgroup that holds all pods, as the programs know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodsCgroup {
    /// Its id; 0: no process counts as the node's own.
    pub id: u64,
    /// Its depth below the true root.
    pub level: u32,
}

impl PodsCgroup {
    /// Finds it, and its path.
    pub fn find(place: &config::PodsCgroup, root: &Root) -> Result<(PathBuf, Self), Error> {
        let path = match place {
            config::PodsCgroup::At(path) => path.clone(),
            config::PodsCgroup::Auto => the_populated_one(locate::directories_of_all_pods(&root.path), &root.path)?,
        };
        let found = Self::at(&path, root)?;
        Ok((path, found))
    }

    /// Looks at a directory.
    fn at(path: &Path, root: &Root) -> Result<Self, Error> {
        let missing = |source| Error::Missing { path: path.to_owned(), source };
        let elsewhere = || Error::Elsewhere { path: path.to_owned(), root: root.path.clone() };
        let found = fs::canonicalize(path).map_err(missing)?;
        let base = fs::canonicalize(&root.path).map_err(missing)?;
        let below = found.strip_prefix(&base).map_err(|_| elsewhere())?;
        let depth = below.components().count() as u32;
        let metadata = fs::metadata(&found).map_err(missing)?;
        let kind = statfs(&found).map_err(|errno| missing(errno.into()))?.filesystem_type();
        if depth == 0 || !metadata.is_dir() || kind != CGROUP2_SUPER_MAGIC {
            return Err(elsewhere());
        }
        // On cgroup2 the inode number is the cgroup's id (Linux 5.5).
        Ok(Self { id: metadata.st_ino(), level: root.level + depth })
    }

    /// Writes it.
    pub fn apply(self, config: &mut Config) {
        (config.pods_cgroup, config.pods_cgroup_level) = (self.id, self.level);
    }
}

/// The kubelet's directory; another may be left of one that ran with another driver.
fn the_populated_one(mut found: Vec<PathBuf>, root: &Path) -> Result<PathBuf, Error> {
    if found.len() > 1 {
        let populated = |path: &PathBuf| {
            let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 1")
        };
        found.retain(populated);
    }
    match &found[..] {
        [] => Err(Error::NotFound(root.to_owned())),
        [path] => Ok(path.clone()),
        several => {
            let several: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::Several(several.join(", ")))
        }
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

/// Follows the directory, and says to `show` where it is or why it is not known: it may come late, and its id changes when
/// it is removed and made again.
pub async fn watch(
    place: config::PodsCgroup,
    root: Root,
    config: ConfigHandle,
    show: impl Fn(Result<&Path, String>) + Send,
) {
    let mut ticks = tokio::time::interval(WATCH);
    let mut last = None;
    loop {
        ticks.tick().await;
        // The one that is known may be there still: then nothing has to be looked for.
        let known = last.as_ref().map(|path: &PathBuf| config::PodsCgroup::At(path.clone()));
        let again = known.and_then(|known| PodsCgroup::find(&known, &root).ok());
        let found = again.map_or_else(|| PodsCgroup::find(&place, &root), Ok);
        let now = found.as_ref().map_or_else(|_| PodsCgroup::default(), |(_, found)| *found);
        last = found.as_ref().ok().map(|(path, _)| path.clone());
        show(found.as_ref().map(|(path, _)| path.as_path()).map_err(ToString::to_string));
        let known = config.get().map(|config| PodsCgroup { id: config.pods_cgroup, level: config.pods_cgroup_level });
        if known.as_ref().is_ok_and(|known| *known == now) {
            continue;
        }
        match found {
            Ok((path, found)) => {
                tracing::info!(path = %path.display(), id = found.id, level = found.level, "the pods' cgroup is this one now");
            }
            Err(error) => tracing::warn!(%error, "no process counts as the node's own until it is there"),
        }
        if let Err(error) = config.update(|config| now.apply(config)) {
            tracing::error!(%error, "the kernel has a wrong idea of the pods' cgroup");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(place: &config::PodsCgroup, root: &Path) -> String {
        PodsCgroup::find(place, &Root { path: root.to_owned(), level: 0 }).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_elsewhere_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("kubepods");
        let place = config::PodsCgroup::At(below.clone());
        assert_eq!(
            error(&place, directory.path()),
            format!("node_processes.pods_cgroup: {}: No such file or directory (os error 2)", below.display())
        );
        fs::create_dir(&below).unwrap();
        assert_eq!(
            error(&place, directory.path()),
            format!(
                "node_processes.pods_cgroup: {} is not a directory below the root of cgroup2, {}",
                below.display(),
                directory.path().display()
            )
        );
    }

    #[test]
    fn the_kubelet_s_directory_is_the_one_with_processes() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(
            error(&config::PodsCgroup::Auto, root),
            format!(
                "node_processes.pods_cgroup: no directory kubepods or kubepods.slice below {}: the kubelet makes it when \
                 it starts; expected its path if it has another name",
                root.display()
            )
        );
        let find = || the_populated_one(locate::directories_of_all_pods(root), root);
        let old = root.join("kubepods.slice");
        fs::create_dir(&old).unwrap();
        assert_eq!(find().unwrap(), old);
        let nested = root.join("node-1/kubepods");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert_eq!(find().unwrap(), nested);
        fs::write(old.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let several = find().unwrap_err().to_string();
        assert!(several.contains("several directories may hold all pods: ") && several.contains("node-1"), "{several}");
    }
}
