//! HTTP/2 servers that break the rules (RFC 9113), or keep seldom kept ones: what a client of HTTP/1 and one of HTTP/2 get,
//! and what is logged, is what Envoy gives and logs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use weir_tests::figure;

use super::{
    case::request,
    frame::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PING, PREFACE, PUSH_PROMISE,
        SETTINGS, WHOLE, block, data, frame, headers, priority, reset, settings, window_update,
    },
    outcome::{Client, Step},
    pair::{
        http1::Head,
        side::Side,
        wire::{Buffered, PATIENCE, Wire},
    },
    place::{Place, listen},
};

/// A server's behaviour.
#[derive(Clone, Debug)]
struct Bad {
    name: &'static str,
    /// What it sends first.
    greeting: Vec<u8>,
    /// What it sends when the request has come.
    answer: Vec<u8>,
    /// What it sends a moment later.
    later: Vec<u8>,
    /// Whether it closes after that.
    closes: bool,
    /// What the client gets and what is logged.
    expected: &'static str,
    /// What Envoy does instead: the row of docs/envoy-differences.md, and what.
    envoy: Option<(&'static str, &'static str)>,
}

fn bad(name: &'static str, answer: impl AsRef<[Vec<u8>]>, expected: &'static str) -> Bad {
    let answer = answer.as_ref().concat();
    Bad { name, greeting: settings(&[]), answer, later: Vec::new(), closes: false, expected, envoy: None }
}

impl Bad {
    fn greets(mut self, greeting: Vec<u8>) -> Self {
        self.greeting = greeting;
        self
    }

    fn later(mut self, later: Vec<u8>) -> Self {
        self.later = later;
        self
    }

    fn closes(mut self) -> Self {
        self.closes = true;
        self
    }

    fn envoy(mut self, row: &'static str, outcome: &'static str) -> Self {
        self.envoy = Some((row, outcome));
        self
    }
}

/// How much later.
const MOMENT: Duration = Duration::from_millis(50);

/// The rows of the table of differences that are met here.
pub fn rows() -> Vec<String> {
    servers().into_iter().filter_map(|bad| bad.envoy).map(|(row, _)| row.to_owned()).collect()
}

const GOOD: &str = "200 hello; 200 - via_upstream";
const PROTOCOL: &str = "502 protocol error; 502 UPE upstream_reset_before_response_started{protocol_error}";
const CUT: &str = "200 hel, cut off; 200 UPE upstream_reset_after_response_started{protocol_error}";

