//! Streams: gRPC's server side over HTTP/2, with messages as bytes, so that they can be anything.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tonic::{
    Request, Response, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, StreamingService},
};
use weir_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    google::rpc,
};

use super::{
    Listen, PATIENCE,
    event::{Event, Seen},
    world::{Subscriber, World, name_of, short},
};

/// Messages that may wait for a stream: one that is slower than that loses some.
const WAITING: usize = 4096;

/// How often a port is tried again that is not free yet.
const AGAIN: Duration = Duration::from_millis(20);

/// What the thread that serves shares with the test.
#[derive(Default)]
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// A server's state.
pub(super) struct State {
    pub(super) world: World,
    /// What nodes get that have a world of their own, by their ids.
    pub(super) of_nodes: BTreeMap<String, World>,
    pub(super) streams: BTreeMap<u64, Live>,
    pub(super) events: Vec<Event>,
    pub(super) delay: Duration,
    pub(super) mute: bool,
    /// A type of which requests are not answered.
    pub(super) withhold: Option<String>,
    pub(super) refuse: Option<Status>,
    pub(super) log: Option<Box<dyn io::Write + Send>>,
    began: Instant,
    numbers: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            world: World::default(),
            of_nodes: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: Vec::new(),
            delay: Duration::ZERO,
            mute: false,
            withhold: None,
            refuse: None,
            log: None,
            began: Instant::now(),
            numbers: 0,
        }
    }
}

/// An open stream.
pub(super) struct Live {
    pub(super) subscriber: Subscriber,
    /// The client's id, once it has said so.
    pub(super) node: String,
    delta: bool,
    outgoing: mpsc::Sender<(Instant, Outgoing)>,
    /// Versions by type and nonce, and the last nonce of each type.
    given: HashMap<(String, String), String>,
    last: HashMap<String, String>,
}

/// What goes out.
pub(super) enum Outgoing {
    Message(Bytes),
    End(Status),
}

/// A response of either protocol, and what is to be remembered of it.
struct Reply {
    type_url: String,
    version: String,
    nonce: String,
    names: Vec<String>,
    removed: Vec<String>,
    message: Bytes,
}

impl From<DiscoveryResponse> for Reply {
    fn from(response: DiscoveryResponse) -> Self {
        Self {
            message: response.encode_to_vec().into(),
            names: response.resources.iter().filter_map(name_of).collect(),
            removed: Vec::new(),
            type_url: response.type_url,
            version: response.version_info,
            nonce: response.nonce,
        }
    }
}

impl From<DeltaDiscoveryResponse> for Reply {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        Self {
            message: response.encode_to_vec().into(),
            names: response.resources.into_iter().map(|resource| resource.name).collect(),
            removed: response.removed_resources,
            type_url: response.type_url,
            version: response.system_version_info,
            nonce: response.nonce,
        }
    }
}

impl State {
    fn saw(&mut self, stream: u64, type_url: &str, seen: Seen) {
        let event = Event { t_ms: self.began.elapsed().as_millis(), stream, kind: short(type_url).to_owned(), seen };
        if let Some(log) = &mut self.log {
            let line = serde_json::to_string(&event).unwrap_or_else(|error| error.to_string());
            // Nobody reads it any more: the server goes on.
            let _ = writeln!(log, "{line}");
        }
        self.events.push(event);
    }

    /// Sends every stream what it wants of what has changed.
    pub(super) fn push(&mut self) {
        if self.mute {
            return;
        }
        let mut replies: Vec<(u64, Reply)> = Vec::new();
        for (number, live) in &mut self.streams {
            let world = self.of_nodes.get(&live.node).unwrap_or(&self.world);
            let of: Vec<Reply> = match live.delta {
                true => live.subscriber.delta_changes(world).into_iter().map(Into::into).collect(),
                false => live.subscriber.sotw_changes(world).into_iter().map(Into::into).collect(),
            };
            replies.extend(of.into_iter().map(|reply| (*number, reply)));
        }
        replies.into_iter().for_each(|(number, reply)| self.reply(number, reply));
    }

