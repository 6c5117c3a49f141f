//! The system calls that a proxy makes. Everything else fails with EPERM: execve, ptrace, mount, setns, unshare,
//! io_uring, keyrings, modules, signals to others, and bpf(2) but for looking up, updating and deleting map elements.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::error::Error;

/// BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM.
const MAP_ELEMENT_COMMANDS: [u64; 3] = [1, 2, 3];
/// glibc and mimalloc name threads and memory areas; mimalloc asks for huge pages' state.
const PRCTLS: [u64; 4] =
    [libc::PR_SET_NAME as u64, libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64, libc::PR_GET_THP_DISABLE as u64];
const IOCTLS: [u64; 6] = [libc::FIONBIO, libc::FIOCLEX, libc::TIOCOUTQ, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];
const SOCKET_FAMILIES: [u64; 3] = [libc::AF_UNIX as u64, libc::AF_INET as u64, libc::AF_INET6 as u64];

/// Allowed whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // Sockets.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    // Bytes and descriptors.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_splice,
    libc::SYS_write,
    libc::SYS_writev,
    // Readiness and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    // Files: logs, resolv.conf.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and signals.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_get_robust_list,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // About this process and machine.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Calls that newer architectures have not.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[libc::c_long] = &[];

/// What keeping accepted resources in a directory needs besides (`--state-dir`).
const KEEPING: &[libc::c_long] = &[
    libc::SYS_fsync,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Puts all threads under the filter; `keeping`: of a process that keeps resources in a directory.
pub(super) fn install(keeping: bool) -> Result<(), Error> {
    // clone3 passes its flags in memory, where a filter cannot see them. ENOSYS has glibc fall back to clone. The second
    // filter lets clone3 pass, so that the first one's errno counts; it forbids to install a third.
    for program in [without_clone3()?, allow_list(if keeping { KEEPING } else { &[] })?] {
        seccompiler::apply_filter_all_threads(&program).map_err(|error| Error::Filter(error.to_string()))?;
    }
    Ok(())
}

fn allow_list(besides: &[libc::c_long]) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_OLD).chain(besides).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_bpf, argument(0, &MAP_ELEMENT_COMMANDS)?);
    rules.insert(libc::SYS_ioctl, argument(1, &IOCTLS)?);
    rules.insert(libc::SYS_prctl, argument(0, &PRCTLS)?);
    rules.insert(libc::SYS_socket, argument(0, &SOCKET_FAMILIES)?);
    // Of its own: another process of the user could be ended by a limit of its CPU time.
    rules.insert(libc::SYS_prlimit64, argument(0, &[0])?);
    rules.insert(libc::SYS_sched_setaffinity, argument(0, &[0])?);
    // To itself only: abort(3) raises SIGABRT by it.
    rules.insert(libc::SYS_tgkill, argument(0, &[u64::from(std::process::id())])?);
    // Threads, not processes.
    let thread = libc::CLONE_THREAD as u64;
    let only_threads = condition(0, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![rule(vec![only_threads])?]);
    compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn without_clone3() -> Result<BpfProgram, Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn compile(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(filter_error)?;
    SeccompFilter::new(rules, otherwise, matched, architecture).and_then(TryInto::try_into).map_err(filter_error)
}

/// One rule per value that an argument may have.
fn argument(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>, Error> {
    values.iter().map(|value| rule(vec![condition(index, SeccompCmpOp::Eq, *value)?])).collect()
}

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value).map_err(filter_error)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Error> {
    SeccompRule::new(conditions).map_err(filter_error)
}

fn filter_error(error: seccompiler::BackendError) -> Error {
    Error::Filter(error.to_string())
}
