//! A client and a server of large bodies, over HTTP/1 and HTTP/2: what they send is known, counted, and told by its hash.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bytes of a piece.
const PIECE: u64 = 64 << 10;
/// Bytes of HTTP/2 that a stream, and its connection, may have under way.
const WINDOW: u32 = 1 << 20;

/// Bytes that have been sent and received, and whether receivers may go on.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub sent: Arc<AtomicU64>,
    pub received: Arc<AtomicU64>,
    /// Receivers stop after so many bytes until they are let go.
    stop_after: u64,
    go: watch::Sender<bool>,
}

impl Traffic {
    /// Receivers take everything.
    pub fn flowing() -> Self {
        Self::stopping_after(u64::MAX)
    }

    /// Receivers stop after so many bytes.
    pub fn stopping_after(stop_after: u64) -> Self {
        Self { sent: Arc::default(), received: Arc::default(), stop_after, go: watch::Sender::new(false) }
    }

    /// Lets receivers go on.
    pub fn go(&self) {
        self.go.send_replace(true);
    }
}

/// A body of a certain size, whose bytes depend on where they stand.
#[derive(Debug)]
pub struct Content {
    size: u64,
    at: u64,
    sent: Arc<AtomicU64>,
}

impl Content {
    pub fn new(size: u64, traffic: &Traffic) -> Self {
        Self { size, at: 0, sent: traffic.sent.clone() }
    }

    /// The hash of a body of that size.
    pub fn digest(size: u64) -> String {
        let mut hash = digest::Context::new(&SHA256);
        let mut content = Self::new(size, &Traffic::flowing());
        while let Some(piece) = content.piece() {
            hash.update(&piece);
        }
        hexadecimal(hash)
    }

    fn piece(&mut self) -> Option<Bytes> {
        let length = PIECE.min(self.size - self.at);
        if length == 0 {
            return None;
        }
        let mut piece = vec![(self.at >> 16) as u8; length as usize];
        for (place, byte) in piece.iter_mut().zip(self.at.to_be_bytes()) {
            *place = byte;
        }
        self.at += length;
        self.sent.fetch_add(length, Relaxed);
        Some(piece.into())
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.size
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size - self.at)
    }
}

fn hexadecimal(hash: digest::Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a body to its end; its hash.
async fn read(mut body: Incoming, traffic: &Traffic) -> Result<String, hyper::Error> {
    let mut hash = digest::Context::new(&SHA256);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        hash.update(&data);
        let before = traffic.received.fetch_add(data.len() as u64, Relaxed);
        if before < traffic.stop_after && before + data.len() as u64 >= traffic.stop_after {
            // The sender is kept by `traffic`.
            let _ = traffic.go.subscribe().wait_for(|go| *go).await;
        }
    }
    Ok(hexadecimal(hash))
}

/// The server: `/down/SIZE` sends a body, everything else takes one and answers with its hash.
pub async fn serve(listener: TcpListener, http2: bool, traffic: Traffic) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let traffic = traffic.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| answer(request, traffic.clone()));
            let io = TokioIo::new(stream);
            if http2 {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW)
                    .serve_connection(io, service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    traffic: Traffic,
) -> Result<Response<Either<Content, Full<Bytes>>>, hyper::Error> {
    let size = request.uri().path().rsplit_once("down/").and_then(|(_, size)| size.parse().ok());
    Ok(Response::new(match size {
        Some(size) => Either::Left(Content::new(size, &traffic)),
        None => Either::Right(Full::from(read(request.into_body(), &traffic).await?)),
    }))
}

/// Sends one request on a connection of its own; the response.
async fn ask<B>(to: SocketAddr, http2: bool, request: Request<B>) -> Result<Response<Incoming>, hyper::Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(to).await.expect("the proxy listens");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let io = TokioIo::new(stream);
    if http2 {
        let (mut send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await?;
        tokio::spawn(connection);
        send.send_request(request).await
    } else {
        let (mut send, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        send.send_request(request).await
    }
}

fn request<B>(to: SocketAddr, http2: bool, method: &str, path: &str, body: B) -> Request<B> {
    let uri = if http2 { format!("http://{to}/h2/{path}") } else { format!("/{path}") };
    Request::builder().method(method).uri(uri).header("host", to.to_string()).body(body).expect("a request")
}

/// Uploads a body; the hash that the server found.
pub async fn upload(to: SocketAddr, http2: bool, size: u64, traffic: &Traffic) -> String {
    let response = ask(to, http2, request(to, http2, "POST", "up", Content::new(size, traffic))).await;
    let response = response.expect("an answer to the upload");
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.expect("the whole answer").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// Downloads a body; its hash.
pub async fn download(to: SocketAddr, http2: bool, size: u64, traffic: &Traffic) -> String {
    let request = request(to, http2, "GET", &format!("down/{size}"), Full::<Bytes>::default());
    let response = ask(to, http2, request).await.expect("an answer to the download");
    assert_eq!(response.status(), 200);
    read(response.into_body(), traffic).await.expect("the whole body")
}
