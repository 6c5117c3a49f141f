//! The keeper gives up everything: the agent's session and file descriptors, its file system and network, its
//! capabilities, and all system calls but those of a process that waits and passes file descriptors on.
//!
//! What the agent's container is not allowed to do itself is left out, such as mounting under a strict AppArmor profile.
//! It changes its user only with CAP_SETUID and CAP_SETGID, which the chart does not give: there it stays uid 0, that is
//! the owner of files which it neither sees nor can open, and of processes that it cannot signal. Nor can it clear its
//! bounding set without CAP_SETPCAP; under no_new_privs and without execve(2), nothing comes of what is left in it.

use std::{collections::BTreeMap, fs, io, path::Path};

use caps::{CapSet, Capability};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::prctl,
    unistd::{Gid, Uid, chdir, geteuid, pivot_root, setgroups, setresgid, setresuid, setsid},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// The user and group that the keeper becomes where it may.
const USER: u32 = 65532;
/// What `ps` and `top` show beside the command line.
const NAME: &std::ffi::CStr = c"weir-keeper";

/// Everything that the keeper calls once it is confined. No other file is opened, no other process made or signalled.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];
/// Of bpf(2), on the one map that it was handed: BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_OBJ_GET_INFO_BY_FD.
const BPF_COMMANDS: [u64; 3] = [1, 2, 15];
/// Calls that newer architectures have not.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

/// What could not be given up. Nothing is kept then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Call {
        /// What it was to do.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A capability set could not be emptied.
    #[error("cannot drop the {set:?} capabilities: {message}")]
    Capabilities {
        /// Which set.
        set: CapSet,
        /// Why not.
        message: String,
    },
    /// The system call filter was refused.
    #[error("cannot install the system call filter: {0}")]
    Filter(String),
}

/// Leaves the agent's session, and closes every file descriptor but the standard ones.
pub(super) fn detach() -> io::Result<()> {
    // Fails only for the leader of a group, as from a shell: then there is no session to leave.
    let _ = setsid();
    prctl::set_name(NAME)?;
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The one that the directory was read by is closed already.
        match nix::unistd::close(fd) {
            Ok(()) | Err(Errno::EBADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Gives up the rest. `directory` is any directory that exists: an empty file system is mounted over it, seen by this
/// process only, and becomes its root. Needs a single thread: credentials belong to threads.
pub(super) fn confine(directory: &Path) -> Result<(), Error> {
    if let Err(errno) = leave_namespaces(directory) {
        tracing::debug!(%errno, "the keeper stays in the agent's namespaces");
    }
    if has(Capability::CAP_SETPCAP) {
        clear(CapSet::Bounding)?;
    }
    clear(CapSet::Ambient)?;
    if geteuid().is_root() && has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID) {
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        setgroups(&[]).map_err(|errno| call("drop the supplementary groups", errno))?;
        setresgid(gid, gid, gid).map_err(|errno| call("change the group", errno))?;
        setresuid(uid, uid, uid).map_err(|errno| call("change the user", errno))?;
    }
    clear(CapSet::Inheritable)?;
    clear(CapSet::Effective)?;
    clear(CapSet::Permitted)?;
    prctl::set_dumpable(false).map_err(|errno| call("forbid core dumps", errno))?;
    prctl::set_no_new_privs().map_err(|errno| call("set no_new_privs", errno))?;
    let filter = filter().map_err(|error| Error::Filter(error.to_string()))?;
    seccompiler::apply_filter(&filter).map_err(|error| Error::Filter(error.to_string()))
}

/// An empty root, no network, nobody else's System V objects: also, whatever keeps the agent's container or pod alive is
/// let go.
fn leave_namespaces(directory: &Path) -> Result<(), Errno> {
    let others = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(CloneFlags::CLONE_NEWNS | others)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("weir-keeper"), directory, Some("tmpfs"), flags, Some("size=4k"))?;
    chdir(directory)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

fn clear(set: CapSet) -> Result<(), Error> {
    caps::clear(None, set).map_err(|error| Error::Capabilities { set, message: error.to_string() })
}

fn call(action: &'static str, errno: Errno) -> Error {
    Error::Call { action, source: errno.into() }
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_OLD).map(|call| (*call, Vec::new())).collect();
    let command =
        |command| SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command)?]);
    rules.insert(libc::SYS_bpf, BPF_COMMANDS.into_iter().map(command).collect::<Result<_, _>>()?);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow, architecture)?.try_into()
}
