//! The keeper's process: what it does from its start to its end.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::SockType,
};

use super::{confine, shelf::Shelf, table::Table};
use crate::unix::{self, Access};

/// File descriptors that the keeper needs for itself.
const OWN_FDS: u64 = 64;

/// Why the keeper could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket cannot be made.
    #[error(transparent)]
    Socket(#[from] unix::Error),
    /// It would be left with privileges.
    #[error(transparent)]
    Confine(#[from] confine::Error),
    /// A system call that should not fail did.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Keeps what an agent of `instance` gives until one says that it is not needed any more, or until none has been connected for
/// `patience`. Blocks; for a process of its own with a single thread, which gives up every privilege.
pub fn keep(instance: &str, socket: &Path, patience: Duration) -> Result<(), Error> {
    let failed = |action| move |source| Error::Io { action, source };
    let owner = nix::unistd::geteuid().as_raw();
    confine::detach().map_err(failed("leave the agent's session"))?;
    let limit = raise_file_limit().map_err(failed("raise the limit of open files"))?;
    let listener = unix::listen_at("keeper.socket", socket, SockType::SeqPacket, Access::Owner)?;
    confine::confine(socket.parent().unwrap_or(Path::new("/")))?;
    tracing::info!(pid = std::process::id(), sockets = limit, ?patience, "keeper started");
    let mut table = Table::new(listener, owner, Shelf::new(instance, limit), patience);
    while !table.over(Instant::now()) {
        table.turn(Instant::now()).map_err(failed("wait for the agent"))?;
    }
    let (pods, sockets) = (table.shelf().pods(), table.shelf().sockets());
    if table.dismissed() {
        tracing::info!(pods, sockets, "keeper ends: it is not needed any more");
    } else {
        tracing::error!(
            pods,
            sockets,
            ?patience,
            "keeper ends: no agent came back in time; connections of these pods are refused until one does"
        );
    }
    Ok(())
}

/// How many sockets can be kept then.
fn raise_file_limit() -> io::Result<u32> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(u32::try_from(hard.saturating_sub(OWN_FDS)).unwrap_or(u32::MAX))
}
