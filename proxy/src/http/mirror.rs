//! Copies of requests, sent to other clusters, whose answers nobody sees.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header, request::Parts};
use http_body::Frame;
use hyper::body::Body;

use super::{
    attempts::upstream_request,
    downstream::Connection,
    headers::forwarded,
    pool::{Speaks, Want},
    request_body::{BodyError, ClientBody, RequestBody},
    stream::Stream,
    upstream::{asked, naming_header},
};
use crate::{
    cluster::PickContext,
    config::{
        cluster::{Cluster, RoutingPriority},
        route::{Forward, Mirror},
    },
};

/// A body that is copied while it passes.
#[derive(Debug)]
pub(super) struct Copied {
    waiting: VecDeque<Piece>,
    bytes: usize,
    /// More than this may not wait: a mirror that is slower than the request is given up.
    limit: usize,
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Ended,
    Broken,
}

impl Copied {
    fn new(limit: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { waiting: VecDeque::new(), bytes: 0, limit, state: State::Coming, waker: None }))
    }

    /// A frame has passed.
    pub fn add(&mut self, frame: &Frame<Bytes>) {
        if self.state != State::Coming {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.waiting.push_back(Piece::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.waiting.push_back(Piece::Trailers(trailers.clone()));
        }
        if self.bytes > self.limit {
            self.waiting.clear();
            self.state = State::Broken;
        }
        self.wake();
    }

    /// The body has ended, or broken off.
    pub fn end(&mut self, complete: bool) {
        if self.state == State::Coming {
            self.state = if complete { State::Ended } else { State::Broken };
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next frame of the copy.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (self.waiting.pop_front(), self.state) {
            (Some(Piece::Data(data)), _) => {
                self.bytes -= data.len();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            (Some(Piece::Trailers(trailers)), _) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (None, State::Ended) => Poll::Ready(None),
            (None, State::Broken) => Poll::Ready(Some(Err(BodyError::Superseded))),
            (None, State::Coming) => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.state == State::Ended
    }
}

/// Sends copies of a request where its route says. The request is as the upstream gets it.
pub(super) fn start(
    stream: &Stream,
    forward: &Forward,
    parts: &Parts,
    body: &mut ClientBody,
    timeout: Option<Duration>,
) {
    for mirror in &forward.mirrors {
        if !mirror.fraction.is_none_or(|fraction| fraction.sample()) {
            continue;
        }
        let snapshot = stream.connection.worker.snapshot.load();
        let Some(cluster) = snapshot.cluster(&mirror.cluster).cloned() else { continue };
        let copy = if stream.record.progress.is_some() {
            let copied = Copied::new(stream.connection.manager.buffer_limit);
            body.copy_to(copied.clone());
            RequestBody::Copy(copied)
        } else {
            RequestBody::Empty
        };
        let connection = stream.connection.clone();
        let mut parts = parts.clone();
        prepare(mirror, &connection, &mut parts);
        tokio::task::spawn_local(async move {
            let sending = send(connection, cluster, parts, copy);
            match timeout {
                Some(timeout) => tokio::time::timeout(timeout, sending).await.unwrap_or_default(),
                None => sending.await,
            };
        });
    }
}

fn prepare(mirror: &Mirror, connection: &Connection, parts: &mut Parts) {
    if let Some(host) = &mirror.host {
        parts.headers.insert(header::HOST, host.clone());
    } else if mirror.suffix
        && let Some(host) = parts.headers.get(header::HOST).and_then(|host| shadow_host(host.as_bytes()))
    {
        parts.headers.insert(header::HOST, host);
    }
    forwarded::from_here(&connection.manager, &mut parts.headers);
}

/// `-shadow` is appended to a host, before its port.
fn shadow_host(host: &[u8]) -> Option<HeaderValue> {
    let bare = crate::config::route::without_port(host);
    let (bare, port) = host.split_at(bare.len());
    HeaderValue::from_bytes(&[bare, b"-shadow", port].concat()).ok()
}

/// Sends a copy and reads the answer, if there is one, to its end.
async fn send(connection: Rc<Connection>, cluster: Arc<Cluster>, parts: Parts, body: RequestBody) {
    let context = PickContext { destination: connection.original_destination(), ..PickContext::default() };
    let Some(endpoint) = connection.worker.balancers.pick(&cluster, &context) else { return };
    let name = naming_header(&cluster, &parts.headers);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    let want = Want {
        cluster: &cluster,
        endpoint: &endpoint,
        dialer: &connection.dialer,
        scope: &connection.scope,
        speaks: Speaks::to(&cluster, connection.multiplexed),
        transport: cluster.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(&cluster, name.as_ref(), &endpoint.hostname),
        shard: &connection.worker.stats,
        priority: RoutingPriority::Default,
        client: connection.client(),
    };
    // A pooled connection that has just closed took nothing of the request: another one is tried.
    let (response, lease) = loop {
        let Ok(mut lease) = connection.worker.pools.acquire(want).await else { return };
        let scheme = if connection.tls.is_some() { "https" } else { "http" };
        let Some(converted) = upstream_request(request, lease.is_http2(), scheme) else { return };
        request = converted;
        match lease.send(request).await {
            Ok(response) => break (response, lease),
            Err(mut error) => match error.take_message() {
                Some(unsent) if lease.reused => request = unsent,
                _ => return,
            },
        }
    };
    let mut answer = response.into_body();
    while !answer.is_end_stream() {
        match std::future::poll_fn(|cx| std::pin::Pin::new(&mut answer).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => break,
        }
    }
    lease.release();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_copies() {
        assert_eq!(shadow_host(b"a.test").unwrap(), "a.test-shadow");
        assert_eq!(shadow_host(b"a.test:80").unwrap(), "a.test-shadow:80");
    }

    #[tokio::test]
    async fn a_copy_that_falls_behind_breaks_off() {
        let copied = Copied::new(3);
        copied.borrow_mut().add(&Frame::data(Bytes::from_static(b"abc")));
        let frame = std::future::poll_fn(|cx| copied.borrow_mut().poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "abc");
        copied.borrow_mut().add(&Frame::data(Bytes::from_static(b"abcd")));
        let frame = std::future::poll_fn(|cx| copied.borrow_mut().poll_frame(cx)).await;
        assert!(matches!(frame, Some(Err(BodyError::Superseded))));
    }
}
