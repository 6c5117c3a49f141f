//! Dialling upstream: from the host, or from a pod's network namespace with a socket that the agent made there.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    pipe,
    socket::{NotReady, SocketSettings},
};
use crate::{
    pod::{
        Pod,
        stash::{Family, Waited},
    },
    telemetry::stats::process,
};

/// How long a connection waits for a socket of its pod, which is there at once while an agent is: until then one that is
/// away is back, also when the kubelet makes it wait. Not part of the connect timeout: nothing was asked of the upstream.
const SOCKET_WAIT: Duration = Duration::from_secs(60);
/// Internal listeners through which something may come, one after the other. Istio's waypoints have two or three; a
/// configuration that leads in a circle has any number of them.
pub const MOST_HOPS: u8 = 8;

/// How upstream connections are made on somebody's behalf.
#[derive(Clone, Debug)]
pub struct Dialer {
    start: Start,
    /// Internal listeners that led here.
    hops: u8,
}

/// Where upstream connections start.
#[derive(Clone, Debug)]
enum Start {
    /// This process's own network namespace.
    Host,
    /// A pod's network namespace.
    Pod {
        pod: Arc<Pod>,
        /// The client that the application must see, for connections to the pod's own application.
        client: Option<SocketAddr>,
    },
}

/// Connections may be shared by requests whose dialers have the same scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolScope {
    /// A pod's UID, and towards its application one client; none: this process.
    pod: Option<(String, Option<IpAddr>)>,
    /// Internal listeners that led here: those who came by different ways don't meet, so that no cycle of routes is endless.
    hops: u8,
}

impl PoolScope {
    /// Whether it is of this pod.
    pub fn is_of(&self, uid: &str) -> bool {
        self.pod.as_ref().is_some_and(|(pod, _)| pod == uid)
    }
}

/// Why an upstream connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not established within the connect timeout, or no agent there to make a socket.
    #[error("connection timeout")]
    Timeout,
    /// The kernel's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The kernel's answer to connecting to a Unix socket, which does not wait for anybody.
    #[error("{path}: {source}")]
    Pipe {
        /// The socket's path.
        path: Box<str>,
        /// The answer.
        source: io::Error,
    },
    /// The socket could not be made ready for it.
    #[error(transparent)]
    Local(#[from] NotReady),
    /// The connection was made and could not be secured: the transport failure reason, empty if the peer just left.
    #[error("TLS: {0}")]
    Tls(String),
}

impl Dialer {
    /// From this process's own network namespace.
    pub const HOST: Self = Self { start: Start::Host, hops: 0 };

    /// From a pod's network namespace; `client`: whom the application must see, for connections to the pod's own application.
    pub fn of_pod(pod: Arc<Pod>, client: Option<SocketAddr>) -> Self {
        Self { start: Start::Pod { pod, client }, hops: 0 }
    }

    /// The same behind one more internal listener. None: there were too many.
    pub fn within(&self) -> Option<Self> {
        let hops = Some(self.hops + 1).filter(|hops| *hops <= MOST_HOPS)?;
        Some(Self { hops, ..self.clone() })
    }

    /// Which pooled connections this dialer may use.
    pub fn scope(&self) -> PoolScope {
        let pod = match &self.start {
            Start::Host => None,
            Start::Pod { pod, client } => Some((pod.uid.clone(), client.map(|client| client.ip()))),
        };
        PoolScope { pod, hops: self.hops }
    }

    /// Waits while there is no socket to connect with.
    pub async fn ready(&self, to: SocketAddr) -> Result<(), ConnectError> {
        let Start::Pod { pod, .. } = &self.start else { return Ok(()) };
        let filled = timeout(SOCKET_WAIT, pod.local.stash.filled(Family::of(to))).await;
        let Waited(waited) = filled.map_err(|_| ConnectError::Timeout)??;
        if waited {
            pod.local.stats.inc(process::UPSTREAM_SOCKET_WAITS);
        }
        Ok(())
    }

    /// Connects to a Unix socket. Those that there are in this process's files are none of a pod's.
    pub async fn connect_to_pipe(&self, path: &str) -> Result<TcpStream, ConnectError> {
        let connected = match &self.start {
            Start::Host => pipe::connect(path).await,
            Start::Pod { .. } => Err(io::ErrorKind::PermissionDenied.into()),
        };
        connected.map_err(|source| ConnectError::Pipe { path: path.into(), source })
    }

    /// Connects, TCP_NODELAY and `settings` set.
    pub async fn connect(&self, to: SocketAddr, settings: &SocketSettings) -> Result<TcpStream, ConnectError> {
        match &self.start {
            Start::Host => {
                let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.set_nodelay(true)?;
                settings.apply(&socket, to)?;
                Ok(socket.connect(to).await?)
            }
            Start::Pod { pod, client } => connect_from_pod(pod, *client, to, settings).await,
        }
    }
}

/// Connects with a socket from the pod's stash. The socket is used once, whether it connects or not: what a refused
/// connection leaves in socket storage is closed with it.
///
/// Towards the pod's own application the source address is settled already: settings have no say in it.
async fn connect_from_pod(
    pod: &Pod,
    client: Option<SocketAddr>,
    to: SocketAddr,
    settings: &SocketSettings,
) -> Result<TcpStream, ConnectError> {
    let local = &pod.local;
    let (fd, Waited(waited)) = local.stash.take(Family::of(to)).await?;
    if waited {
        local.stats.inc(process::UPSTREAM_SOCKET_WAITS);
    }
    if let Some(client) = client {
        let maps = local.maps.load();
        let maps = maps.as_deref().ok_or_else(|| io::Error::other("the agent has sent no maps yet"))?;
        maps.tag_real_client(&fd, client)?;
        // The pod's sk_lookup lets connections pass whose two addresses are the same: over the loopback interface a
        // connection to the pod's own address looks like one from outside. The port is chosen by connect(2), which
        // can reuse one that is taken towards other destinations; where the option is refused, by bind(2).
        let _ = setsockopt(&fd, sockopt::IpBindAddressNoPort, &true);
        SockRef::from(&fd).bind(&SocketAddr::new(to.ip(), 0).into())?;
    } else {
        settings.apply(&fd, to)?;
    }
    let socket = TcpSocket::from_std_stream(fd.into());
    socket.set_nodelay(true)?;
    Ok(socket.connect(to).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_the_kernels_answer() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Dialer::HOST.connect(closed, &SocketSettings::default()).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused), "{error}");
    }
}
