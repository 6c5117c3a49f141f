//! The directory of an instance's pins, `<bpffs>/weir/<instance>`: its lock, its layout, and taking it away.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        linux::fs::MetadataExt,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use weir_abi::map::{PodConfig, name};

use super::{Error, link, maps};

/// Only root sees the pins.
const DIRECTORY_MODE: u32 = 0o700;
/// What the pinned maps hold and how the pinned programs read it. Counts up when an agent's programs cannot go on with
/// what another's left, although the maps look the same.
const LAYOUT: u32 = 1;
/// The directory that says so: the BPF file system holds no files.
const LAYOUT_PREFIX: &str = "layout-";
/// Links that bring connections to the proxy; they go first, so that nothing is redirected to a listener that is gone.
const CONNECT: &str = "weir_connect";

/// An instance's pins, locked: no other agent, and no `uninstall`, touches them while this exists and was not released.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// The lock is on the directory itself: whatever the configuration, the same pins have the same lock.
    lock: Mutex<Option<Flock<File>>>,
}

impl Pins {
    /// Makes the directory if it is not there, and locks it; refused if another layout is pinned there. What is in it is
    /// made under the lock: whoever finds it taken changes nothing.
    pub fn lock(directory: &Path) -> Result<Self, Error> {
        let make = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
            made.map_err(|source| Error::Io { action: "make", path: path.to_owned(), source })
        };
        loop {
            check_layout(directory)?;
            if let Some(pins) = Self::lock_existing(directory)? {
                for part in ["maps", "programs", "links", &format!("{LAYOUT_PREFIX}{LAYOUT}")] {
                    make(&directory.join(part))?;
                }
                return Ok(pins);
            }
            // It is not there, or an `uninstall` that ended in between took it away.
            make(directory)?;
        }
    }

    /// Locks the directory; none if it is not there.
    pub fn lock_existing(directory: &Path) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Io { action: "lock", path: directory.to_owned(), source };
        let opened = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(directory);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::AnotherAgent(directory.to_owned()),
            errno => failed(errno.into()),
        })?;
        let locked = lock.metadata().map_err(failed)?;
        let same = fs::metadata(directory).is_ok_and(|now| now.st_ino() == locked.st_ino());
        Ok(same.then(|| Self { directory: directory.to_owned(), lock: Mutex::new(Some(lock)) }))
    }

    /// Lets go of the lock: from here on the pins are another agent's, and whatever still refers to this leaves them
    /// alone.
    pub fn release(&self) {
        drop(self.lock.lock().take());
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Pin of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    /// Pin of a program's link.
    pub fn link(&self, name: &str) -> PathBuf {
        self.directory.join("links").join(name)
    }

    /// The pods that the pinned maps say are enrolled, with the cookies of their network namespaces.
    pub fn enrolled(&self) -> Result<Vec<(u64, PodConfig)>, Error> {
        maps::pinned_enrolled(&self.map(name::ENROLLED))
    }

    /// Names of the pins in a part of the directory (`maps`, `programs` or `links`).
    pub fn names(&self, part: &str) -> Result<Vec<String>, Error> {
        names(&self.directory.join(part))
    }
}

impl Drop for Pins {
    /// A start that failed before it pinned anything leaves no empty directories; those with pins stay.
    fn drop(&mut self) {
        if self.lock.get_mut().is_some() {
            self.remove_directories();
        }
    }
}

impl Pins {
    /// Removes the directories that are empty; that of all instances goes with the last of them.
    fn remove_directories(&self) {
        for part in ["links", "programs", "maps"] {
            let _ = fs::remove_dir(self.directory.join(part));
        }
        if !self.directory.join("maps").exists() {
            for layout in layouts(&self.directory).unwrap_or_default() {
                let _ = fs::remove_dir(self.directory.join(format!("{LAYOUT_PREFIX}{layout}")));
            }
        }
        let _ = fs::remove_dir(&self.directory);
        if let Some(parent) = self.directory.parent() {
            let _ = fs::remove_dir(parent);
        }
    }