fn servers() -> Vec<Bad> {
    let ok = || headers(END_HEADERS, 1, &[(":status", "200")]);
    let with = |name: &'static str, value: &'static str| headers(END_HEADERS, 1, &[(":status", "200"), (name, value)]);
    let hello = || data(END_STREAM, 1, b"hello");
    let goaway = |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    let large = block(&[("x-large", "x".repeat(16_000))]);
    vec![
        bad("a response", [ok(), hello()], GOOD),
        bad(
            "interim responses",
            [
                headers(END_HEADERS, 1, &[(":status", "100")]),
                headers(END_HEADERS, 1, &[(":status", "103"), ("link", "</x>")]),
                ok(),
                hello(),
            ],
            GOOD,
        ),
        bad(
            "a head in pieces",
            [
                frame(HEADERS, 0, 1, &block(&[(":status", "200")])),
                frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-a", "1")])),
                hello(),
            ],
            GOOD,
        ),
        bad("trailers", [ok(), data(0, 1, b"hello"), headers(WHOLE, 1, &[("x-t", "1")])], GOOD),
        bad(
            "padding, PING, unknown frames, PRIORITY, SETTINGS",
            [
                frame(PING, 0, 0, b"12345678"),
                frame(0x16, 0, 0, b"x"),
                ok(),
                frame(super::frame::PRIORITY, 0, 3, &priority(0)),
                settings(&[]),
                window_update(0, 100),
                frame(DATA, END_STREAM | PADDED, 1, b"\x02hello\0\0"),
            ],
            GOOD,
        ),
        bad("no SETTINGS first", [ok(), hello()], GOOD).envoy("h2-first-frame", PROTOCOL).greets(Vec::new()),
        bad("HTTP/1", [Vec::new()], PROTOCOL).greets(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()),
        bad("garbage", [Vec::new()], PROTOCOL).greets(vec![0xff; 100]),
        bad(
            "the end at once",
            [],
            "503 connection termination; 503 UC upstream_reset_before_response_started{connection_termination}",
        )
        .closes(),
        bad("the end in a body", [ok(), data(0, 1, b"hel")], "200 hel, cut off; 200 UC upstream_reset_after_response_started{connection_termination}").closes(),
        bad("nothing", [], "504 upstream request timeout; 504 UT response_timeout"),
        bad(
            "RST_STREAM REFUSED_STREAM",
            [reset(1, 7)],
            "503 remote refused stream reset; 503 UR upstream_reset_before_response_started{remote_refused_stream_reset}",
        ),
        bad(
            "RST_STREAM INTERNAL_ERROR",
            [reset(1, 2)],
            "503 remote reset; 503 UR upstream_reset_before_response_started{remote_reset}",
        ),
        bad(
            "RST_STREAM CANCEL",
            [reset(1, 8)],
            "503 remote reset; 503 UR upstream_reset_before_response_started{remote_reset}",
        ),
        bad(
            "RST_STREAM NO_ERROR before a response",
            [reset(1, 0)],
            "503 remote reset; 503 UR upstream_reset_before_response_started{remote_reset}",
        ),
        bad("RST_STREAM in a body", [ok(), data(0, 1, b"hel"), reset(1, 2)], "200 hel, cut off; 200 UR upstream_reset_after_response_started{remote_reset}"),
        bad(
            "RST_STREAM CANCEL in a body",
            [ok(), data(0, 1, b"hel"), reset(1, 8)],
            "200 hel, cut off; 200 UR upstream_reset_after_response_started{remote_reset}",
        ),
        bad(
            "GOAWAY that leaves the request out in a body",
            [ok(), data(0, 1, b"hel"), goaway(0, 1)],
            "200 hel, cut off; 200 UR upstream_reset_after_response_started{remote_refused_stream_reset}",
        ),
        bad(
            "RST_STREAM NO_ERROR in a body",
            [ok(), data(0, 1, b"hel"), reset(1, 0)],
            "200 hel, cut off; 200 UR upstream_reset_after_response_started{remote_reset}",
        ),
        bad("RST_STREAM after the end", [ok(), hello(), reset(1, 0)], GOOD),
        bad(
            "GOAWAY that leaves the request out",
            [goaway(0, 0)],
            "503 remote refused stream reset; 503 UR upstream_reset_before_response_started{remote_refused_stream_reset}",
        )
        .closes(),
        bad(
            "GOAWAY with an error",
            [goaway(0, 1)],
            "503 remote refused stream reset; 503 UR upstream_reset_before_response_started{remote_refused_stream_reset}",
        )
        .closes(),
        bad("GOAWAY, then the response", [goaway(1, 0), ok(), hello()], GOOD),
        bad("GOAWAY in a body, and the rest", [ok(), goaway(1, 0), hello()], GOOD),
        bad("no :status", [headers(END_HEADERS, 1, &[("x-a", "1")]), hello()], PROTOCOL),
        bad("an empty :status", [headers(END_HEADERS, 1, &[(":status", "")]), hello()], PROTOCOL),
        bad("a :status that is no number", [headers(END_HEADERS, 1, &[(":status", "abc")]), hello()], PROTOCOL),
        bad("a :status of four digits", [headers(END_HEADERS, 1, &[(":status", "2000")]), hello()], PROTOCOL),
        bad("two :status", [headers(END_HEADERS, 1, &[(":status", "200"), (":status", "404")]), hello()], PROTOCOL),
        bad("a :status of 101", [headers(END_HEADERS, 1, &[(":status", "101")]), ok(), hello()], GOOD).envoy("h2-responses", PROTOCOL),
        bad("an interim response that ends the stream", [headers(WHOLE, 1, &[(":status", "100")])], PROTOCOL),
        bad("a request's pseudo-header", [with(":path", "/"), hello()], GOOD).envoy("h2-responses", PROTOCOL),
        bad("an unknown pseudo-header", [with(":unknown", "1"), hello()], PROTOCOL),
        bad(
            "a pseudo-header after a header",
            [headers(END_HEADERS, 1, &[("x-a", "1"), (":status", "200")]), hello()],
            PROTOCOL,
        ),
        bad("a name with a capital", [with("X-A", "1"), hello()], PROTOCOL),
        bad("a name with a space", [with("x a", "1"), hello()], PROTOCOL),
        bad("CR LF in a value", [with("x-a", "1\r\nx-b: 2"), hello()], PROTOCOL),
        bad("NUL in a value", [with("x-a", "1\0"), hello()], PROTOCOL),
        bad("connection", [with("connection", "close"), hello()], PROTOCOL),
        bad("transfer-encoding", [with("transfer-encoding", "chunked"), hello()], PROTOCOL),
        bad("upgrade", [with("upgrade", "h2c"), hello()], PROTOCOL),
        bad("a content-length that fits", [with("content-length", "5"), hello()], GOOD),
        bad("fewer bytes than said", [with("content-length", "9"), data(0, 1, b"hel"), data(END_STREAM, 1, b"")], CUT),
        bad(
            "more bytes than said",
            [with("content-length", "3"), data(0, 1, b"hel"), data(END_STREAM, 1, b"lo")],
            "200 hel; 200 - via_upstream",
        ).envoy("h2-responses", "200 hel; 200 UPE upstream_reset_after_response_started{protocol_error}"),
        bad("a content-length that is no number", [with("content-length", "5x"), hello()], PROTOCOL),
        bad(
            "a content-length and no body",
            [headers(WHOLE, 1, &[(":status", "200"), ("content-length", "5")])],
            PROTOCOL,
        ),
        bad("DATA before HEADERS", [hello()], PROTOCOL),
        bad("DATA after the end", [ok(), hello(), data(END_STREAM, 1, b"more")], GOOD),
        bad("HEADERS after the end", [ok(), hello(), ok()], GOOD),
        bad(
            "trailers that do not end the stream",
            [ok(), data(0, 1, b"hel"), headers(END_HEADERS, 1, &[("x-t", "1")])],
            CUT,
        ),
        bad("trailers with a pseudo-header", [ok(), data(0, 1, b"hel"), headers(WHOLE, 1, &[(":status", "200")])], "200 hel; 200 - via_upstream").envoy("h2-trailers", CUT),
        bad("a stream nobody opened", [headers(WHOLE, 3, &[(":status", "200")]), ok(), hello()], PROTOCOL),
        bad("an even stream", [headers(WHOLE, 2, &[(":status", "200")]), ok(), hello()], PROTOCOL),
        bad(
            "PUSH_PROMISE",
            [
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[
                        &[0, 0, 0, 2][..],
                        &block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]),
                    ]
                    .concat(),
                ),
                ok(),
                hello(),
            ],
            PROTOCOL,
        ),
        bad("a broken header block", [frame(HEADERS, END_HEADERS, 1, &[0x80]), hello()], PROTOCOL),
        bad("a frame that is too large", [ok(), data(END_STREAM, 1, &[b'x'; 16_385])], "200 , cut off; 200 UPE upstream_reset_after_response_started{protocol_error}"),
        bad("CONTINUATION of nothing", [frame(CONTINUATION, END_HEADERS, 1, &[]), ok(), hello()], PROTOCOL),
        bad(
            "a window that grows too large",
            [window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff), ok(), hello()],
            PROTOCOL,
        ),
        bad("SETTINGS on a stream", [frame(SETTINGS, 0, 1, &[]), ok(), hello()], PROTOCOL),
        bad("SETTINGS of seven bytes", [frame(SETTINGS, 0, 0, &[0; 7]), ok(), hello()], PROTOCOL),
        bad("an end of its own after as many bytes as said", [with("content-length", "5"), data(0, 1, b"hello")], GOOD).later(data(END_STREAM, 1, b"")),
        bad(
            "a head that is too long",
            [
                frame(HEADERS, 0, 1, &block(&[(":status", "200")])),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, END_HEADERS, 1, &large),
                hello(),
            ],
            "503 remote reset; 503 UR upstream_reset_before_response_started{remote_reset}",
        ),
    ]
}

