//! Unix sockets, which Envoy calls pipes: how they are listened on and connected to.
//!
//! A stream's bytes come and go by the same system calls whatever its addresses are, so a connection that is made goes on as any
//! other does. What differs is left here: addresses ([`NamedAddress`] stands for them), and how they are bound.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{fs::PermissionsExt, net as unix},
    },
    sync::Arc,
};

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};

use super::named::NamedAddress;

/// What the names of abstract Unix sockets begin with.
pub const ABSTRACT: char = '@';
/// Bytes of a path, at most (`sun_path` of unix(7), without the final zero).
pub const LONGEST: usize = 107;

/// Listens on a path, in the place of what an earlier process left there, as Envoy does. The mode is the file's; 0: as it comes.
pub fn listen(path: &str, mode: u32, backlog: i32) -> io::Result<unix::UnixListener> {
    let listener = match path.strip_prefix(ABSTRACT) {
        Some(name) => unix::UnixListener::bind_addr(&unix::SocketAddr::from_abstract_name(name)?)?,
        None => {
            // Where that is in vain, binding says why.
            let _ = fs::remove_file(path);
            let listener = unix::UnixListener::bind(path)?;
            if mode != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            listener
        }
    };
    // Listening again sets the backlog, for which the standard library has a number of its own.
    SockRef::from(&listener).listen(backlog)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to a path.
pub async fn connect(path: &str) -> io::Result<TcpStream> {
    let connected = match path.strip_prefix(ABSTRACT) {
        Some(name) => UnixStream::connect(format!("\0{name}")).await,
        None => UnixStream::connect(path).await,
    };
    carrying(connected?.into_std()?)
}

/// A connection as what carries bytes elsewhere.
pub fn carrying(stream: unix::UnixStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(OwnedFd::from(stream).into())
}

/// This side's address of a socket that is connected to somewhere.
pub fn local_address(stream: &TcpStream) -> io::Result<SocketAddr> {
    match stream.local_addr() {
        // It is of no family that such a stream has by itself.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(NamedAddress::unnamed_pipe()),
        known => known,
    }
}

/// A socket to listen on, not in use yet.
#[derive(Debug)]
pub enum ListeningSocket {
    /// For TCP.
    Tcp(std::net::TcpListener),
    /// At a path.
    Pipe(unix::UnixListener, Arc<NamedAddress>),
}

/// One that is waited for, on one thread.
#[derive(Debug)]
pub enum Door {
    /// For TCP.
    Tcp(tokio::net::TcpListener),
    /// At a path.
    Pipe(tokio::net::UnixListener, Arc<NamedAddress>),
}

/// Who has come.
#[derive(Debug)]
pub struct Visitor {
    /// The connection.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// The path that it has come to, if that is no address of TCP.
    pub path: Option<Arc<NamedAddress>>,
}

impl From<std::net::TcpListener> for ListeningSocket {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl ListeningSocket {
    /// The same for somebody else.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Pipe(listener, path) => Self::Pipe(listener.try_clone()?, path.clone()),
        })
    }

    /// Its address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Pipe(_, path) => Ok(path.address()),
        }
    }

    /// Takes one who waits already; [`io::ErrorKind::WouldBlock`]: nobody does.
    pub fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Visitor { stream: TcpStream::from_std(stream)?, peer, path: None })
            }
            Self::Pipe(listener, path) => Visitor::by(listener.accept()?.0, path),
        }
    }
}

impl Door {
    /// Opens it on this thread.
    pub fn of(socket: ListeningSocket) -> io::Result<Self> {
        Ok(match socket {
            ListeningSocket::Tcp(listener) => Self::Tcp(tokio::net::TcpListener::from_std(listener)?),
            ListeningSocket::Pipe(listener, path) => Self::Pipe(tokio::net::UnixListener::from_std(listener)?, path),
        })
    }

    /// Waits for somebody.
    pub async fn accept(&self) -> io::Result<Visitor> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Visitor { stream, peer, path: None })
            }
            Self::Pipe(listener, path) => Visitor::by(listener.accept().await?.0.into_std()?, path),
        }
    }

    /// The socket, of which nobody is told any more.
    pub fn into_socket(self) -> io::Result<ListeningSocket> {
        Ok(match self {
            Self::Tcp(listener) => ListeningSocket::Tcp(listener.into_std()?),
            Self::Pipe(listener, path) => ListeningSocket::Pipe(listener.into_std()?, path),
        })
    }
}

impl Visitor {
    /// Who connects has no address: Envoy takes the one that was connected to.
    fn by(stream: unix::UnixStream, path: &Arc<NamedAddress>) -> io::Result<Self> {
        Ok(Self { stream: carrying(stream)?, peer: path.address(), path: Some(path.clone()) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn exchanged(path: &str) {
        let socket = ListeningSocket::Pipe(listen(path, 0, 16).unwrap(), NamedAddress::pipe(path));
        let address = socket.local_addr().unwrap();
        let door = Door::of(socket).unwrap();
        let (client, visitor) = tokio::join!(connect(path), door.accept());
        let (mut client, mut visitor) = (client.unwrap(), visitor.unwrap());
        assert_eq!((NamedAddress::text(&visitor.peer).as_str(), visitor.peer), (path, address));
        assert_eq!(local_address(&client).unwrap(), NamedAddress::unnamed_pipe());
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = String::new();
        visitor.stream.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hello");
    }

    #[tokio::test]
    async fn bytes_go_by_files_and_by_names() {
        let directory = tempfile::tempdir().unwrap();
        exchanged(directory.path().join("a.sock").to_str().unwrap()).await;
        exchanged(&format!("@{}", directory.path().display())).await;
    }

    #[tokio::test]
    async fn what_an_earlier_process_left_is_replaced_and_the_mode_is_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let text = path.to_str().unwrap();
        drop(listen(text, 0, 16).unwrap());
        assert_eq!(connect(text).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listener = listen(text, 0o600, 16).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        connect(text).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_when_accepting_ends_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let text = path.to_str().unwrap();
        let door = Door::of(ListeningSocket::Pipe(listen(text, 0, 16).unwrap(), NamedAddress::pipe(text))).unwrap();
        let _client = connect(text).await.unwrap();
        let socket = door.into_socket().unwrap();
        assert!(socket.accept().unwrap().path.is_some());
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
