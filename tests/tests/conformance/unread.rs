//! Clients that send what costs an answer and read none: the proxy stops reading, or ends the connection, and needs no
//! memory for them; others are answered meanwhile.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use weir_tests::figure;

use super::{
    case::request,
    frame::{END_HEADERS, PING, PREFACE, WHOLE, frame, headers, reset, settings},
    outcome::{Client, Step},
    pair::wire::Wire,
    place::{Alone, Memory, occupy},
};

/// What the proxy may need for such a client, in kB.
const GROWTH: u64 = 32 << 10;
/// The same of requests that are under way, of which a connection may have 1,024.
const OF_REQUESTS: u64 = 96 << 10;
/// Bytes that are sent at the most.
const MOST: usize = 64 << 20;
/// Who can send nothing for so long is not read any more.
const STILL: Duration = Duration::from_millis(700);

/// What is sent again and again; `numbers` are streams to be used.
type Flood = fn(numbers: &mut dyn Iterator<Item = u32>) -> Vec<u8>;

fn pings(_: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    frame(PING, 0, 0, b"answer!!")
}

fn all_settings(_: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    settings(&[])
}

fn resets(numbers: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    let number = numbers.next().unwrap_or(1);
    [headers(WHOLE, number, &request("/probe")), reset(number, 8)].concat()
}

fn malformed(numbers: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    headers(END_HEADERS, numbers.next().unwrap_or(1), &[(":method", "GET")])
}

fn answered(numbers: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    headers(WHOLE, numbers.next().unwrap_or(1), &request("/probe"))
}

fn http1(_: &mut dyn Iterator<Item = u32>) -> Vec<u8> {
    b"GET /probe HTTP/1.1\r\nhost: any.test\r\n\r\n".to_vec()
}

/// Sends until nothing is taken any more; how much was, and how it ended.
async fn flood(to: SocketAddr, what: Flood, http2: bool) -> (usize, String, TcpStream) {
    let mut stream = TcpStream::connect(to).await.expect("the proxy listens");
    let mut numbers = (1..0x7fff_ffff).step_by(2);
    if http2 {
        stream.write_all(&[PREFACE, &settings(&[])].concat()).await.expect("the proxy reads");
    }
    let mut sent = 0;
    while sent < MOST {
        let piece: Vec<u8> = (0..1000).flat_map(|_| what(&mut numbers)).collect();
        match timeout(STILL, stream.write_all(&piece)).await {
            Ok(Ok(())) => sent += piece.len(),
            Ok(Err(error)) => return (sent, error.to_string(), stream),
            Err(_) => return (sent, "not read any more".to_owned(), stream),
        }
    }
    (sent, "read to the end".to_owned(), stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_cost_no_memory() {
    for (name, what, most) in [
        ("PING", pings as Flood, GROWTH),
        ("SETTINGS", all_settings, GROWTH),
        ("requests that are reset", resets, GROWTH),
        ("malformed requests", malformed, GROWTH),
        ("requests", answered, OF_REQUESTS),
        ("HTTP/1", http1, GROWTH),
    ] {
        let place = Alone::start("bodies", |side| {
            occupy(side, "h1");
            occupy(side, "h2");
        })
        .await;
        let to = place.weir.address("main");
        let probe = || async {
            let tcp = Wire::connect(to, None).await.expect("the proxy listens");
            let mut client = Client::new(Wire::Tcp(tcp));
            client.greet().await;
            client.run(&[] as &[Step], &[], Duration::from_secs(30)).await
        };
        assert_eq!(probe().await, "goes on");
        let memory = Memory::settle(&place.weir);
        let (sent, end, _stream) = flood(to, what, name != "HTTP/1").await;
        assert_eq!(probe().await, "goes on", "{name}: others are answered");
        let growth = memory.growth();
        figure!("{name}: {} kB, {end}: {growth} kB more", sent >> 10);
        assert!(growth <= most, "{name}: the proxy grew by {growth} kB, more than {most} kB");
    }
}
