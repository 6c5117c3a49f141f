//! As much of HTTP/1.1 as soaking needs, for both ends: heads, and bodies with a length.

use std::io::{self, ErrorKind};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Bytes of a body that are written at a time.
static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The head of a request or a response.
#[derive(Debug)]
pub struct Head {
    lines: Vec<String>,
}

impl Head {
    /// Reads one; none: the connection has ended before it.
    pub async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return if lines.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            let line = line.trim_end();
            if line.is_empty() && !lines.is_empty() {
                return Ok(Some(Self { lines }));
            }
            lines.push(line.to_owned());
        }
    }

    /// The second word: a request's target, a response's status.
    pub fn second(&self) -> &str {
        self.lines[0].split(' ').nth(1).unwrap_or_default()
    }

    /// A header's value; names are compared without case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let named = |line: &&String| line.split(':').next().is_some_and(|this| this.eq_ignore_ascii_case(name));
        self.lines[1..].iter().find(named).map(|line| line[name.len() + 1..].trim())
    }

    /// How long the body is.
    pub fn length(&self) -> u64 {
        self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }
}

/// Writes so many bytes of a body.
pub async fn write_body(stream: &mut (impl AsyncWrite + Unpin), mut length: u64) -> io::Result<()> {
    while length > 0 {
        let part = length.min(CHUNK.len() as u64);
        stream.write_all(&CHUNK[..part as usize]).await?;
        length -= part;
    }
    stream.flush().await
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Bytes of its body.
    pub length: u64,
    /// Whether the connection ends with it.
    pub closes: bool,
}

/// Sends a request whose head says nothing of a body, and reads the answer while it sends.
pub async fn ask(stream: &mut TcpStream, line: &str, length: u64) -> io::Result<Answer> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let send = async {
        let length_field = if length > 0 { format!("content-length: {length}\r\n") } else { String::new() };
        writer.write_all(format!("{line} HTTP/1.1\r\nhost: soak.test\r\n{length_field}\r\n").as_bytes()).await?;
        write_body(&mut writer, length).await
    };
    let receive = async {
        let head = Head::read(&mut reader).await?.ok_or(ErrorKind::UnexpectedEof)?;
        let status = head.second().parse().map_err(|_| io::Error::other("no status"))?;
        let length = tokio::io::copy(&mut (&mut reader).take(head.length()), &mut tokio::io::sink()).await?;
        if length < head.length() {
            return Err(io::Error::other(format!("the body ends after {length} of {} bytes", head.length())));
        }
        Ok(Answer { status, length, closes: head.field("connection") == Some("close") })
    };
    let ((), answer) = tokio::try_join!(send, receive)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn heads_are_read_one_after_the_other() {
        let mut two: &[u8] = b"GET /a HTTP/1.1\r\nContent-Length: 12\r\n\r\nHTTP/1.1 200 OK\r\nx-a:b\r\n\r\n";
        let head = Head::read(&mut two).await.unwrap().unwrap();
        assert_eq!((head.second(), head.length()), ("/a", 12));
        let head = Head::read(&mut two).await.unwrap().unwrap();
        assert_eq!((head.second(), head.length(), head.field("X-A")), ("200", 0, Some("b")));
        assert!(Head::read(&mut two).await.unwrap().is_none());
        assert!(Head::read(&mut &b"GET /a HTTP/1.1\r\n"[..]).await.is_err());
    }
}
