//! What HTTP/2 requests become for an HTTP/1 upstream: nothing that stands in one may be read there as something else.
//!
//! The requests that HTTP/1 itself can say ambiguously are the differential suite's (`smuggling.yaml`). Here are those that
//! only HTTP/2 can say: each is refused, or reaches the upstream in one meaning, the same as Envoy gives it.

use std::time::Duration;

use weir_tests::figure;

use super::{
    case::{Case, Fields, Steps, case, post, request, with, without},
    frame::{END_HEADERS, END_STREAM, HEADERS, WHOLE, block, data, frame, headers, reset},
    http2::{alike, outcome},
    outcome::Step,
    pair::{seen::Observed, side::Side, wire::PATIENCE},
    place::Place,
};

/// A request that reaches the upstream.
const PASSES: &str = "1: 200; goes on";
/// One that is malformed.
const RESET: &str = "1: RST_STREAM PROTOCOL_ERROR; goes on";
/// One with characters that no header may have.
const UNREADABLE: &str = "GOAWAY PROTOCOL_ERROR";

fn passes(name: &'static str, steps: impl Into<Steps>) -> Case {
    case("8", name, steps, PASSES)
}

fn refused(name: &'static str, steps: impl Into<Steps>, demanded: &'static str) -> Case {
    case("8", name, steps, demanded)
}

