//! Clients that go in the midst of a request, and requests that take too long: an HTTP/2 server is told of it.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::{
    case::{post, request},
    frame::{
        ACK, DATA, END_HEADERS, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WHOLE, data, headers, reset,
        settings,
    },
    outcome::{Client, Step},
    pair::{
        side::Side,
        wire::{Buffered, PATIENCE, Wire},
    },
    place::{Place, listen},
};

/// The row of docs/envoy-differences.md that is met here.
pub const ROW: &str = "h2-cancel";
/// The error code (RFC 9113 section 7).
const CANCEL: u32 = 8;

/// How far a request has come when its client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The request is complete, and there is no answer.
    Waiting,
    /// Its body is still coming.
    Uploading,
    /// The answer's body is still coming.
    Downloading,
    /// Both.
    Both,
}

/// How the client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// RST_STREAM with this error.
    Reset(u32),
    /// It closes its connection of HTTP/2.
    Close,
    /// It closes its connection of HTTP/1.
    Close1,
    /// It does not: the route's timeout passes.
    Timeout,
}

/// What a server sees, in words.
type Seen = mpsc::Sender<String>;

/// Serves connections: answers with a beginning at the stages that have an answer, and tells what comes.
async fn serve(listener: TcpListener, stage: Arc<Mutex<Stage>>, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        let (stage, seen) = (stage.clone(), seen.clone());
        tokio::spawn(async move {
            let _ = behave(stream, &stage, &seen).await;
            let _ = seen.try_send("closed".to_owned());
        });
    }
}

async fn behave(mut stream: TcpStream, stage: &Mutex<Stage>, seen: &Seen) -> std::io::Result<()> {
    stream.write_all(&settings(&[])).await?;
    let mut bytes = vec![0; PREFACE.len()];
    stream.read_exact(&mut bytes).await?;
    bytes.clear();
    loop {
        while let Some((frame, length)) = Frame::parse(&bytes) {
            bytes.drain(..length);
            match frame.kind {
                SETTINGS if !frame.has(ACK) => stream.write_all(&super::frame::frame(SETTINGS, ACK, 0, &[])).await?,
                HEADERS => {
                    let _ = seen.try_send(format!("HEADERS{}", if frame.ends() { " and the end" } else { "" }));
                    let answers = matches!(*stage.lock().expect("the stage"), Stage::Downloading | Stage::Both);
                    if answers {
                        let number = frame.stream;
                        let head = headers(END_HEADERS, number, &[(":status", "200")]);
                        let answer = [head, data(0, number, b"begun")].concat();
                        stream.write_all(&answer).await?;
                    }
                }
                DATA => {
                    let _ = seen.try_send(format!("DATA{}", if frame.ends() { " and the end" } else { "" }));
                }
                RST_STREAM => {
                    let _ = seen.try_send(format!("RST_STREAM {}", frame.error()));
                }
                GOAWAY if frame.error() != "NO_ERROR" => {
                    let _ = seen.try_send(format!("GOAWAY {}", frame.error()));
                }
                _ => {}
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// A client that goes; what the server saw from then on.
async fn go(side: &Side, stage: Stage, way: Way, seen: &mut mpsc::Receiver<String>) -> String {
    let tcp = Wire::connect(side.address("main"), None).await.expect("the proxy listens");
    let uploads = matches!(stage, Stage::Uploading | Stage::Both);
    let downloads = matches!(stage, Stage::Downloading | Stage::Both);
    let path = if way == Way::Timeout { "/short" } else { "/long" };
    let mut held = None;
    if way == Way::Close1 {
        let mut connection = Buffered::new(Wire::Tcp(tcp));
        let method = if uploads { "POST" } else { "GET" };
        let length = if uploads { "content-length: 1000\r\n" } else { "" };
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: any.test\r\n{length}\r\n{}", if uploads { "x" } else { "" });
        connection.wire.write_all(head.as_bytes()).await.expect("the proxy reads");
        if downloads {
            connection.until(b"begun").await.expect("the answer's beginning");
        }
        begun(seen, uploads).await;
        drop(connection);
    } else {
        let mut client = Client::new(Wire::Tcp(tcp));
        client.greet().await;
        let begins = if uploads {
            [headers(END_HEADERS, 1, &post(path)), data(0, 1, b"x")].concat()
        } else {
            headers(WHOLE, 1, &request(path))
        };
        client.step(&Step::Send(begins)).await;
        if downloads {
            client.step(&Step::Body(1, 5)).await;
        }
        begun(seen, uploads).await;
        match way {
            Way::Reset(code) => {
                client.send(&reset(1, code)).await;
                held = Some(client);
            }
            Way::Close => drop(client),
            _ => held = Some(client),
        }
    }
    let mut told = Vec::new();
    // RST_STREAM, or the end of the connection.
    while let Ok(Some(next)) = timeout(PATIENCE, seen.recv()).await {
        let last = next.starts_with("RST_STREAM") || next == "closed";
        told.push(next);
        if last {
            break;
        }
    }
    drop(held);
    told.join(", ")
}

/// Waits until the server has what the client has sent.
async fn begun(seen: &mut mpsc::Receiver<String>, uploads: bool) {
    let last = if uploads { "DATA" } else { "HEADERS and the end" };
    loop {
        let next = timeout(PATIENCE, seen.recv()).await.expect("the server sees the request");
        if next.as_deref() == Some(last) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_is_told_of_a_client_that_goes() {
    let stage = Arc::new(Mutex::new(Stage::Waiting));
    let receivers = Mutex::new(Vec::new());
    let place = Place::start("bad-server", |side| {
        let (seen, receiver) = mpsc::channel(1000);
        receivers.lock().expect("receivers").push(receiver);
        tokio::spawn(serve(listen(side, "bad"), stage.clone(), seen));
    })
    .await;
    let mut receivers = receivers.into_inner().expect("receivers");
    for now in [Stage::Waiting, Stage::Uploading, Stage::Downloading, Stage::Both] {
        for way in [Way::Reset(CANCEL), Way::Reset(0), Way::Reset(2), Way::Close, Way::Close1, Way::Timeout] {
            *stage.lock().expect("the stage") = now;
            let [of_envoy, of_weir] = &mut receivers[..] else { panic!("two receivers") };
            let (theirs, ours) = tokio::join!(go(&place.envoy, now, way, of_envoy), go(&place.weir, now, way, of_weir));
            // A body that breaks off is a failure, if it is seen first; otherwise the answer is not wanted any more.
            let breaks = match now {
                Stage::Waiting | Stage::Downloading => false,
                Stage::Uploading => !matches!(way, Way::Reset(CANCEL) | Way::Timeout),
                Stage::Both => way != Way::Reset(CANCEL),
            };
            let known = ours == "RST_STREAM CANCEL" || breaks && ours == "RST_STREAM INTERNAL_ERROR";
            assert!(known, "{now:?} {way:?}: weir: {ours}");
            assert_eq!(theirs, "RST_STREAM INTERNAL_ERROR", "{now:?} {way:?}: Envoy");
        }
    }
}
