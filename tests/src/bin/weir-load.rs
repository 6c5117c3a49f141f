//! The load of the cluster suite, and what answers it: run inside pods, where nothing else of weir's tests is.
//!
//! `weir-load serve --port 8080` answers every request with the host's name. `weir-load run` starts requests at a fixed
//! rate, whatever becomes of them, and writes to a log, until SIGTERM:
//!
//! ```text
//! second UNIX_MS SUCCEEDED FAILED REUSED STALE SLOWEST_MS
//! failure STARTED_UNIX_MS ENDED_UNIX_MS new|reused dialling|connected ERROR
//! ```

use std::{
    fs::File,
    io::{self, Write},
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, ValueEnum};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use weir_tests::load::{Connections, Request, drive};

/// How long one second's line may wait.
const SECOND: Duration = Duration::from_secs(1);

#[derive(Parser)]
enum Arguments {
    /// Answer HTTP requests.
    Serve {
        /// On this port of every address.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Start requests.
    Run {
        /// Where to.
        to: SocketAddr,
        /// Requests a second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Whether requests share connections.
        #[arg(long)]
        connections: Kind,
        /// Where the log goes.
        #[arg(long)]
        log: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One for each request.
    New,
    /// Idle ones are used again.
    KeepAlive,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    match Arguments::parse() {
        Arguments::Serve { port } => serve(port).await,
        Arguments::Run { to, rate, connections, log } => run(to, rate, connections, log).await,
    }
}

/// What one second brought.
#[derive(Default)]
struct Second {
    succeeded: u32,
    failed: u32,
    reused: u32,
    stale: u32,
    slowest: Duration,
}

/// Wall-clock time of an instant: of others on the machine that look at the same clock. Read anew for each failure, as a
/// clock that is set, or a pause between the two readings, would put all failures before their cause.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    at: Duration,
}

impl Clock {
    fn read() -> Self {
        // The instant first: whatever comes between makes times too late, never too early.
        let now = Instant::now();
        Self { now, at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    fn unix_ms(self, instant: Instant) -> u128 {
        self.at.saturating_sub(self.now.saturating_duration_since(instant)).as_millis()
    }
}

async fn run(to: SocketAddr, rate: u32, kind: Kind, log: PathBuf) -> io::Result<()> {
    let mut log = File::create(log)?;
    let mut failures = log.try_clone()?;
    let second = Arc::new(Mutex::new(Second::default()));
    let counted = second.clone();
    let done = move |request: Request| count(&request, &mut counted.lock().unwrap_or_else(PoisonError::into_inner));
    let failed = Mutex::new(move |line: String| failures.write_all(line.as_bytes()));
    let done = move |request: Request| {
        if !request.succeeded() {
            let mut write = failed.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a log there is nobody to tell.
            let _ = (*write)(failure(&request, Clock::read()));
        }
        done(request);
    };
    let connections = match kind {
        Kind::New => Connections::New,
        Kind::KeepAlive => Connections::Pooled,
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let (stop, stopped) = oneshot::channel();
    let load = tokio::spawn(drive(to, (rate, usize::MAX), connections, done, stopped));
    let mut line = tokio::time::interval(SECOND);
    loop {
        tokio::select! {
            _ = line.tick() => write_second(&mut log, &second)?,
            _ = terminated.recv() => break,
        }
    }
    drop(stop);
    load.await.map_err(io::Error::other)?;
    write_second(&mut log, &second)?;
    log.write_all(b"end\n")
}

fn count(request: &Request, second: &mut Second) {
    match request.succeeded() {
        true => second.succeeded += 1,
        false => second.failed += 1,
    }
    second.reused += u32::from(request.reused);
    second.stale += request.stale;
    second.slowest = second.slowest.max(request.ended - request.started);
}

fn failure(request: &Request, clock: Clock) -> String {
    let error = match &request.answer {
        Ok(status) => format!("status {status}"),
        Err(error) => error.clone(),
    };
    format!(
        "failure {} {} {} {} {error}\n",
        clock.unix_ms(request.started),
        clock.unix_ms(request.ended),
        if request.reused { "reused" } else { "new" },
        if request.reused || request.connected.is_some() { "connected" } else { "dialling" },
    )
}

fn write_second(log: &mut File, second: &Mutex<Second>) -> io::Result<()> {
    let it = std::mem::take(&mut *second.lock().unwrap_or_else(PoisonError::into_inner));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_millis();
    let Second { succeeded, failed, reused, stale, slowest } = it;
    log.write_all(format!("second {now} {succeeded} {failed} {reused} {stale} {}\n", slowest.as_millis()).as_bytes())
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let answer: Arc<str> = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}\n", name.len() + 1).into();
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that is gone already is no reason to end.
                let Ok((stream, _)) = accepted else { continue };
                tokio::spawn(answer_all(stream, answer.clone()));
            }
            _ = terminated.recv() => return Ok(()),
        }
    }
}

/// Answers requests without a body, one after another, until the client closes or asks to.
async fn answer_all(mut stream: TcpStream, answer: Arc<str>) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            stream.write_all(answer.as_bytes()).await?;
            if head.contains("connection: close") {
                return stream.shutdown().await;
            }
            received.drain(..end + 4);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}
