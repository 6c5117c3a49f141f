//! Many idle connections: all are held, all still answer, and what they cost is given back.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weir_tests::figure;

use super::{
    case::request,
    frame::{Frame, HEADER_TABLE_SIZE, HEADERS, PREFACE, WHOLE, headers, settings},
    place::{Alone, occupy, status},
};

/// How many there are of HTTP/1, and of HTTP/2.
const CONNECTIONS: usize = 10_000;
const OF_HTTP2: usize = 2_000;
/// What one may cost the proxy in memory, in bytes, its socket in the kernel aside.
const MOST: u64 = 64 << 10;
/// Descriptors of this process besides.
const OTHERS: u64 = 1000;
/// Requests under way at once.
const AT_ONCE: usize = 100;
/// How long an answer, or the end of all connections, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets this process have as many descriptors as it needs.
fn raise_limit() {
    let needed = CONNECTIONS as u64 + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    if soft < needed
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
    {
        panic!(
            "this test holds {CONNECTIONS} connections and needs RLIMIT_NOFILE {needed}, which is {soft} (hard {hard}) \
             and cannot be raised: {error}"
        );
    }
}

/// An open connection.
struct Connection {
    stream: TcpStream,
    /// Of HTTP/2: the next stream.
    next: Option<u32>,
}

impl Connection {
    /// Connects, and asks for the first time.
    async fn open(to: SocketAddr, http2: bool) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let mut connection = Self { stream, next: http2.then_some(1) };
        connection.ask().await?;
        Ok(connection)
    }

    /// Sends a request, which must be answered with 200.
    async fn ask(&mut self) -> Result<(), String> {
        match timeout(PATIENCE, self.exchange()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("not answered with 200".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }

    async fn exchange(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        let Some(number) = self.next else {
            self.stream.write_all(b"GET /probe HTTP/1.1\r\nhost: any.test\r\n\r\n").await?;
            while !bytes.ends_with(b"\r\n\r\n") {
                self.more(&mut bytes).await?;
            }
            return Ok(bytes.starts_with(b"HTTP/1.1 200 "));
        };
        if number == 1 {
            self.stream.write_all(&[PREFACE, &settings(&[(HEADER_TABLE_SIZE, 0)])].concat()).await?;
        }
        self.next = Some(number + 2);
        self.stream.write_all(&headers(WHOLE, number, &request("/probe"))).await?;
        let mut status = None;
        loop {
            let Some((frame, length)) = Frame::parse(&bytes) else {
                self.more(&mut bytes).await?;
                continue;
            };
            bytes.drain(..length);
            if frame.stream == number {
                status = status.or(frame.status().filter(|_| frame.kind == HEADERS));
                if frame.ends() {
                    return Ok(status == Some(200));
                }
            }
        }
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        match self.stream.read_buf(bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections() {
    raise_limit();
    hold(CONNECTIONS, false).await;
    hold(OF_HTTP2, true).await;
}

async fn hold(count: usize, http2: bool) {
    let place = Alone::start("bodies", |side| {
        occupy(side, "h1");
        occupy(side, "h2");
    })
    .await;
    let (to, pid) = (place.weir.address("main"), place.weir.pid());
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the proxy runs").count();
    let before = descriptors();
    // What a first connection needs is not what each needs.
    drop(Connection::open(to, http2).await.expect("a first answer"));
    let memory = status(pid, "VmRSS");
    let connections: Vec<Connection> = stream::iter(0..count)
        .map(|_| Connection::open(to, http2))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .expect("every connection is answered");
    let held = descriptors() - before;
    let each = (status(pid, "VmRSS") - memory) * 1024 / count as u64;
    let version = if http2 { "HTTP/2" } else { "HTTP/1" };
    figure!("{held} idle connections of {version} cost {each} bytes each");
    assert!(held >= count, "only {held} connections are held");
    assert!(each <= MOST, "{each} bytes for each idle connection of {version}, more than {MOST}");
    let again: Vec<Connection> = stream::iter(connections)
        .map(|mut connection| async move { connection.ask().await.map(|()| connection) })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .expect("every connection still answers");
    drop(again);
    weir_tests::poll::wait_for("descriptors are given back", PATIENCE, || {
        let open = descriptors();
        if open <= before { Ok(()) } else { Err(format!("{open} are open, {before} were")) }
    });
}
