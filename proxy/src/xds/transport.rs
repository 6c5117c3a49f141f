//! Streams of discovery requests and responses: gRPC over one HTTP/2 connection.
//!
//! A response is decoded once all of it is there, so its length is limited: a server that sends more loses its stream.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{Uri, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{mpsc, oneshot},
};
use tonic::{
    Status,
    client::{Grpc, GrpcService},
    metadata::MetadataMap,
};
use tonic_prost::ProstCodec;

use super::{
    dial::{Dial, Wire},
    kind::{Kind, Protocol},
    mux::{Request, Response},
};
use crate::{config::http2::Keepalive, wire::executor::LocalExecutor};

/// No response may be longer, in bytes, whatever is configured.
pub const LONGEST_RESPONSE: usize = 64 << 20;
/// Requests that may wait for the connection; more are made only when there is room.
const WAITING: usize = 16;
/// The most that HTTP/2 lets a server send ahead, in bytes: responses are long, and read at once.
const WINDOW: u32 = 1 << 20;

/// Which service a stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// All types.
    Aggregated,
    /// One type.
    Only(Kind),
}

impl Service {
    /// The path of its method.
    pub fn path(self, protocol: Protocol) -> String {
        let (service, method) = match (self, protocol) {
            (Self::Only(kind), protocol) => kind.method(protocol),
            (Self::Aggregated, Protocol::Sotw) => (AGGREGATED, "StreamAggregatedResources"),
            (Self::Aggregated, Protocol::Delta) => (AGGREGATED, "DeltaAggregatedResources"),
        };
        format!("/{service}/{method}")
    }
}

const AGGREGATED: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// `connection_keepalive`: PINGs of HTTP/2. They notice a server that hangs, where [`dial::watch`](super::dial::watch)
/// notices one that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// How often.
    pub interval: Duration,
    /// The connection is closed unless one is answered within.
    pub timeout: Duration,
}

impl Default for Pings {
    /// Where nothing is configured, as often as every gRPC server allows: many end connections that send more than one in
    /// five minutes.
    fn default() -> Self {
        Self { interval: Duration::from_secs(310), timeout: Duration::from_secs(20) }
    }
}

impl From<Keepalive> for Pings {
    fn from(keepalive: Keepalive) -> Self {
        Self { interval: keepalive.interval, timeout: keepalive.timeout }
    }
}

/// A management server.
pub struct Target {
    /// What it is called in logs: the cluster's name, or the target URI.
    pub name: String,
    /// How it is connected to.
    pub dial: Box<dyn Dial>,
    /// `:authority`.
    pub authority: String,
    /// Sent with every stream (`initial_metadata`).
    pub metadata: MetadataMap,
    /// Whether it still answers.
    pub pings: Pings,
    /// No response may be longer, in bytes.
    pub longest: usize,
    /// It must have begun to speak within, once there is a connection.
    pub timeout: Duration,
}

/// A stream that is open.
pub(super) struct Open {
    /// Where requests go. It has room for what is made at once.
    pub(super) requests: mpsc::Sender<Request>,
    /// What comes. It ends with the reason.
    pub(super) responses: Pin<Box<dyn Stream<Item = Result<Response, Status>>>>,
}

impl Target {
    /// Opens a stream. Requests can be sent at once: a server need not say anything before it has one.
    pub(super) async fn open(&self, service: Service, protocol: Protocol) -> Result<Open, String> {
        let metadata = self.metadata.clone();
        let wire = self.dial.dial().await?;
        let mut builder = http2::Builder::new(LocalExecutor::default());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let Pings { interval, timeout } = self.pings;
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        let (heard, first) = oneshot::channel();
        let wire = Heard { wire, heard: Some(heard) };
        let shaken = tokio::time::timeout(self.timeout, builder.handshake(TokioIo::new(wire))).await;
        let (mut sender, connection) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => return Err(format!("no HTTP/2: {error}")),
            Err(_) => return Err(format!("no HTTP/2 within {:?}", self.timeout)),
        };
        // Ends with the stream, which is its only one.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a management server ended");
            }
        });
        // Every server sends its SETTINGS at once: one that does not hangs, and another may be of more use.
        match tokio::time::timeout(self.timeout, first).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err("no HTTP/2: the connection ended before the server said anything".to_owned()),
            Err(_) => return Err(format!("the server said nothing within {:?}", self.timeout)),
        }
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| format!("no HTTP/2: {error}"))?;
        let origin = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query("/").build();
        let origin = origin.map_err(|error| format!("authority {:?}: {error}", self.authority))?;
        let path = PathAndQuery::try_from(service.path(protocol)).map_err(|error| error.to_string())?;
        let grpc = Grpc::with_origin(Sender(sender), origin).max_decoding_message_size(self.longest);
        let (requests, waiting) = mpsc::channel(WAITING);
        let responses = match protocol {
            Protocol::Sotw => {
                let waiting = only(waiting, |request| match request {
                    Request::Sotw(request) => Some(request),
                    Request::Delta(_) => None,
                });
                responses(grpc, metadata, path, waiting, Response::Sotw)
            }
            Protocol::Delta => {
                let waiting = only(waiting, |request| match request {
                    Request::Delta(request) => Some(request),
                    Request::Sotw(_) => None,
                });
                responses(grpc, metadata, path, waiting, Response::Delta)
            }
        };
        Ok(Open { requests, responses })
    }
}

/// The requests of one protocol.
fn only<T>(mut waiting: mpsc::Receiver<Request>, of: fn(Request) -> Option<T>) -> impl Stream<Item = T> + Send + 'static
where
    T: Send + 'static,
{
    stream::poll_fn(move |cx| waiting.poll_recv(cx)).filter_map(move |request| std::future::ready(of(request)))
}

/// Begins a call: what comes, from the first on.
fn responses<T, U>(
    mut grpc: Grpc<Sender>,
    metadata: MetadataMap,
    path: PathAndQuery,
    requests: impl Stream<Item = T> + Send + 'static,
    wrap: fn(U) -> Response,
) -> Pin<Box<dyn Stream<Item = Result<Response, Status>>>>
where
    T: Message + Send + Sync + 'static,
    U: Message + Default + Send + Sync + 'static,
{
    let begun = async move {
        let mut request = tonic::Request::new(requests);
        *request.metadata_mut() = metadata;
        let response = grpc.streaming(request, path, ProstCodec::<T, U>::default()).await?;
        Ok::<_, Status>(response.into_inner().map_ok(wrap))
    };
    Box::pin(stream::once(begun).try_flatten())
}

/// Tells when the first bytes have come.
struct Heard {
    wire: Box<dyn Wire>,
    heard: Option<oneshot::Sender<()>>,
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(cx, into);
        if into.filled().len() > before
            && let Some(heard) = self.heard.take()
        {
            // Who waited may have given up.
            let _ = heard.send(());
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// The one connection, as tonic wants it.
struct Sender(http2::SendRequest<tonic::body::Body>);

impl GrpcService<tonic::body::Body> for Sender {
    type ResponseBody = hyper::body::Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<hyper::body::Incoming>, hyper::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_its_path() {
        let path = |service: Service, protocol| service.path(protocol);
        let aggregated = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
        assert_eq!(path(Service::Aggregated, Protocol::Sotw), format!("{aggregated}StreamAggregatedResources"));
        assert_eq!(path(Service::Aggregated, Protocol::Delta), format!("{aggregated}DeltaAggregatedResources"));
        assert_eq!(
            path(Service::Only(Kind::Secret), Protocol::Delta),
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
        );
    }
}
