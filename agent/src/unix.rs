//! Unix sockets at a path: made in the place of one that an ended process left, never of one that somebody answers at.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
    },
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;
/// A process that was killed lets go of its lock and of its sockets one after the other: for so long, one that answers
/// may be on its way out.
const ENDING: Duration = Duration::from_secs(2);
const ENDING_POLL: Duration = Duration::from_millis(100);

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The owner: root.
    Owner,
    /// The owner and members of this group.
    Group(u32),
}

/// Why a socket could not be made. Each names the key of the configuration that says where it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is taken by something that is not a socket.
    #[error("{key}: {} exists and is not a socket", path.display())]
    NotASocket {
        /// The key.
        key: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Somebody else answers there.
    #[error(
        "{key}: {} is served by another process ({}): stop it first, or choose another path", path.display(), of(*pid)
    )]
    Taken {
        /// The key.
        key: &'static str,
        /// The path.
        path: PathBuf,
        /// The process that listens, if it can be seen from here.
        pid: Option<i32>,
    },
    /// It could not be made, or not be given to its group.
    #[error("{key}: cannot {action} {}: {source}", path.display())]
    Make {
        /// The key.
        key: &'static str,
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn of(pid: Option<i32>) -> String {
    pid.map_or_else(|| "not visible from here".to_owned(), |pid| format!("pid {pid}"))
}

/// Makes a listening, non-blocking socket at the path that `key` of the configuration says. It stays when the process
/// ends: whoever dials it is refused until the next one answers.
pub fn listen_at(key: &'static str, path: &Path, kind: SockType, access: Access) -> Result<OwnedFd, Error> {
    let failed = |action| move |source| Error::Make { key, action, path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(Error::NotASocket { key, path: path.to_owned() });
    }
    let deadline = Instant::now() + ENDING;
    let mut listener = None;
    while let Some(pid) = listener_at(path, kind) {
        listener = listener.or(Some(pid).filter(|pid| *pid > 0));
        if Instant::now() >= deadline {
            return Err(Error::Taken { key, path: path.to_owned(), pid: listener });
        }
        thread::sleep(ENDING_POLL);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    // Made under another name and renamed: nobody finds it before its owner and mode are right.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = || -> Result<OwnedFd, Errno> {
        let made = socket(AddressFamily::Unix, kind, flags, None)?;
        bind(made.as_raw_fd(), &UnixAddr::new(&fresh)?)?;
        Ok(made)
    };
    let made = made().map_err(io::Error::from).map_err(failed("bind"))?;
    let mode = match access {
        Access::Owner => 0o600,
        Access::Group(group) => {
            chown(&fresh, None, Some(group)).map_err(failed("give the group of paths.socket_group to"))?;
            0o660
        }
    };
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    Backlog::new(BACKLOG)
        .and_then(|backlog| listen(&made, backlog))
        .map_err(io::Error::from)
        .map_err(failed("listen at"))?;
    fs::rename(&fresh, path).map_err(failed("rename to"))?;
    Ok(made)
}

/// The process that listens at a path, 0 if it is in a pid namespace that this one does not see; none if nobody does.
pub fn listener_at(path: &Path, kind: SockType) -> Option<i32> {
    match dial(path, kind) {
        Ok(connection) => Some(peer(&connection).pid),
        // Somebody listens, but is busy, or speaks another kind.
        Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Some(0),
        Err(_) => None,
    }
}

/// A non-blocking connection to whoever listens at a path. Does not wait: Unix sockets connect at once or not at all.
pub fn dial(path: &Path, kind: SockType) -> Result<OwnedFd, Errno> {
    let dialled = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(dialled.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(dialled)
}

/// Who is at the other end (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 from a pid namespace that this one does not see.
    pub pid: i32,
    /// User id.
    pub uid: u32,
}

/// Nobody in particular.
impl Default for Peer {
    fn default() -> Self {
        Self { pid: 0, uid: u32::MAX }
    }
}

/// Who connected, or whom this was connected to. Nobody in particular if the kernel does not say.
pub fn peer(connection: &impl AsFd) -> Peer {
    let credentials = getsockopt(connection, sockopt::PeerCredentials);
    credentials.map(|peer| Peer { pid: peer.pid(), uid: peer.uid() }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::fs::MetadataExt;

    #[test]
    fn a_socket_takes_the_place_of_a_stale_one_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/some.sock");
        let group = nix::unistd::getgid().as_raw();
        let bind = |access| listen_at("paths.some", &path, SockType::SeqPacket, access);
        let first = bind(Access::Group(group)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let taken = bind(Access::Owner).unwrap_err().to_string();
        assert_eq!(
            taken,
            format!(
                "paths.some: {} is served by another process (pid {}): stop it first, or choose another path",
                path.display(),
                std::process::id()
            )
        );
        drop(first);
        assert_eq!(listener_at(&path, SockType::SeqPacket), None);
        let inode = fs::metadata(&path).unwrap().st_ino();
        let _second = bind(Access::Owner).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().st_ino(), inode);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // Of another kind, but somebody is there.
        assert_eq!(listener_at(&path, SockType::Stream), Some(0));

        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = listen_at("paths.some", &file, SockType::Stream, Access::Owner).unwrap_err().to_string();
        assert_eq!(error, format!("paths.some: {} exists and is not a socket", file.display()));
    }
}
