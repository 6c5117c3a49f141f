//! A name server that answers as a test says: enough for names that are there, that are not, and for servers that fail.

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

const HEADER: usize = 12;

/// The type of questions for IPv4 addresses (RFC 1035 section 3.2.2).
pub const TYPE_A: u16 = 1;

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This address, for so many seconds.
    Address(Ipv4Addr, u32),
    /// The name is there, without what is asked for.
    NoData,
    /// An error (RFC 1035 section 4.1.1).
    Code(u8),
    /// No answer.
    Silence,
}

/// Answers, as `judge` says of names in lower case and types, until it is ended.
pub async fn serve(socket: UdpSocket, judge: impl Fn(&str, u16) -> Verdict) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(answer) = answer(&buffer[..length], &judge) {
            // Whoever asked may be gone.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

fn answer(query: &[u8], judge: impl Fn(&str, u16) -> Verdict) -> Option<Vec<u8>> {
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let question = query.get(HEADER..end + 4)?;
    let (code, found) = match judge(&name, kind) {
        Verdict::Address(address, ttl) => (0, Some((address, ttl))),
        Verdict::NoData => (0, None),
        Verdict::Code(code) => (code, None),
        Verdict::Silence => return None,
    };
    // It is an answer, recursion is there.
    let mut answer = vec![query[0], query[1], 0x80 | (query[2] & 1), 0x80 | code];
    for count in [1, u16::from(found.is_some()), 0, 0] {
        answer.extend(count.to_be_bytes());
    }
    answer.extend(question);
    if let Some((address, ttl)) = found {
        answer.extend([0xc0, HEADER as u8, 0, TYPE_A as u8, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The name that is asked for, in lower case, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
}
