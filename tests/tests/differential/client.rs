//! Clients: a request in the case file's words goes out over HTTP/1 or HTTP/2, and what comes back is told.

use std::time::Duration;

use bytes::Bytes;
use http::{Request as HttpRequest, Uri};
use tokio::{io::AsyncWriteExt, task::AbortHandle, time::timeout};

use super::{
    case::End,
    http1::{Head, Header, header},
    seen::{Observed, body_text, listed},
    upstream_h2::{headers_of, map_of},
    wire::{Buffered, PATIENCE, Wire},
};

/// A request of a case file: `METHOD PATH`, headers one a line, and after an empty line the body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
    pub trailers: Vec<Header>,
    /// Its end is not sent.
    pub open: bool,
}

/// A response, as far as it came.
#[derive(Debug, Default)]
pub struct Response {
    /// Status lines, interim ones first; of HTTP/2 the codes.
    pub status: Vec<String>,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
    pub trailers: Vec<Header>,
    /// How it or the connection ended, where that is looked at or is not as it should be.
    pub end: Option<String>,
}

impl Request {
    pub fn parse(text: &str, body_size: Option<usize>, trailers: &[String]) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end_matches('\n'), ""));
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default();
        let (method, path) = line.split_once(' ').unwrap_or((line, "/"));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: lines.map(header).collect(),
            body: body_size.map_or_else(|| body.as_bytes().to_vec(), |size| vec![b'x'; size]),
            trailers: trailers.iter().map(|line| header(line)).collect(),
            open: false,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    /// The bytes of it in HTTP/1.1; `host` and framing are added where they are not given.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.has("host") {
            head.push_str("host: any.test\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let chunked = !self.trailers.is_empty() || self.has("transfer-encoding");
        if !self.trailers.is_empty() && !self.has("transfer-encoding") {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !self.body.is_empty() && !chunked && !self.has("content-length") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !chunked {
            bytes.extend(&self.body);
            return bytes;
        }
        if !self.body.is_empty() {
            bytes.extend(format!("{:x}\r\n", self.body.len()).into_bytes());
            bytes.extend(&self.body);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n");
        for (name, value) in &self.trailers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

impl Response {
    /// What never came.
    fn nothing(end: impl Into<String>) -> Self {
        Self { status: vec!["(no response)".to_owned()], end: Some(end.into()), ..Self::default() }
    }

    /// Its final status code; 0 without one.
    pub fn code(&self) -> u16 {
        let line = self.status.last().map(String::as_str).unwrap_or_default();
        line.split(' ').find_map(|word| word.parse().ok()).unwrap_or(0)
    }

    /// Adds what is known of it.
    pub fn tell(&self, label: &str, ordered: bool, into: &mut Observed) {
        into.push((format!("{label} status"), self.status.join("\n")));
        if !self.headers.is_empty() {
            into.push((format!("{label} headers"), listed(&self.headers, ordered)));
            into.push((format!("{label} body"), body_text(&self.body)));
        }
        if !self.trailers.is_empty() {
            into.push((format!("{label} trailers"), listed(&self.trailers, false)));
        }
        if let Some(end) = &self.end {
            into.push((format!("{label} end"), end.clone()));
        }
    }
}

/// Sends bytes and reads one HTTP/1 response.
pub async fn exchange(connection: &mut Buffered, bytes: &[u8], method: &str, end: Option<End>) -> Response {
    // A proxy may answer and close before it has read everything: what it says is read all the same.
    let _ = timeout(PATIENCE, connection.wire.write_all(bytes)).await;
    let _ = connection.wire.flush().await;
    let mut response = Response::default();
    let head = loop {
        let Some(head) = Head::read(connection).await else {
            let silent = if connection.ended.is_some() { "" } else { "nothing came: " };
            let rest = String::from_utf8_lossy(&connection.bytes).into_owned();
            return Response::nothing(format!("{silent}{} {rest}", connection.end_so_far()));
        };
        response.status.push(head.line.clone());
        let code = head.line.split(' ').nth(1).unwrap_or_default();
        if code.starts_with('1') && code != "101" {
            continue;
        }
        break head;
    };
    let body = head.response_body(connection, method).await;
    response.headers = head.headers;
    response.body = body.bytes;
    response.trailers = body.trailers;
    if !body.whole {
        response.end = Some(format!("truncated, {}", connection.end_so_far()));
    } else if body.by_close {
        response.end = Some(format!("ended by {}", connection.end_so_far()));
    } else if let Some(end) = end {
        response.end = Some(connection.end(end == End::Closed).await);
    }
    response
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub struct Http2 {
    send: h2::client::SendRequest<Bytes>,
    /// A stream that stays open.
    stream: Option<(h2::SendStream<Bytes>, h2::RecvStream)>,
    driver: AbortHandle,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        // The stream ends with the connection, unannounced.
        if self.stream.is_some() {
            self.driver.abort();
        }
    }
}

impl Http2 {
    pub async fn start(wire: Wire) -> Result<Self, String> {
        let handshake = h2::client::handshake(wire);
        let (send, connection) = timeout(PATIENCE, handshake)
            .await
            .map_err(|_| "no HTTP/2 handshake".to_owned())?
            .map_err(|error| told(&error))?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, stream: None, driver: driver.abort_handle() })
    }

    /// Sends a request that does not end, and reads as much of its response as it has sent: the stream stays open.
    pub async fn begin(&mut self, request: &Request, secure: bool) -> Response {
        let mut response = Response::default();
        match timeout(PATIENCE, self.until_echoed(request, secure, &mut response)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => response.end = Some(error),
            Err(_) => response.end = Some("did not come".to_owned()),
        }
        response
    }

    async fn until_echoed(&mut self, request: &Request, secure: bool, into: &mut Response) -> Result<(), String> {
        let (coming, stream) = self.send(request, secure).await?;
        let (head, mut body) = coming.await.map_err(|error| told(&error))?.into_parts();
        into.status.push(head.status.as_u16().to_string());
        into.headers = headers_of(&head.headers);
        while into.body.len() < request.body.len() {
            let Some(chunk) = body.data().await else { return Err("ended".to_owned()) };
            into.body.extend_from_slice(&chunk.map_err(|error| told(&error))?);
        }
        self.stream = Some((stream, body));
        Ok(())
    }

    /// Resets the stream that is open.
    pub fn reset(&mut self) {
        if let Some((mut stream, _)) = self.stream.take() {
            stream.send_reset(h2::Reason::CANCEL);
        }
    }

    /// Sends a request; the response as far as it comes.
    pub async fn exchange(&mut self, request: &Request, secure: bool) -> Response {
        let mut response = Response::default();
        match timeout(PATIENCE, self.attempt(request, secure, &mut response)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => response.end = Some(error),
            Err(_) => response.end = Some("did not end".to_owned()),
        }
        if response.status.is_empty() {
            response.status.push("(no response)".to_owned());
        }
        response
    }

    /// Sends a request's head and body, and hands back what its response is read from.
    pub async fn send(
        &mut self,
        request: &Request,
        secure: bool,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), String> {
        let host = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = host.map_or("any.test", |(_, value)| value.as_str());
        let protocol = request.headers.iter().find(|(name, _)| name == ":protocol").map(|(_, value)| value.as_str());
        let uri = if request.method == "CONNECT" && protocol.is_none() {
            Uri::builder().authority(request.path.as_str()).build()
        } else {
            let scheme = if secure { "https" } else { "http" };
            Uri::builder().scheme(scheme).authority(authority).path_and_query(request.path.as_str()).build()
        };
        let uri = uri.map_err(|error| error.to_string())?;
        let mut head = HttpRequest::builder()
            .method(request.method.as_str())
            .uri(uri)
            .body(())
            .map_err(|error| error.to_string())?;
        let headers: Vec<_> = request
            .headers
            .iter()
            .filter(|(name, _)| name != ":protocol" && !name.eq_ignore_ascii_case("host"))
            .cloned()
            .collect();
        if let Some(protocol) = protocol {
            head.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        }
        *head.headers_mut() = map_of(&headers);
        let empty = request.body.is_empty() && request.trailers.is_empty();
        let mut send = self.send.clone().ready().await.map_err(|error| told(&error))?;
        let (coming, mut stream) = send.send_request(head, empty).map_err(|error| told(&error))?;
        if !request.body.is_empty() {
            let last = request.trailers.is_empty() && !request.open;
            stream.send_data(Bytes::from(request.body.clone()), last).map_err(|error| told(&error))?;
        }
        if !request.trailers.is_empty() {
            stream.send_trailers(map_of(&request.trailers)).map_err(|error| told(&error))?;
        }
        Ok((coming, stream))
    }

    async fn attempt(&mut self, request: &Request, secure: bool, into: &mut Response) -> Result<(), String> {
        let (coming, mut stream) = self.send(request, secure).await?;
        let (head, mut body) = coming.await.map_err(|error| told(&error))?.into_parts();
        into.status.push(head.status.as_u16().to_string());
        into.headers = headers_of(&head.headers);
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|error| told(&error))?;
            let _ = body.flow_control().release_capacity(chunk.len());
            into.body.extend_from_slice(&chunk);
        }
        if let Some(trailers) = body.trailers().await.map_err(|error| told(&error))? {
            into.trailers = headers_of(&trailers);
        }
        if request.open {
            let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            into.end = Some(reset.map_or_else(|error| told(&error), |reason| format!("RST_STREAM {reason:?}")));
        }
        Ok(())
    }
}

/// An error in the protocol's words.
fn told(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_go_away() => format!("GOAWAY {reason:?}"),
        Some(reason) => format!("RST_STREAM {reason:?}"),
        None => "connection lost".to_owned(),
    }
}

/// How long a client that gives up leaves what it abandons to the proxy.
pub const AFTER_ABANDON: Duration = Duration::from_millis(100);
