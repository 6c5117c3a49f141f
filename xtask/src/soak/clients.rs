//! One time of each load: clients that behave, and clients that do not. Everything has an outcome that is meant; any other
//! is an error.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::configuration::LOG;
use super::http1::{Head, ask, write_body};
use super::load::{Place, meant};
use super::upstream::reset;

/// Connections that idle at a time.
const IDLE: usize = 100;
/// Bytes of a large body.
const LARGE: u64 = 16 << 20;

async fn dial(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Requests, how long their bodies are, and what they are meant to end in.
const REQUESTS: [(&str, u64, &[u16]); 16] = [
    ("GET /small", 0, &[200]),
    ("GET /direct", 0, &[200]),
    ("GET /redirect", 0, &[301]),
    ("GET /nowhere", 0, &[404]),
    ("GET /large", 0, &[200]),
    ("POST /echo", 65_536, &[200]),
    ("GET /two/small", 0, &[200]),
    ("GET /mutual/small", 0, &[200]),
    ("GET /mirrored", 0, &[200]),
    ("GET /limited", 0, &[200, 429]),
    ("GET /faulty", 0, &[200, 418]),
    ("GET /unsteady", 0, &[200]),
    ("GET /reset-once", 0, &[200]),
    ("GET /reset", 0, &[503]),
    ("GET /slow", 0, &[504]),
    ("POST /mirrored", 10_000, &[200]),
];

pub async fn every_route(place: Arc<Place>) -> Result<u64> {
    let mut stream = dial(place.ports.web).await?;
    for (line, length, statuses) in REQUESTS {
        let answer = ask(&mut stream, line, length).await.context(line)?;
        meant(line, answer.status, statuses)?;
        if answer.closes {
            // As Envoy does where the response begins before the request's end has come.
            stream = dial(place.ports.web).await?;
        }
    }
    Ok(REQUESTS.len() as u64)
}

pub async fn large_bodies(place: Arc<Place>) -> Result<u64> {
    let answer = ask(&mut dial(place.ports.web).await?, "POST /echo", LARGE).await?;
    meant("POST /echo", answer.status, &[200])?;
    ensure!(answer.length == LARGE, "{} bytes came back", answer.length);
    Ok(1)
}

/// Opens a tunnel through the proxy.
async fn tunnel(place: &Place, request: &str, status: &str) -> Result<BufStream<TcpStream>> {
    let mut stream = BufStream::new(dial(place.ports.web).await?);
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let head = Head::read(&mut stream).await?.context("no answer")?;
    ensure!(head.second() == status, "{}, not {status}", head.second());
    Ok(stream)
}

/// Says things of many sizes and hears the same again.
async fn converse(stream: &mut BufStream<TcpStream>) -> Result<()> {
    for number in 0..40_usize {
        let said = vec![number as u8; number * 997 % 20_000 + 1];
        let mut heard = vec![0; said.len()];
        stream.write_all(&said).await?;
        stream.flush().await?;
        stream.read_exact(&mut heard).await?;
        ensure!(said == heard, "something else came back");
    }
    Ok(())
}

const WEBSOCKET: &str = "GET /websocket HTTP/1.1\r\nhost: soak.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub async fn websocket(place: Arc<Place>) -> Result<u64> {
    let mut stream = tunnel(&place, WEBSOCKET, "101").await?;
    converse(&mut stream).await?;
    Ok(1)
}

pub async fn connect(place: Arc<Place>) -> Result<u64> {
    let mut stream = tunnel(&place, "CONNECT soak.test:80 HTTP/1.1\r\nhost: soak.test:80\r\n\r\n", "200").await?;
    converse(&mut stream).await?;
    stream.shutdown().await?;
    Ok(1)
}

pub async fn tcp(place: Arc<Place>) -> Result<u64> {
    let mut stream = BufStream::new(dial(place.ports.tcp).await?);
    converse(&mut stream).await?;
    stream.shutdown().await?;
    ensure!(stream.read(&mut [0; 1]).await? == 0, "bytes after the end");
    Ok(1)
}

