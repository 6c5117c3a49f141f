//! Moving the keeper out of the agent's container: a container's end is the end of every process in its cgroup.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// The node's cgroup namespace, where pid 1 is the node's. From inside a namespace of its own a process may not move
/// another one out of it.
const NODE_NAMESPACE: &str = "/proc/1/ns/cgroup";
/// What the paths of pods' cgroups have in common.
const PODS: &str = "kubepods";

/// Moves a process to a cgroup2 directory, which is made if it is missing, and to the root of each version 1 hierarchy in
/// which it belongs to a pod.
pub(super) fn move_to(pid: u32, directory: &Path) -> io::Result<()> {
    let work = || {
        // Fails where this is the node's namespace, or where nothing is known of the node: then it is not needed, or the
        // move itself says what is wrong.
        let _ = File::open(NODE_NAMESPACE).map(|node| setns(node, CloneFlags::CLONE_NEWCGROUP));
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::write(directory.join("cgroup.procs"), pid.to_string())?;
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
        let present = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        for root in roots(&mounts, &present) {
            if let Err(error) = fs::write(root.join("cgroup.procs"), pid.to_string()) {
                tracing::debug!(hierarchy = %root.display(), %error, "the keeper stays in the pod's cgroup");
            }
        }
        Ok(())
    };
    // On a thread of its own, which alone changes its namespace, and ends with it.
    thread::scope(|scope| {
        match thread::Builder::new().name("weir-cgroup".to_owned()).spawn_scoped(scope, work)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Mount points of the version 1 hierarchies that show their whole tree and in which the process belongs to a pod.
fn roots(mountinfo: &str, present: &str) -> Vec<PathBuf> {
    let in_pod: Vec<&str> = present
        .lines()
        .filter_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (!controllers.is_empty() && path.contains(PODS)).then_some(controllers)
        })
        .collect();
    let root = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let options = filesystem.next().filter(|kind| *kind == "cgroup").and_then(|_| filesystem.nth(1))?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        // Options name the controllers, in the same order, after "rw".
        let hierarchy = options.strip_prefix("rw,").unwrap_or(options);
        (root == "/" && in_pod.contains(&hierarchy)).then(|| PathBuf::from(point))
    };
    mountinfo.lines().filter_map(root).collect()
}

/// Removes the directory once the last process in it has ended. Whether it is gone.
pub(super) fn remove(directory: &Path) -> bool {
    // On a read-only mount removing what is not there is refused, too.
    if matches!(directory.try_exists(), Ok(false)) {
        return true;
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hierarchies_of_the_pod_are_left_and_only_by_their_root() {
        let mounts = "\
            30 25 0:26 / /sys/fs/cgroup/devices rw,nosuid - cgroup cgroup rw,devices\n\
            31 25 0:27 / /host/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 / /host/cgroup/memory rw - cgroup cgroup rw,memory\n\
            33 25 0:29 /kubepods/pod1/c1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            34 25 0:30 / /host/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            35 25 0:31 / /host/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let present = "\
            9:name=systemd:/kubepods/pod1/c1\n8:pids:/kubepods/pod1/c1\n5:devices:/kubepods/pod1/c1\n\
            4:memory:/system.slice\n3:cpu,cpuacct:/kubepods/pod1/c1\n0::/weir\n";
        let expected =
            ["/sys/fs/cgroup/devices", "/host/cgroup/cpu,cpuacct", "/host/cgroup/systemd"].map(PathBuf::from);
        assert_eq!(roots(mounts, present), expected);
    }
}