pub fn cases() -> Vec<Case> {
    let get = |more: &[(&'static str, &'static str)]| headers(WHOLE, 1, &with(request("/echo"), more));
    let to = |path: &'static str| headers(WHOLE, 1, &request(path));
    let method = |method: &'static str| {
        let fields: Fields<'_> = request("/echo")
            .into_iter()
            .map(|field| if field.0 == ":method" { (":method", method) } else { field })
            .collect();
        headers(WHOLE, 1, &fields)
    };
    let open = |more: &[(&'static str, &'static str)]| headers(END_HEADERS, 1, &with(post("/echo"), more));
    let raw = |name: &[u8], value: &[u8]| {
        frame(HEADERS, WHOLE, 1, &[block(&request("/echo")), block(&[(name, value)])].concat())
    };
    vec![
        passes("a GET", get(&[])),
        passes("a body of a known length", [open(&[("content-length", "5")]), data(END_STREAM, 1, b"hello")]),
        passes("a body of an unknown length", [open(&[]), data(0, 1, b"hel"), data(END_STREAM, 1, b"lo")]),
        passes(
            "a body that looks like a request",
            [open(&[]), data(END_STREAM, 1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")],
        ),
        passes("an empty body after its head", [open(&[]), data(END_STREAM, 1, b"")]),
        passes("a POST without a body", headers(WHOLE, 1, &post("/echo"))),
        passes("a POST of content-length 0", headers(WHOLE, 1, &with(post("/echo"), &[("content-length", "0")]))),
        passes("a GET with a body", [headers(END_HEADERS, 1, &request("/echo")), data(END_STREAM, 1, b"hello")]),
        passes("a GET of content-length 0", get(&[("content-length", "0")])),
        passes("trailers", [open(&[]), data(0, 1, b"hello"), headers(WHOLE, 1, &[("x-t", "1")])]),
        passes("te: trailers", get(&[("te", "trailers")])),
        passes("cookies in pieces", get(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")])),
        passes("host as :authority", get(&[("host", "any.test")])),
        passes("host other than :authority", get(&[("host", "other.test")])),
        passes(
            "host and no :authority",
            headers(WHOLE, 1, &with(without(request("/echo"), ":authority"), &[("host", "other.test")])),
        ),
        passes(
            "an :authority with a port",
            headers(
                WHOLE,
                1,
                &[(":method", "GET"), (":scheme", "http"), (":path", "/echo"), (":authority", "any.test:81")],
            ),
        ),
        passes("a query", to("/echo?a=b&c=/../d")),
        passes("dots in a path", to("/echo/../echo/./a")),
        passes("escaped dots and slashes", to("/echo/%2e%2e/%2fa%5c")),
        passes("two slashes", to("/echo//a")),
        passes("characters that URIs allow", to("/echo/!$&'()*+,;=:@-._~")),
        passes("a colon in a path", to("/echo/http://other.test/")),
        passes("a method in lower case", method("get")),
        passes("a method of one's own", method("PURGE")),
        passes("expect", [open(&[("expect", "100-continue")]), data(END_STREAM, 1, b"hello")]),
        passes("obsolete text in a value", raw(b"x-a", b"caf\xe9 \xc3\xa9")),
        passes("names of all that a token may have", raw(b"x!#$%&'*+-.^_`|~9", b"1")),
        passes("white space around a value", get(&[("x-a", "  b\t ")])),
        passes("tabs in a value", get(&[("x-a", "b\tc")])),
        passes("an empty value", get(&[("x-a", "")])),
        passes("a name twice", get(&[("x-a", "1"), ("x-b", "1"), ("x-a", "2")])),
        passes(
            "headers of proxies",
            get(&[
                ("proxy-authorization", "Basic eA=="),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "https"),
            ]),
        ),
        passes("http2-settings", get(&[("http2-settings", "AAMAAABkAAQAAP__")])),
        passes("a header called trailer", get(&[("trailer", "x-t")])),
        passes(
            "a scheme that is not the connection's",
            headers(
                WHOLE,
                1,
                &[(":method", "GET"), (":scheme", "https"), (":path", "/echo"), (":authority", "any.test")],
            ),
        ),
        refused("a fragment", to("/echo#fragment"), "1: 400; goes on").weir("h2-fragment", PASSES),
        refused(
            "transfer-encoding",
            [
                open(&[("transfer-encoding", "chunked")]),
                data(END_STREAM, 1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
            ],
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        )
        .envoy("h2-bad-message", "closed"),
        refused(
            "content-length and more",
            [open(&[("content-length", "0")]), data(END_STREAM, 1, b"GET /smuggled HTTP/1.1\r\n\r\n")],
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        ),
        refused(
            "CR LF in a value",
            get(&[("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a")]),
            "GOAWAY PROTOCOL_ERROR",
        ),
        refused("LF in a value", get(&[("x-a", "b\ncontent-length: 10")]), UNREADABLE),
        refused("NUL in a value", get(&[("x-a", "b\0c")]), UNREADABLE),
        refused("CR LF in a name", get(&[("x-a: b\r\ncontent-length", "10")]), UNREADABLE),
        refused("a colon in a name", get(&[("transfer-encoding: chunked\r\nx", "y")]), UNREADABLE),
        refused(
            "CR LF in a path",
            to("/echo HTTP/1.1\r\nhost: a\r\n\r\nGET /smuggled"),
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        )
        .envoy("h2-bad-message", "closed"),
        refused("a space in a path", to("/echo HTTP/1.1"), RESET).envoy("h2-bad-message", "closed"),
        refused(
            "a method that is a request",
            method("GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\nGET"),
            "GOAWAY PROTOCOL_ERROR",
        ),
        refused(
            "a reset without an error in a body",
            [Step::Send(open(&[])), Step::Send(data(0, 1, b"hel")), Step::Seen, Step::Send(reset(1, 0)), Step::Seen],
            "goes on",
        ),
        refused(
            "CONNECT",
            headers(WHOLE, 1, &[(":method", "CONNECT"), (":authority", "any.test:80")]),
            "1: 403; goes on",
        )
        .envoy("h2-refused-tunnel", "1: 403; GOAWAY NO_ERROR, goes on"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_meaning() {
    let place = Place::start("http2", |_| {}).await;
    let cases = cases();
    let mut failures = Vec::new();
    for case in &cases {
        let (theirs, ours) =
            tokio::join!(pass(&place.envoy, case, case.of_envoy()), pass(&place.weir, case, case.of_weir()));
        let alike = alike(&theirs.0, case.of_envoy()) && ours.0 == case.of_weir();
        // Of a message that breaks off Envoy passes the head on, which is the beginning of one request all the same.
        let same = case.demanded != PASSES || theirs.1 == ours.1;
        let smuggled = [&theirs.1, &ours.1].into_iter().flatten().any(|(_, told)| told.starts_with("GET /smuggled"));
        let reached = ours.1.is_empty() != (case.of_weir() == PASSES);
        if !alike || !same || smuggled || !reached {
            let (name, demanded) = (&case.name, case.demanded);
            failures
                .push(format!("{name}\n    demanded: {demanded}\n    weir:     {ours:?}\n    Envoy:    {theirs:?}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
    figure!("{} requests of HTTP/2 mean one thing to HTTP/1", cases.len());
}

/// What became of a request, and what the upstream has seen of it.
async fn pass(side: &Side, case: &Case, expected: &str) -> (String, Observed) {
    let before = side.upstreams["up"].seen().len();
    let outcome = outcome(side, case, expected).await;
    // A request that is refused might still arrive.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while expected == PASSES && side.upstreams["up"].seen().len() == before && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut observed = Observed::new();
    for request in &side.upstreams["up"].seen()[before..] {
        request.tell("upstream", &mut observed);
    }
    (outcome, observed.into_iter().map(|(what, told)| (what, side.normal.apply(&told, &[]))).collect())
}
