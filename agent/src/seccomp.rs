//! The seccomp profile of the proxy's container, for the kubelet.
//!
//! The runtime's default profile refuses bpf(2), by which the proxy reads original destinations. This one allows what
//! the container runtime needs to start the proxy, what the proxy needs to put itself under its own filter
//! (`proxy/src/bootstrap/privileges/seccomp.rs`), and what that filter allows. The kubelet reads the file whenever it
//! makes the container, so it is written at every start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::file::{self, Ownership};

/// Nobody has to read it but the container runtime; nothing in it is secret.
const MODE: u32 = 0o644;

/// What the proxy's own filter allows whatever the arguments, on the architectures that have it.
const SERVING: &[&str] = &[
    "accept4",
    "access",
    "bind",
    "brk",
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "close",
    "close_range",
    "connect",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd2",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fcntl",
    "fstat",
    "futex",
    "get_robust_list",
    "getcpu",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpeername",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "getrusage",
    "getsockname",
    "getsockopt",
    "gettid",
    "gettimeofday",
    "getuid",
    "listen",
    "lseek",
    "lstat",
    "madvise",
    "membarrier",
    "mincore",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "pipe2",
    "poll",
    "ppoll",
    "pread64",
    "pwrite64",
    "read",
    "readlink",
    "readlinkat",
    "readv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socketpair",
    "splice",
    "stat",
    "statx",
    "sysinfo",
    "time",
    "uname",
    "write",
    "writev",
];
/// What that filter allows a proxy besides that keeps what it was sent in a directory. Here it is allowed to all: the
/// container of one that does not has nowhere to write.
const KEEPING: &[&str] =
    &["fsync", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "rmdir", "unlink", "unlinkat"];
/// What comes before that filter: the container runtime's last steps, the program's first, and giving privileges up.
/// The runtime is a Go program, which has timers. The signals by which it preempts its threads are refused, which it does
/// not notice: no filter of a container can know the ids of the processes that it is for, and the proxy sees those of the
/// node. Without tgkill(2) abort(3) ends a process by an instruction that nobody may execute.
const STARTING: &[&str] = &[
    "arch_prctl",
    "capget",
    "capset",
    "chdir",
    "execve",
    "fchdir",
    "fstatfs",
    "ioctl",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "prctl",
    "rt_sigtimedwait",
    "seccomp",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setrlimit",
    "setuid",
    "statfs",
    "timer_create",
    "timer_delete",
    "timer_settime",
    "umask",
];
/// `BPF_MAP_LOOKUP_ELEM`, `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_DELETE_ELEM`.
const MAP_ELEMENT_COMMANDS: [u64; 3] = [1, 2, 3];
/// Allowed of the caller itself, as process 0.
const OWN: [&str; 2] = ["prlimit64", "sched_setaffinity"];
const SOCKET_FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// The profile cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("seccomp.profile: cannot {action} {}: {source}", path.display())]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The profile, as container runtimes read it (the OCI runtime specification's `linux.seccomp`).
pub fn profile() -> Value {
    let allow = |names: &[&str]| json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
    let allow_if = |name: &str, index: u32, value: Value| {
        let equal = json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": [equal] })
    };
    // Threads, not processes: the mask, then what is left under it.
    let thread = json!({
        "index": 0, "value": libc::CLONE_THREAD, "valueTwo": libc::CLONE_THREAD, "op": "SCMP_CMP_MASKED_EQ"
    });
    let mut calls = vec![allow(SERVING), allow(KEEPING), allow(STARTING)];
    calls.extend(MAP_ELEMENT_COMMANDS.map(|command| allow_if("bpf", 0, command.into())));
    // Of the caller's own, not of another process of its user.
    calls.extend(OWN.map(|call| allow_if(call, 0, 0.into())));
    calls.extend(SOCKET_FAMILIES.map(|family| allow_if("socket", 0, family.into())));
    calls.push(json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [thread] }));
    // Its flags are in memory, where a filter cannot see them; with ENOSYS clone is called instead.
    calls.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [architecture()],
        "syscalls": calls,
    })
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }
}

