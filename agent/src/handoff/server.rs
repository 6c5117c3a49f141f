//! The socket that proxies dial.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use tokio::sync::mpsc;

use super::{Event, ProxyId, UpstreamSockets, channel::Channel, connection};

/// The proxy's group may connect, nobody else.
const MODE: u32 = 0o660;
/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is taken by something that is not a socket.
    #[error("paths.handoff: {} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// It could not be made, or not be given to its group.
    #[error("paths.handoff: cannot {action} {}: {source}", path.display())]
    Make {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Accepts proxies.
#[derive(Debug)]
pub struct Server {
    listener: Channel,
}

impl Server {
    /// Makes the socket at `path`, in the place of one that an earlier agent left, for members of `group`. It stays when
    /// the agent ends: proxies dial it until the next agent answers.
    pub fn bind(path: &Path, group: u32) -> Result<Self, Error> {
        let failed = |action| move |source| Error::Make { action, path: path.to_owned(), source };
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(Error::NotASocket(path.to_owned()));
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
        }
        // Made under another name and renamed: nobody finds it before its owner and mode are right.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        let listener = bound(&fresh).map_err(failed("bind"))?;
        chown(&fresh, None, Some(group)).map_err(failed("give the group of paths.socket_group to"))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(MODE)).map_err(failed("set the mode of"))?;
        fs::rename(&fresh, path).map_err(failed("rename to"))?;
        Ok(Self { listener: Channel::new(listener).map_err(failed("poll"))? })
    }

    /// Serves proxies until whoever receives `events` is gone.
    pub async fn run(self, events: mpsc::Sender<Event>, sockets: Arc<dyn UpstreamSockets>) {
        let mut accepted = 0;
        loop {
            let connection = tokio::select! {
                connection = self.listener.accept() => connection.and_then(Channel::new),
                () = events.closed() => return,
            };
            match connection {
                Ok(channel) => {
                    accepted += 1;
                    let (id, events, sockets) = (ProxyId(accepted), events.clone(), sockets.clone());
                    tokio::spawn(async move {
                        let ended = connection::serve(id, channel, events, sockets).await;
                        tracing::info!(proxy = id.0, reason = %ended, "connection to a proxy ended");
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a proxy");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn bound(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(64)?)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::fs::MetadataExt;

    #[tokio::test]
    async fn the_socket_takes_the_place_of_a_stale_one_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/handoff.sock");
        let group = nix::unistd::getgid().as_raw();
        let first = Server::bind(&path, group).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(first);
        let inode = fs::metadata(&path).unwrap().st_ino();
        let _second = Server::bind(&path, group).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().st_ino(), inode);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Server::bind(&file, group).unwrap_err().to_string();
        assert_eq!(error, format!("paths.handoff: {} exists and is not a socket", file.display()));
    }
}
