//! What the agent needs of the machine, looked at before anything is changed. Each thing that is missing is one line that
//! says what to do about it.

mod mounts;

pub(crate) use mounts::check_bpffs;
pub use mounts::find_cgroup2;

use std::path::{Path, PathBuf};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use caps::{CapSet, Capability};

use crate::{
    config::{Config, Source},
    redirect::node::Root,
};
use mounts::NodeInit;

/// The lowest kernel on which a process without capabilities may use a map that it was handed.
const KERNEL: (u32, u32) = (5, 19);
/// Capabilities, and what for.
const CAPABILITIES: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "load eBPF programs and maps"),
    (Capability::CAP_NET_ADMIN, "attach them"),
    (Capability::CAP_SYS_ADMIN, "enter the network namespaces of pods"),
];
/// The capability that the pods of Kubernetes take besides: their namespaces are found by their processes.
const FOR_KUBERNETES: (Capability, &str) =
    (Capability::CAP_SYS_PTRACE, "open the network namespaces of other users' processes");

/// What a machine lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The kernel is too old.
    #[error("Linux {0} is too old: weir needs at least {major}.{minor}, and is tested on 6.1 and later", major = KERNEL.0, minor = KERNEL.1)]
    Kernel(String),
    /// No BTF.
    #[error(
        "no BTF at {} (paths.btf): the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels \
         since Linux 5.10 are", .0.display()
    )]
    Btf(PathBuf),
    /// A capability.
    #[error(
        "the agent lacks {capability}, which it needs to {purpose}: run it as root, or give it {all}", all = all(capability)
    )]
    Capability {
        /// Its name.
        capability: String,
        /// What for.
        purpose: &'static str,
    },
    /// No BPF file system.
    #[error(
        "no BPF file system is mounted at {} (paths.bpffs): mount it with `mount -t bpf bpf {}`, in Kubernetes on the \
         host", .0.display(), .0.display()
    )]
    Bpffs(PathBuf),
    /// No cgroup2 anywhere.
    #[error("no cgroup2 is mounted: mount it with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")]
    NoCgroup2,
    /// Not cgroup2.
    #[error("{} (paths.cgroup2) is not a cgroup2 file system: expected the directory where cgroup2 is mounted", .0.display())]
    NotCgroup2(PathBuf),
    /// Cgroup2, but not its root.
    #[error(
        "{} (paths.cgroup2) is not the root of cgroup2, so that programs attached there would see only some of the \
         node's processes: expected the host's cgroup2 mount, in a container as a hostPath", .0.display()
    )]
    NotCgroupRoot(PathBuf),
    /// Cgroup2, but only what the agent's container has of it.
    #[error(
        "{} (paths.cgroup2) is the cgroup of the agent's own container, so that programs attached there would see no \
         pod: expected the node's /sys/fs/cgroup as a hostPath", .0.display()
    )]
    OwnCgroup(PathBuf),
    /// A BPF file system that goes with the container.
    #[error(
        "the BPF file system at {} (paths.bpffs) is not the node's, so that pins would go with the agent's container: \
         mount it on the node (mount -t bpf bpf /sys/fs/bpf), and into the container as a hostPath", .0.display()
    )]
    PrivateBpffs(PathBuf),
    /// The agent has a pid namespace of its own.
    #[error("process 1 is a pod's, so that the agent does not see the node's processes: its pod needs hostPID: true")]
    HostPid,
    /// What the node's init sees is not to be seen.
    #[error(
        "cannot see what the node's init sees ({}: {reason}): the agent's pod needs hostPID: true, and the agent \
         SYS_PTRACE", path.display()
    )]
    NodeInit {
        /// What was looked at.
        path: PathBuf,
        /// Why it was not seen.
        reason: String,
    },
    /// A path cannot be looked at.
    #[error("cannot look at {} ({key}): {reason}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Its key in `agent.toml`.
        key: &'static str,
        /// Why not.
        reason: String,
    },
    /// A type of program or map.
    #[error("the kernel does not offer {what}: it needs Linux {since} with {option}")]
    Bpf {
        /// The type.
        what: &'static str,
        /// Since when it is there.
        since: &'static str,
        /// What it is built with.
        option: &'static str,
    },
    /// A probe of the kernel failed.
    #[error("cannot find out whether the kernel offers {what}: {reason}")]
    Probe {
        /// The type.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

/// What the machine has.
#[derive(Clone, Debug)]
pub struct Features {
    /// Release of the kernel.
    pub kernel: String,
    /// Root of cgroup2.
    pub cgroup2: PathBuf,
    /// Its depth below the true root.
    pub cgroup2_level: u32,
}

impl Features {
    /// The root of cgroup2, as the node sees it.
    pub fn root(&self) -> Root {
        Root { path: self.cgroup2.clone(), level: self.cgroup2_level }
    }
}

/// Looks for everything; else all that is missing. Blocks.
pub fn probe(config: &Config) -> Result<Features, Vec<Missing>> {
    let mut missing = Vec::new();
    let mut check = |result: Result<(), Missing>| missing.extend(result.err());
    let kernel = nix::sys::utsname::uname().map_or_else(|_| String::new(), |name| name.release().display().to_string());
    check(check_kernel(&kernel));
    check(check_btf(&config.paths.btf));
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let kubernetes = match &config.source {
        Source::Kubernetes(source) => Some(NodeInit { proc: &source.proc }),
        Source::File(_) => None,
    };
    for (capability, purpose) in CAPABILITIES.into_iter().chain(kubernetes.map(|_| FOR_KUBERNETES)) {
        if !held.contains(&capability) {
            check(Err(Missing::Capability { capability: capability.to_string(), purpose }));
        }
    }
    check(match kubernetes {
        Some(init) => mounts::check_shared_bpffs(&config.paths.bpffs, init),
        None => check_bpffs(&config.paths.bpffs),
    });
    let found = find_cgroup2(config.paths.cgroup2.as_deref());
    let cgroup2 = found.and_then(|path| mounts::check_cgroup2(&path, kubernetes).map(|level| Root { path, level }));
    let root = match cgroup2 {
        Ok(root) => Some(root),
        Err(error) => {
            check(Err(error));
            None
        }
    };
    if kubernetes.is_some() && root.as_ref().is_some_and(|root| mounts::init_is_a_pod(&root.path)) {
        check(Err(Missing::HostPid));
    }
    // Without the capability every type looks missing.
    if held.contains(&Capability::CAP_BPF) {
        for result in bpf_types() {
            check(result);
        }
    }
    match root {
        Some(Root { path, level }) if missing.is_empty() => {
            Ok(Features { kernel, cgroup2: path, cgroup2_level: level })
        }
        _ => Err(missing),
    }
}

/// What the agent needs in all, given that it lacks this.
fn all(lacking: &str) -> &'static str {
    if lacking == "CAP_SYS_PTRACE" {
        "BPF, NET_ADMIN, SYS_ADMIN and SYS_PTRACE"
    } else {
        "BPF, NET_ADMIN and SYS_ADMIN"
    }
}

