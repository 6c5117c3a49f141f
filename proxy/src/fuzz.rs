//! What fuzzing feeds: everything that reads bytes from outside, as functions of those bytes.
//!
//! `proxy/fuzz` runs them under libFuzzer (`cargo xtask fuzz`); the committed corpora are replayed by this module's
//! tests. A target panics when something that must hold does not.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderValue, Method, Uri, header};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use crate::{
    access_log::{Entry, Live, View, format::Format},
    config, http, listener,
    matcher::Regex,
    telemetry::stats::Store,
    tls::hello::{self, Seen},
    xds,
};

/// A target: its name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("access_log_format", access_log_format),
    ("bootstrap", bootstrap),
    ("client_hello", client_hello),
    ("filter_chain", listener::fuzz::filter_chain),
    ("http1", http::fuzz::request_head),
    ("http1_framing", http::fuzz::framing),
    ("proxy_protocol", listener::proxy_protocol::fuzz::proxy_protocol),
    ("regex", regex),
    ("xds_responses", xds::fuzz::responses),
];

/// Runs a target by its name.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no target {name}"));
    target(input);
}

/// A bootstrap in YAML or JSON becomes the model, or is refused in one line.
fn bootstrap(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let one_line = |message: String| assert!(!message.contains('\n'), "more than one line: {message:?}");
    match weir_proto::from_yaml::<Bootstrap>(text) {
        Ok(bootstrap) => {
            if let Err(error) = config::from_bootstrap(&bootstrap, &Store::new(1).root()) {
                one_line(error.to_string());
            }
        }
        Err(error) => one_line(error.to_string()),
    }
}

/// A format, text or (when it starts with a brace) JSON, is refused or writes a line. What follows a zero is what clients
/// say: their headers, their target, their server name.
fn access_log_format(input: &[u8]) {
    let (format, said) = match input.iter().position(|byte| *byte == 0) {
        Some(zero) => (&input[..zero], &input[zero + 1..]),
        None => (input, &b""[..]),
    };
    let Ok(text) = std::str::from_utf8(format) else { return };
    let format = match text.starts_with('{') {
        true => serde_json::from_str(text).ok().and_then(|value| Format::json(&value).ok()),
        false => Format::text(text).ok(),
    };
    let Some(format) = format else { return };
    let mut entry = Entry::new(SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 2], 2)));
    entry.requested_server_name = std::str::from_utf8(said).ok().map(Into::into);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(said) {
        let names = [header::HOST, header::USER_AGENT, header::COOKIE, header::REFERER];
        headers.extend(names.map(|name| (name, value.clone())));
    }
    let uri = Uri::try_from(said).unwrap_or_default();
    let live = Live { method: &Method::GET, uri: &uri, scheme: "http", headers: &headers };
    let mut line = Vec::new();
    format.write_line(&mut line, &View { response: Some(&headers), ..View::live(&entry, live) });
    if text.starts_with('{') {
        serde_json::from_slice::<serde_json::Value>(&line).expect("a line of a JSON log is JSON");
    }
}

/// The first bytes of a connection are a ClientHello or not, and while more are needed nothing was decided before.
fn client_hello(input: &[u8]) {
    if hello::look(input) == Seen::NeedsMore {
        for length in 0..input.len().min(64) {
            assert_eq!(hello::look(&input[..length]), Seen::NeedsMore, "at {length}");
        }
    }
}

/// A regular expression is refused with a reason, or matches a text as a whole only if it is found in it. The text is what
/// follows a zero.
fn regex(input: &[u8]) {
    let zero = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let Ok(pattern) = std::str::from_utf8(&input[..zero]) else { return };
    let text = input.get(zero + 1..).unwrap_or_default();
    match Regex::new(pattern) {
        Ok(whole) => {
            // To be looked for everywhere, it may be too large.
            let found = Regex::search(pattern).map_or(true, |search| search.is_match(text));
            assert!(found || !whole.is_match(text), "{pattern:?} matches all of the text and is not in it");
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn corpora_are_replayed() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let directory = corpora.join(name);
            let mut count = 0;
            let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
            for entry in entries {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(&path).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has an empty corpus");
        }
        let known = fs::read_dir(&corpora).unwrap().count();
        assert_eq!(known, TARGETS.len(), "a corpus for each target, and none besides");
    }
}
