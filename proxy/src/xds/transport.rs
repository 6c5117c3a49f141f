//! Streams of discovery requests and responses: gRPC over one HTTP/2 connection.
//!
//! A response is decoded once all of it is there, so its length is limited: a server that sends more loses its stream.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{Uri, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{
    Status,
    client::{Grpc, GrpcService},
    metadata::MetadataMap,
};
use tonic_prost::ProstCodec;

use super::{
    dial::Dial,
    kind::{Kind, Protocol},
    mux::{Request, Response},
};
use crate::wire::executor::LocalExecutor;

/// No response may be longer, in bytes.
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

/// `connection_keepalive`: PINGs of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// How often.
    pub interval: Duration,
    /// The connection is closed unless one is answered within.
    pub timeout: Duration,
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
    /// None: no PINGs.
    pub pings: Option<Pings>,
    /// The stream must be there within, once there is a connection.
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
        let wire = self.dial.dial().await?;
        let mut builder = http2::Builder::new(LocalExecutor::default());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        if let Some(Pings { interval, timeout }) = self.pings {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
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
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| format!("no HTTP/2: {error}"))?;
        let origin = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query("/").build();
        let origin = origin.map_err(|error| format!("authority {:?}: {error}", self.authority))?;
        let path = PathAndQuery::try_from(service.path(protocol)).map_err(|error| error.to_string())?;
        let grpc = Grpc::with_origin(Sender(sender), origin).max_decoding_message_size(LONGEST_RESPONSE);
        let (requests, waiting) = mpsc::channel(WAITING);
        let responses = match protocol {
            Protocol::Sotw => {
                let waiting = only(waiting, |request| match request {
                    Request::Sotw(request) => Some(request),
                    Request::Delta(_) => None,
                });
                responses(grpc, self.metadata.clone(), path, waiting, Response::Sotw)
            }
            Protocol::Delta => {
                let waiting = only(waiting, |request| match request {
                    Request::Delta(request) => Some(request),
                    Request::Sotw(_) => None,
                });
                responses(grpc, self.metadata.clone(), path, waiting, Response::Delta)
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
