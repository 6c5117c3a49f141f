use super::*;

const RULES: Rules = Rules { max_head_bytes: 400, max_headers: 5, any_method: false, http_10: false, trailers: false };

/// What passes of bytes that come in the given pieces.
fn fed(framing: &mut Framing, pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut passed = Vec::new();
    for piece in pieces {
        match framing.feed(piece.as_ref()) {
            Passed::Unchanged => passed.extend_from_slice(piece.as_ref()),
            Passed::Edited(bytes) => passed.extend_from_slice(&bytes),
        }
    }
    String::from_utf8(passed).unwrap()
}

/// Byte by byte, and all at once: the same must come of it.
fn passes(input: &str, expected: &str) {
    let mut whole = Framing::new(RULES);
    assert_eq!(fed(&mut whole, [input]), expected, "{input:?}");
    let mut pieces = Framing::new(RULES);
    assert_eq!(fed(&mut pieces, input.as_bytes().chunks(1)), expected, "{input:?}");
    assert_eq!((whole.verdict(), whole.broken()), (pieces.verdict(), pieces.broken()), "{input:?}");
}

fn refused(input: &str, refusal: Refusal) {
    let mut framing = Framing::new(RULES);
    let passed = fed(&mut framing, [input]);
    assert_eq!(framing.verdict(), Some((1, Verdict::Refused(refusal))), "{input:?}");
    assert_eq!(passed, "GET / HTTP/1.1\r\nhost: refused\r\n\r\n");
    assert!(framing.is_over());
    assert_eq!(framing.feed(b"GET / HTTP/1.1\r\n\r\n"), Passed::Edited(Vec::new()), "nothing comes after it");
}

/// With a head of one more line.
fn request(line: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: h\r\n{line}\r\n")
}

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{body}")
}

#[test]
fn plain_requests_pass_uncopied() {
    let get = request("");
    let post = "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let chunks = chunked("5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n");
    let mut framing = Framing::new(RULES);
    for requests in [get.as_str(), post, &chunks, &[&get, post, &chunks, &get].concat()] {
        assert_eq!(framing.feed(requests.as_bytes()), Passed::Unchanged, "{requests:?}");
    }
    assert_eq!((framing.heads, framing.verdict()), (7, None));
    assert!(!framing.in_head() && !framing.is_over());
    // A body that comes in pieces, too.
    for piece in ["POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nab", "c", "dGET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(framing.feed(piece.as_bytes()), Passed::Unchanged, "{piece:?}");
    }
    passes(&[&get, post, &chunks, &get].concat(), &[&get, post, &chunks, &get].concat());
}

#[test]
fn heads_are_written_in_one_form() {
    for (input, expected) in [
        (request("x: a\r\n b\r\n\tc\r\n"), request("x: a b\tc\r\n")),
        (request("x:\r\n  b\r\n \r\n"), request("x: b\r\n")),
        (request("x: a\rb\r\n"), request("x: ab\r\n")),
        (request("x: a\ny: b\n"), request("x: a\r\ny: b\r\n")),
        ("\r\n\nGET\t/\rHTTP/1.1  \nhost:h\n\n".into(), request("")),
        (request("x:\ta\tb\t\r\n"), request("x: a\tb\r\n")),
        ("GET HTTP://u@H:80?a HTTP/1.1\r\nx: y\r\n\r\n".into(), "GET http://H:80/?a HTTP/1.1\r\nx: y\r\n\r\n".into()),
    ] {
        passes(&input, &expected);
    }
}

#[test]
fn refusals() {
    for (line, refusal) in [
        ("content-length: 1\r\ntransfer-encoding: chunked\r\n", Refusal::LengthAndChunked),
        ("transfer-encoding: chunked\r\ncontent-length: x\r\n", Refusal::LengthAndChunked),
        ("content-length: 1\r\ncontent-length: 1\r\n", Refusal::Codec),
        ("content-length: 1, 1\r\n", Refusal::Codec),
        ("content-length: +1\r\n", Refusal::Codec),
        ("content-length:\r\n", Refusal::Codec),
        ("content-length: 1\r\n 2\r\n", Refusal::Codec),
        ("transfer-encoding: gzip, chunked\r\n", Refusal::Encoding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Refusal::Encoding),
        ("transfer-encoding : chunked\r\n", Refusal::Codec),
        ("x y: z\r\n", Refusal::Codec),
        (": z\r\n", Refusal::Codec),
        ("x\r\n", Refusal::Codec),
        ("x\r\n : y\r\n", Refusal::Codec),
        ("\rx: y\r\n", Refusal::Codec),
        ("x: a\0\r\n", Refusal::Characters),
        ("x: a\x7f\r\n", Refusal::Characters),
        ("a: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\ne: 1\r\n", Refusal::TooMany),
    ] {
        refused(&request(line), refusal);
    }
    refused(&request(&format!("x: {}\r\n", "x".repeat(400))), Refusal::TooLong);
    refused(&format!("GET /{}", "x".repeat(400)), Refusal::TooLong);
    for (line, refusal) in [
        ("GET / HTTP/1.0", Refusal::Version),
        ("GET / HTTP/2.0", Refusal::Version),
        ("GET / HTTP/3", Refusal::Codec),
        ("GET / http/1.1", Refusal::Codec),
        ("GET /", Refusal::Version),
        ("get / HTTP/1.1", Refusal::Codec),
        ("BREW / HTTP/1.1", Refusal::Codec),
        ("GET /a b HTTP/1.1", Refusal::Codec),
        ("GET /<b> HTTP/1.1", Refusal::Codec),
        ("GET HTTP/1.1", Refusal::Codec),
        ("GET a HTTP/1.1", Refusal::Codec),
        ("GET * HTTP/1.1", Refusal::Target),
        ("GET http:///a HTTP/1.1", Refusal::Target),
        ("GET http://h:99999/ HTTP/1.1", Refusal::Target),
        ("GET ftp://h/ HTTP/1.1", Refusal::Scheme),
        ("CONNECT h HTTP/1.1", Refusal::Target),
        ("CONNECT /a HTTP/1.1", Refusal::Target),
        (" GET / HTTP/1.1", Refusal::Codec),
    ] {
        refused(&format!("{line}\r\n\r\n"), refusal);
    }
    refused("CONNECT h:1 HTTP/1.1\r\ncontent-length: 1\r\n\r\n", Refusal::ConnectBody);
}

