//! The requests that the differential suite sends (tests/data/differential/smuggling.yaml), each with the status that
//! real Envoy answers: what framing refuses must be what Envoy refuses.

use serde::Deserialize;

use super::{Framing, Passed, Refusal, Rules, Verdict};

/// Refused later, by what knows of hosts, routes and paths.
const LATER: [&str; 15] = [
    "no headers",
    "host with a path",
    "host with a space",
    "host with a comma",
    "host with UTF-8",
    "host with a quote",
    "connection lists host",
    "connection lists x-forwarded-for",
    "connection lists x-forwarded-proto",
    "connection lists a pseudo-header",
    "ten nominated headers",
    "target begins with slashes",
    "absolute form without a path",
    "absolute form without a path but a query",
    "OPTIONS asterisk",
];

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    send: String,
    /// The listener: `edge` takes HTTP/1.0.
    to: Option<String>,
    /// The status that Envoy answers.
    expect: u16,
    #[serde(default)]
    differs: Vec<Difference>,
}

#[derive(Deserialize)]
struct Difference {
    what: String,
    weir: String,
}

impl Case {
    /// The status that weir is to answer.
    fn status(&self) -> u16 {
        let differs = self.differs.iter().find(|difference| difference.what == "response status");
        let other = differs.and_then(|difference| difference.weir.split(' ').find_map(|word| word.parse().ok()));
        other.unwrap_or(self.expect)
    }

    /// What is sent, with the runner's placeholders filled in.
    fn bytes(&self) -> Vec<u8> {
        let mut text = self.send.clone();
        while let Some(start) = text.find("${") {
            let end = start + text[start..].find('}').unwrap();
            let (kind, count) = text[start + 2..end].split_once(':').unwrap();
            let count = count.parse().unwrap();
            let filled = match kind {
                "x" => "x".repeat(count),
                _ => (0..count).map(|number| format!("x-{number}: 1\r\n")).collect(),
            };
            text.replace_range(start..=end, &filled);
        }
        text.into_bytes()
    }
}

fn status(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::TooLong | Refusal::TooMany => 431,
        Refusal::Encoding => 501,
        Refusal::Version => 426,
        _ => 400,
    }
}

#[test]
fn what_envoy_refuses_is_refused() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/differential/smuggling.yaml");
    let file: File = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(file.cases.len() > 200);
    for case in file.cases.iter().filter(|case| !LATER.contains(&case.name.as_str())) {
        let http_10 = case.to.as_deref() == Some("edge");
        let rules = Rules { max_head_bytes: 60 << 10, max_headers: 100, any_method: false, http_10, trailers: false };
        let mut framing = Framing::new(rules);
        let bytes = case.bytes();
        let passed = framing.feed(&bytes);
        let refusal = match framing.verdict() {
            Some((_, Verdict::Refused(refusal))) => Some(refusal),
            Some((_, Verdict::Fragment)) => Some(Refusal::Codec),
            Some((_, Verdict::Upgrade)) | None => framing.broken(),
        };
        // An upgrade is answered 101, a CONNECT request 404.
        let refused = refusal.map_or(200, status);
        let expected = Some(case.status()).filter(|status| !matches!(status, 101 | 404)).unwrap_or(200);
        assert_eq!(refused, expected, "{}", case.name);
        assert_ne!(passed, Passed::Edited(Vec::new()), "{}: something passes", case.name);
    }
}
