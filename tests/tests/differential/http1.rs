//! HTTP/1 messages taken apart by hand: what came, in its order and its case, also where it breaks the rules.

use super::wire::Buffered;

/// A header's or a trailer's name and value.
pub type Header = (String, String);

/// A message's head.
#[derive(Debug, Default)]
pub struct Head {
    pub line: String,
    pub headers: Vec<Header>,
}

/// A message's body, and how it ended.
#[derive(Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<Header>,
    /// Whether it came whole, as its framing says.
    pub whole: bool,
    /// Whether the connection's end ended it.
    pub by_close: bool,
}

impl Head {
    pub async fn read(from: &mut Buffered) -> Option<Self> {
        let text = from.until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        Some(Self { line, headers: lines.map(header).collect() })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length").and_then(|length| length.parse().ok())
    }

    /// A request's body.
    pub async fn request_body(&self, from: &mut Buffered) -> Body {
        if self.is_chunked() { chunked(from).await } else { sized(from, self.length().unwrap_or(0)).await }
    }

    /// A response's body, to a request of that method.
    pub async fn response_body(&self, from: &mut Buffered, method: &str) -> Body {
        let code = self.line.split(' ').nth(1).unwrap_or_default();
        if method == "HEAD" || matches!(code, "204" | "304" | "101") || method == "CONNECT" && code.starts_with('2') {
            Body { whole: true, ..Body::default() }
        } else if self.is_chunked() {
            chunked(from).await
        } else if let Some(length) = self.length() {
            sized(from, length).await
        } else {
            Body { bytes: from.rest().await, whole: true, by_close: true, ..Body::default() }
        }
    }
}

/// `name: value`, of a line.
pub fn header(line: &str) -> Header {
    // A colon may begin a name: HTTP/2's `:protocol`.
    let end =
        line.char_indices().find(|(index, letter)| *index > 0 && *letter == ':').map_or(line.len(), |(index, _)| index);
    let value = line.get(end + 1..).unwrap_or_default();
    (line[..end].to_owned(), value.trim().to_owned())
}

async fn sized(from: &mut Buffered, length: usize) -> Body {
    let (bytes, whole) = from.exactly(length).await;
    Body { bytes, whole, ..Body::default() }
}

async fn chunked(from: &mut Buffered) -> Body {
    let mut body = Body::default();
    while let Some(line) = from.until(b"\r\n").await {
        let line = String::from_utf8_lossy(&line).into_owned();
        let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16) else { break };
        if size == 0 {
            while let Some(line) = from.until(b"\r\n").await {
                if line.is_empty() {
                    body.whole = true;
                    break;
                }
                body.trailers.push(header(&String::from_utf8_lossy(&line)));
            }
            break;
        }
        let (chunk, _) = from.exactly(size).await;
        let complete = chunk.len() == size;
        body.bytes.extend(chunk);
        if !complete || from.until(b"\r\n").await.is_none() {
            break;
        }
    }
    body
}