/// Every way to go before it is over; and what is no HTTP at all.
pub async fn give_up(place: Arc<Place>) -> Result<u64> {
    let Place { ports, .. } = &*place;
    let slow = "GET /slow HTTP/1.1\r\nhost: soak.test\r\n\r\n";
    let beginnings: [(u16, &[u8]); 5] = [
        (ports.web, b"GET /small HTTP/1.1\r\nho"),
        (ports.web, slow.as_bytes()),
        (ports.tls, &[22, 3, 1, 2, 0, 1, 0]),
        (ports.tls, b"GET / HTTP/1.1\r\n\r\n"),
        (ports.tcp, &[7; 30_000]),
    ];
    for (port, beginning) in beginnings {
        let mut stream = dial(port).await?;
        stream.write_all(beginning).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
        reset(stream)?;
    }

    let mut stream = dial(ports.web).await?;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: soak.test\r\ncontent-length: 1000000\r\n\r\n").await?;
    write_body(&mut stream, 100_000).await?;
    reset(stream)?;

    let mut stream = dial(ports.web).await?;
    stream.write_all(b"GET /drip HTTP/1.1\r\nhost: soak.test\r\n\r\n").await?;
    stream.read_exact(&mut [0; 10_000]).await.context("/drip")?;
    reset(stream)?;

    let stream = tunnel(&place, WEBSOCKET, "101").await?;
    reset(stream.into_inner())?;

    let mut stream = BufStream::new(dial(ports.web).await?);
    stream.write_all(b"\x01\x02 no HTTP\r\n\r\n").await?;
    stream.flush().await?;
    let head = Head::read(&mut stream).await?.context("no answer")?;
    ensure!(head.second() == "400", "{} to what is no HTTP", head.second());
    Ok(beginnings.len() as u64 + 4)
}

/// Streams of one HTTP/2 connection, of which every fifth is cancelled in its midst.
pub async fn grpc(place: Arc<Place>) -> Result<u64> {
    const STREAMS: u64 = 20;
    let (mut sender, connection) = h2::client::handshake(dial(place.ports.web).await?).await?;
    let driver = tokio::spawn(connection);
    for number in 0..STREAMS {
        sender = sender.ready().await?;
        let uri = "http://soak.test/grpc/soak.Echo/Say";
        let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let (response, mut body) = sender.send_request(request, false)?;
        let mut message = vec![0, 0, 0, 3, 232];
        message.resize(5 + 1000, b'x');
        body.send_data(Bytes::from(message), false)?;
        let response = response.await.context("gRPC")?;
        meant("gRPC", response.status().as_u16(), &[200])?;
        if number % 5 == 0 {
            body.send_reset(h2::Reason::CANCEL);
            continue;
        }
        body.send_data(Bytes::new(), true)?;
        let mut answer = response.into_body();
        let mut length = 0;
        while let Some(data) = answer.data().await {
            let data = data?;
            length += data.len();
            answer.flow_control().release_capacity(data.len())?;
        }
        let trailers = answer.trailers().await?.context("no trailers")?;
        ensure!(length == 1005 && trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    }
    drop(sender);
    driver.await?.context("the connection")?;
    Ok(STREAMS)
}

pub async fn idle(place: Arc<Place>) -> Result<u64> {
    let mut held = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        let mut stream = dial(place.ports.web).await?;
        meant("GET /small", ask(&mut stream, "GET /small", 0).await?.status, &[200])?;
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for stream in &mut held {
        meant("GET /small", ask(stream, "GET /small", 0).await.context("after idling")?.status, &[200])?;
    }
    Ok(2 * IDLE as u64)
}

/// The body of an answer of the admin server.
pub async fn admin(place: &Place, line: &str) -> Result<String> {
    let mut stream = dial(place.ports.admin).await?;
    stream.write_all(format!("{line} HTTP/1.0\r\nhost: admin\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.with_context(|| line.to_owned())?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{line}: no head"))?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{line}: {head}");
    Ok(body.to_owned())
}

pub async fn administer(place: Arc<Place>) -> Result<u64> {
    let asked = [
        "/stats",
        "/stats/prometheus",
        "/stats?format=json",
        "/clusters?format=json",
        "/config_dump",
        "/certs",
        "/memory",
    ];
    for path in asked {
        admin(&place, &format!("GET {path}")).await?;
    }
    let log = place.directory.join(LOG);
    let old = log.with_extension("old");
    tokio::fs::rename(&log, &old).await.context("the access log")?;
    admin(&place, "POST /reopen_logs").await?;
    // The proxy's writer gets to it in its turn.
    while !tokio::fs::try_exists(&log).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::fs::remove_file(&old).await?;
    Ok(asked.len() as u64 + 1)
}
