//! HTTP/2 frames and streams: RFC 9113 sections 3.4 to 6.

use super::{
    case::{Case, case, get, post, request, with},
    frame::{
        ACK, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
        MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, PADDED, PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
        WHOLE, WINDOW_UPDATE, WITH_PRIORITY, block, data, frame, headers, priority, reset, settings, window_update,
    },
    outcome::Step::{Body, Ended, Seen, Send},
};

/// An undefined frame type.
const UNKNOWN: u8 = 0x16;
/// The largest increment and the largest window (section 6.9.1).
const LARGEST: u32 = 0x7fff_ffff;

/// A POST on stream 1 whose body is to come.
fn open(path: &str) -> Vec<u8> {
    headers(END_HEADERS, 1, &post(path))
}

pub fn cases() -> Vec<Case> {
    let mut cases = preface();
    cases.extend(format());
    cases.extend(states());
    cases.extend(settings_and_ping());
    cases.extend(others());
    cases.extend(windows());
    cases
}

fn preface() -> Vec<Case> {
    vec![
        case("3.4", "preface and SETTINGS", [PREFACE.to_vec(), settings(&[]), get(1)], "1: 200; goes on").bare(),
        case(
            "3.4",
            "preface in pieces",
            [Send(PREFACE[..10].to_vec()), Send(PREFACE[10..].to_vec()), Send(settings(&[])), Send(get(1))],
            "1: 200; goes on",
        )
        .bare()
        .on("http2"),
        case("3.4", "first frame is no SETTINGS", [PREFACE.to_vec(), get(1)], "GOAWAY PROTOCOL_ERROR")
            .bare()
            .weir("h2-first-frame", "1: 200; goes on"),
        case(
            "3.4",
            "no preface where HTTP/2 is all there is",
            [b"GET / HTTP/1.1\r\nhost: any.test\r\n\r\n".to_vec()],
            "closed",
        )
        .bare()
        .on("http2"),
        case("3.4", "preface that goes wrong", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(), settings(&[])], "closed")
            .bare()
            .on("http2"),
    ]
}

fn format() -> Vec<Case> {
    let big = "x".repeat(16_380);
    let too_big = with(request("/echo"), &[("x-big", &big)]);
    let fields = block(&request("/echo"));
    let (one, two) = fields.split_at(10);
    let split =
        |between: Vec<u8>| [frame(HEADERS, END_STREAM, 1, one), between, frame(CONTINUATION, END_HEADERS, 1, two)];
    vec![
        case(
            "4.1",
            "unknown frame types",
            [frame(UNKNOWN, 0, 0, b"12345678"), frame(UNKNOWN, 0xff, 1, b"x"), get(1)],
            "1: 200; goes on",
        ),
        case("4.1", "undefined flags", [frame(PING, 0xfe, 0, b"unknown ")], "PING unknown ; goes on"),
        case("4.1", "the reserved bit", [frame(HEADERS, WHOLE, 0x8000_0001, &fields)], "1: 200; goes on"),
        case(
            "4.2",
            "DATA of the largest size",
            [open("/special/length"), data(END_STREAM, 1, &[b'x'; 16_384])],
            "1: 200; goes on",
        ),
        case(
            "4.2",
            "DATA larger than allowed",
            [open("/special/length"), data(END_STREAM, 1, &[b'x'; 16_385])],
            "GOAWAY FRAME_SIZE_ERROR",
        ),
        case("4.2", "HEADERS larger than allowed", headers(WHOLE, 1, &too_big), "GOAWAY FRAME_SIZE_ERROR"),
        case("4.3", "a block in two frames", split(Vec::new()), "1: 200; goes on"),
        case(
            "4.3",
            "a block in frames of a byte",
            [
                vec![frame(HEADERS, END_STREAM, 1, &[])],
                fields.iter().map(|byte| frame(CONTINUATION, 0, 1, &[*byte])).collect(),
                vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            ]
            .concat()
            .concat(),
            "1: 200; goes on",
        )
        .weir("h2-continuations", "GOAWAY ENHANCE_YOUR_CALM"),
        case(
            "4.3",
            "PRIORITY between HEADERS and CONTINUATION",
            split(frame(PRIORITY, 0, 1, &priority(0))),
            "GOAWAY PROTOCOL_ERROR",
        ),
        case("4.3", "HEADERS of another stream in a block", split(get(3)), "GOAWAY PROTOCOL_ERROR"),
        case("4.3", "PING in a block", split(frame(PING, 0, 0, b"12345678")), "GOAWAY PROTOCOL_ERROR"),
        case("5.5", "unknown frame in a block", split(frame(UNKNOWN, 0, 0, b"12345678")), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.10",
            "CONTINUATION of another stream",
            split(frame(CONTINUATION, END_HEADERS, 3, two)),
            "GOAWAY PROTOCOL_ERROR",
        ),
        case(
            "6.10",
            "CONTINUATION of no stream",
            split(frame(CONTINUATION, END_HEADERS, 0, two)),
            "GOAWAY PROTOCOL_ERROR",
        ),
        case(
            "6.10",
            "CONTINUATION after END_HEADERS",
            [open("/echo"), frame(CONTINUATION, END_HEADERS, 1, two)],
            "GOAWAY PROTOCOL_ERROR",
        ),
        case(
            "6.10",
            "CONTINUATION after DATA",
            [open("/echo"), data(0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, two)],
            "GOAWAY PROTOCOL_ERROR",
        ),
    ]
}