    /// Removes everything: what redirects first, then what steers, then the rest.
    pub fn remove(&self) -> Result<(), Error> {
        let mut links = self.names("links")?;
        links.sort_by_key(|name| !name.starts_with(CONNECT));
        for name in links {
            remove_link(&self.link(&name))?;
        }
        for part in ["programs", "maps"] {
            for name in self.names(part)? {
                remove(&self.directory.join(part).join(name))?;
            }
        }
        self.remove_directories();
        Ok(())
    }
}

/// Whether this agent can go on with what is pinned in a directory, if anything is.
pub fn check_layout(directory: &Path) -> Result<(), Error> {
    match layouts(directory)?.into_iter().find(|layout| *layout != LAYOUT.to_string()) {
        Some(found) => Err(Error::OtherLayout { directory: directory.to_owned(), found, own: LAYOUT }),
        None => Ok(()),
    }
}

fn layouts(directory: &Path) -> Result<Vec<String>, Error> {
    let layout = |name: String| name.strip_prefix(LAYOUT_PREFIX).map(str::to_owned);
    Ok(names(directory)?.into_iter().filter_map(layout).collect())
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Io { action: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

/// Detaches a link and removes its pin, if it is there.
pub(super) fn remove_link(pin: &Path) -> Result<(), Error> {
    if let Err(error) = link::detach(pin) {
        // Without its pin it will be detached all the same, only later.
        tracing::debug!(pin = %pin.display(), %error, "a link could not be detached");
    }
    remove(pin)
}

/// Removes a pin, if it is there.
pub(super) fn remove(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: pin.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time_and_uninstall_is_idempotent() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("weir/blue");
        let uninstall = |directory: &Path| -> Result<bool, Error> {
            Pins::lock_existing(directory)?.map(|pins| pins.remove()).transpose().map(|removed| removed.is_some())
        };
        assert!(!uninstall(&directory).unwrap());

        let pins = Pins::lock(&directory).unwrap();
        fs::write(pins.link("weir_sklookup_3"), "").unwrap();
        fs::write(pins.map("CONFIG"), "").unwrap();
        let message = format!(
            "another agent runs with the pins in {}: stop it first, or choose another instance",
            directory.display()
        );
        assert_eq!(Pins::lock(&directory).unwrap_err().to_string(), message);
        assert_eq!(uninstall(&directory).unwrap_err().to_string(), message);
        fs::remove_dir(directory.join("programs")).unwrap();
        assert!(Pins::lock(&directory).is_err() && !directory.join("programs").exists(), "nothing is touched unlocked");
        fs::create_dir(directory.join("programs")).unwrap();
        assert!(pins.map("CONFIG").exists());

        drop(pins);
        assert!(directory.join("maps/CONFIG").exists(), "pins outlive the agent");

        let released = Pins::lock(&directory).unwrap();
        released.release();
        let next = Pins::lock(&directory).expect("free, although the former agent is still there");
        fs::remove_file(next.map("CONFIG")).unwrap();
        drop(released);
        assert!(directory.join("maps").exists(), "its directories are not the former's any more");
        drop(next);
        let pins = Pins::lock(&directory).unwrap();
        fs::write(pins.map("CONFIG"), "").unwrap();
        drop(pins);
        fs::create_dir(base.path().join("weir/green")).unwrap();
        assert!(uninstall(&directory).unwrap());
        drop(Pins::lock(&directory).unwrap());
        assert!(!directory.exists() && base.path().join("weir/green").exists());
        assert!(!uninstall(&directory).unwrap());
    }

    #[test]
    fn what_another_layout_left_is_not_adopted_but_can_be_removed() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("weir/blue");
        let pins = Pins::lock(&directory).unwrap();
        fs::write(pins.map("CONFIG"), "").unwrap();
        drop(pins);
        assert!(directory.join("layout-1").exists());
        check_layout(&directory).unwrap();
        fs::rename(directory.join("layout-1"), directory.join("layout-7")).unwrap();
        assert_eq!(
            Pins::lock(&directory).unwrap_err().to_string(),
            format!(
                "the pins in {} have layout 7, and this agent works with layout 1: run `weir-agent uninstall --instance \
                 blue` with that version stopped; pods are not redirected until they are enrolled again",
                directory.display()
            )
        );
        Pins::lock_existing(&directory).unwrap().expect("it is there").remove().unwrap();
        assert!(!directory.exists());
    }
}
