//! curl and h2load as clients.

use std::{path::Path, process::Command};

use weir_tests::figure;

use super::{
    pair::side::Side,
    place::{Place, occupy},
};

fn run(program: &str, arguments: &[String]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed (packages curl, nghttp2-client): {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// What curl prints: version, status, bytes, connections, and the body's hash.
fn curl(side: &Side, directory: &Path, arguments: &str) -> String {
    let body = directory.join("answer");
    let mut all: Vec<String> = ["-sS", "--max-time", "60", "-o"].map(str::to_owned).to_vec();
    all.push(body.display().to_string());
    all.extend(["-w".to_owned(), "HTTP/%{http_version} %{response_code} %{size_download} bytes".to_owned()]);
    let filled = arguments
        .replace("MAIN", &format!("http://{}", side.address("main")))
        .replace("SECURE", &format!("https://a.test:{}", side.address("secure").port()))
        .replace("LARGE", &format!("@{}", directory.join("large").display()));
    all.extend(filled.split_whitespace().map(str::to_owned));
    all.extend([
        "-k".to_owned(),
        "--resolve".to_owned(),
        format!("a.test:{}:127.0.0.1", side.address("secure").port()),
    ]);
    let (_, told) = run("curl", &all);
    let text = std::fs::read_to_string(&body).unwrap_or_default();
    let _ = std::fs::remove_file(&body);
    // Of `-I` it is the head.
    if text.len() < 200 && !text.starts_with("HTTP/") { format!("{told} {text}") } else { told }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_in_each_version() {
    let place = Place::start("clients", |side| {
        occupy(side, "grpc");
        occupy(side, "ws");
    })
    .await;
    std::fs::write(place.directory().join("large"), vec![b'x'; 3_000_000]).expect("a file of this test");
    for (arguments, expected) in [
        ("MAIN/size/100000", "HTTP/1.1 200 100000 bytes"),
        ("MAIN/size/10 MAIN/size/20", "HTTP/1.1 200 10 bytes"),
        ("--http2-prior-knowledge MAIN/size/100000", "HTTP/2 200 100000 bytes"),
        ("--http2 MAIN/size/10", "HTTP/1.1 200 10 bytes"),
        ("--http2 SECURE/size/100000", "HTTP/2 200 100000 bytes"),
        ("--http1.1 SECURE/size/100000", "HTTP/1.1 200 100000 bytes"),
        ("--no-alpn SECURE/size/10", "HTTP/1.1 200 10 bytes"),
        ("--http2 SECURE/h2/size/100000", "HTTP/2 200 100000 bytes"),
        ("--http1.1 MAIN/h2/size/100000", "HTTP/1.1 200 100000 bytes"),
        ("-I MAIN/size/100", "HTTP/1.1 200"),
        ("-I --http2-prior-knowledge MAIN/size/100", "HTTP/2 200"),
        ("--data-binary LARGE MAIN/special/length", "HTTP/1.1 200 7 bytes 3000000"),
        ("--data-binary LARGE -H Expect:100-continue MAIN/special/length", "HTTP/1.1 200 7 bytes 3000000"),
        ("--data-binary LARGE -H Transfer-Encoding:chunked MAIN/special/length", "HTTP/1.1 200 7 bytes 3000000"),
        ("--http2-prior-knowledge --data-binary LARGE MAIN/special/length", "HTTP/2 200 7 bytes 3000000"),
        ("--http2 --data-binary LARGE SECURE/h2/special/length", "HTTP/2 200 7 bytes 3000000"),
        ("--http2 --data-binary LARGE SECURE/special/length", "HTTP/2 200 7 bytes 3000000"),
        ("-X DELETE MAIN/echo", "HTTP/1.1 200"),
        ("--http2-prior-knowledge MAIN/status/503", "HTTP/2 503"),
        ("--http2-prior-knowledge MAIN/unrouted", "HTTP/2 404 0 bytes"),
        ("--http2-prior-knowledge MAIN/special/half", "HTTP/2 200 11 bytes"),
        ("--http1.1 MAIN/special/half", "HTTP/1.1 200 11 bytes"),
        ("--http1.0 MAIN/size/10", "HTTP/1.1 426"),
    ] {
        let [theirs, ours] = place.sides().map(|side| curl(side, place.directory(), arguments));
        let without_address = |told: &str, side: &Side| side.normal.apply(told, &[]);
        let (theirs, ours) = (without_address(&theirs, &place.envoy), without_address(&ours, &place.weir));
        assert!(ours.starts_with(expected), "curl {arguments}: {ours}, not {expected}");
        if arguments.contains("--http1.0") {
            // As RFC 9110 section 2.5 lets it, in the client's version.
            continue;
        }
        assert_eq!(ours, theirs, "curl {arguments}: weir's, Envoy's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_loses_nothing() {
    let place = Place::start("clients", |side| {
        occupy(side, "grpc");
        occupy(side, "ws");
    })
    .await;
    let post = place.directory().join("post");
    std::fs::write(&post, vec![b'x'; 20_000]).expect("a file of this test");
    let post = post.display().to_string();
    for (arguments, path) in [
        (&["-n", "4000", "-c", "10", "-m", "20"][..], "size/100"),
        (&["-n", "4000", "-c", "10", "-m", "20"], "h2/size/100"),
        (&["-n", "500", "-c", "5", "-m", "50", "-w", "14", "-W", "14"], "size/20000"),
        (&["-n", "1000", "-c", "5", "-m", "10", "-d", &post], "special/length"),
        (&["-n", "1000", "-c", "5", "-m", "10", "-d", &post], "h2/special/length"),
        (&["-n", "4000", "-c", "20", "--h1"], "size/100"),
        (&["-n", "4000", "-c", "20", "--h1"], "h2/size/100"),
    ] {
        let requests = arguments[1];
        let mut all: Vec<String> =
            arguments.iter().chain(&["-N", "60s"]).map(|argument| (*argument).to_owned()).collect();
        all.push(format!("http://{}/{path}", place.weir.address("main")));
        let (succeeded, told) = run("h2load", &all);
        let expected = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(succeeded && told.contains(&expected), "h2load {}: {told}", all.join(" "));
        let codes = format!("status codes: {requests} 2xx");
        assert!(told.contains(&codes), "h2load {}: {told}", all.join(" "));
        let rate = told.lines().find(|line| line.starts_with("finished")).unwrap_or_default();
        figure!("h2load {path} {}: {rate}", arguments.join(" "));
    }
}
