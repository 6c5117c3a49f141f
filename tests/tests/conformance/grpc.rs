//! gRPC by tonic, HTTP/2 on both sides of the proxy: what a client sees through weir is what it sees through Envoy.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use http::uri::PathAndQuery;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    metadata::MetadataMap,
    server::NamedService,
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use weir_tests::figure;

use super::{
    pair::side::Side,
    place::{Place, listen},
};

/// Longer than any call may take.
const LONGEST: Duration = Duration::from_secs(60);

/// `google.protobuf.StringValue` either way.
fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

/// The server. `open` counts its bidirectional calls under way.
#[derive(Clone, Debug, Default)]
struct Echo {
    open: Arc<AtomicUsize>,
}

impl NamedService for Echo {
    const NAME: &'static str = "weir.test.Echo";
}

type Messages = BoxStream<'static, Result<String, Status>>;

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let open = self.open.clone();
        async move {
            let mut grpc = tonic::server::Grpc::new(codec());
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Unary" => grpc.unary(service_fn(unary), request).await,
                "Slow" => grpc.unary(service_fn(slow), request).await,
                "Download" => grpc.server_streaming(service_fn(download), request).await,
                "Upload" => grpc.client_streaming(service_fn(upload), request).await,
                _ => grpc.streaming(service_fn(move |request| bidirectional(request, open.clone())), request).await,
            })
        }
        .boxed()
    }
}

/// Says the same, and what the request's metadata and deadline were; `fail` fails with details.
async fn unary(request: Request<String>) -> Result<Response<String>, Status> {
    if request.get_ref() == "fail" {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-why", "because".parse().expect("a value"));
        metadata.insert_bin("x-why-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 1, 255]));
        let message = "not found: 100 % \u{fc}";
        return Err(Status::with_details_and_metadata(Code::NotFound, message, b"details"[..].into(), metadata));
    }
    let told = request.metadata().get("x-told").cloned();
    let mut response = Response::new(request.into_inner());
    if let Some(told) = told {
        response.metadata_mut().insert("x-heard", told);
    }
    Ok(response)
}

async fn slow(_: Request<String>) -> Result<Response<String>, Status> {
    tokio::time::sleep(LONGEST).await;
    Ok(Response::new("late".to_owned()))
}

/// `COUNT` messages, or `COUNT fail`: and then a failure.
async fn download(request: Request<String>) -> Result<Response<Messages>, Status> {
    let asked = request.into_inner();
    let (count, fails) = asked.split_once(' ').map_or((asked.as_str(), false), |(count, _)| (count, true));
    let count: usize = count.parse().map_err(|_| Status::invalid_argument("a count"))?;
    let messages = stream::iter(0..count).map(|number| Ok(format!("message {number}")));
    let failure = stream::iter(fails.then(|| Err(Status::aborted("enough"))));
    Ok(Response::new(messages.chain(failure).boxed()))
}

async fn upload(request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let mut messages = request.into_inner();
    let (mut count, mut bytes) = (0, 0);
    while let Some(message) = messages.message().await? {
        (count, bytes) = (count + 1, bytes + message.len());
    }
    Ok(Response::new(format!("{count} messages, {bytes} bytes")))
}

/// Answers each message as it comes.
async fn bidirectional(
    request: Request<Streaming<String>>,
    open: Arc<AtomicUsize>,
) -> Result<Response<Messages>, Status> {
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }
    open.fetch_add(1, Relaxed);
    let open = Open(open);
    let answers = request.into_inner().map(move |message| {
        let _open = &open;
        message.map(|message| format!("{message}!"))
    });
    Ok(Response::new(answers.boxed()))
}

/// A client's calls, each told in words.
struct Calls {
    grpc: Grpc<Channel>,
}

fn path(method: &str) -> PathAndQuery {
    let service = if method.contains('/') { "" } else { "Echo/" };
    format!("/weir.test.{service}{method}").parse().expect("a path")
}

/// Metadata that is not about one hop or one run.
fn told(metadata: &MetadataMap) -> String {
    let mut lines: Vec<String> = metadata
        .as_ref()
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-envoy-upstream-service-time"))
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines.join(" ")
}

fn failure(status: &Status) -> String {
    let details = String::from_utf8_lossy(status.details());
    format!("{:?} {:?} {details:?} {}", status.code(), status.message(), told(status.metadata()))
}

