//! A socket under TLS, where what a server's handshake ends with waits for what is written next.
//!
//! The session tickets of TLS 1.3 answer nothing: no client waits for them. As BoringSSL does, they are sent with the first
//! bytes after them, which saves a packet and a system call of every new connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bare::Bare;

/// The socket, and what is to be written before all else.
#[derive(Debug)]
pub struct Deferring {
    bare: Bare,
    deferred: Vec<u8>,
    /// Whether a handshake is under way whose writes wait until it reads.
    shaking: bool,
    received: usize,
}

impl Deferring {
    /// Nothing waits.
    pub fn new(bare: Bare) -> Self {
        Self { bare, deferred: Vec::new(), shaking: false, received: 0 }
    }

    /// A handshake begins that ends with what no client waits for: from here on what is written waits until something is
    /// read, or until [`Self::go_on`] and something more is written.
    pub fn defer(&mut self) {
        self.shaking = true;
    }

    /// What is underneath.
    pub fn bare(&self) -> &Bare {
        &self.bare
    }

    /// How many bytes were read.
    pub fn received(&self) -> usize {
        self.received
    }

    /// The handshake is done.
    pub fn go_on(&mut self) {
        self.shaking = false;
    }

    /// The handshake has failed: sends the alert that says so, if the socket takes it at once.
    pub fn give_up(self) {
        if !self.deferred.is_empty() {
            // Whoever is gone does not hear it.
            let _ = self.bare.try_write(&self.deferred);
        }
    }

    /// Writes what waits, and `slices` after it; how much of `slices` was written.
    fn poll_write_after(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.deferred.is_empty() {
            let mut all: SmallVec<[IoSlice<'_>; 16]> = SmallVec::with_capacity(slices.len() + 1);
            all.push(IoSlice::new(&self.deferred));
            all.extend(slices.iter().copied());
            let written = ready!(Pin::new(&mut self.bare).poll_write_vectored(cx, &all))?;
            drop(all);
            match written.checked_sub(self.deferred.len()) {
                _ if written == 0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                None => drop(self.deferred.drain(..written)),
                Some(0) => self.deferred = Vec::new(),
                Some(of_slices) => {
                    self.deferred = Vec::new();
                    return Poll::Ready(Ok(of_slices));
                }
            }
        }
        if slices.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.bare).poll_write_vectored(cx, slices)
    }
}

impl AsyncRead for Deferring {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shaking {
            ready!(this.poll_write_after(cx, &[]))?;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.bare).poll_read(cx, buffer))?;
        this.received += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Deferring {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.shaking {
            slices.iter().for_each(|slice| this.deferred.extend_from_slice(slice));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        this.poll_write_after(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What waits stays.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().bare).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().bare).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, there)
    }

    #[tokio::test]
    async fn what_a_handshake_ends_with_goes_with_the_next_bytes() {
        let (here, mut there) = ends().await;
        let mut here = Deferring::new(Bare::Tcp(here));
        here.defer();
        here.write_all(b"hello ").await.unwrap();
        there.write_all(b"x").await.unwrap();
        here.read_exact(&mut [0]).await.unwrap();
        let mut got = [0; 6];
        there.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello ");
        here.write_all(b"ticket").await.unwrap();
        here.go_on();
        there.write_all(b"y").await.unwrap();
        here.read_exact(&mut [0]).await.unwrap();
        here.flush().await.unwrap();
        assert_eq!(here.deferred, b"ticket");
        assert_eq!(there.try_read(&mut got).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        here.write_all(b" and more").await.unwrap();
        drop(here);
        let mut rest = Vec::new();
        there.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"ticket and more");
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_arrives_in_order() {
        const BYTES: usize = 8 << 20;
        let (here, mut there) = ends().await;
        let mut here = Deferring::new(Bare::Tcp(here));
        here.defer();
        here.write_all(&vec![1; BYTES]).await.unwrap();
        here.go_on();
        let write = async {
            here.write_all(&vec![2; BYTES]).await.unwrap();
            here.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(write, there.read_to_end(&mut got));
        assert_eq!(read.unwrap(), 2 * BYTES);
        assert!(got[..BYTES].iter().all(|byte| *byte == 1) && got[BYTES..].iter().all(|byte| *byte == 2));
    }

    #[tokio::test]
    async fn an_alert_is_sent() {
        let (here, mut there) = ends().await;
        let mut here = Deferring::new(Bare::Tcp(here));
        here.defer();
        here.write_all(b"alert").await.unwrap();
        here.give_up();
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"alert");
    }
}
