//! Files put in place whole: whoever reads one sees what was there before or all that is new. Directories followed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        linux::fs::MetadataExt,
        unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// What the names of unfinished files start and end with; container runtimes do not read such as configurations.
const UNFINISHED: (&str, &str) = (".weir-", ".tmp");

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permission bits.
    pub mode: u32,
    /// User and group; none: whoever makes it.
    pub owner: Option<(u32, u32)>,
}

impl Ownership {
    /// Of the one who makes it.
    pub fn mode(mode: u32) -> Self {
        Self { mode, owner: None }
    }

    /// That of a file.
    pub fn of(metadata: &fs::Metadata) -> Self {
        let owner = Some((metadata.st_uid(), metadata.st_gid()));
        Self { mode: metadata.permissions().mode() & 0o7777, owner }
    }
}

/// Puts a file at `path`, in the place of whatever is there.
pub fn put(path: &Path, content: &[u8], ownership: Ownership) -> io::Result<()> {
    let unfinished = unfinished(path).ok_or(io::ErrorKind::InvalidInput)?;
    put_by(path, &unfinished, content, ownership)
}

/// Puts a file that only its owner may read at `path`, and makes its directory. Several processes may do so at a time.
pub fn put_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let unfinished = unfinished_by(path, std::process::id()).ok_or(io::ErrorKind::InvalidInput)?;
    put_by(path, &unfinished, content, Ownership::mode(0o600))
}

fn put_by(path: &Path, unfinished: &Path, content: &[u8], ownership: Ownership) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let written = write(unfinished, content, ownership).and_then(|()| fs::rename(unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(unfinished);
    }
    written?;
    // So that it is there after a power failure too.
    File::open(directory)?.sync_all()
}

fn write(path: &Path, content: &[u8], ownership: Ownership) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if let Some((user, group)) = ownership.owner {
        let made = file.metadata()?;
        // Not asked for where it is so already: an agent without CAP_CHOWN would be refused.
        let other = |wanted, present| (wanted != present).then_some(wanted);
        let (user, group) = (other(user, made.st_uid()), other(group, made.st_gid()));
        if user.is_some() || group.is_some() {
            fchown(&file, user, group)?;
        }
    }
    file.set_permissions(fs::Permissions::from_mode(ownership.mode))?;
    file.sync_all()
}

/// The name that a file has until it is complete.
pub fn unfinished(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{}{name}{}", UNFINISHED.0, UNFINISHED.1)))
}

/// The name that one has until a process has completed it that may not be the only one.
pub fn unfinished_by(path: &Path, pid: u32) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{}{name}.{pid}{}", UNFINISHED.0, UNFINISHED.1)))
}

/// What processes that were killed left of a file that they did not complete.
pub fn left_unfinished(path: &Path) -> Vec<PathBuf> {
    let Some((directory, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let of_this = |found: &Path| {
        let found = found.file_name().and_then(|found| found.to_str());
        let of =
            found.and_then(|found| found.strip_prefix(UNFINISHED.0)?.strip_suffix(UNFINISHED.1)?.strip_prefix(name));
        of.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(|pid| pid.parse::<u32>().is_ok()))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|found| of_this(found)).collect()
}

/// Whether a file has such a name.
pub fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1)
}

/// Removes a file; one that is not there is no error. Whether it was there.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells `events` when something in a directory changes, until it is dropped; `None` where that cannot be known.
pub fn watch_directory(directory: &Path, events: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    // Reading a file must not count as a change of it.
    let handler = move |event: notify::Result<notify::Event>| {
        if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
            let _ = events.try_send(());
        }
    };
    let watched = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| {
            tracing::debug!(directory = %directory.display(), %error, "cannot watch: the directory is polled");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("10-net.conflist");
        put(&path, b"one", Ownership::mode(0o640)).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!(Ownership::of(&made).mode, 0o640);
        // What an agent that was killed left.
        let unfinished = unfinished(&path).unwrap();
        assert_eq!(unfinished.file_name().unwrap(), ".weir-10-net.conflist.tmp");
        fs::write(&unfinished, "half").unwrap();
        put(&path, b"two", Ownership::of(&made)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
        let missing = directory.path().join("no/file");
        assert_eq!(put(&missing, b"", Ownership::mode(0o600)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_others_left_unfinished_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("default.lineage");
        put_private(&path, b"one").unwrap();
        assert_eq!(left_unfinished(&path), [""; 0].map(PathBuf::from));
        let mut left = [unfinished(&path), unfinished_by(&path, 4711)].map(Option::unwrap);
        let others = ["default.lineage.4711", ".weir-default.tmp", ".weir-default.lineage.old.tmp"];
        for path in left.iter().cloned().chain(others.map(|name| directory.path().join(name))) {
            fs::write(path, "half").unwrap();
        }
        let mut found = left_unfinished(&path);
        found.sort();
        left.sort();
        assert_eq!(found, left);
    }

    #[test]
    fn the_owner_is_kept() {
        assert!(nix::unistd::geteuid().is_root(), "this test gives files away: run it as root");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        put(&path, b"one", Ownership { mode: 0o600, owner: Some((7, 8)) }).unwrap();
        let made = fs::metadata(&path).unwrap();
        put(&path, b"two", Ownership::of(&made)).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.st_uid(), made.st_gid()), (7, 8));
    }
}
