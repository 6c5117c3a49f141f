//! HTTP messages in HTTP/2: RFC 9113 section 8, and header compression: RFC 7541.

use super::{
    case::{Case, Fields, case, get_after, get_before, literal, post, request, with, without},
    frame::{
        CONTINUATION, END_HEADERS, END_STREAM, HEADER_TABLE_SIZE, HEADERS, WHOLE, block, data, frame, headers, settings,
    },
    outcome::Step::{Ended, Seen, Send},
};

/// What becomes of a malformed request.
const RESET: &str = "1: RST_STREAM PROTOCOL_ERROR; goes on";
/// Messages whose header block h2 cannot read, besides those of section 8.2.1.
const UNREADABLE: [&str; 4] =
    ["an unknown pseudo-header", "an empty :method", "a :method with a space", "a :method with LF"];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // The same messages where a bad one ends its stream, and where it ends the connection if the proxy is Envoy.
    for (section, name, bytes) in bad_heads() {
        let stream = case(section, format!("{name} (stream)"), bytes.clone(), RESET).on("streams");
        let connection = case(section, name, bytes, RESET).envoy("h2-bad-message", "closed");
        // What cannot stand in a header at all ends the connection: h2 does not know yet which stream it belongs to.
        let unreadable = section == "8.2.1" || UNREADABLE.contains(&name);
        let of_weir = |case: Case| if unreadable { case.weir("h2-bad-message", "GOAWAY PROTOCOL_ERROR") } else { case };
        cases.extend([of_weir(stream), of_weir(connection)]);
    }
    cases.extend(bodies());
    cases.extend(good());
    cases.extend(compression());
    cases
}