fn check_kernel(release: &str) -> Result<(), Missing> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL => Ok(()),
        _ => Err(Missing::Kernel(release.to_owned())),
    }
}

fn check_btf(path: &Path) -> Result<(), Missing> {
    if path.is_file() { Ok(()) } else { Err(Missing::Btf(path.to_owned())) }
}

fn bpf_types() -> Vec<Result<(), Missing>> {
    let programs = [
        (ProgramType::CgroupSockAddr, "programs of type cgroup_sock_addr", "4.17", "CONFIG_CGROUP_BPF=y"),
        (ProgramType::SockOps, "programs of type sock_ops", "4.13", "CONFIG_CGROUP_BPF=y"),
        (ProgramType::SkLookup, "programs of type sk_lookup", "5.9", "CONFIG_BPF_SYSCALL=y and CONFIG_INET=y"),
    ];
    let maps = [
        (MapType::RingBuf, "maps of type ringbuf", "5.8", "CONFIG_BPF_SYSCALL=y"),
        (MapType::SkStorage, "maps of type sk_storage", "5.2", "CONFIG_NET=y and CONFIG_BPF_SYSCALL=y"),
        (MapType::SockMap, "maps of type sockmap", "4.14", "CONFIG_BPF_STREAM_PARSER=y or CONFIG_NET_SOCK_MSG=y"),
        (MapType::LpmTrie, "maps of type lpm_trie", "4.11", "CONFIG_BPF_SYSCALL=y"),
    ];
    let programs = programs.map(|(kind, what, since, option)| {
        answer(is_program_supported(kind).map_err(|error| error.to_string()), what, since, option)
    });
    let maps = maps.map(|(kind, what, since, option)| {
        answer(is_map_supported(kind).map_err(|error| error.to_string()), what, since, option)
    });
    programs.into_iter().chain(maps).collect()
}

fn answer(
    supported: Result<bool, String>,
    what: &'static str,
    since: &'static str,
    option: &'static str,
) -> Result<(), Missing> {
    match supported {
        Ok(true) => Ok(()),
        Ok(false) => Err(Missing::Bpf { what, since, option }),
        Err(reason) => Err(Missing::Probe { what, reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_their_release() {
        for release in ["5.19.0", "6.1.0-28-cloud-amd64", "6.18.44-fc-v669", "10.0"] {
            assert_eq!(check_kernel(release), Ok(()), "{release}");
        }
        for release in ["5.18.19", "4.19.0-27-amd64", "", "unknown"] {
            assert!(check_kernel(release).is_err(), "{release}");
        }
        assert_eq!(
            check_kernel("5.15.0-91-generic").unwrap_err().to_string(),
            "Linux 5.15.0-91-generic is too old: weir needs at least 5.19, and is tested on 6.1 and later"
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(
            check_btf(&path.join("vmlinux")).unwrap_err().to_string(),
            format!(
                "no BTF at {}/vmlinux (paths.btf): the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, as \
                 distributions' kernels since Linux 5.10 are",
                path.display()
            )
        );
        assert_eq!(
            Missing::NotCgroupRoot("/c".into()).to_string(),
            "/c (paths.cgroup2) is not the root of cgroup2, so that programs attached there would see only some of the \
             node's processes: expected the host's cgroup2 mount, in a container as a hostPath"
        );
        let capability =
            Missing::Capability { capability: "CAP_BPF".to_owned(), purpose: "load eBPF programs and maps" };
        assert_eq!(
            capability.to_string(),
            "the agent lacks CAP_BPF, which it needs to load eBPF programs and maps: run it as root, or give it BPF, \
             NET_ADMIN and SYS_ADMIN"
        );
        let (capability, purpose) = FOR_KUBERNETES;
        assert_eq!(
            Missing::Capability { capability: capability.to_string(), purpose }.to_string(),
            "the agent lacks CAP_SYS_PTRACE, which it needs to open the network namespaces of other users' processes: \
             run it as root, or give it BPF, NET_ADMIN, SYS_ADMIN and SYS_PTRACE"
        );
    }
}