fn states() -> Vec<Case> {
    let again = || headers(WHOLE, 1, &request("/echo"));
    vec![
        case("5.1", "idle: DATA", data(END_STREAM, 1, b"x"), "GOAWAY PROTOCOL_ERROR"),
        case("5.1", "idle: RST_STREAM", reset(1, 8), "GOAWAY PROTOCOL_ERROR"),
        case("5.1", "idle: WINDOW_UPDATE", window_update(1, 100), "GOAWAY PROTOCOL_ERROR"),
        case(
            "5.1",
            "idle: CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1, &block(&request("/echo"))),
            "GOAWAY PROTOCOL_ERROR",
        ),
        case("5.1", "idle: PRIORITY", [frame(PRIORITY, 0, 1, &priority(0)), get(1)], "1: 200; goes on"),
        case(
            "5.1",
            "half-closed: DATA",
            [Send(headers(WHOLE, 1, &request("/slow/500"))), Send(data(END_STREAM, 1, b"x")), Ended(1)],
            "GOAWAY STREAM_CLOSED",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "5.1",
            "half-closed: HEADERS",
            [Send(headers(WHOLE, 1, &request("/slow/500"))), Send(again()), Ended(1)],
            "GOAWAY STREAM_CLOSED",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "5.1",
            "half-closed: WINDOW_UPDATE, PRIORITY",
            [headers(WHOLE, 1, &request("/slow/100")), window_update(1, 100), frame(PRIORITY, 0, 1, &priority(0))],
            "1: 200; goes on",
        ),
        case("5.1", "half-closed: RST_STREAM", [headers(WHOLE, 1, &request("/slow/500")), reset(1, 8)], "goes on"),
        case(
            "5.1",
            "closed by its end: DATA",
            [Send(get(1)), Ended(1), Send(data(END_STREAM, 1, b"x"))],
            "1: 200 RST_STREAM STREAM_CLOSED; goes on",
        )
        .envoy("h2-closed-streams", "1: 200; goes on"),
        case(
            "5.1",
            "closed by its end: HEADERS",
            [Send(get(1)), Ended(1), Send(again())],
            "1: 200; GOAWAY PROTOCOL_ERROR",
        )
        .envoy("h2-closed-streams", "1: 200; goes on"),
        case(
            "5.1",
            "closed by its end: WINDOW_UPDATE, RST_STREAM, PRIORITY",
            [
                Send(get(1)),
                Ended(1),
                Send(window_update(1, 100)),
                Send(reset(1, 8)),
                Send(frame(PRIORITY, 0, 1, &priority(0))),
                Send(get(3)),
                Ended(3),
            ],
            "1: 200; 3: 200; goes on",
        ),
        case(
            "5.1",
            "closed by RST_STREAM: DATA",
            [open("/echo"), reset(1, 8), data(END_STREAM, 1, b"x")],
            "1: RST_STREAM STREAM_CLOSED; goes on",
        )
        .envoy("h2-closed-streams", "goes on"),
        case("5.1", "closed by RST_STREAM: HEADERS", [open("/echo"), reset(1, 8), again()], "GOAWAY PROTOCOL_ERROR")
            .envoy("h2-closed-streams", "goes on"),
        case(
            "5.1",
            "closed by RST_STREAM: PRIORITY, RST_STREAM",
            [open("/echo"), reset(1, 8), frame(PRIORITY, 0, 1, &priority(0)), reset(1, 8)],
            "goes on",
        ),
        case("5.1.1", "even stream", headers(WHOLE, 2, &request("/echo")), "GOAWAY PROTOCOL_ERROR"),
        case(
            "5.1.1",
            "smaller than an earlier one",
            [Send(get(5)), Ended(5), Send(get(3))],
            "5: 200; GOAWAY PROTOCOL_ERROR",
        )
        .envoy("h2-closed-streams", "5: 200; goes on"),
        case(
            "5.1.1",
            "skipped streams are closed",
            [Send(get(5)), Ended(5), Send(reset(3, 8)), Seen],
            "5: 200; goes on",
        ),
        case(
            "5.1.2",
            "more streams than allowed",
            [
                Send([1, 3, 5].map(|stream| headers(WHOLE, stream, &request("/slow/300"))).concat()),
                Ended(5),
                Ended(1),
                Ended(3),
            ],
            "1: 200; 3: 200; 5: RST_STREAM REFUSED_STREAM; goes on",
        )
        .on("two")
        .envoy("h2-too-many-streams", "closed"),
        case(
            "5.1.2",
            "as many streams as allowed, again",
            [Send([1, 3].map(get).concat()), Ended(1), Ended(3), Send([5, 7].map(get).concat()), Ended(5), Ended(7)],
            "1: 200; 3: 200; 5: 200; 7: 200; goes on",
        )
        .on("two"),
        case(
            "5.3",
            "PRIORITY on itself",
            [frame(PRIORITY, 0, 1, &priority(1)), get(1)],
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        )
        .envoy("h2-priority", "1: 200; goes on"),
        case(
            "5.3",
            "HEADERS that depend on themselves",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[priority(1), block(&request("/echo"))].concat()),
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        )
        .envoy("h2-priority", "closed"),
        case(
            "5.3",
            "HEADERS with a priority",
            frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[priority(0x8000_0000), block(&request("/echo"))].concat()),
            "1: 200; goes on",
        ),
    ]
}

