//! The file systems that have to be the node's own.
//!
//! A container has a cgroup2 mount and can have a BPF file system of its own. Attaching to the one and pinning into the
//! other succeed, and then cover nothing but the container, or go with it. So both are compared with what the node's
//! init sees.

use std::{
    fs, io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::Missing;
use crate::{
    locate,
    redirect::ancestor::{self, Ancestry},
};

/// The inode number of cgroup2's true root.
const ROOT_INODE: u64 = 1;
/// Where the BPF file system is on a node.
const NODE_BPFFS: &str = "sys/fs/bpf";
/// How far below the directory of all pods their processes are looked for: class, pod, container.
const BELOW_PODS: usize = 4;
/// The directory of cgroup2 where controllers of cgroup v1 have trees of their own.
const HYBRID: &str = "unified";

/// The node's init, seen through a procfs that shows the node's processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeInit<'a> {
    pub(super) proc: &'a Path,
}

/// Device and inode of what is at a path.
type Place = (u64, u64);

/// The root of cgroup2: the configured one, else where it is mounted.
pub fn find_cgroup2(configured: Option<&Path>) -> Result<PathBuf, Missing> {
    if let Some(path) = configured {
        let hybrid = path.join(HYBRID);
        return Ok(if !is_cgroup2(path) && is_cgroup2(&hybrid) { hybrid } else { path.to_owned() });
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let whole = |(root, _): &(&str, PathBuf)| *root == "/";
    cgroup2_mounts(&mounts).find(whole).map(|(_, point)| point).ok_or(Missing::NoCgroup2)
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The mounts of cgroup2 in a `mountinfo` (proc(5)): which part, and where.
fn cgroup2_mounts(mountinfo: &str) -> impl Iterator<Item = (&str, PathBuf)> {
    mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then(|| (root, PathBuf::from(point.replace("\\040", " "))))
    })
}

/// Checks that a path is the node's root of cgroup2, and tells how deep below the true root it is. Without an init to
/// compare with it has to be the true root.
pub(super) fn check_cgroup2(path: &Path, init: Option<NodeInit<'_>>) -> Result<u32, Missing> {
    let failed =
        |error: io::Error| Missing::Path { path: path.to_owned(), key: "paths.cgroup2", reason: error.to_string() };
    let kind = statfs(path).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC {
        return Err(Missing::NotCgroup2(path.to_owned()));
    }
    let found = place(path).map_err(failed)?;
    if found.1 == ROOT_INODE {
        return Ok(0);
    }
    let Some(init) = init else { return Err(Missing::NotCgroupRoot(path.to_owned())) };
    let what = "how deep a cgroup is";
    let ancestry = ancestor::find(found.1).map_err(|error| Missing::Probe { what, reason: error.to_string() })?;
    let seen = init.cgroup2_mounts()?;
    decide_cgroup2(path, found, ancestry, &seen)
}

/// What to make of a cgroup that is not the true root, given where the agent is and what the node's init has mounted.
fn decide_cgroup2(path: &Path, found: Place, ancestry: Ancestry, seen: &[Place]) -> Result<u32, Missing> {
    match ancestry {
        Ancestry::At { own: true, .. } => Err(Missing::OwnCgroup(path.to_owned())),
        Ancestry::At { level, own: false } if seen.contains(&found) => Ok(level),
        Ancestry::At { .. } | Ancestry::None => Err(Missing::NotCgroupRoot(path.to_owned())),
    }
}

/// Checks that there is a BPF file system at a path.
///
/// A directory on the disk can stand in for one until the first pin fails, so its kind is asked for.
pub(crate) fn check_bpffs(path: &Path) -> Result<(), Missing> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        _ => Err(Missing::Bpffs(path.to_owned())),
    }
}

/// Checks that the BPF file system at a path is the node's.
pub(super) fn check_shared_bpffs(path: &Path, init: NodeInit<'_>) -> Result<(), Missing> {
    check_bpffs(path)?;
    let failed =
        |error: io::Error| Missing::Path { path: path.to_owned(), key: "paths.bpffs", reason: error.to_string() };
    let (device, _) = place(path).map_err(failed)?;
    let nodes = init.path(NODE_BPFFS);
    let seen = place(&nodes).map_err(|error| Missing::NodeInit { path: nodes, reason: error.to_string() })?;
    if seen.0 == device { Ok(()) } else { Err(Missing::PrivateBpffs(path.to_owned())) }
}

/// Whether process 1 is not the node's init but a pod's: then the agent's pod has a pid namespace of its own, and what is
/// seen through its procfs is the pod's.
pub(super) fn init_is_a_pod(cgroup2: &Path) -> bool {
    std::process::id() == 1 || locate::directories_of_all_pods(cgroup2).iter().any(|pods| holds_init(pods, BELOW_PODS))
}

fn holds_init(cgroup: &Path, depth: usize) -> bool {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let children = || fs::read_dir(cgroup).into_iter().flatten().flatten();
    let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    processes.lines().any(|process| process == "1")
        || depth > 0 && children().filter(is_directory).any(|child| holds_init(&child.path(), depth - 1))
}

