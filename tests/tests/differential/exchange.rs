//! Requests as raw bytes, and responses taken apart far enough to compare them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// How long to wait for the end of a response.
const PATIENCE: Duration = Duration::from_secs(8);

/// What came back, without what differs between any two runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status lines, interim ones first.
    pub status: Vec<String>,
    /// Header values in order, by name.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body, decoded.
    pub body: String,
    /// How the body ended.
    pub end: End,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As its framing says, and the connection stayed open.
    Whole,
    /// As its framing says, and the connection was closed.
    WholeThenClosed,
    /// The connection was closed before.
    Truncated,
    /// Nothing came.
    Nothing,
}

/// Sends `request` and reads one response.
pub fn exchange(to: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).expect("connect to the proxy");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    // A proxy may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let head = request.starts_with(b"HEAD ");
    read_answer(&mut stream, head)
}

/// Sends one request after another on the same connection.
pub fn pipelined(to: SocketAddr, requests: &[Vec<u8>]) -> Vec<Answer> {
    let mut stream = TcpStream::connect(to).expect("connect to the proxy");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    requests
        .iter()
        .map(|request| {
            let _ = stream.write_all(request);
            read_answer(&mut stream, false)
        })
        .collect()
}

/// Sends `request`, waits for the response's head, sends `then`, and reads until `want` bytes or the end.
pub fn upgraded(to: SocketAddr, request: &[u8], then: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(to).expect("connect to the proxy");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    stream.write_all(request).expect("send the request");
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
        if read_some(&mut stream, &mut bytes) == 0 {
            break bytes.len();
        }
    };
    let mut rest = bytes.split_off(head);
    stream.write_all(then).expect("send on the upgraded connection");
    while rest.len() < then.len() && read_some(&mut stream, &mut rest) > 0 {}
    let _ = stream.shutdown(Shutdown::Write);
    while read_some(&mut stream, &mut rest) > 0 {}
    let mut lines: Vec<_> = String::from_utf8_lossy(&bytes)
        .trim_end()
        .lines()
        .map(str::to_ascii_lowercase)
        .filter(|line| !line.starts_with("date:"))
        .collect();
    lines.sort();
    (lines.join("\n"), String::from_utf8_lossy(&rest).into_owned())
}

fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>) -> usize {
    let mut buffer = [0; 65536];
    match stream.read(&mut buffer) {
        Ok(length) => {
            into.extend_from_slice(&buffer[..length]);
            length
        }
        Err(_) => 0,
    }
}

fn read_answer(stream: &mut TcpStream, head_request: bool) -> Answer {
    let mut bytes = Vec::new();
    let mut answer = Answer { status: Vec::new(), headers: BTreeMap::new(), body: String::new(), end: End::Nothing };
    loop {
        let Some(end) = find(&bytes, b"\r\n\r\n") else {
            if read_some(stream, &mut bytes) == 0 {
                return answer;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes.drain(..end + 4);
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().to_owned();
        let interim = status.split(' ').nth(1).is_some_and(|code| code.starts_with('1') && code != "101");
        answer.status.push(status);
        if interim {
            continue;
        }
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            answer.headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
        }
        break;
    }
    read_body(stream, bytes, head_request, &mut answer);
    normalize(&mut answer);
    answer
}

fn read_body(stream: &mut TcpStream, mut bytes: Vec<u8>, head_request: bool, answer: &mut Answer) {
    let header = |name: &str| answer.headers.get(name).and_then(|values| values.first()).cloned();
    let code = answer.status.last().and_then(|status| status.split(' ').nth(1)).unwrap_or_default().to_owned();
    let bodiless = head_request || code == "204" || code == "304";
    let chunked = header("transfer-encoding").is_some_and(|encoding| encoding == "chunked");
    let length: Option<usize> = header("content-length").and_then(|length| length.parse().ok());
    let whole = if bodiless {
        true
    } else if chunked {
        loop {
            if let Some(body) = dechunk(&bytes) {
                bytes = body;
                break true;
            }
            if read_some(stream, &mut bytes) == 0 {
                break false;
            }
        }
    } else if let Some(length) = length {
        while bytes.len() < length && read_some(stream, &mut bytes) > 0 {}
        bytes.len() >= length
    } else {
        while read_some(stream, &mut bytes) > 0 {}
        true
    };
    answer.body = String::from_utf8_lossy(&bytes).into_owned();
    answer.end = match whole {
        false => End::Truncated,
        true if is_closed(stream) => End::WholeThenClosed,
        true => End::Whole,
    };
}

/// Whether the other side closes within a moment.
fn is_closed(stream: &mut TcpStream) -> bool {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(150)));
    let closed = matches!(stream.read(&mut [0; 1]), Ok(0));
    let _ = stream.set_read_timeout(Some(PATIENCE));
    closed
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = find(bytes, b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.trim(), 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return find(bytes, b"\r\n").map(|_| body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn normalize(answer: &mut Answer) {
    // To an HTTP/1.0 client some answer in its version, and closing goes without saying.
    for status in &mut answer.status {
        if let Some(rest) = status.strip_prefix("HTTP/1.0") {
            *status = format!("HTTP/1.1{rest}");
            answer.headers.insert("connection".into(), vec!["close".into()]);
        }
    }
    // Who says "close" may take a moment to do it.
    if answer.end == End::Whole && answer.headers.get("connection").is_some_and(|values| values[0] == "close") {
        answer.end = End::WholeThenClosed;
    }
    answer.headers.remove("date");
    for (name, replacement) in [("x-envoy-upstream-service-time", "<ms>"), ("x-request-id", "<id>")] {
        if let Some(values) = answer.headers.get_mut(name) {
            values.iter_mut().for_each(|value| value.replace_range(.., replacement));
        }
    }
    answer.body = joined(&answer.body)
        .lines()
        .map(|line| match line.strip_prefix("x-request-id: ") {
            Some(id) if id.len() == 36 => "x-request-id: <id>".to_owned(),
            // What is left of the timeout for a retry.
            _ if line.starts_with("x-envoy-expected-rq-timeout-ms: 14") => {
                "x-envoy-expected-rq-timeout-ms: <what is left>".to_owned()
            }
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    if answer.headers.contains_key("x-order") {
        // An echo, whose length depends on how values are joined; the echo itself is compared.
        answer.headers.remove("content-length");
    }
}

/// Values of one header in one line: Envoy joins those of some headers and not of others, which means the same.
fn joined(echo: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in echo.lines() {
        let same = line.split_once(": ").filter(|(name, _)| {
            lines.last().and_then(|last| last.split_once(": ")).is_some_and(|(last, _)| last == *name)
        });
        match (same, lines.last_mut()) {
            (Some((_, value)), Some(last)) => last.push_str(&format!(",{value}")),
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}
