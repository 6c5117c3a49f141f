//! A server that answers by a script in the path, well or badly.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// Requests seen, by case: what "the first two fail" counts.
type Seen = Arc<Mutex<HashMap<String, usize>>>;

/// A request as the server got it.
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Self { line: line.trim_end().to_owned(), headers, body: Vec::new() };
        if let Some(length) = request.header("content-length").and_then(|length| length.parse().ok()) {
            request.body = vec![0; length];
            reader.read_exact(&mut request.body).ok()?;
        } else if request.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).ok()?;
                request.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        Some(request)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// What the client is shown: everything, in an order that does not depend on the proxy's.
    fn echo(&self) -> String {
        let mut lines: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, _)| name != "x-case")
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        // Values of one header keep their order.
        lines.sort_by_key(|line| line.split(':').next().map(str::to_owned));
        format!("{}\n{}\n\n{}", self.line, lines.join("\n"), String::from_utf8_lossy(&self.body))
    }
}

/// Starts the server; it lives as long as the test.
pub fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the upstream");
    let address = listener.local_addr().expect("the upstream's address");
    let seen = Seen::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            thread::spawn(move || serve(stream, &seen));
        }
    });
    address
}

/// Starts a server that speaks first.
pub fn start_greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the greeter");
    let address = listener.local_addr().expect("the greeter's address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.write_all(b"220 hello\r\n");
                let mut line = [0; 64];
                if let Ok(length) = stream.read(&mut line) {
                    let _ = stream.write_all(&line[..length]);
                }
            });
        }
    });
    address
}

fn serve(stream: TcpStream, seen: &Seen) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        let path = request.path().to_owned();
        let mut parts = path.split('?').next()?.split('/').skip(1);
        let case = request.header("x-case").unwrap_or_default().to_owned();
        match parts.next()? {
            "echo" => answer(&mut writer, 200, &[("x-remove-me", "1"), ("x-order", "upstream")], &request.echo())?,
            "status" => {
                let code = parts.next()?.parse().ok()?;
                answer(&mut writer, code, &[], "scripted")?;
            }
            "slow" => {
                thread::sleep(Duration::from_millis(parts.next()?.parse().ok()?));
                answer(&mut writer, 200, &[], "slow")?;
            }
            "flaky" => {
                let failures: usize = parts.next()?.parse().ok()?;
                let mut seen = seen.lock().ok()?;
                let count = seen.entry(case).or_default();
                *count += 1;
                if *count <= failures {
                    answer(&mut writer, 503, &[], "flaky")?;
                } else {
                    answer(&mut writer, 200, &[], &request.echo())?;
                }
            }
            "special" => special(parts.next()?, &request, &mut reader, &mut writer)?,
            "websocket" => {
                writer
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
                    .ok()?;
                let mut bytes = [0; 1024];
                loop {
                    let length = reader.read(&mut bytes).ok()?;
                    if length == 0 {
                        return None;
                    }
                    writer.write_all(&bytes[..length]).ok()?;
                }
            }
            _ => answer(&mut writer, 404, &[], "the upstream knows no such script")?,
        }
    }
    None
}

/// Answers that break the rules, or keep rules that are seldom kept. None: the connection ends.
fn special(kind: &str, request: &Request, reader: &mut impl Read, writer: &mut TcpStream) -> Option<()> {
    let raw = |writer: &mut TcpStream, bytes: &[u8]| writer.write_all(bytes).ok();
    match kind {
        "close" => None,
        "reset" => {
            let _ = socket2::SockRef::from(&*writer).set_linger(Some(Duration::ZERO));
            // What is unread turns the close into a reset for sure.
            let _ = reader;
            None
        }
        "garbage" => {
            raw(writer, b"this is not HTTP\r\n\r\n")?;
            None
        }
        "half" => {
            raw(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf a body")?;
            thread::sleep(Duration::from_millis(50));
            None
        }
        "half-chunked" => {
            raw(writer, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
            thread::sleep(Duration::from_millis(50));
            None
        }
        "until-close" => {
            raw(writer, b"HTTP/1.1 200 OK\r\n\r\nuntil the end")?;
            None
        }
        "chunked" => {
            raw(writer, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        }
        "trailers" => raw(
            writer,
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n",
        ),
        "hop-by-hop" => raw(
            writer,
            b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n\
              upgrade: h2c\r\nserver: nginx\r\nx-envoy-upstream-service-time: 77\r\ncontent-length: 2\r\n\r\nok",
        ),
        "no-content" => raw(writer, b"HTTP/1.1 204 No Content\r\n\r\n"),
        "not-modified" => raw(writer, b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"),
        "reason" => raw(writer, b"HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n"),
        "http10" => {
            raw(writer, b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
            None
        }
        "continue" => raw(writer, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        "early-hints" => {
            raw(writer, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        }
        "two-cookies" => {
            raw(writer, b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n")
        }
        "head" => raw(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        "big" => {
            raw(writer, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")?;
            raw(writer, &vec![b'x'; 1_000_000])
        }
        "length" => answer(writer, 200, &[], &request.body.len().to_string()),
        _ => None,
    }
}

fn answer(writer: &mut TcpStream, code: u16, headers: &[(&str, &str)], body: &str) -> Option<()> {
    let mut head =
        format!("HTTP/1.1 {code} Scripted\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    writer.write_all(format!("{head}\r\n{body}").as_bytes()).ok()
}
