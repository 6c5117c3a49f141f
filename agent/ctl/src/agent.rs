//! The connection to the agent.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use weir_proto::agent::v1::agent_client::AgentClient;

/// The agent cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the agent at {}: {source}; is weir-agent running?", path.display())]
pub struct Unreachable {
    path: PathBuf,
    source: io::Error,
}

/// Connects to the agent's socket. An agent may take `timeout` to accept, which one that is stopped never does, and for
/// each answer; for a stream, until it starts.
pub async fn connect(path: &Path, timeout: Duration) -> Result<AgentClient<Channel>, Unreachable> {
    let unreachable = |source| Unreachable { path: path.to_owned(), source };
    // The socket first, by itself: its error is the one that a user can act on.
    let socket = tokio::time::timeout(timeout, UnixStream::connect(path)).await;
    let socket = socket.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
    let mut socket = Some(socket);
    let connector = tower::service_fn(move |_| {
        let socket = socket.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { socket.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent").timeout(timeout);
    let connecting = endpoint.connect_with_connector(connector);
    let connected = tokio::time::timeout(timeout, connecting).await;
    let connected = connected.map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?;
    connected.map(AgentClient::new).map_err(|error| unreachable(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_agent_is_one_line_that_names_the_socket() {
        let error = connect(Path::new("/nonexistent/agent.sock"), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach the agent at /nonexistent/agent.sock: No such file or directory (os error 2); \
             is weir-agent running?"
        );
    }
}