/// Writes the profile, in the place of an earlier one, and makes its directory.
pub fn write(path: &Path) -> Result<(), Error> {
    let failed = |action| move |source| Error { action, path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    let text = format!("{:#}\n", profile());
    if fs::read(path).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    let written = file::put(path, text.as_bytes(), Ownership::mode(MODE)).map_err(failed("write"));
    match written {
        // A full disk: the one that is there is that of another version, and mostly as good.
        Err(error) if path.is_file() => {
            tracing::warn!(%error, "the profile that an earlier agent wrote stays");
            Ok(())
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

    use super::*;

    /// The proxy's own filter.
    const FILTER: &str = include_str!("../../proxy/src/bootstrap/privileges/seccomp.rs");

    /// Names after `libc::SYS_` in a list of the proxy's.
    fn listed(list: &str) -> BTreeSet<&'static str> {
        let text = FILTER.split_once(list).unwrap_or_else(|| panic!("{list} is there")).1;
        let text = text.split_once("];").expect("the list ends").0;
        text.split("libc::SYS_").skip(1).filter_map(|rest| rest.split(',').next()).collect()
    }

    #[test]
    fn what_the_proxy_allows_itself_is_allowed_and_no_more() {
        let mut own = listed("const ALLOWED: &[libc::c_long] = &[");
        own.extend(listed("const ALLOWED_OLD: &[libc::c_long] = &["));
        // Refused with an errno of its own.
        assert!(own.remove("clone3"));
        assert_eq!(own, SERVING.iter().copied().collect::<BTreeSet<_>>());
        let keeping = listed("const KEEPING: &[libc::c_long] = &[");
        assert_eq!(keeping, KEEPING.iter().copied().collect::<BTreeSet<_>>());
        let judged: BTreeSet<&str> =
            FILTER.split("rules.insert(libc::SYS_").skip(1).filter_map(|rest| rest.split(',').next()).collect();
        // The last for the process's own id, which the profile cannot know.
        let expected = ["bpf", "clone", "ioctl", "prctl", "prlimit64", "sched_setaffinity", "socket", "tgkill"].into();
        assert_eq!(judged, expected, "calls whose arguments count");
        assert!(FILTER.contains("const MAP_ELEMENT_COMMANDS: [u64; 3] = [1, 2, 3];"));
    }

    #[test]
    fn bpf_is_for_elements_of_maps_only() {
        let profile = profile();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let rules = profile["syscalls"].as_array().unwrap();
        let named = |name: &'static str| {
            rules.iter().filter(move |rule| rule["names"].as_array().unwrap().contains(&name.into()))
        };
        let commands: Vec<u64> = named("bpf").map(|rule| rule["args"][0]["value"].as_u64().unwrap()).collect();
        assert_eq!(commands, [1, 2, 3]);
        assert!(named("bpf").all(|rule| rule["args"][0]["index"] == 0 && rule["args"][0]["op"] == "SCMP_CMP_EQ"));
        let signals = [
            "kill",
            "tkill",
            "tgkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "pidfd_open",
            "pidfd_send_signal",
            "pidfd_getfd",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
        ];
        for never in ["mount", "setns", "unshare", "io_uring_setup", "keyctl", "fork"].into_iter().chain(signals) {
            assert_eq!(named(never).count(), 0, "{never}");
        }
        assert_eq!(named("clone3").next().unwrap()["errnoRet"], libc::ENOSYS);
    }

    #[test]
    fn it_is_written_whole_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weir/proxy.json");
        // Nothing can be written beside it, as on a full disk.
        let full = file::unfinished(&path).unwrap();
        fs::create_dir_all(&full).unwrap();
        let error = write(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("seccomp.profile: cannot write {}: ", path.display())), "{error}");
        fs::remove_dir(&full).unwrap();
        write(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(&path).unwrap()).unwrap(), profile());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        fs::create_dir(&full).unwrap();
        write(&path).expect("it is there");
        fs::write(&path, "{}").unwrap();
        write(&path).expect("that of another version is better than none");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");

        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.parent().unwrap(), "").unwrap();
        let error = write(&path).unwrap_err().to_string();
        let expected = format!("seccomp.profile: cannot make the directory of {}: ", path.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
