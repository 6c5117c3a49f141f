//! What the agent needs of the machine, looked at before anything is changed. Each thing that is missing is one line that
//! says what to do about it.

use std::{
    fs, io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use caps::{CapSet, Capability};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use crate::config::Config;

/// The lowest kernel on which a process without capabilities may use a map that it was handed.
const KERNEL: (u32, u32) = (5, 19);
/// The inode number of cgroup2's root; a container that has no other finds its own cgroup at the mount.
const ROOT_INODE: u64 = 1;
/// Capabilities, and what for.
const CAPABILITIES: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "load eBPF programs and maps"),
    (Capability::CAP_NET_ADMIN, "attach them"),
    (Capability::CAP_SYS_ADMIN, "enter the network namespaces of pods"),
];

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
        "the agent lacks {capability}, which it needs to {purpose}: run it as root, or give it BPF, NET_ADMIN and SYS_ADMIN"
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
}

/// Looks for everything; else all that is missing. Blocks.
pub fn probe(config: &Config) -> Result<Features, Vec<Missing>> {
    let mut missing = Vec::new();
    let mut check = |result: Result<(), Missing>| missing.extend(result.err());
    let kernel = nix::sys::utsname::uname().map_or_else(|_| String::new(), |name| name.release().display().to_string());
    check(check_kernel(&kernel));
    check(check_btf(&config.paths.btf));
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    for (capability, purpose) in CAPABILITIES {
        if !held.contains(&capability) {
            check(Err(Missing::Capability { capability: capability.to_string(), purpose }));
        }
    }
    check(check_bpffs(&config.paths.bpffs));
    let cgroup2 = find_cgroup2(config.paths.cgroup2.as_deref());
    let cgroup2 = match cgroup2 {
        Ok(path) => {
            check(check_cgroup2(&path));
            path
        }
        Err(error) => {
            check(Err(error));
            PathBuf::new()
        }
    };
    // Without the capability every type looks missing.
    if held.contains(&Capability::CAP_BPF) {
        for result in bpf_types() {
            check(result);
        }
    }
    if missing.is_empty() { Ok(Features { kernel, cgroup2 }) } else { Err(missing) }
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

/// A directory on the disk can stand in for a BPF file system until the first pin fails, so its kind is asked for.
pub(crate) fn check_bpffs(path: &Path) -> Result<(), Missing> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        _ => Err(Missing::Bpffs(path.to_owned())),
    }
}

/// The root of cgroup2: the configured one, else where it is mounted.
pub fn find_cgroup2(configured: Option<&Path>) -> Result<PathBuf, Missing> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    cgroup2_mount(&mounts).ok_or(Missing::NoCgroup2)
}

/// The first mount of the whole of cgroup2 in `/proc/self/mountinfo` (proc(5)).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

fn check_cgroup2(path: &Path) -> Result<(), Missing> {
    let failed =
        |error: io::Error| Missing::Path { path: path.to_owned(), key: "paths.cgroup2", reason: error.to_string() };
    let kind = statfs(path).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC {
        return Err(Missing::NotCgroup2(path.to_owned()));
    }
    let inode = fs::metadata(path).map_err(failed)?.st_ino();
    if inode == ROOT_INODE { Ok(()) } else { Err(Missing::NotCgroupRoot(path.to_owned())) }
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
    fn the_mount_of_cgroup2_is_found() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n\
                      31 30 0:27 /kubepods/pod1 /elsewhere rw - cgroup2 cgroup2 rw\n\
                      32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("30 24 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(
            check_bpffs(path).unwrap_err().to_string(),
            format!(
                "no BPF file system is mounted at {path} (paths.bpffs): mount it with `mount -t bpf bpf {path}`, in \
                 Kubernetes on the host",
                path = path.display()
            )
        );
        assert_eq!(
            check_cgroup2(path).unwrap_err().to_string(),
            format!(
                "{} (paths.cgroup2) is not a cgroup2 file system: expected the directory where cgroup2 is mounted",
                path.display()
            )
        );
        assert_eq!(
            check_btf(&path.join("vmlinux")).unwrap_err().to_string(),
            format!(
                "no BTF at {}/vmlinux (paths.btf): the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, as \
                 distributions' kernels since Linux 5.10 are",
                path.display()
            )
        );
        assert_eq!(
            check_cgroup2(&path.join("none")).unwrap_err().to_string(),
            format!("cannot look at {}/none (paths.cgroup2): No such file or directory (os error 2)", path.display())
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
    }
}