/// Serves connections as the current behaviour says.
async fn serve(listener: TcpListener, current: Arc<Mutex<Bad>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let bad = current.lock().expect("the behaviour").clone();
        tokio::spawn(async move { behave(stream, bad).await });
    }
}

async fn behave(mut stream: TcpStream, bad: Bad) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    stream.write_all(&bad.greeting).await.ok()?;
    let mut bytes = vec![0; PREFACE.len()];
    stream.read_exact(&mut bytes).await.ok()?;
    bytes.clear();
    loop {
        match Frame::parse(&bytes) {
            Some((frame, length)) => {
                bytes.drain(..length);
                match frame.kind {
                    SETTINGS if !frame.has(ACK) && !bad.greeting.is_empty() => {
                        stream.write_all(&super::frame::frame(SETTINGS, ACK, 0, &[])).await.ok()?;
                    }
                    HEADERS => break,
                    _ => {}
                }
            }
            None if stream.read_buf(&mut bytes).await.ok()? == 0 => return None,
            None => {}
        }
    }
    stream.write_all(&bad.answer).await.ok()?;
    if !bad.later.is_empty() {
        tokio::time::sleep(MOMENT).await;
        stream.write_all(&bad.later).await.ok()?;
    }
    if bad.closes {
        return None;
    }
    // Until the proxy closes.
    while stream.read_buf(&mut bytes).await.ok()? > 0 {
        bytes.clear();
    }
    None
}

