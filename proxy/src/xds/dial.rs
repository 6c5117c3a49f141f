//! Connections to management servers.

use std::{cell::Cell, fmt, io, net::SocketAddr, path::PathBuf, pin::Pin, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// Bytes to and from a server.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// A connection that is being made. Why it can't be is a line for an operator.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Wire>, String>> + 'a>>;

/// How connections to a server are made: each may go to another of its addresses.
pub trait Dial {
    /// Makes one.
    fn dial(&self) -> Dialling<'_>;
}

/// A peer that has said nothing for so long is asked whether it is there. These probes are the kernel's: they need no
/// consent, where a gRPC server ends connections that send it HTTP/2 PINGs more often than it likes.
const PROBE_AFTER: Duration = Duration::from_secs(20);
/// And asked again every.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// So often, before it counts as gone.
const PROBES: u32 = 3;
/// A peer that does not acknowledge what it is sent is gone after.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Socket(SocketAddr),
    /// TCP, to whatever addresses the host's name has then.
    Name(String, u16),
    /// A Unix socket (`pipe`).
    Pipe(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Pipe(path) => path.display().fmt(f),
        }
    }
}

/// Addresses without TLS: after each failure, the next.
#[derive(Debug)]
pub struct InTurn {
    addresses: Vec<Address>,
    next: Cell<usize>,
    timeout: Duration,
}

impl InTurn {
    /// Each connection must be made within `timeout`.
    pub fn new(addresses: Vec<Address>, timeout: Duration) -> Self {
        Self { addresses, next: Cell::new(0), timeout }
    }
}

impl Dial for InTurn {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let next = self.next.get();
            let Some(address) = self.addresses.get(next % self.addresses.len().max(1)) else {
                return Err("it has no address".to_owned());
            };
            // One that fails later, too, is not the first to be tried again.
            self.next.set(next.wrapping_add(1));
            let connected = tokio::time::timeout(self.timeout, connect(address)).await;
            match connected {
                Ok(Ok(wire)) => Ok(wire),
                Ok(Err(error)) => Err(format!("{address}: {error}")),
                Err(_) => Err(format!("{address}: no connection within {:?}", self.timeout)),
            }
        })
    }
}

async fn connect(address: &Address) -> io::Result<Box<dyn Wire>> {
    let stream = match address {
        Address::Socket(address) => TcpStream::connect(address).await?,
        Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
        Address::Pipe(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
    };
    stream.set_nodelay(true)?;
    watch(&stream)?;
    Ok(Box::new(stream))
}

/// Has the kernel notice that the peer is gone.
pub fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, UnixListener},
    };

    use super::*;

    #[tokio::test]
    async fn addresses_are_taken_in_turn_and_each_failure_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (pipe, tcp) = (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = tcp.local_addr().unwrap();
        let nobody = directory.path().join("nobody");
        let named = Address::Name("localhost".into(), address.port());
        let addresses = vec![Address::Pipe(nobody.clone()), Address::Pipe(path), named];
        let dial = InTurn::new(addresses, Duration::from_secs(10));
        let refused = dial.dial().await.err().unwrap();
        assert_eq!(refused, format!("{}: No such file or directory (os error 2)", nobody.display()));
        let (wire, accepted) = tokio::join!(dial.dial(), pipe.accept());
        wire.unwrap().write_all(b"x").await.unwrap();
        drop(accepted.unwrap());
        let (wire, accepted) = tokio::join!(dial.dial(), tcp.accept());
        let mut wire = wire.unwrap();
        poll_fn(|cx| Pin::new(&mut wire).poll_flush(cx)).await.unwrap();
        drop(accepted.unwrap());
        assert!(dial.dial().await.is_err());
        let nowhere = InTurn::new(Vec::new(), Duration::ZERO).dial().await.err().unwrap();
        assert_eq!(nowhere, "it has no address");
    }
}
