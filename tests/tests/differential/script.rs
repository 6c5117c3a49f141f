//! The built-in script: what a scripted server answers where no rule says otherwise, by the path.
//!
//! `/status/CODE`, `/slow/MS`, `/delay/SECONDS`, `/flaky/N/KEY` (503 N times for this path), `/size/BYTES`, `/head/BYTES`
//! (a header of so many bytes), `/heads/N` (so many headers), `/echo`
//! (what it saw), `/headers` (as httpbin), `/special/KIND` (answers that break the rules, or keep seldom kept ones),
//! `/websocket` (an echo after the upgrade; `/websocket/at-end` once the client has ended; `/websocket/leaves` and
//! `/websocket/resets` end the connection after the first of it); everything else gets 200 and `ok`.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{
    case::Rule,
    http1::{Header, header},
    seen::Request,
    upstream::Shared,
    wire::Wire,
};

/// What to do for a request.
#[derive(Debug)]
pub enum Answer {
    Response(Response),
    /// Bytes as they stand (HTTP/1).
    Raw(Vec<u8>),
    /// The same, and the end of the connection a moment later.
    RawThenClose(Vec<u8>, Duration),
    /// A reset.
    Reset,
}

/// A well-formed response.
#[derive(Debug, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
    pub trailers: Vec<Header>,
    pub body_delay: Option<Duration>,
}

impl Response {
    fn plain(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        Self { status, headers, body: body.into(), ..Self::default() }
    }

    /// What a rule says.
    pub fn of(rule: &Rule) -> Self {
        Self {
            status: rule.status.unwrap_or(200),
            headers: rule.headers.iter().map(|line| header(line)).collect(),
            body: rule.body_size.map_or_else(|| bytes(&rule.body), |size| vec![b'x'; size]),
            trailers: rule.trailers.iter().map(|line| header(line)).collect(),
            body_delay: rule.body_delay,
        }
    }

    /// Writes it as HTTP/1.1.
    pub async fn write(&self, to: &mut Wire, request: &Request) -> Option<()> {
        let named = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let bodiless = matches!(self.status, 204 | 304);
        if !self.trailers.is_empty() {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !bodiless && !named("content-length") && !named("transfer-encoding") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut rest = head.into_bytes();
        if request.line.starts_with("HEAD ") || bodiless {
            return to.write_all(&rest).await.ok();
        }
        // Else in one write: what a proxy does about a body that comes later is for those cases that ask for it.
        if let Some(delay) = self.body_delay {
            to.write_all(&rest).await.ok()?;
            rest.clear();
            tokio::time::sleep(delay).await;
        }
        if self.trailers.is_empty() {
            rest.extend(&self.body);
            return to.write_all(&rest).await.ok();
        }
        if !self.body.is_empty() {
            rest.extend(format!("{:x}\r\n", self.body.len()).into_bytes());
            rest.extend(&self.body);
            rest.extend(b"\r\n");
        }
        rest.extend(b"0\r\n");
        for (name, value) in &self.trailers {
            rest.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        rest.extend(b"\r\n");
        to.write_all(&rest).await.ok()
    }
}

/// The answer to a request; None ends the connection.
pub async fn answer(path: &str, request: &Request, shared: &Shared) -> Option<Answer> {
    let mut parts = path.split('?').next()?.split('/').skip(1);
    let kind = parts.next().unwrap_or_default();
    let argument = parts.next().unwrap_or_default();
    let response = match kind {
        "echo" => {
            let mut response = Response::plain(200, echo(request));
            response.headers.push(header("x-remove-me: 1"));
            response.headers.push(header("x-order: upstream"));
            response
        }
        "status" => Response::plain(argument.parse().unwrap_or(500), "scripted"),
        "slow" | "delay" => {
            let unit = if kind == "slow" { 0.001 } else { 1.0 };
            let pause = argument.parse::<f64>().unwrap_or(0.0) * unit;
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            Response::plain(200, "slow")
        }
        "flaky" if shared.count(path) <= argument.parse().unwrap_or(0) => Response::plain(503, "flaky"),
        "flaky" => Response::plain(200, echo(request)),
        "head" => {
            let mut response = Response::plain(200, "head");
            response.headers.push(("x-head".to_owned(), "x".repeat(argument.parse().unwrap_or_default())));
            response
        }
        "heads" => {
            let mut response = Response::plain(200, "heads");
            let count = argument.parse().unwrap_or_default();
            response.headers.extend((0..count).map(|number: usize| (format!("x-{number}"), "1".to_owned())));
            response
        }
        "size" => Response::plain(200, vec![b'x'; argument.parse().unwrap_or(0)]),
        "special" => return special(argument, request),
        _ => Response::plain(200, "ok"),
    };
    Some(Answer::Response(response))
}

/// What it saw, in an order that does not depend on the proxy's; without what differs in length or between any runs.
fn echo(request: &Request) -> String {
    format!("{}\n\n{}", request.line, String::from_utf8_lossy(&request.body))
}

fn special(kind: &str, request: &Request) -> Option<Answer> {
    let raw = |text: &str| Some(Answer::Raw(text.as_bytes().to_vec()));
    let closing = |text: &str, milliseconds| {
        Some(Answer::RawThenClose(text.as_bytes().to_vec(), Duration::from_millis(milliseconds)))
    };
    match kind {
        "close" => None,
        "reset" => Some(Answer::Reset),
        "garbage" => closing("this is not HTTP\r\n\r\n", 0),
        "half" => closing("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf a body", 50),
        "half-chunked" => closing("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", 50),
        "until-close" => closing("HTTP/1.1 200 OK\r\n\r\nuntil the end", 0),
        "chunked" => raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        "trailers" => {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n")
        }
        "hop-by-hop" => {
            raw("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n\
             upgrade: h2c\r\nserver: nginx\r\nx-envoy-upstream-service-time: 77\r\ncontent-length: 2\r\n\r\nok")
        }
        "no-content" => raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "not-modified" => raw("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"),
        "reason" => raw("HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n"),
        "http10" => closing("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 0),
        "continue" => raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "early-hints" => {
            raw("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
        "two-cookies" => raw("HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n"),
        "head" => raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        "big" => Some(Answer::Response(Response::plain(200, vec![b'x'; 1_000_000]))),
        "length" => Some(Answer::Response(Response::plain(200, request.body.len().to_string()))),
        _ => Some(Answer::Response(Response::plain(404, "the upstream knows no such script"))),
    }
}

/// A text as bytes; after `hex:` it is written in hexadecimal.
pub fn bytes(text: &str) -> Vec<u8> {
    text.strip_prefix("hex:").map_or_else(|| text.as_bytes().to_vec(), unhex)
}

/// Bytes written in hexadecimal, with or without spaces.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.chunks(2).map(|digits| pair(digits).unwrap_or_else(|| panic!("not hexadecimal: {text}"))).collect()
}
