//! Many idle connections: all are held, all still answer, and what they cost is given back.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weir_tests::figure;

use super::place::{Alone, occupy, status};

/// How many there are.
const CONNECTIONS: usize = 10_000;
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

/// A request on a connection; whether it was answered with 200.
async fn ask(stream: &mut TcpStream) -> Result<(), String> {
    let exchange = async {
        stream.write_all(b"GET /probe HTTP/1.1\r\nhost: any.test\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(answer)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.1 200 ") => Ok(()),
        Ok(Ok(answer)) => Err(String::from_utf8_lossy(&answer).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    ask(&mut stream).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections() {
    raise_limit();
    let place = Alone::start("bodies", |side| {
        occupy(side, "h1");
        occupy(side, "h2");
    })
    .await;
    let (to, pid) = (place.weir.address("main"), place.weir.pid());
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the proxy runs").count();
    let before = descriptors();
    // What a first connection needs is not what each needs.
    drop(connect(to).await.expect("a first answer"));
    let memory = status(pid, "VmRSS");
    let connections: Vec<TcpStream> = stream::iter(0..CONNECTIONS)
        .map(|_| connect(to))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
        .expect("every connection is answered");
    let held = descriptors() - before;
    let each = (status(pid, "VmRSS") - memory) * 1024 / CONNECTIONS as u64;
    figure!("{held} idle connections cost {each} bytes each");
    assert!(held >= CONNECTIONS, "only {held} connections are held");
    assert!(each <= MOST, "{each} bytes for each idle connection, more than {MOST}");
    let again: Vec<TcpStream> = stream::iter(connections)
        .map(|mut stream| async move { ask(&mut stream).await.map(|()| stream) })
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
