//! The agent's API: gRPC on a unix socket, what `weirctl` speaks.
//!
//! It answers from the status board (what the agent means to do) and from the pins (what the kernel does), and decides
//! nothing. Reading the pins is blocking system calls, so requests do it off the runtime's threads.

mod clock;
mod pods;
mod present;
mod service;
mod trace;

use std::{path::Path, sync::Arc};

use nix::sys::socket::SockType;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use weir_proto::agent::v1::agent_server::AgentServer;

use crate::{
    redirect::inspect::Kernel,
    status::SharedBoard,
    unix::{self, Access},
};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made.
    #[error(transparent)]
    Socket(#[from] unix::Error),
    /// The server ended.
    #[error("the API server ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Makes the API's socket, for root only, as it shows what every pod connects to; in the place of one that an earlier agent
/// left.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let key = "paths.api";
    let listener = unix::listen_at(key, path, SockType::Stream, Access::Owner)?;
    let failed = |source| unix::Error::Make { key, action: "poll", path: path.to_owned(), source };
    Ok(UnixListener::from_std(listener.into()).map_err(failed)?)
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
pub(crate) mod tests;
