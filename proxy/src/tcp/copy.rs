//! Bytes both ways between two connections, until both directions are done or one side fails.
//!
//! Both go on until their end, or until they are asked to end at a good moment, or to be left as they are.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    ops::AddAssign,
    os::fd::AsRawFd,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use tokio::time::{Instant, Sleep};

use super::way::{Failure, OneWay, Unwatched, Watch};
use crate::{pod::passing::Undelivered, wire::io::Io};

/// How long nothing may have come after the server's last bytes for an exchange to count as over.
const LULL: Duration = Duration::from_millis(2);
/// A server that goes on unasked after such a pause sends a stream, which has no lull that is its end.
const PAUSE: Duration = Duration::from_millis(100);
/// Which side something happened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The server's.
    Upstream,
}

/// Why copying ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides sent FIN and everything was delivered.
    Finished {
        /// Whose came last.
        last: Side,
    },
    /// No byte moved for the idle timeout.
    Idle,
    /// It was to end soon, and nothing came after the server's last bytes.
    Lull,
    /// It is to go on elsewhere: as it is, nothing is closed.
    Leaves,
    /// It had to end at once.
    Cut,
    /// The gate did not let the client's bytes pass.
    Refused,
    /// The upstream's host has become unhealthy.
    HostFailed,
    /// One side's socket failed: reset, or gone.
    Failed(Side, io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished { .. } => f.write_str("finished"),
            Self::Idle => f.write_str("idle"),
            Self::Lull => f.write_str("drained"),
            Self::Leaves => f.write_str("passed on"),
            Self::Cut => f.write_str("cut"),
            Self::Refused => f.write_str("refused"),
            Self::HostFailed => f.write_str("the host is unhealthy"),
            Self::Failed(Side::Downstream, error) => write!(f, "downstream: {error}"),
            Self::Failed(Side::Upstream, error) => write!(f, "upstream: {error}"),
        }
    }
}

/// What copying is asked for before its end comes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To end at the first lull.
    Lull,
    /// To leave the connections as they are.
    Leave,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that came from downstream.
    pub received: u64,
    /// Bytes that came for it.
    pub sent: u64,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, more: Self) {
        self.received += more.received;
        self.sent += more.sent;
    }
}

