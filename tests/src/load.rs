//! A steady load: HTTP requests at a fixed rate, started on time whatever became of the earlier ones (open loop).

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::netns::Netns;

/// A request that is not answered within this is lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whether requests share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One for each request.
    New,
    /// Idle ones are used again, and a request on one that was closed meanwhile is lost.
    KeepAlive,
    /// Idle ones are used again unless they were closed meanwhile, as HTTP clients do.
    Pooled,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was started.
    pub started: Instant,
    /// Whether it went over a connection that an earlier request had used.
    pub reused: bool,
    /// Idle connections that turned out to be closed before one was found, or made.
    pub stale: u32,
    /// When its connection was established.
    pub connected: Option<Instant>,
    /// When it ended.
    pub ended: Instant,
    /// The status of the answer, or what went wrong.
    pub answer: Result<u16, String>,
}

impl Request {
    /// Whether a 200 came.
    pub fn succeeded(&self) -> bool {
        self.answer == Ok(200)
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    done: Arc<Mutex<Vec<Request>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts `rate` requests a second from inside a namespace.
    pub fn start(netns: &Netns, to: SocketAddr, rate: u32, connections: Connections) -> Self {
        let handle = std::fs::File::open(netns.path()).expect("the namespace has a file");
        let enter = move || {
            nix::sched::setns(handle, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("setns into a namespace of this test");
        };
        Self::start_after(enter, to, (rate, usize::MAX), connections)
    }

    /// Starts `rate` requests a second from here, or fewer, so that no more than `most` are under way: what a busy machine
    /// can't answer would only pile up.
    pub fn start_here(to: SocketAddr, rate: u32, connections: Connections, most: usize) -> Self {
        Self::start_after(|| {}, to, (rate, most), connections)
    }

    fn start_after(
        enter: impl FnOnce() + Send + 'static,
        to: SocketAddr,
        rate: (u32, usize),
        connections: Connections,
    ) -> Self {
        let done = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let results = done.clone();
        let thread = thread::spawn(move || {
            enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let done = move |request| results.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            runtime.block_on(drive(to, rate, connections, done, stopped));
        });
        Self { done, stop: Some(stop), thread: Some(thread) }
    }

    /// Requests ended so far.
    pub fn ended(&self) -> usize {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Starts no more, waits for those under way, and gives them all.
    pub fn stop(mut self) -> Vec<Request> {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load runs to its end");
        }
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts `rate` requests a second, as long as no more than `most` are under way, until `stopped`; waits for those under way,
/// and gives each to `done` as it ends.
pub async fn drive(
    to: SocketAddr,
    (rate, most): (u32, usize),
    connections: Connections,
    done: impl Fn(Request) + Send + Sync + 'static,
    mut stopped: oneshot::Receiver<()>,
) {
    let done = Arc::new(done);
    let idle: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                while running.try_join_next().is_some() {}
                if running.len() >= most {
                    continue;
                }
                let (idle, done) = (idle.clone(), done.clone());
                running.spawn(async move {
                    done(one(to, connections, &idle).await);
                });
            }
            _ = &mut stopped => break,
        }
    }
    while running.join_next().await.is_some() {}
}

async fn one(to: SocketAddr, connections: Connections, idle: &Mutex<Vec<TcpStream>>) -> Request {
    let started = Instant::now();
    let mut stale = 0;
    let pooled = loop {
        let stream = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match stream {
            Some(stream) if connections == Connections::Pooled && !is_idle(&stream) => stale += 1,
            other => break other,
        }
    };
    let reused = pooled.is_some();
    let mut connected = None;
    let exchange = async {
        let mut stream = match pooled {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
                connected = Some(Instant::now());
                stream
            }
        };
        let (status, ends) = ask(&mut stream, to, connections).await?;
        if connections != Connections::New && !ends {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
        Ok(status)
    };
    let answer = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
    Request { started, reused, stale, connected, ended: Instant::now(), answer }
}

/// Whether a connection is open with nothing to read: the end of the stream is something to read.
fn is_idle(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// One GET; reads the whole answer, which must have a Content-Length: the status, and whether the connection is to end.
async fn ask(stream: &mut TcpStream, to: SocketAddr, connections: Connections) -> Result<(u16, bool), String> {
    let connection = if connections == Connections::New { "close" } else { "keep-alive" };
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::new();
    let mut expected = None;
    let mut ends = false;
    while expected.is_none_or(|length| answer.len() < length) {
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Err(format!("closed after {} bytes of the answer", answer.len())),
            Ok(_) => {}
            Err(error) => return Err(format!("read: {error}")),
        }
        if expected.is_none()
            && let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            ends = head.lines().any(|line| line == "connection: close");
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            expected = Some(end + 4 + length.ok_or("no content-length")?);
        }
    }
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or("no status")?, ends))
}
