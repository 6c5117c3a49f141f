//! Byte streams of clients and scripted servers, and ports that nobody else takes.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    pin::Pin,
    sync::atomic::{AtomicU16, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsStream;

use super::tls;

/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(12);
/// How long a connection must stay open to count as open.
const MOMENT: Duration = Duration::from_millis(150);

/// A port of 127.0.0.1 below the kernel's ephemeral ones. A UDP socket on the same number keeps it from the other test
/// programs of this machine until this is dropped: two proxies that both set SO_REUSEPORT would share it unnoticed.
#[derive(Debug)]
pub struct Port {
    number: u16,
    claim: UdpSocket,
}

impl Port {
    pub fn claim() -> Self {
        const FIRST: u16 = 20_000;
        const COUNT: u16 = 12_000;
        // Cases write such numbers (sizes, delays), and a port's number is replaced by its name wherever it stands.
        const ROUND: u16 = 50;
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let number = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
            if number.is_multiple_of(ROUND) {
                continue;
            }
            let Ok(claim) = UdpSocket::bind(("127.0.0.1", number)) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, claim };
            }
        }
        panic!("no free port from {FIRST} on");
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// The socket of UDP by which it is claimed.
    pub fn datagrams(&self) -> io::Result<UdpSocket> {
        self.claim.try_clone()
    }
}

/// A connection, plain or not.
#[derive(Debug)]
pub enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Connects, from a certain address if one is given.
    pub async fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind(from)?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Has what is written from here on wait for the end, with which it goes then.
    pub fn write_with_the_end(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_cork(true);
    }

    /// Ends this side of TCP, whatever is said over it.
    pub fn end_tcp(&self) {
        let _ = socket2::SockRef::from(self.tcp()).shutdown(std::net::Shutdown::Write);
    }

    /// Makes the coming close a reset.
    pub fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection with what has been read of it and not been used.
#[derive(Debug)]
pub struct Buffered {
    pub wire: Wire,
    pub bytes: Vec<u8>,
    /// How the other side ended it.
    pub ended: Option<String>,
}

impl Buffered {
    pub fn new(wire: Wire) -> Self {
        Self { wire, bytes: Vec::new(), ended: None }
    }

    /// Reads more; false at the end, or when nothing comes.
    pub async fn more(&mut self) -> bool {
        self.more_within(PATIENCE).await
    }

    async fn more_within(&mut self, patience: Duration) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let mut buffer = vec![0; 65_536];
        match tokio::time::timeout(patience, self.wire.read(&mut buffer)).await {
            Ok(Ok(0)) => self.ended = Some("FIN".to_owned()),
            Ok(Ok(length)) => {
                self.bytes.extend_from_slice(&buffer[..length]);
                return true;
            }
            Ok(Err(error)) => self.ended = Some(tls::reason(&error)),
            Err(_) => return false,
        }
        false
    }

    /// How it has ended, if it has.
    pub fn end_so_far(&self) -> String {
        self.ended.clone().unwrap_or_else(|| "open".to_owned())
    }

    /// Everything up to and including `mark`, without it.
    pub async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(mark.len()).position(|window| window == mark) {
                let mut taken: Vec<u8> = self.bytes.drain(..at + mark.len()).collect();
                taken.truncate(at);
                return Some(taken);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Exactly `length` bytes; fewer at the end.
    pub async fn exactly(&mut self, length: usize) -> (Vec<u8>, bool) {
        while self.bytes.len() < length && self.more().await {}
        let whole = self.bytes.len() >= length;
        let length = length.min(self.bytes.len());
        (self.bytes.drain(..length).collect(), whole)
    }

    /// Everything to the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.bytes)
    }

    /// How it ends: waits long if an end is expected, a moment if it should stay open.
    pub async fn end(&mut self, expected: bool) -> String {
        let patience = if expected { PATIENCE } else { MOMENT };
        while self.more_within(patience).await {}
        self.end_so_far()
    }
}
