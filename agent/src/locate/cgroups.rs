//! A pod's processes, by its cgroup.
//!
//! The kubelet makes a directory for each pod, named for its UID: below `kubepods` with its cgroupfs driver, below
//! `kubepods.slice` with systemd's; both below wherever `--cgroup-root` says. Container runtimes make one for each
//! container in it. On cgroup v1, and where both versions are in use, every controller has a tree of its own beside
//! that of cgroup2.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{NotYet, is_gone};

/// The trees of cgroup v1 that the kubelet puts pods in.
const CONTROLLERS: [&str; 6] = ["systemd", "pids", "memory", "cpu", "cpu,cpuacct", "freezer"];
/// How far below a root the directory of all pods may lie.
const DEPTH: usize = 4;
/// How often it is looked for, while a pod has no cgroup.
const SEARCH: Duration = Duration::from_secs(5);
/// How far below a pod's directory processes are looked for: containers, and cgroups that they made in themselves.
const BELOW_POD: usize = 3;
/// How many processes of a cgroup are looked at. The sandbox's own is alone in its cgroup.
const PROCESSES: usize = 64;
/// Pods of the third class, guaranteed, lie beside these.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];

/// The cgroup trees of a node.
#[derive(Debug)]
pub(super) struct Cgroups {
    cgroup2: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bases: Vec<Base>,
    searched: Option<Instant>,
}

/// A directory that holds all pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    path: PathBuf,
    /// What the names of slices below it start with; none with the cgroupfs driver.
    stem: Option<String>,
}

/// Whether it may be a UID: it becomes part of a path.
pub(super) fn is_uid(uid: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !uid.is_empty() && uid.len() < 256 && uid.bytes().all(known)
}

impl Cgroups {
    pub(super) fn new(cgroup2: &Path) -> Self {
        Self { cgroup2: cgroup2.to_owned(), known: Mutex::default() }
    }

    /// Process ids of a pod, of the first tree that has any.
    pub(super) fn processes(&self, uid: &str) -> Result<Vec<u32>, NotYet> {
        if !is_uid(uid) {
            return Err(NotYet::InvalidUid(uid.to_owned()));
        }
        let known = self.known.lock().bases.clone();
        let mut found = processes_below(&known, uid)?;
        if found.as_ref().is_none_or(Vec::is_empty) {
            // Perhaps the directory of all pods is not where it was, or not everywhere that it is known to be.
            let searched = self.search();
            if searched != known {
                found = processes_below(&searched, uid)?;
            }
            return found.ok_or_else(|| match shown(&searched) {
                Some(bases) => NotYet::NoCgroup(bases),
                None => NotYet::NoTree(self.cgroup2.clone()),
            });
        }
        Ok(found.unwrap_or_default())
    }

    /// Looks for the directories of all pods, if that was not done just now.
    fn search(&self) -> Vec<Base> {
        let now = Instant::now();
        let mut known = self.known.lock();
        let due = known.searched.is_none_or(|searched| now.duration_since(searched) >= SEARCH);
        if due || known.bases.is_empty() {
            known.searched = Some(now);
            known.bases = self.roots().iter().flat_map(|root| bases(root, DEPTH)).collect();
        }
        known.bases.clone()
    }

    /// The tree of cgroup2, then those of cgroup v1 that lie beside it.
    fn roots(&self) -> Vec<PathBuf> {
        let beside = self.cgroup2.parent().into_iter();
        let v1 = beside.flat_map(|parent| CONTROLLERS.map(|controller| parent.join(controller)));
        let v1 = v1.filter(|path| path.join("cgroup.procs").exists());
        std::iter::once(self.cgroup2.clone()).chain(v1).collect()
    }
}

/// None when the pod has no directory in any of these.
fn processes_below(bases: &[Base], uid: &str) -> Result<Option<Vec<u32>>, NotYet> {
    let mut found = None;
    for directory in bases.iter().flat_map(|base| base.directories(uid)) {
        let mut pids = Vec::new();
        if read(&directory, BELOW_POD, &mut pids)? {
            if !pids.is_empty() {
                return Ok(Some(pids));
            }
            found = Some(pids);
        }
    }
    Ok(found)
}