/// Requests whose head makes them malformed (section 8.1.1).
fn bad_heads() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let whole = |fields: Fields<'_>| headers(WHOLE, 1, &fields);
    let more = |name: &'static str, value: &'static str| whole(with(request("/echo"), &[(name, value)]));
    let instead = |name: &'static str, value: &'static str| {
        let fields: Fields<'_> =
            request("/echo").into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect();
        whole(fields)
    };
    let lone_hosts = |hosts: &[&'static str]| {
        let mut fields = without(request("/echo"), ":authority");
        fields.extend(hosts.iter().map(|host| ("host", *host)));
        whole(fields)
    };
    let raw = |name: &[u8], value: &[u8]| {
        let mut bytes = block(&request("/echo"));
        bytes.extend(block(&[(name, value)]));
        frame(HEADERS, WHOLE, 1, &bytes)
    };
    let first = |name: &'static str, value: &'static str| {
        let mut fields = vec![(name, value)];
        fields.extend(request("/echo"));
        whole(fields)
    };
    vec![
        ("8.2.1", "a name with a capital", more("X-Capital", "1")),
        ("8.2.1", "a name with a space", more("x y", "1")),
        ("8.2.1", "a name with a colon in it", more("x:y", "1")),
        ("8.2.1", "a name with a control", raw(b"x\x01", b"1")),
        ("8.2.1", "a name with DEL", raw(b"x\x7f", b"1")),
        ("8.2.1", "a name above ASCII", raw(b"x\xc3\xa9", b"1")),
        ("8.2.1", "a name with CR LF", raw(b"x\r\ny", b"1")),
        ("8.2.1", "an empty name", raw(b"", b"1")),
        ("8.2.1", "a value with NUL", raw(b"x-a", b"a\0b")),
        ("8.2.1", "a value with LF", raw(b"x-a", b"a\nb: c")),
        ("8.2.1", "a value with CR", raw(b"x-a", b"a\rb")),
        ("8.2.1", "a value with CR LF and a header", raw(b"x-a", b"a\r\ntransfer-encoding: chunked")),
        ("8.2.2", "connection", more("connection", "close")),
        ("8.2.2", "keep-alive", more("keep-alive", "timeout=5")),
        ("8.2.2", "proxy-connection", more("proxy-connection", "close")),
        ("8.2.2", "transfer-encoding", more("transfer-encoding", "chunked")),
        ("8.2.2", "upgrade", more("upgrade", "websocket")),
        ("8.2.2", "te other than trailers", more("te", "gzip")),
        ("8.2.2", "te of trailers and more", more("te", "trailers, deflate")),
        ("8.3", "an unknown pseudo-header", first(":unknown", "1")),
        ("8.3", "a response's pseudo-header", first(":status", "200")),
        (
            "8.3",
            "a pseudo-header after a header",
            whole(vec![
                (":method", "GET"),
                ("x-a", "1"),
                (":scheme", "http"),
                (":path", "/echo"),
                (":authority", "any.test"),
            ]),
        ),
        ("8.3.1", "two :method", more(":method", "GET")),
        ("8.3.1", "two :scheme", first(":scheme", "http")),
        ("8.3.1", "two :path", first(":path", "/echo")),
        ("8.3.1", "two :authority", first(":authority", "any.test")),
        ("8.3.1", "no :method", whole(without(request("/echo"), ":method"))),
        ("8.3.1", "no :scheme", whole(without(request("/echo"), ":scheme"))),
        ("8.3.1", "no :path", whole(without(request("/echo"), ":path"))),
        ("8.3.1", "an empty :path", instead(":path", "")),
        ("8.3.1", "a :path that begins with no slash", instead(":path", "echo")),
        ("8.3.1", "a :path with a space", instead(":path", "/echo a")),
        ("8.3.1", "a :path with CR LF", instead(":path", "/echo HTTP/1.1\r\nx-smuggled: 1\r\n\r\n")),
        ("8.3.1", "a :path with NUL", instead(":path", "/echo\0")),
        ("8.3.1", "an asterisk for GET", instead(":path", "*")),
        ("8.3.1", "an empty :method", instead(":method", "")),
        ("8.3.1", "a :method with a space", instead(":method", "GET /smuggled")),
        ("8.3.1", "a :method with LF", instead(":method", "GET\n")),
        ("8.3.1", "a :scheme that is none", instead(":scheme", "ht tp")),
        ("8.3.1", "an :authority with a space", instead(":authority", "a b")),
        ("8.3.1", "an :authority with CR LF", instead(":authority", "a\r\nx-smuggled: 1")),
        ("8.3.1", "an :authority with a slash", instead(":authority", "a/b")),
        ("8.3.1", "an :authority with a user", instead(":authority", "u@any.test")),
        ("8.3.1", "a lone host with a space", lone_hosts(&["a b"])),
        ("8.3.1", "a lone host with a path", lone_hosts(&["a/c?d"])),
        ("8.3.1", "a lone host with a user", lone_hosts(&["u@any.test"])),
        ("8.3.1", "a lone host that is empty", lone_hosts(&[""])),
        ("8.3.1", "two lone hosts", lone_hosts(&["any.test", "other.test"])),
        (
            "8.5",
            "CONNECT with a :path",
            whole(vec![(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "any.test:80")]),
        ),
        ("8.5", "CONNECT without :authority", whole(vec![(":method", "CONNECT")])),
        (
            "RFC 8441 4",
            ":protocol where it is not allowed",
            whole(vec![
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/echo"),
                (":authority", "any.test"),
            ]),
        ),
        ("RFC 8441 4", ":protocol of a GET", first(":protocol", "websocket")),
        ("8.1.1", "a content-length that is no number", more("content-length", "5x")),
        (
            "8.1.1",
            "two content-lengths",
            whole(with(post("/echo"), &[("content-length", "0"), ("content-length", "1")])),
        ),
        ("8.1.1", "a content-length and no body", more("content-length", "5")),
    ]
}