impl Calls {
    async fn connect(side: &Side) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", side.address("main"))).expect("an endpoint");
        Self { grpc: Grpc::new(endpoint.connect().await.expect("a connection")) }
    }

    async fn ready(&mut self) -> &mut Grpc<Channel> {
        self.grpc.ready().await.expect("a connection that is ready");
        &mut self.grpc
    }

    async fn unary(&mut self, method: &str, message: &str, metadata: &[(&'static str, &str)]) -> String {
        let mut request = Request::new(message.to_owned());
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().expect("a value"));
        }
        match self.ready().await.unary(request, path(method), codec()).await {
            Ok(response) if response.get_ref().len() > 100 => format!("{} bytes", response.get_ref().len()),
            Ok(response) => format!("{:?} {}", response.get_ref(), told(response.metadata())),
            Err(status) => failure(&status),
        }
    }

    /// How many messages came, the last of them, and how it ended.
    async fn download(&mut self, message: &str) -> String {
        let request = Request::new(message.to_owned());
        match self.ready().await.server_streaming(request, path("Download"), codec()).await {
            Ok(response) => {
                let mut messages = response.into_inner();
                let (mut count, mut last) = (0, String::new());
                let end = loop {
                    match messages.message().await {
                        Ok(Some(message)) => (count, last) = (count + 1, message),
                        Ok(None) => break format!("OK {}", trailers(&mut messages).await),
                        Err(status) => break failure(&status),
                    }
                };
                format!("{count} messages, last {last:?}, then {end}")
            }
            Err(status) => failure(&status),
        }
    }

    async fn upload(&mut self, messages: impl Stream<Item = String> + Send + 'static) -> String {
        match self.ready().await.client_streaming(Request::new(messages), path("Upload"), codec()).await {
            Ok(response) => response.into_inner(),
            Err(status) => failure(&status),
        }
    }

    /// Sends a message once the one before is answered.
    async fn talk(&mut self, rounds: usize) -> String {
        let (send, messages) = tokio::sync::mpsc::channel(1);
        let request = Request::new(ReceiverStream::new(messages));
        let response = match self.ready().await.streaming(request, path("Talk"), codec()).await {
            Ok(response) => response,
            Err(status) => return failure(&status),
        };
        let mut answers = response.into_inner();
        for round in 0..rounds {
            send.send(format!("round {round}")).await.expect("the call goes on");
            match answers.message().await {
                Ok(Some(answer)) if answer == format!("round {round}!") => {}
                other => return format!("round {round}: {other:?}"),
            }
        }
        drop(send);
        match answers.message().await {
            Ok(None) => format!("{rounds} rounds, OK {}", trailers(&mut answers).await),
            other => format!("after {rounds} rounds: {other:?}"),
        }
    }

    /// Gives a call up in its midst.
    async fn give_up(&mut self) -> String {
        let (send, messages) = tokio::sync::mpsc::channel(1);
        let request = Request::new(ReceiverStream::new(messages));
        let response = match self.ready().await.streaming(request, path("Talk"), codec()).await {
            Ok(response) => response,
            Err(status) => return failure(&status),
        };
        send.send("hello".to_owned()).await.expect("the call goes on");
        format!("{:?}", response.into_inner().message().await)
    }
}

async fn trailers(messages: &mut Streaming<String>) -> String {
    messages.trailers().await.ok().flatten().map(|trailers| told(&trailers)).unwrap_or_default()
}

/// All calls through one proxy.
async fn all(side: &Side, server: &Echo) -> Vec<(&'static str, String)> {
    let mut calls = Calls::connect(side).await;
    let large = "x".repeat(3 << 20);
    let mut told = vec![
        ("unary", calls.unary("Unary", "hello", &[]).await),
        ("metadata", calls.unary("Unary", "hello", &[("x-told", "told")]).await),
        ("an empty message", calls.unary("Unary", "", &[]).await),
        ("3 MiB either way", calls.unary("Unary", &large, &[]).await),
        ("a failure with details", calls.unary("Unary", "fail", &[]).await),
        ("server streaming", calls.download("1000").await),
        ("server streaming of nothing", calls.download("0").await),
        ("server streaming that fails", calls.download("3 fail").await),
        ("server streaming that fails at once", calls.download("x").await),
        ("client streaming", calls.upload(stream::iter((0..1000).map(|number| format!("message {number}")))).await),
        ("client streaming of nothing", calls.upload(stream::empty()).await),
        ("client streaming of 8 MiB", calls.upload(stream::iter(vec!["x".repeat(1 << 20); 8])).await),
        ("bidirectional", calls.talk(50).await),
        ("a deadline beyond the route's", calls.unary("Slow", "", &[("grpc-timeout", "30S")]).await),
        ("no such method's server", calls.unary("Refused/Unary", "", &[]).await),
        ("a cluster without endpoints", calls.unary("Empty/Unary", "", &[]).await),
        ("no route", calls.unary("Unrouted/Unary", "", &[]).await),
        ("a call given up", calls.give_up().await),
    ];
    weir_tests::poll::wait_for("the server learns that the call was given up", LONGEST, || {
        let open = server.open.load(Relaxed);
        if open == 0 { Ok(()) } else { Err(open) }
    });
    told.push(("after a call given up", calls.unary("Unary", "again", &[]).await));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_kind() {
    // By the port that they serve.
    let servers: std::sync::Mutex<Vec<Echo>> = std::sync::Mutex::default();
    let place = Place::start("clients", |side| {
        let listener = listen(side, "grpc");
        let echo = Echo::default();
        servers.lock().expect("servers").push(echo.clone());
        tokio::spawn(Server::builder().add_service(echo).serve_with_incoming(TcpListenerStream::new(listener)));
        super::websocket::serve(side);
    })
    .await;
    let servers = servers.into_inner().expect("servers");
    let [envoy, weir] = place.sides();
    let (theirs, ours) = tokio::join!(all(envoy, &servers[0]), all(weir, &servers[1]));
    for ((what, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        assert_eq!(ours, theirs, "{what}: weir's, Envoy's");
    }
    let told = |what: &str| ours.iter().find(|(known, _)| *known == what).map_or("", |(_, told)| told.as_str());
    for (what, expected) in [
        ("unary", "\"hello\""),
        ("metadata", "x-heard=told"),
        ("3 MiB either way", "3145728 bytes"),
        ("a failure with details", "NotFound \"not found: 100 % \u{fc}\" \"details\""),
        ("server streaming", "1000 messages, last \"message 999\", then OK"),
        ("server streaming that fails", "3 messages, last \"message 2\", then Aborted"),
        ("client streaming", "1000 messages, 10890 bytes"),
        ("client streaming of 8 MiB", "8 messages, 8388608 bytes"),
        ("bidirectional", "50 rounds, OK"),
        ("a deadline beyond the route's", "DeadlineExceeded"),
        ("no such method's server", "Unavailable"),
        ("no route", "Unimplemented"),
        ("after a call given up", "\"again\""),
    ] {
        assert!(told(what).contains(expected), "{what}: {} lacks {expected}", told(what));
    }
    figure!("{} gRPC calls alike", ours.len());
}
