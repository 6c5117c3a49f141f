//! The bytes of one connection: a TCP socket, bare or under TLS. What carries HTTP or TCP does not ask which.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{bare::Bare, deferring::Deferring, named::NamedAddress, pipe, within::Within};
use crate::linger::close_by_reset;

/// A connection's bytes.
#[derive(Debug)]
pub enum Io {
    /// As they are on the wire.
    Tcp(TcpStream),
    /// As they are, inside of this process.
    Within(Box<Within>),
    /// A stream of HTTP/2 that the upstream has accepted as a tunnel.
    Tunnel(Box<TokioIo<Upgraded>>),
    /// Under TLS, after the handshake. Boxed: most of a node's connections are bare, and idle ones are many.
    Tls(Box<tokio_rustls::TlsStream<Deferring>>),
}

impl Io {
    /// The socket underneath, for its addresses and options, if there is one. Its bytes are not the connection's.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Within(_) | Self::Tunnel(_) => None,
            Self::Tls(stream) => stream.get_ref().0.bare().tcp(),
        }
    }

    /// The end inside of this process that is underneath, if there is one.
    pub fn within(&self) -> Option<&Within> {
        match self {
            Self::Tcp(_) | Self::Tunnel(_) => None,
            Self::Within(within) => Some(within),
            Self::Tls(stream) => stream.get_ref().0.bare().within(),
        }
    }

    /// Resolves when something may have come underneath.
    pub async fn readable(&self) -> io::Result<()> {
        match (self.tcp(), self.within()) {
            (Some(stream), _) => stream.readable().await,
            (None, Some(within)) => within.readable().await,
            (None, None) => Ok(()),
        }
    }

    /// Has it end with a reset when it is dropped, or not.
    pub fn reset_on_close(&self, reset: bool) {
        match (self.tcp(), self.within()) {
            (Some(stream), _) => close_by_reset(stream, reset),
            (None, Some(within)) => within.reset_on_close(reset),
            (None, None) => {}
        }
    }

    /// What is under TLS, before there is any; else it comes back.
    pub fn into_bare(self) -> Result<Bare, Self> {
        match self {
            Self::Tcp(stream) => Ok(Bare::Tcp(stream)),
            Self::Within(within) => Ok(Bare::Within(within)),
            tls => Err(tls),
        }
    }

    /// The socket, if its bytes are the connection's: what splice(2) may move.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Within(_) | Self::Tunnel(_) | Self::Tls(_) => None,
        }
    }

    /// Adds the first bytes under TLS, up to `most`, to `into`, without taking them; none: the peer has closed it. Of bare
    /// bytes the socket tells.
    pub async fn peek(&mut self, most: usize, into: &mut Vec<u8>) -> io::Result<()> {
        if let Self::Tls(stream) = self {
            let bytes = stream.fill_buf().await?;
            into.extend_from_slice(&bytes[..bytes.len().min(most)]);
        }
        Ok(())
    }

    /// This side's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.tcp() {
            Some(stream) => pipe::local_address(stream),
            None if self.within().is_some() => Ok(NamedAddress::client()),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<Within> for Io {
    fn from(stream: Within) -> Self {
        Self::Within(Box::new(stream))
    }
}

impl From<Bare> for Io {
    fn from(bare: Bare) -> Self {
        match bare {
            Bare::Tcp(stream) => Self::Tcp(stream),
            Bare::Within(within) => Self::Within(within),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Within(within) => Pin::new(&mut **within).poll_read(cx, buffer),
            Self::Tunnel(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Within(within) => Pin::new(&mut **within).poll_write(cx, bytes),
            Self::Tunnel(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Within(within) => Pin::new(&mut **within).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Within(within) => Pin::new(&mut **within).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Within(_) => false,
            Self::Tunnel(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Within(within) => Pin::new(&mut **within).poll_write_vectored(cx, slices),
            Self::Tunnel(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }
}