/// What the client gets, and what is logged.
async fn ask(side: &Side, number: usize) -> String {
    let tcp = Wire::connect(side.address("main"), None).await.expect("the proxy listens");
    let mut connection = Buffered::new(Wire::Tcp(tcp));
    let request = format!("GET /{number} HTTP/1.1\r\nhost: any.test\r\n\r\n");
    connection.wire.write_all(request.as_bytes()).await.expect("the proxy reads");
    let mut told = loop {
        let Some(head) = Head::read(&mut connection).await else { break "nothing".to_owned() };
        let code = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
        if code.starts_with('1') && code != "101" {
            continue;
        }
        let body = head.response_body(&mut connection, "GET").await;
        let text = String::from_utf8_lossy(&body.bytes).into_owned();
        let text = text.rsplit_once("reset reason: ").map_or(text.as_str(), |(_, reason)| reason);
        break format!("{code} {text}{}", if body.whole { "" } else { ", cut off" });
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let logged = loop {
        let log = std::fs::read_to_string(side.log("main")).unwrap_or_default();
        let line = log.lines().find_map(|line| line.strip_prefix(&format!("/{number} ")).map(str::to_owned));
        match line {
            Some(line) => break line,
            None if tokio::time::Instant::now() > deadline => break "no line".to_owned(),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    told.push_str("; ");
    told.push_str(&logged);
    told
}

/// What is counted of streams that are reset.
async fn counted(side: &Side) -> BTreeMap<String, u64> {
    const NAMES: [&str; 3] = ["upstream_rq_rx_reset", "upstream_rq_tx_reset", "upstream_rq_timeout"];
    let tcp = Wire::connect(side.address("admin"), None).await.expect("the admin server listens");
    let mut connection = Buffered::new(Wire::Tcp(tcp));
    let request = b"GET /stats?filter=cluster.bad.upstream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    connection.wire.write_all(request).await.expect("the admin server reads");
    let head = Head::read(&mut connection).await.expect("an answer");
    let text = head.response_body(&mut connection, "GET").await.bytes;
    let counters = String::from_utf8_lossy(&text).into_owned();
    let lines = counters.lines().filter_map(|line| line.strip_prefix("cluster.bad.")?.split_once(": "));
    lines
        .filter(|(name, _)| NAMES.contains(name))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// What a case added.
fn added(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let more = |name: &String, value: &u64| value - before.get(name).copied().unwrap_or(0);
    let told = after.iter().filter(|(name, value)| more(name, value) > 0);
    told.map(|(name, value)| format!("{name} +{}", more(name, value))).collect::<Vec<_>>().join(", ")
}

/// What becomes of the stream of a client of HTTP/2.
async fn ask_http2(side: &Side, number: usize) -> String {
    let tcp = Wire::connect(side.address("main"), None).await.expect("the proxy listens");
    let mut client = Client::new(Wire::Tcp(tcp));
    client.greet().await;
    let path = format!("/http2/{number}");
    client.run(&[Step::Send(headers(WHOLE, 1, &request(&path)))], &[1], PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_break_the_rules() {
    let servers = servers();
    let current = Arc::new(Mutex::new(servers[0].clone()));
    let place = Place::start("bad-server", |side| {
        tokio::spawn(serve(listen(side, "bad"), current.clone()));
    })
    .await;
    let mut failures = Vec::new();
    for (number, bad) in servers.iter().enumerate() {
        *current.lock().expect("the behaviour") = bad.clone();
        let before = tokio::join!(counted(&place.envoy), counted(&place.weir));
        let (theirs, ours) = tokio::join!(ask(&place.envoy, number), ask(&place.weir, number));
        let of_envoy = bad.envoy.map_or(bad.expected, |(_, outcome)| outcome);
        if (theirs.as_str(), ours.as_str()) != (of_envoy, bad.expected) {
            failures.push(format!(
                "{}\n    demanded: {}\n    weir:     {ours}\n    Envoy:    {theirs}",
                bad.name, bad.expected
            ));
        }
        // Statistics are summed over threads and may lag behind.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        loop {
            let after = tokio::join!(counted(&place.envoy), counted(&place.weir));
            let (theirs, ours) = (added(&before.0, &after.0), added(&before.1, &after.1));
            if theirs == ours || bad.envoy.is_some() {
                break;
            }
            if tokio::time::Instant::now() > deadline {
                failures.push(format!(
                    "{} (counted)\n    demanded: Envoy's\n    weir:     {ours}\n    Envoy:    {theirs}",
                    bad.name
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (theirs, ours) = tokio::join!(ask_http2(&place.envoy, number), ask_http2(&place.weir, number));
        if bad.envoy.is_none() && theirs != ours {
            failures.push(format!(
                "{} (HTTP/2)\n    demanded: Envoy's\n    weir:     {ours}\n    Envoy:    {theirs}",
                bad.name
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), servers.len(), failures.join("\n"));
    figure!("{} bad servers alike", servers.len());
}
