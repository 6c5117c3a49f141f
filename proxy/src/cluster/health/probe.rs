//! Asking a host how it is: over TCP, HTTP or gRPC.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tracker::{Checked, Failure};
use crate::{
    cluster::dial,
    config::{
        cluster::health::{GrpcProbe, HttpProbe, TcpProbe},
        headers::{Addition, Append, Value},
        tls::Transport,
    },
    telemetry::stats::{Counter, Shard},
    tls::client::Asked,
    view::ViewId,
    wire::{dial::Dialer, executor::LocalExecutor, io::Io, race::Preference, socket::SocketSettings},
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const USER_AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// The host says that it is there but should be used last.
const DEGRADED: &str = "x-envoy-degraded";
/// Which service answers (Envoy's own health check filter says so).
const CHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";
/// No more of a body than this is looked at, where the configuration sets no limit.
const BODY_LIMIT: usize = 1024 * 1024;

/// What is sent with a request. Of a gRPC message no length is announced.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Option<Bytes>,
    sized: bool,
}

impl Message {
    fn new(bytes: Bytes, sized: bool) -> Self {
        Self { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), sized }
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.sized {
            true => SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64),
            false => SizeHint::default(),
        }
    }
}

/// A connection that checks may share.
#[derive(Debug)]
pub(super) enum Session {
    Http1(http1::SendRequest<Message>),
    Http2(http2::SendRequest<Message>),
    Tcp(Io),
}

/// Where a check goes, and how.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub view: ViewId,
    pub to: SocketAddr,
    /// What its socket is given.
    pub socket: &'a SocketSettings,
    pub transport: &'a Transport,
    pub hostname: &'a str,
    pub timeout: Duration,
    pub shard: Shard,
    /// Counts answers whose service name is looked at.
    pub verified: Counter,
}

impl Session {
    fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
            Self::Tcp(stream) => {
                // Readable without anything asked: closed, or not to be trusted.
                let mut byte = [0; 1];
                stream.plain().is_some_and(|stream| {
                    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
                })
            }
        }
    }
}

async fn session(kept: &mut Option<Session>, way: &Way<'_>, http2: Option<bool>) -> Result<Session, Failure> {
    if let Some(mut session) = kept.take()
        && session.is_open()
    {
        return Ok(session);
    }
    let protocols: &[&str] = match http2 {
        None => &[],
        Some(false) => &["http/1.1"],
        Some(true) => &["h2"],
    };
    let asked = Asked { hostname: way.hostname, protocols, ..Asked::default() };
    let way = dial::Way {
        dialer: &Dialer::HOST,
        view: way.view,
        to: way.to,
        also: &[],
        preference: Preference::default(),
        timeout: way.timeout,
        transport: way.transport,
        asked,
        socket: way.socket,
        client: None,
        shard: &way.shard,
        filter_state: None,
        metadata: (None, None),
    };
    let stream = way.connect().await.map_err(|_| Failure::Network)?.io;
    match http2 {
        None => Ok(Session::Tcp(stream)),
        Some(false) => {
            let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Network)?;
            tokio::task::spawn_local(driver);
            Ok(Session::Http1(sender))
        }
        Some(true) => {
            let mut builder = http2::Builder::new(LocalExecutor::default());
            let made = builder.timer(TokioTimer::new()).handshake(TokioIo::new(stream)).await;
            let (sender, driver) = made.map_err(|_| Failure::Network)?;
            tokio::task::spawn_local(driver);
            Ok(Session::Http2(sender))
        }
    }
}

async fn exchange(session: &mut Session, request: Request<Message>) -> Result<http::Response<Incoming>, Failure> {
    let answered = match session {
        Session::Http1(sender) => sender.send_request(request).await,
        Session::Http2(sender) => sender.send_request(request).await,
        Session::Tcp(_) => return Err(Failure::Network),
    };
    answered.map_err(|_| Failure::Network)
}

/// One HTTP check.
pub(super) async fn http(probe: &HttpProbe, host: &str, way: &Way<'_>, kept: &mut Option<Session>) -> Checked {
    match try_http(probe, host, way, kept).await {
        Ok(checked) => checked,
        Err(failure) => Checked::Failed(failure),
    }
}

async fn try_http(
    probe: &HttpProbe,
    host: &str,
    way: &Way<'_>,
    kept: &mut Option<Session>,
) -> Result<Checked, Failure> {
    let mut session = session(kept, way, Some(probe.http2)).await?;
    let request = request(probe, host).ok_or(Failure::Network)?;
    let response = exchange(&mut session, request).await?;
    let (head, body) = response.into_parts();
    let (body, _) = read(body, if probe.buffer == 0 { BODY_LIMIT } else { probe.buffer }).await?;
    let keep = !asks_to_close(&head.headers);
    if keep {
        *kept = Some(session);
    }
    if let Some(failure) = unexpected(probe, head.status, &body) {
        return Err(failure);
    }
    if probe.service.is_some() {
        way.shard.inc(way.verified);
    }
    Ok(judge_http(probe, head.status, &head.headers))
}