#[test]
fn a_bad_request_line_is_refused_before_the_head_is_complete() {
    refused("this is not HTTP\r\n", Refusal::Codec);
    let mut framing = Framing::new(RULES);
    assert_eq!(fed(&mut framing, ["this is not", " HTTP"]), "");
    assert!(framing.in_head() && framing.verdict().is_none());
}

#[test]
fn a_refused_request_is_answered_in_its_turn() {
    let mut framing = Framing::new(RULES);
    let passed = fed(&mut framing, [[request(""), request("x y: z\r\n")].concat()]);
    assert_eq!(passed, format!("{}GET / HTTP/1.1\r\nhost: refused\r\n\r\n", request("")));
    assert_eq!(framing.verdict(), Some((2, Verdict::Refused(Refusal::Codec))));
}

#[test]
fn old_versions_are_one_where_they_are_accepted() {
    for (input, expected) in [
        ("GET / HTTP/1.0\r\nhost: h\r\n\r\n", "GET / HTTP/1.0\r\nhost: h\r\n\r\n"),
        ("GET / HTTP/2.0\r\nhost: h\r\n\r\n", "GET / HTTP/1.0\r\nhost: h\r\n\r\n"),
        ("GET /\r\nhost: h\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"),
        ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\nhost: refused\r\n\r\n"),
    ] {
        let mut framing = Framing::new(Rules { http_10: true, ..RULES });
        assert_eq!(fed(&mut framing, [input]), expected, "{input:?}");
    }
}

#[test]
fn a_fragment_is_cut_off_and_said() {
    let mut framing = Framing::new(RULES);
    assert_eq!(fed(&mut framing, ["GET /a?b#c HTTP/1.1\r\n\r\n"]), "GET /a?b HTTP/1.1\r\n\r\n");
    assert_eq!(framing.verdict(), Some((1, Verdict::Fragment)));
}

#[test]
fn nothing_passes_after_an_upgrade() {
    for (head, expected) in [
        (request("connection: a, Upgrade\r\nupgrade: websocket\r\n"), None),
        (request("connection: upgrade\r\nupgrade: x\r\ncontent-length: 0\r\n"), None),
        (request("connection: upgrade\r\nupgrade: x\r\ncontent-length: 3\r\n"), Some("content-length: 3\r\n")),
        ("CONNECT h:80 HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n".into(), Some("content-length: 0\r\n")),
    ] {
        let mut framing = Framing::new(RULES);
        let passed = fed(&mut framing, [head.as_str(), "GET / HTTP/1.1\r\n\r\n", "x"]);
        assert_eq!(passed, head.replace(expected.unwrap_or("nothing"), ""));
        assert_eq!(framing.verdict(), Some((1, Verdict::Upgrade)));
        assert_eq!(framing.after_upgrade(), b"GET / HTTP/1.1\r\n\r\nx");
    }
    let h2c = request("connection: upgrade, http2-settings\r\nupgrade: H2C\r\nhttp2-settings: x\r\n");
    passes(&[&h2c[..], &h2c].concat(), &[&h2c[..], &h2c].concat());
}

#[test]
fn chunks_are_framed_in_one_form() {
    let plain = chunked("5\r\nhello\r\n0\r\n\r\n");
    for body in [
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "5 ; a=\"\0\"\r\nhello\r\n0\t\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello is too long\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: y\r\n z\r\nb: c\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ] {
        passes(&[chunked(body), request("")].concat(), &[plain.as_str(), &request("")].concat());
    }
    passes(&chunked("005\r\nhello\r\n000\r\n\r\n"), &chunked("005\r\nhello\r\n000\r\n\r\n"));
}

#[test]
fn bad_chunks_break_the_body() {
    for (body, refusal, passed) in [
        ("5\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("5;a\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("0x5\r\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("-5\r\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("\r\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("fffffffffffffffff\r\nhello\r\n0\r\n\r\n", Refusal::Codec, ""),
        ("5\r\nhello\r\nz\r\n", Refusal::Codec, ""),
        ("5\r\nhello\r\n0\r\nx y: z\r\n\r\n", Refusal::Codec, "5\r\nhello\r\n0\r\n"),
        ("5\r\nhello\r\n0\r\nx: \x01\r\n\r\n", Refusal::Characters, "5\r\nhello\r\n0\r\n"),
    ] {
        let mut framing = Framing::new(RULES);
        assert_eq!(fed(&mut framing, [chunked(body)]), chunked(passed), "{body:?}");
        assert_eq!((framing.broken(), framing.verdict()), (Some(refusal), None), "{body:?}");
        assert_eq!(framing.feed(b"0\r\n\r\n"), Passed::Edited(Vec::new()));
    }
    let mut framing = Framing::new(RULES);
    fed(&mut framing, [chunked(&format!("0\r\nx: {}", "x".repeat(400)))]);
    assert_eq!(framing.broken(), Some(Refusal::TooLong));
}