fn settings_and_ping() -> Vec<Case> {
    vec![
        case("6.5", "ACK with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), "GOAWAY FRAME_SIZE_ERROR")
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("6.5", "on a stream", frame(SETTINGS, 0, 1, &[]), "GOAWAY PROTOCOL_ERROR"),
        case("6.5", "of seven bytes", frame(SETTINGS, 0, 0, &[0; 7]), "GOAWAY FRAME_SIZE_ERROR")
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.5",
            "ACK nobody asked for",
            [frame(SETTINGS, ACK, 0, &[]), frame(SETTINGS, ACK, 0, &[]), get(1)],
            "GOAWAY PROTOCOL_ERROR",
        ),
        case("6.5.2", "ENABLE_PUSH 2", settings(&[(ENABLE_PUSH, 2)]), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.5.2",
            "INITIAL_WINDOW_SIZE too large",
            settings(&[(INITIAL_WINDOW_SIZE, LARGEST + 1)]),
            "GOAWAY FLOW_CONTROL_ERROR",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("6.5.2", "MAX_FRAME_SIZE too small", settings(&[(MAX_FRAME_SIZE, 16_383)]), "GOAWAY PROTOCOL_ERROR"),
        case("6.5.2", "MAX_FRAME_SIZE too large", settings(&[(MAX_FRAME_SIZE, 16_777_216)]), "GOAWAY PROTOCOL_ERROR"),
        case("6.5.2", "unknown settings", [settings(&[(0x00ff, 1), (0xffff, 0xffff_ffff)]), get(1)], "1: 200; goes on"),
        case(
            "6.5.2",
            "MAX_CONCURRENT_STREAMS 0 from a client",
            [settings(&[(MAX_CONCURRENT_STREAMS, 0)]), get(1)],
            "1: 200; goes on",
        ),
        case(
            "6.5.3",
            "the last of equal settings counts",
            [
                Send(settings(&[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)])),
                Send(headers(WHOLE, 1, &request("/size/5"))),
                Body(1, 1),
                Seen,
            ],
            "1: 200 1 bytes; goes on",
        ),
        case("6.7", "PING is answered with what it says", frame(PING, 0, 0, b"weir1234"), "PING weir1234; goes on"),
        case("6.7", "PING ACK is not answered", [frame(PING, ACK, 0, b"weir1234"), get(1)], "1: 200; goes on"),
        case("6.7", "PING on a stream", frame(PING, 0, 1, b"weir1234"), "GOAWAY PROTOCOL_ERROR"),
        case("6.7", "PING of six bytes", frame(PING, 0, 0, b"weir12"), "GOAWAY FRAME_SIZE_ERROR")
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
    ]
}

