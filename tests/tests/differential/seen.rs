//! What is compared: labelled texts, freed of what differs between any two runs.

use std::{collections::HashMap, path::PathBuf};

use regex::Regex;

use super::http1::Header;

/// Headers whose values do not mean the same in one line as in several.
const APART: [&str; 4] = ["set-cookie", "host", "content-length", "transfer-encoding"];
/// Bodies longer than this are told by their length and a hash.
const SHOWN: usize = 4096;

/// Labelled texts, in the order in which they were seen.
pub type Observed = Vec<(String, String)>;

/// A request, or a connection's bytes, as a scripted server got it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What is known of its connection: PROXY protocol, TLS.
    pub connection: Vec<String>,
    pub line: String,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
    pub trailers: Vec<Header>,
}

impl Request {
    /// Adds what is known of it.
    pub fn tell(&self, label: &str, into: &mut Observed) {
        into.push((format!("{label} request"), self.line.clone()));
        if !self.connection.is_empty() {
            into.push((format!("{label} connection"), self.connection.join("\n")));
        }
        if !self.headers.is_empty() {
            into.push((format!("{label} headers"), listed(&self.headers, false)));
        }
        if !self.body.is_empty() {
            into.push((format!("{label} body"), body_text(&self.body)));
        }
        if !self.trailers.is_empty() {
            into.push((format!("{label} trailers"), listed(&self.trailers, false)));
        }
    }
}

/// Headers one a line. Unless their order matters they are sorted by name; values of one name keep their order, and
/// stand in one line, as joined values mean the same.
pub fn listed(headers: &[Header], ordered: bool) -> String {
    let mut headers: Vec<_> = headers.iter().map(steady).collect();
    if !ordered {
        headers.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        let mut joined: Vec<Header> = Vec::new();
        for (name, value) in headers {
            match joined.last_mut() {
                Some((last, values)) if *last == name && !APART.contains(&name.to_ascii_lowercase().as_str()) => {
                    values.push_str(&format!(",{value}"));
                }
                _ => joined.push((name, value)),
            }
        }
        headers = joined;
    }
    headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
}

/// A header whose value no two requests share.
fn steady((name, value): &Header) -> Header {
    let value = match name.to_ascii_lowercase().as_str() {
        "date" => "<date>",
        "x-envoy-upstream-service-time" => "<ms>",
        "x-request-id" if value.len() == 36 => "<id>",
        // What is left of 15 s for a later attempt: most of it.
        "x-envoy-expected-rq-timeout-ms" if value.len() == 5 && value.as_str() < "15000" => "15000",
        _ => value,
    };
    (name.clone(), value.to_owned())
}

/// A body as text, or its length and hash.
pub fn body_text(body: &[u8]) -> String {
    if body.len() <= SHOWN {
        return String::from_utf8_lossy(body).into_owned();
    }
    let hash = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("<{} bytes, {hash:016x}>", body.len())
}

/// Makes one proxy's texts comparable with the other's.
#[derive(Debug, Default)]
pub struct Normal {
    ports: HashMap<String, String>,
    directory: PathBuf,
    replace: Vec<(Regex, String)>,
}

impl Normal {
    pub fn new(ports: HashMap<String, String>, directory: PathBuf) -> Self {
        let ephemeral = Regex::new(r"(127\.0\.0\.\d+:)(3[2-9]|[45]\d|60)\d{3}\b").expect("an expression");
        Self { ports, directory, replace: vec![(ephemeral, "${1}<ephemeral>".to_owned())] }
    }

    /// Adds a file's expressions.
    pub fn also(&mut self, replace: &[(String, String)]) {
        self.replace.extend(compiled(replace));
    }

    /// The text, with a case's own expressions applied too.
    pub fn apply(&self, text: &str, more: &[(String, String)]) -> String {
        let mut text = self.without_ports(text).replace(&self.directory.display().to_string(), "<directory>");
        let more = compiled(more);
        for (expression, replacement) in self.replace.iter().chain(&more) {
            text = expression.replace_all(&text, replacement.as_str()).into_owned();
        }
        text
    }

    /// Ports of this proxy become their names, where they stand as numbers of their own.
    fn without_ports(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut digits = String::new();
        for character in text.chars().chain(['\0']) {
            if character.is_ascii_digit() {
                digits.push(character);
                continue;
            }
            match self.ports.get(&digits) {
                Some(name) => out.push_str(name),
                None => out.push_str(&digits),
            }
            digits.clear();
            if character != '\0' {
                out.push(character);
            }
        }
        out
    }
}

fn compiled(replace: &[(String, String)]) -> Vec<(Regex, String)> {
    replace
        .iter()
        .map(|(expression, replacement)| {
            let expression = Regex::new(expression).unwrap_or_else(|error| panic!("`replace`: {error}"));
            (expression, replacement.clone())
        })
        .collect()
}
