//! Weir being taken off a node in the middle of a rollout, when two agents are there.
//!
//! The one that leads removes the pins and with them their lock; the other one must not take that for a lead that is free,
//! or it would put everything back. So the one that removes holds a lock on the directory of the state from before that
//! until its process ends, or until the uninstall is taken back.

use std::{fs::File, io, path::Path};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Weir is being taken off this node, or was. Held by the agent that does that.
#[derive(Debug)]
pub struct Departure {
    _lock: Flock<File>,
}

impl Departure {
    /// Tells the other agents of this directory. Blocks for a moment at most: others look only.
    pub fn begin(state: &Path) -> io::Result<Self> {
        let lock = Flock::lock(File::open(state)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        Ok(Self { _lock: lock })
    }
}

/// Looks whether an agent departs.
#[derive(Debug)]
pub(super) struct Lookout {
    /// Opened once: the directory may be removed, and its lock with it stays.
    directory: Option<File>,
}

impl Lookout {
    /// From a directory, which may not be there yet.
    pub(super) fn new(state: &Path) -> Self {
        Self { directory: File::open(state).ok() }
    }

    /// Whether an agent that is still there takes weir off the node, or has done so.
    pub(super) fn sees_departure(&self) -> bool {
        let Some(directory) = self.directory.as_ref().and_then(|directory| directory.try_clone().ok()) else {
            return false;
        };
        match Flock::lock(directory, FlockArg::LockSharedNonblock) {
            // Dropped, it is unlocked.
            Ok(_free) => false,
            Err((_, errno)) => errno == Errno::EWOULDBLOCK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_is_seen_until_it_is_over_also_when_the_directory_is_gone() {
        let base = tempfile::tempdir().unwrap();
        let state = base.path().join("run");
        assert!(!Lookout::new(&state).sees_departure(), "there is no directory");
        std::fs::create_dir(&state).unwrap();
        let lookout = Lookout::new(&state);
        assert!(!lookout.sees_departure());
        let departure = Departure::begin(&state).unwrap();
        std::fs::remove_dir(&state).unwrap();
        assert!(lookout.sees_departure());
        drop(departure);
        assert!(!lookout.sees_departure());
    }
}
