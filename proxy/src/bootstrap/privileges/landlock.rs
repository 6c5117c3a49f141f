//! A Landlock domain of the proxy's own, so that it has no way to other processes of its user.
//!
//! With the node's process ids in sight (`hostPID`), a process may signal those of its own uid, and read their
//! environment and memory below /proc. Whoever is in a domain may do neither to those outside: ptrace(2), and with it
//! /proc/PID/environ and mem, from Linux 5.13 on; signals from 6.12. The file system stays as it is: what a domain must
//! forbid there to exist at all is making device nodes, which nobody without capabilities may do anyway.

use std::fmt;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope, make_bitflags,
};

use super::error::Error;

/// What keeps the proxy from other processes of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// It can neither signal them nor look into them.
    Whole,
    /// It cannot look into them. Signals are left to the system call filter: the kernel is older than 6.12.
    Memory,
    /// The kernel has no Landlock, or it is switched off.
    Nothing,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "in a Landlock domain: other processes of its user can be neither signalled nor read",
            Self::Memory => "in a Landlock domain: other processes of its user cannot be read (signals: Linux 6.12)",
            Self::Nothing => "not in a Landlock domain: the kernel has none, or it is switched off (lsm=)",
        })
    }
}

/// Puts the calling thread, and all that come after it, into a domain, as far as the kernel has such.
pub(super) fn enter() -> Result<Apart, Error> {
    let failed = |error: landlock::RulesetError| Error::Domain(error.to_string());
    let devices = make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    debug_assert!(AccessFs::from_all(ABI::V1).contains(devices));
    let domain = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(devices)
        .and_then(|domain| domain.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|domain| domain.restrict_self())
        .map_err(failed)?;
    Ok(match domain.ruleset {
        RulesetStatus::FullyEnforced => Apart::Whole,
        RulesetStatus::PartiallyEnforced => Apart::Memory,
        RulesetStatus::NotEnforced => Apart::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io, process::Command, thread};

    use caps::CapSet;
    use nix::{
        errno::Errno,
        sys::{prctl, signal::kill},
        unistd::Pid,
    };

    use super::*;

    #[test]
    fn others_of_the_same_user_are_out_of_reach() {
        // A domain is a thread's, and its children's; so are capabilities, with which there are other ways.
        let seen = thread::spawn(|| {
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
                caps::clear(None, set).unwrap();
            }
            prctl::set_no_new_privs().unwrap();
            let other = Command::new("sleep").arg("3600").spawn().unwrap();
            let pid = Pid::from_raw(other.id() as i32);
            let read = |path: String| fs::read(path).map(drop).map_err(|error| error.kind());
            let look = || (kill(pid, None), read(format!("/proc/{pid}/environ")));
            let (before, apart) = (look(), enter());
            (other, before, apart, look(), read("/proc/thread-self/environ".to_owned()))
        });
        let (mut other, before, apart, after, own) = seen.join().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(before, (Ok(()), Ok(())), "without a domain both are possible");
        let signalled = match apart.unwrap() {
            Apart::Whole => Err(Errno::EPERM),
            Apart::Memory => Ok(()),
            Apart::Nothing => panic!("this test needs a kernel with Landlock: 5.13, and landlock among lsm="),
        };
        assert_eq!(after, (signalled, Err(io::ErrorKind::PermissionDenied)));
        assert_eq!(own, Ok(()));
    }
}