/// Bodies that are not as long as said, and trailers.
fn bodies() -> Vec<Case> {
    let five = || headers(END_HEADERS, 1, &with(post("/special/length"), &[("content-length", "5")]));
    let open = || headers(END_HEADERS, 1, &post("/special/length"));
    let trailers = |flags, fields: &[(&str, &str)]| headers(flags, 1, fields);
    let closed = "closed";
    let early = || headers(END_HEADERS, 1, &post("/probe"));
    vec![
        case(
            "8.1.1",
            "as many bytes as said",
            [five(), data(0, 1, b"he"), data(END_STREAM, 1, b"llo")],
            "1: 200; goes on",
        ),
        case("8.1.1", "fewer bytes than said", [five(), data(END_STREAM, 1, b"hell")], RESET),
        case("8.1.1", "more bytes than said", [five(), data(END_STREAM, 1, b"hello, world")], RESET),
        case(
            "8.1.1",
            "fewer bytes than said, trailers",
            [five(), data(0, 1, b"hell"), trailers(WHOLE, &[("x-t", "1")])],
            RESET,
        )
        .envoy("h2-bad-message", closed),
        case(
            "8.1.1",
            "a content-length of nothing, and a body",
            [headers(END_HEADERS, 1, &with(post("/echo"), &[("content-length", "0")])), data(END_STREAM, 1, b"x")],
            RESET,
        ),
        case(
            "8.1",
            "an answer before the request's end",
            [Send(early()), Ended(1)],
            "1: 200 RST_STREAM NO_ERROR; goes on",
        ),
        case(
            "8.1",
            "DATA after such an answer",
            [Send(early()), Ended(1), Send(data(0, 1, b"x")), Send(data(END_STREAM, 1, b"y"))],
            "1: 200 RST_STREAM NO_ERROR; goes on",
        ),
        case("8.1", "trailers", [open(), data(0, 1, b"x"), trailers(WHOLE, &[("x-t", "1")])], "1: 200; goes on"),
        case(
            "8.1",
            "trailers that do not end the stream",
            [open(), data(0, 1, b"x"), trailers(END_HEADERS, &[("x-t", "1")])],
            RESET,
        )
        .envoy("h2-bad-message", closed),
        case(
            "8.1",
            "trailers with a pseudo-header",
            [open(), data(0, 1, b"x"), trailers(WHOLE, &[(":path", "/other")])],
            RESET,
        )
        .weir("h2-trailers", "1: 200; goes on")
        .envoy("h2-bad-message", closed),
        case(
            "8.1",
            "trailers with a connection header",
            [open(), data(0, 1, b"x"), trailers(WHOLE, &[("transfer-encoding", "chunked")])],
            RESET,
        )
        .envoy("h2-bad-message", closed),
        case("8.1", "trailers with CR LF", [open(), data(0, 1, b"x"), trailers(WHOLE, &[("x-t", "a\r\nx: y")])], RESET)
            .weir("h2-bad-message", "GOAWAY PROTOCOL_ERROR")
            .envoy("h2-bad-message", closed),
    ]
}

fn good() -> Vec<Case> {
    let whole = |fields: Fields<'_>| headers(WHOLE, 1, &fields);
    let long = "x".repeat(9000);
    let many: Vec<(String, String)> = (0..97).map(|number| (format!("x-{number}"), "1".to_owned())).collect();
    let quarter = "x".repeat(15_000);
    let large = block(&[("x-large", &quarter)]);
    let ninety: Vec<(&str, &str)> = many[..96].iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let cookies: Vec<(&str, &str)> = ninety[..40].iter().copied().chain(vec![("cookie", "a=1"); 60]).collect();
    let all: Vec<(&str, &str)> = many[..97].iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    vec![
        case("8.2.2", "te: trailers", whole(with(request("/echo"), &[("te", "trailers")])), "1: 200; goes on"),
        case(
            "8.2.3",
            "cookies in pieces",
            whole(with(request("/echo"), &[("cookie", "a=1"), ("cookie", "b=2")])),
            "1: 200; goes on",
        ),
        case(
            "8.3.1",
            "host instead of :authority",
            whole(with(without(request("/echo"), ":authority"), &[("host", "any.test")])),
            "1: 200; goes on",
        ),
        case("8.3.1", "neither host nor :authority", whole(without(request("/echo"), ":authority")), "1: 400; goes on")
            .envoy("h2-bad-message", "closed"),
        case(
            "8.3.1",
            "OPTIONS of an asterisk",
            whole(vec![(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "any.test")]),
            "1: 404; goes on",
        ),
        case(
            "8.3.1",
            "a scheme nobody knows",
            whole(vec![(":method", "GET"), (":scheme", "other"), (":path", "/echo"), (":authority", "any.test")]),
            "1: 200; goes on",
        ),
        case(
            "8.1",
            "HEAD",
            whole(vec![(":method", "HEAD"), (":scheme", "http"), (":path", "/echo"), (":authority", "any.test")]),
            "1: 200; goes on",
        ),
        case(
            "8.2.1",
            "values above ASCII",
            frame(
                HEADERS,
                WHOLE,
                1,
                &[block(&request("/echo")), block(&[(&b"x-a"[..], &b"caf\xc3\xa9 \xff"[..])])].concat(),
            ),
            "1: 200; goes on",
        ),
        case("8.2.1", "an empty value", whole(with(request("/echo"), &[("x-empty", "")])), "1: 200; goes on"),
        case("8.2.1", "a value in white space", whole(with(request("/echo"), &[("x-a", " b\t")])), "1: 200; goes on"),
        case("6.10", "a long value", whole(with(request("/echo"), &[("x-long", &long)])), "1: 200; goes on"),
        case("10.5.1", "as many headers as allowed", whole(with(request("/echo"), &ninety)), "1: 200; goes on"),
        case(
            "10.5.1",
            "cookies count one by one",
            whole(with(request("/echo"), &cookies)),
            "1: RST_STREAM INTERNAL_ERROR; goes on",
        ),
        case(
            "10.5.1",
            "one header too many",
            whole(with(request("/echo"), &all)),
            "1: RST_STREAM INTERNAL_ERROR; goes on",
        ),
        case(
            "10.5.1",
            "a head that is too long",
            [
                frame(HEADERS, END_STREAM, 1, &block(&with(request("/echo"), &[("x-long", &quarter)]))),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, 0, 1, &large),
                frame(CONTINUATION, END_HEADERS, 1, &large),
            ],
            "1: 431; goes on",
        )
        .envoy("h2-floods", "1: RST_STREAM INTERNAL_ERROR; goes on"),
        case(
            "5.1.2",
            "requests side by side",
            [1, 3, 5, 7].map(super::case::get),
            "1: 200; 3: 200; 5: 200; 7: 200; goes on",
        ),
    ]
}

