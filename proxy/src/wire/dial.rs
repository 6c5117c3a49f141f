//! Dialling upstream: from the host, or from a pod's network namespace with a socket that the agent made there.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpStream;

use crate::intake::Pod;

/// Where upstream connections start.
#[derive(Clone, Debug)]
pub enum Dialer {
    /// This process's own network namespace.
    Host,
    /// A pod's network namespace.
    Pod {
        /// The pod.
        pod: Arc<Pod>,
        /// The client that the application must see, for connections to the pod's own application.
        client: Option<SocketAddr>,
    },
}

/// Connections may be shared by requests whose dialers have the same scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolScope {
    /// This process.
    Host,
    /// One pod, and towards its application one client.
    Pod(String, Option<IpAddr>),
}

/// Why an upstream connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not established, or no socket to be had, within the connect timeout.
    #[error("connection timeout")]
    Timeout,
    /// The kernel's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Dialer {
    /// Which pooled connections this dialer may use.
    pub fn scope(&self) -> PoolScope {
        match self {
            Self::Host => PoolScope::Host,
            Self::Pod { pod, client } => PoolScope::Pod(pod.uid.clone(), client.map(|client| client.ip())),
        }
    }

    /// Connects within `timeout`, TCP_NODELAY set.
    pub async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
        let stream =
            tokio::time::timeout(timeout, TcpStream::connect(to)).await.map_err(|_| ConnectError::Timeout)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
