//! Connections inside of this process, between a cluster's endpoint and an internal listener of the same worker: bytes that
//! no socket carries.
//!
//! A worker has a door, on which those knock who want to connect; who opens it is above.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, oneshot},
};

use super::{
    dial::{Dialer, MOST_HOPS},
    named::NamedAddress,
};
use crate::{filter_state::FilterState, matcher::metadata::Metadata, view::ViewId};

/// Bytes that one end may be ahead of the other: as many as in Envoy, where nothing else is said.
const CAPACITY: usize = 1 << 20;
/// Those who may wait at a door; more are refused.
const WAITING: usize = 1024;

/// One way of a connection.
#[derive(Debug, Default)]
struct Half {
    bytes: VecDeque<u8>,
    /// No more will be written.
    ended: bool,
    /// It ended in the middle of something.
    reset: bool,
    /// Nobody reads any more.
    unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Half {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Within {
    reads: Arc<Mutex<Half>>,
    writes: Arc<Mutex<Half>>,
    resets: AtomicBool,
}

/// Both ends of a new connection.
pub fn pair() -> (Within, Within) {
    let halves: [Arc<Mutex<Half>>; 2] = Default::default();
    let [one, other] = halves;
    let end = |reads: &Arc<Mutex<Half>>, writes: &Arc<Mutex<Half>>| Within {
        reads: reads.clone(),
        writes: writes.clone(),
        resets: AtomicBool::new(false),
    };
    (end(&one, &other), end(&other, &one))
}

impl Within {
    /// Has it end as if in the middle of something when it is dropped, or not.
    pub fn reset_on_close(&self, reset: bool) {
        self.resets.store(reset, Relaxed);
    }

    /// Whether something has come that is not read yet.
    pub fn has_unread(&self) -> bool {
        !self.reads.lock().bytes.is_empty()
    }

    /// Resolves when there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_longer(0, cx)).await
    }

    /// Ready when more than `length` bytes wait, or no more will come.
    fn poll_longer(&self, length: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = self.reads.lock();
        if half.bytes.len() > length || half.ended {
            return Poll::Ready(Ok(()));
        }
        half.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Copies what waits to be read, up to all of `into`, and leaves it where it is: how much, and whether no more will come.
    pub fn look(&self, into: &mut [u8]) -> (usize, bool) {
        let half = self.reads.lock();
        let length = half.bytes.len().min(into.len());
        for (to, from) in into.iter_mut().zip(&half.bytes) {
            *to = *from;
        }
        (length, half.ended)
    }

    /// Waits until more than `length` bytes wait to be read, or no more will come.
    pub async fn longer(&self, length: usize) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_longer(length, cx)).await
    }

    /// Reads what is there; [`io::ErrorKind::WouldBlock`]: nothing is.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut half = self.reads.lock();
        if half.bytes.is_empty() {
            return match (half.reset, half.ended) {
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
                (false, true) => Ok(0),
                (false, false) => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let length = half.bytes.len().min(into.len());
        for (to, from) in into.iter_mut().zip(half.bytes.drain(..length)) {
            *to = from;
        }
        half.wake_writer();
        Ok(length)
    }

    /// Writes what there is room for; [`io::ErrorKind::WouldBlock`]: there is none.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut half = self.writes.lock();
        if half.unread || half.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let length = bytes.len().min(CAPACITY.saturating_sub(half.bytes.len()));
        if length == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        half.bytes.extend(&bytes[..length]);
        half.wake_reader();
        Ok(length)
    }
}