/// Copies until the end, or until what `asked` resolves to; where the ways are not new, it goes on with them. An end at
/// the first lull: bytes do not say where a request begins, but after an answer nothing is under way that a FIN could
/// break, and clients expect one there; a server that has gone on unasked since is not done with its answer. `counted` is
/// told what has moved as it goes, so that the count is there when the future is dropped. When one side fails, the other
/// is set to end with a reset too: its peer must not take the end for an orderly one.
pub(crate) async fn both_ways(
    Ways { up, down, answer }: &mut Ways,
    (downstream, upstream): (&mut Io, &mut Io),
    idle_timeout: Option<Duration>,
    asked: impl Future<Output = Request>,
    gate: Option<&impl Watch>,
    mut counted: impl FnMut(Copied),
) -> Ended {
    let mut copied = Copied::default();
    let mut idle = idle_timeout.map(Idle::new);
    let mut asked = pin!(asked);
    let mut lull = None::<Idle>;
    let mut last = None;
    let ended = poll_fn(|cx| {
        let (before, held) = (copied, down.holds());
        let up_polled = up.poll(downstream, upstream, gate, &mut copied.received, down.done, cx);
        let down_polled = match &up_polled {
            Poll::Ready(Err(_)) => Poll::Pending,
            _ => down.poll(upstream, downstream, None::<&Unwatched>, &mut copied.sent, up.done, cx),
        };
        if copied != before {
            answer.moved(copied.received != before.received, copied.sent != before.sent, held);
            counted(Copied { received: copied.received - before.received, sent: copied.sent - before.sent });
        }
        let up_done = match up_polled {
            Poll::Ready(Err(Failure::Refused)) => return Poll::Ready(Ended::Refused),
            Poll::Ready(Err(Failure::Reading(error))) => return Poll::Ready(Ended::Failed(Side::Downstream, error)),
            Poll::Ready(Err(Failure::Writing(error))) => return Poll::Ready(Ended::Failed(Side::Upstream, error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down_done = match down_polled {
            Poll::Ready(Err(Failure::Refused)) => return Poll::Ready(Ended::Refused),
            Poll::Ready(Err(Failure::Reading(error))) => return Poll::Ready(Ended::Failed(Side::Upstream, error)),
            Poll::Ready(Err(Failure::Writing(error))) => return Poll::Ready(Ended::Failed(Side::Downstream, error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        match (up_done, down_done) {
            (true, true) => return Poll::Ready(Ended::Finished { last: last.unwrap_or(Side::Upstream) }),
            (true, false) => last = Some(Side::Upstream),
            (false, true) => last = Some(Side::Downstream),
            (false, false) => {}
        }
        if lull.is_none()
            && let Poll::Ready(request) = asked.as_mut().poll(cx)
        {
            match request {
                Request::Lull => lull = Some(Idle::new(LULL)),
                Request::Leave => return Poll::Ready(Ended::Leaves),
            }
        }
        while let Some(quiet) = &mut lull
            && quiet.poll(copied.received + copied.sent, cx).is_ready()
        {
            if answer.is_over() && !up.holds() && !down.holds() && !has_unread(downstream) {
                return Poll::Ready(Ended::Lull);
            }
            // A request that waits for its answer, or a client that has not asked yet.
            lull = Some(Idle::new(LULL));
        }
        match &mut idle {
            Some(idle) => idle.poll(copied.received + copied.sent, cx).map(|()| Ended::Idle),
            None => Poll::Pending,
        }
    })
    .await;
    match &ended {
        Ended::Failed(Side::Downstream, _) => reset_on_close(upstream),
        Ended::Failed(Side::Upstream, _) => reset_on_close(downstream),
        Ended::Finished { .. }
        | Ended::Idle
        | Ended::Lull
        | Ended::Leaves
        | Ended::Cut
        | Ended::Refused
        | Ended::HostFailed => {}
    }
    ended
}

/// Both directions of a connection, between their ends.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// To the upstream.
    up: OneWay,
    /// From it.
    down: OneWay,
    answer: Answer,
}

impl Ways {
    /// Whether the upstream has ended its half, and all of that was delivered.
    pub fn upstream_is_done(&self) -> bool {
        self.down.done
    }

    /// Those of a connection that another process has carried so far.
    pub fn with(undelivered: [Undelivered; 2], answered: bool, streams: bool) -> io::Result<Self> {
        let [up, down] = undelivered;
        let answer = Answer { latest: answered.then(Instant::now), streams };
        Ok(Self { up: OneWay::with(up)?, down: OneWay::with(down)?, answer })
    }

    /// A copy of what is not delivered, towards the upstream and from it.
    pub fn undelivered(&self) -> io::Result<[Undelivered; 2]> {
        Ok([self.up.undelivered()?, self.down.undelivered()?])
    }

    /// Whether the server spoke last.
    pub fn answered(&self) -> bool {
        self.answer.latest.is_some()
    }

    /// Whether it did so with pauses.
    pub fn streams(&self) -> bool {
        self.answer.streams
    }
}

/// How far the server's answer to the client's latest bytes has come, as far as that shows from outside.
#[derive(Debug, Default)]
struct Answer {
    /// When its latest bytes came; none: the client spoke last.
    latest: Option<Instant>,
    /// It came with pauses.
    streams: bool,
}

impl Answer {
    /// Bytes have come from the client, or from the server; the pause before them was the client's if it was `held` up by it.
    fn moved(&mut self, asked: bool, answered: bool, held: bool) {
        if asked {
            *self = Self::default();
        }
        if answered {
            let now = Instant::now();
            self.streams |= !held && self.latest.is_some_and(|latest| now.duration_since(latest) >= PAUSE);
            self.latest = Some(now);
        }
    }

    /// Whether nothing more may be expected, once nothing has come for a while.
    fn is_over(&self) -> bool {
        self.latest.is_some() && !self.streams
    }
}

/// Whether the client has sent what was not read yet, as on a busy machine: closed now, the socket would answer with RST.
fn has_unread(stream: &Io) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match (stream.tcp(), stream.within()) {
        (Some(tcp), _) => recv(tcp.as_raw_fd(), &mut [0], flags).is_ok_and(|read| read > 0),
        (None, Some(within)) => within.has_unread(),
        (None, None) => false,
    }
}

/// Has the socket end with RST instead of FIN when it is dropped.
pub fn reset_on_close(stream: &Io) {
    stream.reset_on_close(true);
}

/// Measures idleness without touching a timer per byte: when the timer fires, it looks whether something moved since.
struct Idle {
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    moved: u64,
    since: Instant,
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Self { timeout, timer: Box::pin(tokio::time::sleep(timeout)), moved: 0, since: Instant::now() }
    }

    /// Ready when `moved`, the bytes so far, has not changed for the timeout. Polled whenever something may have moved.
    fn poll(&mut self, moved: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.moved != moved {
            self.moved = moved;
            self.since = Instant::now();
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let deadline = self.since + self.timeout;
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    fn reset(stream: TcpStream) -> Io {
        let stream = Io::Tcp(stream);
        reset_on_close(&stream);
        stream
    }

    /// A client, a server, and the copying between them.
    async fn between(idle_timeout: Option<Duration>) -> (TcpStream, TcpStream, JoinHandle<(Ended, Copied)>) {
        between_until(idle_timeout, std::future::pending()).await
    }

    async fn between_until(
        idle_timeout: Option<Duration>,
        asked: impl Future<Output = Request> + Send + 'static,
    ) -> (TcpStream, TcpStream, JoinHandle<(Ended, Copied)>) {
        let (client, downstream) = pair().await;
        let (upstream, server) = pair().await;
        let (mut downstream, mut upstream) = (Io::Tcp(downstream), Io::Tcp(upstream));
        let copying = tokio::spawn(async move {
            let mut copied = Copied::default();
            let ends = (&mut downstream, &mut upstream);
            let counted = |moved| copied += moved;
            let ended = both_ways(&mut Ways::default(), ends, idle_timeout, asked, None::<&Unwatched>, counted).await;
            (ended, copied)
        });
        (client, server, copying)
    }

    #[tokio::test]
    async fn each_direction_closes_by_itself() {
        let (mut client, mut server, copying) = between(None).await;
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = String::new();
        server.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "request");
        // The server has seen the end, and still has something to say.
        server.write_all(b"late answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "late answer");
        let (ended, copied) = copying.await.unwrap();
        assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
        assert_eq!(copied, Copied { received: 7, sent: 11 });
    }

    #[tokio::test]
    async fn what_is_to_end_soon_ends_after_an_answer_and_not_before() {
        let (told, soon) = tokio::sync::oneshot::channel::<()>();
        let (mut client, mut server, copying) = between_until(None, async {
            let _ = soon.await;
            Request::Lull
        })
        .await;
        client.write_all(b"request").await.unwrap();
        server.read_exact(&mut [0; 7]).await.unwrap();
        told.send(()).unwrap();
        // While the answer is awaited nothing ends, however long that takes.
        tokio::time::sleep(LULL * 10).await;
        assert!(!copying.is_finished());
        server.write_all(b"answer").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert!(matches!(copying.await.unwrap().0, Ended::Lull));
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_no_lull() {
        let (told, soon) = tokio::sync::oneshot::channel::<()>();
        let (mut client, mut server, copying) = between_until(None, async {
            let _ = soon.await;
            Request::Lull
        })
        .await;
        for _ in 0..2 {
            server.write_all(b"line").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            tokio::time::sleep(PAUSE).await;
        }
        told.send(()).unwrap();
        tokio::time::sleep(LULL * 100).await;
        assert!(!copying.is_finished());
        // What the client asks next has an end again.
        client.write_all(b"request").await.unwrap();
        server.read_exact(&mut [0; 7]).await.unwrap();
        server.write_all(b"done").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
        assert!(matches!(copying.await.unwrap().0, Ended::Lull));
    }

    #[test]
    fn a_pause_of_the_client_makes_no_stream() {
        let pause = || std::thread::sleep(PAUSE);
        let mut answer = Answer::default();
        answer.moved(true, true, false);
        pause();
        answer.moved(false, true, true);
        assert!(answer.is_over());
        pause();
        answer.moved(false, true, false);
        assert!(!answer.is_over());
    }

    #[tokio::test]
    async fn a_server_may_close_first() {
        let (mut client, mut server, copying) = between(None).await;
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        client.write_all(b"still sending").await.unwrap();
        drop(client);
        let mut got = String::new();
        server.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "still sending");
        assert!(matches!(copying.await.unwrap().0, Ended::Finished { .. }));
    }

    #[tokio::test]
    async fn a_reset_reaches_the_other_side() {
        let (mut client, server, copying) = between(None).await;
        drop(reset(server));
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(copying.await.unwrap().0, Ended::Failed(Side::Upstream, _)));

        let (client, mut server, copying) = between(None).await;
        drop(reset(client));
        let error = server.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(copying.await.unwrap().0, Ended::Failed(Side::Downstream, _)));
    }

    /// A byte for an offset, without a period near any block size: a lost or repeated block shows.
    fn pattern(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    async fn send(mut stream: impl AsyncWrite + Unpin, bytes: u64) {
        let mut at = 0;
        while at < bytes {
            let chunk: Vec<u8> = (at..(at + 256 * 1024).min(bytes)).map(pattern).collect();
            stream.write_all(&chunk).await.unwrap();
            at += chunk.len() as u64;
        }
        stream.shutdown().await.unwrap();
    }

    async fn check(mut stream: impl AsyncRead + Unpin, slowly: bool) -> u64 {
        let (mut at, mut buffer) = (0u64, vec![0; 256 * 1024]);
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            if read == 0 {
                return at;
            }
            for byte in &buffer[..read] {
                assert_eq!(*byte, pattern(at), "at {at}");
                at += 1;
            }
            if slowly {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn bulk_both_ways_at_once_arrives_unchanged() {
        const BYTES: u64 = 16 << 20;
        let (mut client, mut server, copying) = between(Some(Duration::from_secs(60))).await;
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let (_, _, at_client, at_server) = tokio::join!(
            send(client_writes, BYTES),
            send(server_writes, BYTES + 1),
            check(client_reads, true),
            check(server_reads, false),
        );
        assert_eq!((at_server, at_client), (BYTES, BYTES + 1));
        let (ended, copied) = copying.await.unwrap();
        assert!(matches!(ended, Ended::Finished { .. }), "{ended:?}");
        assert_eq!(copied, Copied { received: BYTES, sent: BYTES + 1 });
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_stops_the_writer() {
        let (client, _server, copying) = between(None).await;
        let mut written = 0;
        let chunk = vec![0; 1 << 20];
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(200), client.writable()).await {
            match client.try_write(&chunk) {
                Ok(bytes) => written += bytes,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(written < 64 << 20, "nothing held the writer back");
        }
        assert!(written > 0);
        copying.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_ends_it_and_traffic_puts_it_off() {
        let began = Instant::now();
        let (mut client, mut server, copying) = between(Some(Duration::from_secs(10))).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        assert!(matches!(copying.await.unwrap().0, Ended::Idle));
        let lasted = began.elapsed().as_secs();
        assert!((17..=18).contains(&lasted), "{lasted} s");
    }
}