fn place(path: &Path) -> io::Result<Place> {
    fs::metadata(path).map(|metadata| (metadata.st_dev(), metadata.st_ino()))
}

impl NodeInit<'_> {
    /// A path in the file system of the node's init.
    fn path(self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.proc.join("1/root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What it has of cgroup2.
    fn cgroup2_mounts(self) -> Result<Vec<Place>, Missing> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Missing::NodeInit { path, reason: error.to_string() }
        };
        let mountinfo = self.proc.join("1/mountinfo");
        let text = fs::read_to_string(&mountinfo).map_err(failed(&mountinfo))?;
        let mounts = cgroup2_mounts(&text).map(|(_, point)| {
            let point = self.path(point);
            place(&point).map_err(failed(&point))
        });
        mounts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_cgroup2_are_found() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n\
                      31 30 0:27 /kubepods/pod1 /else\\040where rw - cgroup2 cgroup2 rw\n\
                      32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n";
        let found: Vec<_> = cgroup2_mounts(hybrid).collect();
        assert_eq!(found, [("/kubepods/pod1", "/else where".into()), ("/", PathBuf::from("/sys/fs/cgroup/unified"))]);
        assert_eq!(cgroup2_mounts("30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n").count(), 0);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let bpffs = format!(
            "no BPF file system is mounted at {path} (paths.bpffs): mount it with `mount -t bpf bpf {path}`, in \
             Kubernetes on the host",
            path = path.display()
        );
        assert_eq!(check_bpffs(path).unwrap_err().to_string(), bpffs);
        assert_eq!(check_shared_bpffs(path, NodeInit { proc: path }).unwrap_err().to_string(), bpffs);
        assert_eq!(
            check_cgroup2(path, None).unwrap_err().to_string(),
            format!(
                "{} (paths.cgroup2) is not a cgroup2 file system: expected the directory where cgroup2 is mounted",
                path.display()
            )
        );
        assert_eq!(
            check_cgroup2(&path.join("none"), None).unwrap_err().to_string(),
            format!("cannot look at {}/none (paths.cgroup2): No such file or directory (os error 2)", path.display())
        );
        assert_eq!(
            NodeInit { proc: path }.cgroup2_mounts().unwrap_err().to_string(),
            format!(
                "cannot see what the node's init sees ({}/1/mountinfo: No such file or directory (os error 2)): the \
                 agent's pod needs hostPID: true, and the agent SYS_PTRACE",
                path.display()
            )
        );
    }

    #[test]
    fn a_container_s_own_cgroup_is_refused_and_a_nested_node_s_root_is_not() {
        let (path, found) = (Path::new("/sys/fs/cgroup"), (29, 4711));
        let decide = |ancestry, seen: &[Place]| decide_cgroup2(path, found, ancestry, seen).map_err(|m| m.to_string());
        assert_eq!(decide(Ancestry::At { level: 2, own: false }, &[(29, 1), found]), Ok(2));
        assert_eq!(
            decide(Ancestry::At { level: 5, own: true }, &[found]).unwrap_err(),
            "/sys/fs/cgroup (paths.cgroup2) is the cgroup of the agent's own container, so that programs attached there \
             would see no pod: expected the node's /sys/fs/cgroup as a hostPath"
        );
        let elsewhere = "/sys/fs/cgroup (paths.cgroup2) is not the root of cgroup2, so that programs attached there \
                         would see only some of the node's processes: expected the host's cgroup2 mount, in a container \
                         as a hostPath";
        assert_eq!(decide(Ancestry::At { level: 3, own: false }, &[(29, 1)]).unwrap_err(), elsewhere);
        assert_eq!(decide(Ancestry::None, &[found]).unwrap_err(), elsewhere);
        assert_eq!(
            Missing::PrivateBpffs("/sys/fs/bpf".into()).to_string(),
            "the BPF file system at /sys/fs/bpf (paths.bpffs) is not the node's, so that pins would go with the agent's \
             container: mount it on the node (mount -t bpf bpf /sys/fs/bpf), and into the container as a hostPath"
        );
    }

    #[test]
    fn a_pod_without_the_node_s_process_ids_is_told_by_process_1() {
        let root = tempfile::tempdir().unwrap();
        let container = root.path().join("kubepods/burstable/pod1/c1");
        fs::create_dir_all(&container).unwrap();
        fs::create_dir_all(root.path().join("init")).unwrap();
        fs::write(root.path().join("init/cgroup.procs"), "1\n").unwrap();
        // Processes of other pid namespaces are 0.
        fs::write(container.join("cgroup.procs"), "0\n11\n").unwrap();
        assert!(!init_is_a_pod(root.path()));
        fs::write(container.join("cgroup.procs"), "1\n7\n").unwrap();
        assert!(init_is_a_pod(root.path()));
        assert_eq!(
            Missing::HostPid.to_string(),
            "process 1 is a pod's, so that the agent does not see the node's processes: its pod needs hostPID: true"
        );
    }
}
