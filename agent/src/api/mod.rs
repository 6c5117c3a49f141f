//! The agent's API: gRPC on a unix socket, what `weirctl` speaks.
//!
//! It answers from the status board (what the agent means to do) and from the pins (what the kernel does), and decides
//! nothing. Reading the pins is blocking system calls, so requests do it off the runtime's threads.

mod clock;
mod pods;
mod present;
mod service;
mod trace;

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use weir_proto::agent::v1::agent_server::AgentServer;

use crate::{redirect::inspect::Kernel, status::SharedBoard};

/// The API shows what every pod connects to: root only.
const SOCKET_MODE: u32 = 0o600;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is taken by something that is not a socket.
    #[error("paths.api: {} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("paths.api: {}: {source}", path.display())]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended.
    #[error("the API server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Makes the API's socket, in the place of one that an earlier agent left. Whoever calls holds the instance's lock, so
/// that nobody answers on the old one any more.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Bind { path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(Error::NotASocket(path.to_owned()));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    // Bound under another name and renamed: nobody finds a socket that is not there yet or not yet closed to others.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left by an agent with this process id that was killed in between.
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
    Ok(listener)
}

/// Serves the API until `shutdown`; whoever still watches events then sees their stream end.
pub async fn serve(
    listener: UnixListener,
    board: SharedBoard,
    kernel: Arc<dyn Kernel>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let hub = trace::Hub::new(kernel.clone(), board.clone());
    // An agent that was killed while somebody watched left the flag set.
    hub.switch_off();
    let service = service::Service::new(board, kernel, hub.clone());
    let server = tonic::transport::Server::builder()
        .add_service(AgentServer::new(service))
        .serve_with_incoming(UnixListenerStream::new(listener));
    let result = tokio::select! {
        result = server => result,
        () = shutdown.cancelled() => Ok(()),
    };
    hub.switch_off();
    Ok(result?)
}

#[cfg(test)]
mod tests;