/// Adds configured headers.
fn add(headers: &mut HeaderMap, additions: &[Addition]) {
    for Addition { name, value, append, .. } in additions {
        let Value::Fixed(value) = value else { continue };
        match append {
            Append::AppendIfExistsOrAdd => {
                headers.append(name, value.clone());
            }
            Append::AddIfAbsent if headers.contains_key(name) => {}
            Append::OverwriteIfExists if !headers.contains_key(name) => {}
            _ => {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// The timeout as gRPC writes it: at most eight digits.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match timeout.as_millis() {
        millis if millis <= MOST => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(MOST)),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("99999999S"))
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

fn request(probe: &HttpProbe, host: &str) -> Option<Request<Message>> {
    let mut request = Request::new(Message::new(probe.send.clone(), true));
    *request.method_mut() = probe.method.clone();
    if probe.http2 {
        *request.uri_mut() = format!("http://{host}{}", probe.path).parse().ok()?;
    } else {
        *request.uri_mut() = probe.path.parse().ok()?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(host).ok()?);
    }
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, USER_AGENT);
    for name in &probe.remove {
        headers.remove(name);
    }
    add(headers, &probe.add);
    if probe.method == Method::OPTIONS && probe.send.is_empty() {
        // It may have a body: as in Envoy, that it has none is said.
        headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
    Some(request)
}

/// What is wrong with an answer's status or body.
fn unexpected(probe: &HttpProbe, status: StatusCode, body: &[u8]) -> Option<Failure> {
    let code = status.as_u16();
    let among = |ranges: &[std::ops::Range<u16>]| ranges.iter().any(|range| range.contains(&code));
    if !among(&probe.expected) {
        return Some(Failure::Active { status: code, counted: among(&probe.retriable) });
    }
    let lacks = !probe.receive.is_empty() && !contains_in_order(&probe.receive, body);
    lacks.then_some(Failure::Active { status: code, counted: false })
}

/// What the headers of an answer make of it whose status and body are as expected.
fn judge_http(probe: &HttpProbe, status: StatusCode, headers: &HeaderMap) -> Checked {
    if let Some(service) = &probe.service {
        let name = headers.get(CHECKED_CLUSTER).map_or(&b""[..], HeaderValue::as_bytes);
        if !service.matches(name) {
            return Checked::Failed(Failure::Active { status: status.as_u16(), counted: false });
        }
    }
    Checked::Passed { degraded: headers.contains_key(DEGRADED) }
}

/// Reads a body to its end; of its bytes the first, up to `limit`, are kept, and so are its trailers.
async fn read(body: Incoming, limit: usize) -> Result<(Vec<u8>, Option<HeaderMap>), Failure> {
    let mut body = pin!(body);
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map_err(|_| Failure::Network)?.into_data() {
            Ok(data) => {
                let room = limit.saturating_sub(bytes.len());
                bytes.extend_from_slice(&data[..data.len().min(room)]);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes, trailers))
}

/// Whether `bytes` has all of `parts`, one after the other, with anything between them.
fn contains_in_order(parts: &[Bytes], bytes: &[u8]) -> bool {
    let mut rest = bytes;
    parts.iter().all(|part| match rest.windows(part.len().max(1)).position(|window| window == &part[..]) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => part.is_empty(),
    })
}

/// One call of `grpc.health.v1.Health/Check`.
pub(super) async fn grpc(probe: &GrpcProbe, host: &str, way: &Way<'_>, kept: &mut Option<Session>) -> Checked {
    match try_grpc(probe, host, way, kept).await {
        Ok(checked) => checked,
        Err(failure) => Checked::Failed(failure),
    }
}