/// None without any.
fn shown(bases: &[Base]) -> Option<String> {
    let paths: Vec<_> = bases.iter().map(|base| base.path.display().to_string()).collect();
    (!paths.is_empty()).then(|| paths.join(", "))
}

impl Base {
    /// What a directory is by its name.
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        // With a cgroup root of its own, as in kind: kubelet.slice/kubelet-kubepods.slice.
        let stem = name.strip_suffix(".slice").filter(|stem| *stem == "kubepods" || stem.ends_with("-kubepods"));
        let stem = stem.map(str::to_owned);
        (name == "kubepods" || stem.is_some()).then_some(Self { path, stem })
    }

    /// Where a pod may be.
    fn directories(&self, uid: &str) -> [PathBuf; 3] {
        let [burstable, besteffort] = CLASSES;
        match &self.stem {
            None => {
                let name = format!("pod{uid}");
                [self.path.join(&name), self.path.join(burstable).join(&name), self.path.join(besteffort).join(&name)]
            }
            Some(stem) => {
                // systemd takes a dash for a level.
                let uid = uid.replace('-', "_");
                let of_class = |class| {
                    self.path.join(format!("{stem}-{class}.slice")).join(format!("{stem}-{class}-pod{uid}.slice"))
                };
                [self.path.join(format!("{stem}-pod{uid}.slice")), of_class(burstable), of_class(besteffort)]
            }
        }
    }
}

/// The directories that hold all pods, below a root: one, unless the kubelet was given another root or driver.
pub fn directories_of_all_pods(root: &Path) -> Vec<PathBuf> {
    bases(root, DEPTH).into_iter().map(|base| base.path).collect()
}

/// The directories of all pods, so far below a directory.
fn bases(directory: &Path, depth: usize) -> Vec<Base> {
    subdirectories(directory)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|path| match Base::of(path.clone()) {
            Some(base) => vec![base],
            None if depth > 1 => bases(&path, depth - 1),
            None => Vec::new(),
        })
        .collect()
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.flatten();
    Ok(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect())
}