impl AsyncRead for Within {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.try_read(buffer.initialize_unfilled()) {
            Ok(read) => {
                buffer.advance(read);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.reads.lock().reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Within {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writes.lock().writer = Some(cx.waker().clone());
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = self.writes.lock();
        half.ended = true;
        half.wake_reader();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        let mut writes = self.writes.lock();
        if !writes.ended {
            (writes.ended, writes.reset) = (true, self.resets.load(Relaxed));
        }
        writes.wake_reader();
        drop(writes);
        let mut reads = self.reads.lock();
        reads.unread = true;
        reads.wake_writer();
    }
}

/// What a connection brings along.
#[derive(Debug, Default)]
pub struct Brought {
    /// Metadata, of the endpoint and its cluster.
    pub metadata: Option<Box<Metadata>>,
    /// What filters keep of the connection that it is made for, and share.
    pub filter_state: Option<Box<FilterState>>,
}

/// Somebody who wants to connect.
#[derive(Debug)]
pub struct Arrival {
    /// Whose listener it is.
    pub view: ViewId,
    /// To whom.
    pub to: Arc<NamedAddress>,
    /// The other end.
    pub stream: Within,
    /// What it brings along.
    pub brought: Brought,
    /// How upstream connections are made for whom it is made for.
    pub dialer: Dialer,
    /// Told whether there is such a listener.
    pub answer: oneshot::Sender<bool>,
}

thread_local! {
    static DOOR: RefCell<Option<mpsc::Sender<Arrival>>> = const { RefCell::new(None) };
}

/// Makes this thread's door; who holds the other side opens it.
pub fn door() -> mpsc::Receiver<Arrival> {
    let (knocks, arrivals) = mpsc::channel(WAITING);
    DOOR.set(Some(knocks));
    arrivals
}

/// Connects to a listener of this thread, of a view.
pub async fn connect(view: ViewId, to: Arc<NamedAddress>, dialer: &Dialer, brought: Brought) -> io::Result<Within> {
    let dialer = dialer.within().ok_or_else(|| {
        io::Error::other(format!(
            "more than {MOST_HOPS} internal listeners one after the other: their routes lead in a circle"
        ))
    })?;
    let (stream, other) = pair();
    let (answer, answered) = oneshot::channel();
    let arrival = Arrival { view, to, stream: other, brought, dialer, answer };
    let knocked = DOOR.with_borrow(|door| door.as_ref().is_some_and(|door| door.try_send(arrival).is_ok()));
    match knocked && answered.await.unwrap_or(false) {
        true => Ok(stream),
        false => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_end_once() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..3 * CAPACITY).map(|index| index as u8).collect();
        let expected = sent.clone();
        let writing = async move {
            one.write_all(&sent).await.unwrap();
            one.shutdown().await.unwrap();
            let mut answer = Vec::new();
            one.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let reading = async move {
            let mut got = Vec::new();
            other.read_to_end(&mut got).await.unwrap();
            other.write_all(b"done").await.unwrap();
            got
        };
        let (answer, got) = tokio::join!(writing, reading);
        assert!(got == expected && answer == b"done");
    }

    #[tokio::test]
    async fn what_is_looked_at_stays() {
        let (one, mut other) = pair();
        assert_eq!(one.try_write(b"hello").unwrap(), 5);
        let mut bytes = [0; 3];
        assert_eq!((other.look(&mut bytes), &bytes), ((3, false), b"hel"));
        other.longer(4).await.unwrap();
        drop(one);
        other.longer(5).await.unwrap();
        let mut text = String::new();
        other.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn an_end_may_be_a_reset_and_nobody_writes_to_who_is_gone() {
        let (one, mut other) = pair();
        one.reset_on_close(true);
        drop(one);
        assert_eq!(other.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(other.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn without_a_door_nobody_is_there() {
        let to = NamedAddress::internal("nobody", "");
        let refused = connect(ViewId::OWN, to, &Dialer::HOST, Brought::default()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn there_is_an_end_to_listeners_that_lead_to_listeners() {
        let mut arrivals = door();
        let mut dialer = Dialer::HOST;
        let to = NamedAddress::internal("next", "");
        for _ in 0..MOST_HOPS {
            let arriving = async {
                let Arrival { dialer, answer, .. } = arrivals.recv().await.unwrap();
                answer.send(true).unwrap();
                dialer
            };
            let connecting = connect(ViewId::OWN, to.clone(), &dialer, Brought::default());
            let (connected, next) = tokio::join!(connecting, arriving);
            connected.unwrap();
            // Who is behind another number of listeners shares no connection.
            assert_ne!(next.scope(), dialer.scope());
            dialer = next;
        }
        let refused = connect(ViewId::OWN, to, &dialer, Brought::default()).await.unwrap_err();
        let expected = "more than 8 internal listeners one after the other: their routes lead in a circle";
        assert_eq!(refused.to_string(), expected);
    }
}