async fn try_grpc(
    probe: &GrpcProbe,
    host: &str,
    way: &Way<'_>,
    kept: &mut Option<Session>,
) -> Result<Checked, Failure> {
    let mut session = session(kept, way, Some(true)).await?;
    let mut request = Request::new(Message::new(grpc_request(&probe.service), false));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{host}/grpc.health.v1.Health/Check").parse().map_err(|_| Failure::Network)?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(GRPC_TIMEOUT, grpc_timeout(way.timeout));
    add(headers, &probe.add);
    let response = exchange(&mut session, request).await?;
    let status = response.status();
    let in_head = response.headers().get("grpc-status").cloned();
    let degraded = response.headers().contains_key(DEGRADED);
    let (body, trailers) = read(response.into_body(), BODY_LIMIT).await?;
    let in_trailers = trailers.and_then(|mut trailers| trailers.remove("grpc-status"));
    *kept = Some(session);
    let ok = in_head.or(in_trailers).is_some_and(|status| status == "0");
    Ok(match status == StatusCode::OK && ok && is_serving(&body) {
        true => Checked::Passed { degraded },
        false => Checked::Failed(Failure::Active { status: 0, counted: false }),
    })
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame.
fn grpc_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        prost::encoding::string::encode(1, &service.to_owned(), &mut message);
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// Whether a gRPC frame is a `HealthCheckResponse { status = 1 }` that says SERVING (1).
fn is_serving(frame: &[u8]) -> bool {
    const HEAD: usize = 5;
    let Some(mut message) = frame.get(HEAD..) else { return false };
    if frame[0] != 0 {
        return false;
    }
    let mut serving = false;
    while message.has_remaining() {
        let Ok((tag, wire)) = prost::encoding::decode_key(&mut message) else { return false };
        if tag == 1 && wire == prost::encoding::WireType::Varint {
            let Ok(status) = prost::encoding::decode_varint(&mut message) else { return false };
            serving = status == 1;
        } else if prost::encoding::skip_field(wire, tag, &mut message, Default::default()).is_err() {
            return false;
        }
    }
    serving
}

/// One TCP check.
pub(super) async fn tcp(probe: &TcpProbe, way: &Way<'_>, kept: &mut Option<Session>) -> Checked {
    match try_tcp(probe, way, kept).await {
        Ok(()) => Checked::Passed { degraded: false },
        Err(failure) => Checked::Failed(failure),
    }
}

async fn try_tcp(probe: &TcpProbe, way: &Way<'_>, kept: &mut Option<Session>) -> Result<(), Failure> {
    let Session::Tcp(mut stream) = session(kept, way, None).await? else { return Err(Failure::Network) };
    if !probe.send.is_empty() {
        stream.write_all(&probe.send).await.map_err(|_| Failure::Network)?;
    }
    let mut bytes = Vec::new();
    while !probe.receive.is_empty() && !contains_in_order(&probe.receive, &bytes) {
        // The rest of the answer that was expected is at most what is kept; the timeout ends what never matches.
        let read = stream.read_buf(&mut bytes).await.map_err(|_| Failure::Network)?;
        if read == 0 || bytes.len() > BODY_LIMIT {
            return Err(Failure::Network);
        }
    }
    *kept = Some(Session::Tcp(stream));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_found_in_order() {
        let parts = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        assert!(contains_in_order(&parts, b"--one--two--"));
        assert!(!contains_in_order(&parts, b"two one"));
        assert!(!contains_in_order(&parts, b""));
        assert!(contains_in_order(&[], b""));
    }

    #[test]
    fn grpc_frames() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("a")[..], [0, 0, 0, 0, 3, 0x0a, 1, b'a']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 8, 2]));
        assert!(!is_serving(&[0, 0, 0, 0, 0]) && !is_serving(b""));
    }

    fn probe() -> HttpProbe {
        HttpProbe {
            host: "h".into(),
            path: "/".into(),
            method: Method::GET,
            send: Bytes::new(),
            receive: Vec::new(),
            buffer: 0,
            add: Vec::new(),
            remove: Vec::new(),
            expected: vec![200..201, 300..400],
            retriable: std::iter::once(500..600).collect(),
            service: None,
            http2: false,
        }
    }

    #[test]
    fn answers_are_judged_by_status_body_and_headers() {
        let probe = HttpProbe { receive: vec![Bytes::from_static(b"ok")], ..probe() };
        let judge = |status, body: &str, headers: &HeaderMap| {
            let status = StatusCode::from_u16(status).unwrap();
            let unexpected = unexpected(&probe, status, body.as_bytes());
            unexpected.map_or_else(|| judge_http(&probe, status, headers), Checked::Failed)
        };
        let none = HeaderMap::new();
        assert_eq!(judge(200, "ok", &none), Checked::Passed { degraded: false });
        assert_eq!(judge(399, "is ok.", &none), Checked::Passed { degraded: false });
        assert_eq!(judge(200, "no", &none), Checked::Failed(Failure::Active { status: 200, counted: false }));
        assert_eq!(judge(500, "ok", &none), Checked::Failed(Failure::Active { status: 500, counted: true }));
        assert_eq!(judge(404, "ok", &none), Checked::Failed(Failure::Active { status: 404, counted: false }));
        let degraded = HeaderMap::from_iter([(DEGRADED.parse().unwrap(), HeaderValue::from_static(""))]);
        assert_eq!(judge(200, "ok", &degraded), Checked::Passed { degraded: true });
    }
}
