//! Bodies that nobody reads to their end give their share of an HTTP/2 connection's window back: however many there were,
//! the next one passes.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::{Request, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

use super::{
    peer::{self, Content, Traffic},
    place::{Alone, listen, occupy},
};

/// How many are given up, of this many bytes each: several times what the windows of all connections hold.
const GIVEN_UP: usize = 100;
const SIZE: u64 = 900 << 10;
/// How long one may take.
const LONGEST: Duration = Duration::from_secs(30);

type Client = SendRequest<Either<Content, Full<Bytes>>>;

async fn start(traffic: &Traffic) -> Alone {
    let traffic = traffic.clone();
    Alone::start("bodies", |side| {
        occupy(side, "h1");
        tokio::spawn(peer::serve(listen(side, "h2"), true, traffic.clone()));
    })
    .await
}

async fn connect(to: SocketAddr) -> Client {
    let stream = TcpStream::connect(to).await.expect("the proxy listens");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (send, connection) = handshake.await.expect("HTTP/2");
    tokio::spawn(connection);
    send
}

fn request(to: SocketAddr, path: &str, size: u64) -> Request<Either<Content, Full<Bytes>>> {
    let body = match size {
        0 => Either::Right(Full::default()),
        size => Either::Left(Content::new(size, &Traffic::flowing())),
    };
    let method = if size > 0 { "POST" } else { "GET" };
    Request::builder().method(method).uri(format!("http://{to}{path}")).body(body).expect("a request")
}

/// The status of an answer, and how many bytes of its body come.
async fn whole(client: &mut Client, request: Request<Either<Content, Full<Bytes>>>) -> Result<(u16, usize), String> {
    let exchange = async {
        let response = client.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        Ok((status, body.to_bytes().len()))
    };
    timeout(LONGEST, exchange).await.unwrap_or_else(|_| Err(format!("nothing within {LONGEST:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_not_read() {
    let place = start(&Traffic::flowing()).await;
    let to = place.weir.address("main");
    // The proxy answers by itself; there is no upstream, or none that listens to HTTP.
    for path in ["/probe", "/unreachable"] {
        let mut client = connect(to).await;
        for number in 0..GIVEN_UP {
            if path == "/probe" {
                let answer = whole(&mut client, request(to, path, SIZE)).await;
                assert_eq!(answer, Ok((200, 0)), "upload {number} to {path}");
            } else {
                // Given up by the client while the upstream reads nothing.
                let going = client.send_request(request(to, path, SIZE));
                let _ = timeout(Duration::from_millis(20), going).await;
            }
        }
        let answer = whole(&mut client, request(to, "/h2/up", 8 << 20)).await;
        assert_eq!(answer, Ok((200, 64)), "an upload after {GIVEN_UP} to {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_that_are_given_up() {
    let place = start(&Traffic::flowing()).await;
    let to = place.weir.address("main");
    let mut client = connect(to).await;
    for number in 0..GIVEN_UP {
        let response = timeout(LONGEST, client.send_request(request(to, "/h2/down/67108864", 0))).await;
        let response = response.unwrap_or_else(|_| panic!("no answer to download {number}")).expect("an answer");
        let mut body = response.into_body();
        let first = timeout(LONGEST, body.frame()).await.unwrap_or_else(|_| panic!("no body of download {number}"));
        assert!(first.is_some_and(|frame| frame.is_ok()), "the body of download {number}");
    }
    let answer = whole(&mut client, request(to, "/h2/down/8388608", 0)).await;
    assert_eq!(answer, Ok((200, 8 << 20)), "a download after {GIVEN_UP} that were given up");
}