/// RFC 7541.
fn compression() -> Vec<Case> {
    let broken = "GOAWAY COMPRESSION_ERROR";
    // The Huffman codes of `a` (00011), and of EOS (thirty ones).
    let huffman = |value: &[u8]| get_before(&literal("x-h", value, true));
    // `:method: GET`, `:scheme: http`, `:path: /` of the static table, and an authority that the dynamic table keeps.
    let keeps = || frame(HEADERS, WHOLE, 1, &[&[0x82, 0x86, 0x84, 0x41][..], b"\x08any.test"].concat());
    let kept = |stream| frame(HEADERS, WHOLE, stream, &[0x82, 0x86, 0x84, 0xbe]);
    vec![
        case("RFC 7541 2.3.3", "index 0", get_before(&[0x80]), broken).weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 2.3.3", "an index beyond both tables", get_before(&[0xc6]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 2.3.3", "a name beyond both tables", get_before(b"\x7f\x20\x01x"), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "RFC 7541 2.3.2",
            "a field that the dynamic table keeps",
            [Send(keeps()), Send(kept(3)), Ended(1), Ended(3)],
            "1: 200; 3: 200; goes on",
        ),
        case(
            "RFC 7541 4.2",
            "a table of nothing keeps nothing",
            [Send(keeps()), Ended(1), Send(frame(HEADERS, WHOLE, 3, &[0x20, 0x82, 0x86, 0x84, 0xbe]))],
            "1: 200; GOAWAY COMPRESSION_ERROR",
        )
        .weir("h2-error-code", "1: 200; GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 4.2", "a size update in the middle", get_before(&[0x20]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 4.2", "size updates before a block", get_after(&[0x20, 0x3f, 0xe1, 0x1f]), "1: 200; goes on"),
        case("RFC 7541 6.3", "a table larger than allowed", get_after(&[0x3f, 0xe2, 0x1f]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "RFC 7541 5.1",
            "an integer without an end",
            get_before(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            broken,
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 5.2", "a string longer than the block", get_before(b"\x00\x05x-"), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 5.2", "Huffman code", huffman(&[0b0001_1111]), "1: 200; goes on"),
        case("RFC 7541 5.2", "Huffman padding of a byte", huffman(&[0b0001_1111, 0xff]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 5.2", "Huffman padding of zeros", huffman(&[0b0001_1000]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case("RFC 7541 5.2", "EOS in Huffman code", huffman(&[0xff, 0xff, 0xff, 0xff]), broken)
            .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "RFC 7541 5.2",
            "a name in Huffman code with a capital",
            get_before(&[&[0, 0x81, 0b1000_0111, 1][..], b"x"].concat()),
            "1: RST_STREAM PROTOCOL_ERROR; goes on",
        )
        .on("streams")
        .weir("h2-bad-message", "GOAWAY PROTOCOL_ERROR"),
        case(
            "4.3",
            "a broken block in CONTINUATION",
            [frame(HEADERS, END_STREAM, 1, &block(&request("/echo"))), frame(CONTINUATION, END_HEADERS, 1, &[0x80])],
            broken,
        )
        .weir("h2-error-code", "GOAWAY PROTOCOL_ERROR"),
        case(
            "4.3",
            "a table that this side makes smaller",
            [Send(settings(&[(HEADER_TABLE_SIZE, 0)])), Seen, Send(super::case::get(1)), Ended(1)],
            "1: 200; goes on",
        ),
    ]
}
