//! A name server that answers by what a name begins with, or ends in: enough for names that are there, that are not, and
//! for servers that fail.

use tokio::net::UdpSocket;

/// So long do addresses hold, in seconds, but for those of names that begin with `brief`.
const TTL: u32 = 600;
const HEADER: usize = 12;
const TYPE_A: u16 = 1;

/// What becomes of a question.
enum Verdict {
    Address,
    NoData,
    Code(u8),
    Silence,
}

/// Answers until it is ended.
pub async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(answer) = answer(&buffer[..length]) {
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

fn verdict(name: &str, kind: u16) -> Verdict {
    let first = name.split('.').next().unwrap_or_default();
    match first {
        "fail" => Verdict::Code(2),
        "refused" => Verdict::Code(5),
        "silent" => Verdict::Silence,
        "nodata" => Verdict::NoData,
        _ if !name.ends_with(".test") => Verdict::Code(3),
        _ if kind == TYPE_A => Verdict::Address,
        _ => Verdict::NoData,
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let question = query.get(HEADER..end + 4)?;
    let (code, found) = match verdict(&name, kind) {
        Verdict::Address => (0, true),
        Verdict::NoData => (0, false),
        Verdict::Code(code) => (code, false),
        Verdict::Silence => return None,
    };
    // It is an answer, recursion is there.
    let mut answer = vec![query[0], query[1], 0x80 | (query[2] & 1), 0x80 | code];
    for count in [1, u16::from(found), 0, 0] {
        answer.extend(count.to_be_bytes());
    }
    answer.extend(question);
    if found {
        answer.extend([0xc0, HEADER as u8, 0, TYPE_A as u8, 0, 1]);
        answer.extend(if name.starts_with("brief") { 0 } else { TTL }.to_be_bytes());
        answer.extend([0, 4, 127, 0, 0, 1]);
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
