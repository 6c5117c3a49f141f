//! What costs a client little and could cost a server much: RFC 9113 section 10.5.

use super::{
    case::{Case, Steps, case, get, post, request},
    frame::{
        CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, WHOLE, block, data, frame, headers, priority,
        reset, settings, window_update,
    },
    outcome::Step::{self, Begin, Ended, Send},
};

fn times(count: usize, frame: &[u8]) -> Vec<u8> {
    frame.repeat(count)
}

/// The listener that does not wait long for heads.
pub const IMPATIENT: &str = "impatient";
/// How many requests its log has after [`slow_heads`].
pub const IMPATIENT_LINES: usize = 6;

/// Heads that take too long, alone and beside a request that is answered later.
pub fn slow_heads() -> Vec<Case> {
    let begun = |stream| frame(HEADERS, END_STREAM, stream, &block(&request("/never"))[..4]);
    let unfinished = |stream| {
        let head = headers(WHOLE, stream, &request("/never"));
        head[..head.len() - 1].to_vec()
    };
    let slow = || headers(WHOLE, 1, &request("/slow/700"));
    let case = |name, steps: Vec<Step>, demanded| case("10.5", name, Steps(steps), demanded).on(IMPATIENT);
    vec![
        case("a head without an end", vec![Begin(begun(1)), Ended(1)], "GOAWAY NO_ERROR")
            .envoy("h2-slow-heads", "1: 408 RST_STREAM NO_ERROR; GOAWAY PROTOCOL_ERROR"),
        case("a frame of a head without an end", vec![Begin(unfinished(1)), Ended(1)], "GOAWAY NO_ERROR")
            .envoy("h2-slow-heads", "1: 408 RST_STREAM NO_ERROR; GOAWAY PROTOCOL_ERROR"),
        case(
            "a head without an end beside a request",
            vec![Begin([slow(), begun(3)].concat()), Ended(3), Ended(1)],
            "1: 200; GOAWAY NO_ERROR",
        )
        .envoy("h2-slow-heads", "1: 200; 3: 408 RST_STREAM NO_ERROR; GOAWAY PROTOCOL_ERROR"),
        case("a request that takes longer than its head may", vec![Send(slow()), Ended(1)], "1: 200; goes on"),
    ]
}

pub fn cases() -> Vec<Case> {
    let open = || headers(END_HEADERS, 1, &post("/special/length"));
    // One field of 8 kB in each of a hundred frames, and a block that never ends in frames of nothing.
    let large = block(&[("x-large", "x".repeat(8000))]);
    let long: Vec<u8> =
        [frame(HEADERS, END_STREAM, 1, &block(&request("/echo"))), times(100, &frame(CONTINUATION, 0, 1, &large))]
            .concat();
    let endless =
        [frame(HEADERS, END_STREAM, 1, &block(&request("/echo"))), times(20_000, &frame(CONTINUATION, 0, 1, &[]))]
            .concat();
    let resets: Vec<u8> = (0..5000_u32)
        .flat_map(|number| [headers(WHOLE, 2 * number + 1, &request("/slow/1000")), reset(2 * number + 1, 8)].concat())
        .collect();
    let cancelled: Vec<u8> = (0..90_u32)
        .flat_map(|number| [headers(WHOLE, 2 * number + 1, &request("/slow/1000")), reset(2 * number + 1, 8)].concat())
        .collect();
    vec![
        case("10.5", "90 requests, each reset, and one that is not", [cancelled, get(181)], "181: 200; goes on"),
        case("10.5", "a block of 800 kB", [long, frame(CONTINUATION, END_HEADERS, 1, &[])], "GOAWAY ENHANCE_YOUR_CALM")
            .envoy("h2-floods", "1: RST_STREAM INTERNAL_ERROR; goes on"),
        case("10.5", "a block without an end", endless, "GOAWAY ENHANCE_YOUR_CALM"),
        case("10.5", "5,000 requests, each reset", resets, "GOAWAY ENHANCE_YOUR_CALM"),
        case(
            "10.5",
            "20,000 empty DATA frames",
            [open(), times(20_000, &data(0, 1, &[])), data(END_STREAM, 1, &[])],
            "GOAWAY ENHANCE_YOUR_CALM",
        ),
        case("10.5", "20,000 PINGs", [times(20_000, &frame(PING, 1, 0, b"12345678")), get(1)], "1: 200; goes on"),
        case("10.5", "20,000 SETTINGS", [times(20_000, &settings(&[])), get(1)], "1: 200; goes on")
            .envoy("h2-floods", "closed"),
        case(
            "10.5",
            "20,000 PRIORITY frames",
            [times(20_000, &frame(PRIORITY, 0, 3, &priority(0))), get(5)],
            "5: 200; goes on",
        )
        .envoy("h2-floods", "closed"),
        case("10.5", "20,000 WINDOW_UPDATE frames", [times(20_000, &window_update(0, 1)), get(1)], "1: 200; goes on")
            .envoy("h2-floods", "closed"),
        case(
            "10.5",
            "DATA of one byte, 5,000 times",
            [Send([open(), times(5000, &data(0, 1, b"x")), data(END_STREAM, 1, &[])].concat()), Ended(1)],
            "1: 200; goes on",
        ),
    ]
}
