//! Upstreams of the soak that do what nginx does not: echo, reset, let wait, fail, end with trailers.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use super::http1::{Head, write_body};

/// Where they listen.
#[derive(Clone, Copy, Debug)]
pub struct Upstreams {
    /// HTTP/1.1, which behaves as the path says.
    pub odd: u16,
    /// The same three times; the last one fails.
    pub shop: [u16; 3],
    /// Says everything again.
    pub bytes: u16,
    /// HTTP/2 with trailers.
    pub grpc: u16,
}

/// Starts them as tasks of this runtime.
pub async fn start() -> Result<Upstreams> {
    let odd = |fails| serve(move |stream| odd(stream, fails));
    Ok(Upstreams {
        odd: odd(false).await?,
        shop: [odd(false).await?, odd(false).await?, odd(true).await?],
        bytes: serve(echo).await?,
        grpc: serve(grpc).await?,
    })
}

async fn serve<F, S>(serve: S) -> Result<u16>
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("an upstream")?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                // What clients abort ends in an error here, which is theirs.
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    Ok(port)
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(writer.shutdown().await?)
}

async fn odd(stream: TcpStream, fails: bool) -> Result<()> {
    let mut stream = BufStream::new(stream);
    while let Some(head) = Head::read(&mut stream).await? {
        let first = head.field("x-envoy-attempt-count") == Some("1");
        match head.second() {
            "/websocket" => {
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                stream.write_all(answer.as_bytes()).await?;
                stream.flush().await?;
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                return Ok(());
            }
            "/reset" => return reset(stream.into_inner()),
            "/reset-once" if first => return reset(stream.into_inner()),
            "/slow" => {
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
            "/drip" => drip(&mut stream).await?,
            "/echo" => {
                let length = head.length();
                respond(&mut stream, "200 OK", length).await?;
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut (&mut reader).take(length), &mut writer).await?;
            }
            path => {
                tokio::io::copy(&mut (&mut stream).take(head.length()), &mut tokio::io::sink()).await?;
                let status = if fails && path != "/health" { "503 Service Unavailable" } else { "200 OK" };
                respond(&mut stream, status, 2).await?;
                write_body(&mut stream, 2).await?;
            }
        }
        stream.flush().await?;
    }
    Ok(())
}

async fn respond(stream: &mut BufStream<TcpStream>, status: &str, length: u64) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n").as_bytes()).await
}

/// Closes a connection with a reset instead of its end.
pub fn reset(stream: TcpStream) -> Result<()> {
    stream.set_zero_linger().context("SO_LINGER")
}

/// A megabyte, slowly: whoever asks for it gives up before.
async fn drip(stream: &mut BufStream<TcpStream>) -> io::Result<()> {
    const PART: u64 = 4096;
    respond(stream, "200 OK", 256 * PART).await?;
    for _ in 0..256 {
        write_body(stream, PART).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Answers each stream with what it brought, and trailers.
async fn grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        tokio::spawn(async move {
            let mut body = request.into_body();
            let head = Response::builder().header("content-type", "application/grpc").body(())?;
            let mut answer = respond.send_response(head, false)?;
            while let Some(data) = body.data().await {
                let data: Bytes = data?;
                let _ = body.flow_control().release_capacity(data.len());
                // The proxy allows 100 empty frames in a connection's life.
                if !data.is_empty() {
                    answer.send_data(data, false)?;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            answer.send_trailers(trailers)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}
