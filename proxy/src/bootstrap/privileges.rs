//! Giving up everything before the first hostile byte: user, groups, capabilities, the way back to them, other processes
//! of the same user, and all system calls but those that a proxy makes.
//!
//! Credentials and capabilities belong to threads: this must run while the process has one.

mod error;
mod landlock;
mod seccomp;

use std::fs;

use caps::CapSet;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};

pub use self::{error::Error, landlock::Apart};

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files() -> Result<u64, Error> {
    let failed = |errno| call("raise the limit of open files", errno);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
    }
    Ok(hard)
}

/// Gives up everything; as root becomes `user` first. As user 0 it may do what root's files let their owner do, and no
/// more. Proves it from /proc. What keeps other processes of the user apart.
/// `keeping`: resources are kept in a directory.
pub fn drop_all(user: u32, keeping: bool) -> Result<Apart, Error> {
    let root = geteuid().is_root();
    // Needs CAP_SETPCAP, so it comes before all else. Without root there may be nothing to empty it with; with
    // no_new_privs the bounding set gives nothing.
    if root || caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        clear(CapSet::Bounding, "bounding")?;
    }
    clear(CapSet::Ambient, "ambient")?;
    if root {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        setgroups(&[]).map_err(|errno| call("drop the supplementary groups", errno))?;
        setresgid(gid, gid, gid).map_err(|errno| call("change the group", errno))?;
        setresuid(uid, uid, uid).map_err(|errno| call("change the user", errno))?;
    }
    clear(CapSet::Inheritable, "inheritable")?;
    clear(CapSet::Effective, "effective")?;
    clear(CapSet::Permitted, "permitted")?;
    // No core dump and no tracing by others of the same user: connections' bytes and keys are in memory.
    prctl::set_dumpable(false).map_err(|errno| call("forbid core dumps", errno))?;
    prctl::set_no_new_privs().map_err(|errno| call("set no_new_privs", errno))?;
    let apart = landlock::enter()?;
    seccomp::install(keeping)?;
    verify(root.then_some(user))?;
    Ok(apart)
}

fn clear(set: CapSet, name: &'static str) -> Result<(), Error> {
    caps::clear(None, set).map_err(|error| Error::Capabilities { set: name, message: error.to_string() })
}

fn call(action: &'static str, errno: Errno) -> Error {
    Error::Call { action, source: errno.into() }
}

/// Reads back what the kernel holds of this process.
fn verify(user: Option<u32>) -> Result<(), Error> {
    let read = |source| Error::Call { action: "read /proc/self/status", source };
    let status = fs::read_to_string("/proc/self/status").map_err(read)?;
    remaining(&status, user).map_or(Ok(()), |line| Err(Error::Remain(line)))
}

/// The first line of a /proc/PID/status that shows a privilege.
fn remaining(status: &str, user: Option<u32>) -> Option<String> {
    let expected = |name: &str| -> Option<String> {
        let user = user.map(|user| format!("{user}\t{user}\t{user}\t{user}"));
        match name {
            "Uid" | "Gid" => user,
            "CapBnd" if user.is_none() => None,
            "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => Some("0000000000000000".into()),
            "NoNewPrivs" => Some("1".into()),
            "Seccomp" => Some("2".into()),
            "Threads" => Some("1".into()),
            _ => None,
        }
    };
    status.lines().find_map(|line| {
        let (name, value) = line.split_once(":\t")?;
        expected(name).filter(|expected| expected != value.trim()).map(|_| line.replace('\t', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: &str = "Name:\tweir-proxy\nUid:\t65532\t65532\t65532\t65532\nGid:\t65532\t65532\t65532\t65532\n\
        Groups:\t \nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn what_remains_is_named() {
        assert_eq!(remaining(DROPPED, Some(65532)), None);
        for (from, to) in [
            ("Uid:\t65532\t65532", "Uid:\t65532\t0"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
            ("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000400"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Threads:\t1", "Threads:\t2"),
        ] {
            let status = DROPPED.replace(from, to);
            let found = remaining(&status, Some(65532)).unwrap();
            assert!(to.starts_with(found.split(':').next().unwrap()), "{found}");
        }
    }
}