    fn reply(&mut self, number: u64, reply: Reply) {
        let at = Instant::now() + self.delay;
        let Some(live) = self.streams.get_mut(&number) else { return };
        let Reply { type_url, version, nonce, names, removed, message } = reply;
        live.given.insert((type_url.clone(), nonce.clone()), version.clone());
        live.last.insert(type_url.clone(), nonce.clone());
        // Seen before it is sent: an answer must not be seen first.
        let outgoing = live.outgoing.clone();
        self.saw(number, &type_url, Seen::Response { version, nonce, names, removed });
        if outgoing.try_send((at, Outgoing::Message(message))).is_err() {
            self.close(number, "too slow, or gone");
        }
    }

    pub(super) fn send_all(&mut self, message: impl Fn(bool) -> Outgoing) {
        let at = Instant::now() + self.delay;
        for live in self.streams.values() {
            // One that is gone will be noticed.
            let _ = live.outgoing.try_send((at, message(live.delta)));
        }
    }

    pub(super) fn end(&mut self, status: &Status) {
        self.send_all(|_| Outgoing::End(status.clone()));
        self.end_all(status.message());
    }

    pub(super) fn end_all(&mut self, why: &str) {
        let numbers: Vec<u64> = self.streams.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close(number, why));
    }

    fn open(&mut self, delta: bool, method: &str, metadata: BTreeMap<String, String>) -> (u64, Outbox) {
        self.numbers += 1;
        let number = self.numbers;
        let (outgoing, waiting) = mpsc::channel(WAITING);
        let (subscriber, given, last) = (Subscriber::default(), HashMap::new(), HashMap::new());
        self.streams.insert(number, Live { subscriber, node: String::new(), delta, outgoing, given, last });
        self.saw(number, "", Seen::Opened { method: method.to_owned(), metadata });
        (number, waiting)
    }

    fn close(&mut self, number: u64, why: &str) {
        if self.streams.remove(&number).is_some() {
            self.saw(number, "", Seen::Closed { why: why.to_owned() });
        }
    }

    fn received(&mut self, number: u64, message: &Bytes) {
        let Some(live) = self.streams.get(&number) else { return };
        let reply = if live.delta {
            let Ok(request) = DeltaDiscoveryRequest::decode(message.clone()) else {
                return self.saw(number, "", Seen::Garbage);
            };
            let seen = Seen::Request {
                names: request.resource_names_subscribe.clone(),
                unsubscribed: request.resource_names_unsubscribe.clone(),
                version: String::new(),
                initial: request.initial_resource_versions.clone().into_iter().collect(),
                nonce: request.response_nonce.clone(),
                node: request.node.as_ref().map(|node| node.id.clone()),
            };
            self.heard(number, (&request.type_url, &request.response_nonce), request.error_detail.as_ref(), seen);
            let live = self.streams.get_mut(&number);
            live.and_then(|live| {
                let world = self.of_nodes.get(&live.node).unwrap_or(&self.world);
                live.subscriber.delta(world, &request)
            })
            .map(Reply::from)
        } else {
            let Ok(request) = DiscoveryRequest::decode(message.clone()) else {
                return self.saw(number, "", Seen::Garbage);
            };
            let seen = Seen::Request {
                names: request.resource_names.clone(),
                unsubscribed: Vec::new(),
                version: request.version_info.clone(),
                initial: BTreeMap::new(),
                nonce: request.response_nonce.clone(),
                node: request.node.as_ref().map(|node| node.id.clone()),
            };
            self.heard(number, (&request.type_url, &request.response_nonce), request.error_detail.as_ref(), seen);
            let live = self.streams.get_mut(&number);
            live.and_then(|live| {
                let world = self.of_nodes.get(&live.node).unwrap_or(&self.world);
                live.subscriber.sotw(world, &request)
            })
            .map(Reply::from)
        };
        let withheld = |reply: &Reply| self.mute || self.withhold.as_ref() == Some(&reply.type_url);
        if let Some(reply) = reply.filter(|reply| !withheld(reply)) {
            self.reply(number, reply);
        }
    }

    /// A request of a type; its nonce says which response it answers.
    fn heard(&mut self, number: u64, (type_url, nonce): (&str, &str), error: Option<&rpc::Status>, seen: Seen) {
        if let Seen::Request { node: Some(node), .. } = &seen
            && let Some(live) = self.streams.get_mut(&number)
        {
            live.node.clone_from(node);
        }
        self.saw(number, type_url, seen);
        let error = error.map(|error| error.message.clone());
        if nonce.is_empty() {
            return;
        }
        let Some(live) = self.streams.get(&number) else { return };
        let given = live.given.get(&(type_url.to_owned(), nonce.to_owned())).cloned();
        let last = live.delta || live.last.get(type_url).is_some_and(|last| last == nonce);
        let seen = match (given, error) {
            (Some(version), Some(error)) => Seen::Nack { version, error },
            (Some(version), None) if last => Seen::Ack { version },
            // What was sent as it is has no version here.
            (None, Some(error)) => Seen::Nack { version: String::new(), error },
            _ => Seen::Stale { nonce: nonce.to_owned() },
        };
        self.saw(number, type_url, seen);
    }
}

