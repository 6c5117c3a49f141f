//! What is under TLS or under nothing: a TCP socket, or a connection inside of this process.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::within::Within;

/// Bytes as they are.
#[derive(Debug)]
pub enum Bare {
    /// On the wire.
    Tcp(TcpStream),
    /// Inside of this process.
    Within(Box<Within>),
}

impl Bare {
    /// The socket, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Within(_) => None,
        }
    }

    /// The end inside of this process, if it is one.
    pub fn within(&self) -> Option<&Within> {
        match self {
            Self::Tcp(_) => None,
            Self::Within(within) => Some(within),
        }
    }

    /// Resolves when there may be something to read.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(Interest::READABLE).await.map(drop),
            Self::Within(within) => within.readable().await,
        }
    }

    /// Reads what is there; [`io::ErrorKind::WouldBlock`]: nothing is.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            Self::Within(within) => within.try_read(into),
        }
    }

    /// Writes what there is room for; [`io::ErrorKind::WouldBlock`]: there is none.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Within(within) => within.try_write(bytes),
        }
    }
}

impl AsyncRead for Bare {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Within(within) => Pin::new(&mut **within).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Bare {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Within(within) => Pin::new(&mut **within).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Within(within) => Pin::new(&mut **within).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Within(within) => Pin::new(&mut **within).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp().is_some()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Within(within) => Pin::new(&mut **within).poll_write_vectored(cx, slices),
        }
    }
}