fn others() -> Vec<Case> {
    let fields = block(&request("/echo"));
    vec![
        case("6.1", "DATA of no stream", data(END_STREAM, 0, b"x"), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.1",
            "padded DATA",
            [open("/special/length"), frame(DATA, END_STREAM | PADDED, 1, b"\x03abc\0\0\0")],
            "1: 200; goes on",
        ),
        case(
            "6.1",
            "more padding than DATA",
            [open("/echo"), frame(DATA, END_STREAM | PADDED, 1, b"\x06abcde")],
            "GOAWAY PROTOCOL_ERROR",
        ),
        case(
            "6.1",
            "padded DATA without a byte",
            [open("/echo"), frame(DATA, END_STREAM | PADDED, 1, b"")],
            "GOAWAY FRAME_SIZE_ERROR",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR")
        .envoy("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("6.2", "HEADERS of no stream", headers(WHOLE, 0, &request("/echo")), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.2",
            "padded HEADERS",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[3][..], &fields, &[0; 3]].concat()),
            "1: 200; goes on",
        ),
        case(
            "6.2",
            "more padding than HEADERS",
            frame(HEADERS, WHOLE | PADDED, 1, &[&[0xff][..], &fields].concat()),
            "GOAWAY PROTOCOL_ERROR",
        ),
        case("6.3", "PRIORITY of no stream", frame(PRIORITY, 0, 0, &priority(0)), "GOAWAY PROTOCOL_ERROR")
            .envoy("h2-priority", "goes on"),
        case(
            "6.3",
            "PRIORITY of four bytes",
            [open("/echo"), frame(PRIORITY, 0, 1, &[0; 4])],
            "GOAWAY FRAME_SIZE_ERROR",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("6.4", "RST_STREAM of no stream", reset(0, 8), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.4",
            "RST_STREAM of three bytes",
            [open("/echo"), frame(RST_STREAM, 0, 1, &[0; 3])],
            "GOAWAY FRAME_SIZE_ERROR",
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.6",
            "PUSH_PROMISE from a client",
            [open("/echo"), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &fields].concat())],
            "GOAWAY PROTOCOL_ERROR",
        ),
        case("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.8",
            "GOAWAY lets what runs end",
            [Send(headers(WHOLE, 1, &request("/slow/300"))), Seen, Send(frame(GOAWAY, 0, 0, &[0; 8])), Ended(1)],
            "1: 200; GOAWAY NO_ERROR",
        )
        .envoy("h2-client-goaway", "1: 200; hangs"),
        case("7", "RST_STREAM with an unknown error", [open("/echo"), reset(1, 0xff), get(3)], "3: 200; goes on"),
    ]
}

fn windows() -> Vec<Case> {
    let body = |size: &'static str| headers(WHOLE, 1, &request(size));
    vec![
        case("6.9", "increment 0 of the connection", window_update(0, 0), "GOAWAY PROTOCOL_ERROR"),
        case("6.9", "increment 0 of a stream", [open("/echo"), window_update(1, 0)], "GOAWAY PROTOCOL_ERROR"),
        case("6.9", "of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), "GOAWAY FRAME_SIZE_ERROR")
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "6.9.1",
            "the connection's window grows too large",
            [window_update(0, LARGEST), window_update(0, LARGEST)],
            "GOAWAY FLOW_CONTROL_ERROR",
        ),
        case(
            "6.9.1",
            "a stream's window grows too large",
            [open("/echo"), window_update(1, LARGEST), window_update(1, LARGEST)],
            "1: RST_STREAM FLOW_CONTROL_ERROR; goes on",
        )
        .envoy("h2-windows", "closed"),
        case(
            "6.9.1",
            "no more than the window",
            [Send(settings(&[(INITIAL_WINDOW_SIZE, 3)])), Send(body("/size/9")), Body(1, 3), Seen],
            "1: 200 3 bytes; goes on",
        ),
        case(
            "6.9.1",
            "as much as an update adds",
            [
                Send(settings(&[(INITIAL_WINDOW_SIZE, 3)])),
                Send(body("/size/9")),
                Body(1, 3),
                Send(window_update(1, 4)),
                Body(1, 7),
                Seen,
            ],
            "1: 200 7 bytes; goes on",
        ),
        case(
            "6.9.2",
            "SETTINGS open the windows of streams",
            [
                Send(settings(&[(INITIAL_WINDOW_SIZE, 0)])),
                Send(body("/size/9")),
                Seen,
                Send(settings(&[(INITIAL_WINDOW_SIZE, 1)])),
                Body(1, 1),
                Seen,
            ],
            "1: 200 1 bytes; goes on",
        ),
        case(
            "6.9.2",
            "a window below nothing",
            [
                Send(settings(&[(INITIAL_WINDOW_SIZE, 3)])),
                Send(body("/size/9")),
                Body(1, 3),
                Send(settings(&[(INITIAL_WINDOW_SIZE, 2)])),
                Send(window_update(1, 2)),
                Body(1, 4),
                Seen,
            ],
            "1: 200 4 bytes; goes on",
        ),
        case(
            "6.9.2",
            "SETTINGS make a window too large",
            [
                Send(open("/echo")),
                Seen,
                Send(window_update(1, LARGEST - 65_535)),
                Seen,
                Send(settings(&[(INITIAL_WINDOW_SIZE, 65_536)])),
            ],
            "GOAWAY FLOW_CONTROL_ERROR",
        )
        .envoy("h2-windows", "1: RST_STREAM FLOW_CONTROL_ERROR; goes on"),
        case(
            "6.9",
            "an empty body needs no window",
            [Send(settings(&[(INITIAL_WINDOW_SIZE, 0)])), Send(body("/size/0")), Ended(1)],
            "1: 200; goes on",
        ),
    ]
}