/// Reads the processes of a cgroup and of those below it; whether it is there.
fn read(directory: &Path, depth: usize, pids: &mut Vec<u32>) -> Result<bool, NotYet> {
    let path = directory.join("cgroup.procs");
    match fs::read_to_string(&path) {
        // Those of a pid namespace that is not below the agent's are listed as 0.
        Ok(text) => {
            let listed = text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|pid| *pid != 0);
            pids.extend(listed.take(PROCESSES));
        }
        Err(error) if is_gone(&error) => return Ok(false),
        // A threaded cgroup of cgroup2: its processes are listed at the domain above it.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(source) => return Err(NotYet::Unreadable { path, source }),
    }
    if depth > 0 {
        let below = match subdirectories(directory) {
            Ok(below) => below,
            Err(error) if is_gone(&error) => Vec::new(),
            Err(source) => return Err(NotYet::Unreadable { path: directory.to_owned(), source }),
        };
        for directory in below {
            read(&directory, depth - 1, pids)?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
    const SLICED: &str = "0a1b2c3d_1111_2222_3333_444455556666";

    /// A tree of files with the given cgroups and one process each, 100 and up.
    fn tree(cgroups: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (number, cgroup) in cgroups.iter().enumerate() {
            let path = directory.path().join(cgroup);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.procs"), format!("{}\n", 100 + number)).unwrap();
            // Every directory of a tree has the file.
            for above in path.ancestors().skip(1).take_while(|above| *above != directory.path()) {
                let file = above.join("cgroup.procs");
                if !file.exists() {
                    fs::write(file, "").unwrap();
                }
            }
        }
        directory
    }

    fn find(cgroups: &[&str], root: &str, uid: &str) -> Vec<u32> {
        let directory = tree(cgroups);
        let mut pids = Cgroups::new(&directory.path().join(root)).processes(uid).unwrap();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn every_way_to_name_a_pod_s_cgroup_is_known() {
        for cgroup in [
            // cgroupfs: guaranteed, burstable, besteffort.
            format!("kubepods/pod{UID}/abc"),
            format!("kubepods/burstable/pod{UID}/abc"),
            format!("kubepods/besteffort/pod{UID}/abc"),
            // systemd, with containerd's and CRI-O's scopes, and a container that has cgroups of its own.
            format!("kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-abc.scope"),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/crio-abc.scope"),
            format!(
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice/\
                 cri-containerd-abc.scope/init.scope"
            ),
            // A kubelet with a cgroup root, as in kind.
            format!("kubelet/kubepods/burstable/pod{UID}/abc"),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod{SLICED}.slice/cri-containerd-abc.scope"
            ),
            // A node in a container.
            format!("docker/0123/kubelet/kubepods/pod{UID}/abc"),
        ] {
            assert_eq!(find(&[&cgroup], "", UID), [100], "{cgroup}");
        }
        // A static pod's is named for the hash of its configuration.
        let hash = "6b06ad2e1d5b6b4e9f1f0a0c3a4b5c6d";
        assert_eq!(find(&[&format!("kubepods/burstable/pod{hash}/abc")], "", hash), [100]);
        let sliced =
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/crio-abc.scope");
        assert_eq!(find(&[&sliced], "", hash), [100]);
    }

    #[test]
    fn all_containers_of_the_pod_count_and_no_other_pod_s() {
        let pod = format!("kubepods/burstable/pod{UID}");
        let other = "kubepods/burstable/podffffffff-1111-2222-3333-444455556666/abc".to_owned();
        let cgroups = [format!("{pod}/pause"), format!("{pod}/app"), format!("{pod}/app/nested"), other];
        let cgroups: Vec<&str> = cgroups.iter().map(String::as_str).collect();
        assert_eq!(find(&cgroups, "", UID), [100, 101, 102]);
    }

    #[test]
    fn where_cgroup2_has_no_pods_the_controllers_of_version_1_do() {
        let v1 = format!("memory/kubepods/burstable/pod{UID}/abc");
        // The pod's directory is there, and its containers' are not.
        let v2 = format!("unified/kubepods/burstable/pod{UID}");
        let directory = tree(&[&v1]);
        fs::create_dir_all(directory.path().join(&v2)).unwrap();
        fs::write(directory.path().join(&v2).join("cgroup.procs"), "").unwrap();
        let cgroups = Cgroups::new(&directory.path().join("unified"));
        assert_eq!(cgroups.processes(UID).unwrap(), [100]);
        let directory = tree(&[&v1]);
        fs::create_dir(directory.path().join("unified")).unwrap();
        assert_eq!(Cgroups::new(&directory.path().join("unified")).processes(UID).unwrap(), [100]);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_cgroups_are_found_when_they_appear_late() {
        let directory = tree(&["system.slice/kubelet.service"]);
        let cgroups = Cgroups::new(directory.path());
        let error = cgroups.processes(UID).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "the pod has no cgroup yet (looked below {}, where there is no kubepods)",
                directory.path().display()
            )
        );
        let base = directory.path().join("node/kubepods");
        fs::create_dir_all(&base).unwrap();
        let error = cgroups.processes(UID).unwrap_err().to_string();
        assert_eq!(error, format!("the pod has no cgroup yet (looked below {})", base.display()));
        // A pod that lies elsewhere is found with the next search.
        let pod = directory.path().join(format!("kubepods/pod{UID}"));
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("cgroup.procs"), "7\n0\n").unwrap();
        tokio::time::advance(SEARCH).await;
        assert_eq!(cgroups.processes(UID).unwrap(), [7]);
    }

    #[test]
    fn what_is_no_uid_is_not_looked_for() {
        let directory = tree(&["kubepods/pod1/abc"]);
        let cgroups = Cgroups::new(directory.path());
        for uid in ["", "../pod1", "1/abc", "a\0b"] {
            let error = cgroups.processes(uid).unwrap_err();
            assert!(matches!(error, NotYet::InvalidUid(_)), "{uid}: {error}");
        }
        assert_eq!(
            NotYet::InvalidUid("../x".to_owned()).to_string(),
            "invalid pod UID \"../x\", expected letters, digits, - and ."
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_nothing() {
        let directory = tree(&[&format!("kubepods/pod{UID}/abc")]);
        let file = directory.path().join(format!("kubepods/pod{UID}/abc/cgroup.procs"));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let error = Cgroups::new(directory.path()).processes(UID).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cannot find the pod's network namespace: {}: Is a directory (os error 21)", file.display())
        );
    }
}