type Outbox = mpsc::Receiver<(Instant, Outgoing)>;
type Out = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// A method's stream.
struct Method {
    shared: Arc<Shared>,
    path: String,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Out;
    type Future = std::future::Ready<Result<Response<Out>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        std::future::ready(self.open(request).map(Response::new))
    }
}

impl Method {
    fn open(&self, request: Request<Streaming<Bytes>>) -> Result<Out, Status> {
        let method = self.path.rsplit('/').next().unwrap_or_default();
        let delta = match method {
            method if method.starts_with("Delta") => true,
            method if method.starts_with("Stream") => false,
            method => return Err(Status::unimplemented(format!("no method {method}"))),
        };
        let mut state = self.shared.state();
        if let Some(status) = &state.refuse {
            return Err(status.clone());
        }
        let headers = request.metadata().clone().into_headers();
        let own = ["te", "content-type", "user-agent"];
        let metadata = headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let metadata =
            metadata.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        let (number, waiting) = state.open(delta, &self.path, metadata.collect());
        drop(state);
        let (shared, mut requests) = (self.shared.clone(), request.into_inner());
        tokio::spawn(async move {
            loop {
                match requests.next().await {
                    Some(Ok(message)) => shared.state().received(number, &message),
                    Some(Err(status)) => return shared.state().close(number, status.message()),
                    None => return shared.state().close(number, "the client is done"),
                }
            }
        });
        let out = stream::unfold(Some(waiting), |waiting| async {
            let mut waiting = waiting?;
            let (at, outgoing) = waiting.recv().await?;
            tokio::time::sleep_until(at.into()).await;
            match outgoing {
                Outgoing::Message(message) => Some((Ok(message), Some(waiting))),
                Outgoing::End(status) => Some((Err(status), None)),
            }
        });
        Ok(Box::pin(out))
    }
}

/// Messages as bytes.
#[derive(Clone, Copy, Debug, Default)]
struct AsBytes;

impl Codec for AsBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsBytes {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// A socket that listens.
pub(super) enum Listener {
    Tcp(TcpListener, Option<tokio_rustls::TlsAcceptor>),
    Pipe(UnixListener),
}

pub(super) async fn bind(listen: Listen) -> io::Result<Listener> {
    Ok(match listen {
        Listen::Tcp(address) => Listener::Tcp(bind_tcp(address).await?, None),
        Listen::Tls(address, config) => Listener::Tcp(bind_tcp(address).await?, Some(config.into())),
        Listen::Pipe(path) => {
            // What was left by the last one.
            let _ = std::fs::remove_file(&path);
            Listener::Pipe(UnixListener::bind(path)?)
        }
    })
}

/// The port is this server's, but connections of the last time that it listened may not be quite over.
async fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            bound => return bound,
        }
    }
}

/// Serves for as long as it is polled, and what it accepts with it.
pub(super) async fn serve(listener: Listener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let shared = shared.clone();
        match &listener {
            Listener::Tcp(listener, tls) => {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                match tls.clone() {
                    None => drop(connections.spawn(connection(stream, shared))),
                    Some(tls) => drop(connections.spawn(async move {
                        // Who fails at the handshake comes again.
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(stream, shared).await;
                        }
                    })),
                }
            }
            Listener::Pipe(listener) => {
                let Ok((stream, _)) = listener.accept().await else { continue };
                connections.spawn(connection(stream, shared));
            }
        }
    }
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (shared, path) = (shared.clone(), request.uri().path().to_owned());
        async move {
            let mut grpc = Grpc::new(AsBytes).apply_max_message_size_config(Some(usize::MAX), Some(usize::MAX));
            Ok::<_, std::convert::Infallible>(grpc.streaming(Method { shared, path }, request).await)
        }
    });
    // Its end is seen by its streams.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
}
