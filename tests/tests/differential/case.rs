//! The format of case files: what can stand in one, and how `each` multiplies cases. The runner's own documentation
//! (`differential.rs`) tells how to write one.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Deserialize;
use serde_json::Value;

/// A case file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The bootstrap, with placeholders.
    #[serde(default)]
    pub bootstrap: String,
    /// Another case file's bootstrap instead, with its upstreams, files, certificates, log and expressions.
    pub bootstrap_of: Option<String>,
    /// Scripted servers, by name.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Upstream>,
    /// Files that the bootstrap refers to, by name; placeholders are filled in.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Certificates, by name, made anew in every run.
    #[serde(default)]
    pub certificates: BTreeMap<String, Certificate>,
    /// The listener that steps go to unless they say otherwise.
    #[serde(default = "default_listener")]
    pub to: String,
    /// The access log to which every `request` adds a line, if there is one.
    pub log: Option<String>,
    /// Expressions and what they become before texts are compared.
    #[serde(default)]
    pub replace: Vec<(String, String)>,
    /// Further arguments for both proxies.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// When its cases show something depends on the clock: what a busy machine delays is done again, a few times.
    #[serde(default)]
    pub timed: bool,
    /// What is done and compared, in this order.
    #[serde(default)]
    pub cases: Vec<Case>,
    /// Changes of the bootstrap that both must accept, or both refuse.
    #[serde(default)]
    pub configurations: Vec<Configuration>,
}

fn default_listener() -> String {
    "main".to_owned()
}

/// One case: steps, and what is looked at after them.
#[derive(Debug, Deserialize)]
#[serde(from = "Value")]
pub struct Case {
    pub name: String,
    pub steps: Vec<Step>,
    pub after: After,
    /// Why it could not be read.
    pub mistake: Option<String>,
}

/// What is looked at after a case's steps.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct After {
    /// Lines to wait for in access logs, by log; the file's own log by default, one for each `request`.
    pub logs: Option<BTreeMap<String, usize>>,
    /// Requests (or TCP connections) that upstreams must have seen, by name: waited for.
    pub seen: BTreeMap<String, usize>,
    /// Expressions of stat names whose values are compared.
    pub stats: Vec<String>,
    /// As the file's.
    pub replace: Vec<(String, String)>,
    /// What is not the same in two runs of one proxy, by label or end of label.
    pub skip: Vec<String>,
    /// Upstream requests come in no particular order.
    pub unordered: bool,
    /// Deliberate differences.
    pub differs: Vec<Difference>,
}

/// A deliberate difference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The label of what differs, or its end.
    pub what: String,
    /// Its row in docs/envoy-differences.md.
    pub id: String,
    /// What weir's value contains.
    pub weir: String,
}

/// One thing done to a proxy: exactly one of `request`, `send`, `admin`, `wait`, `write`, `upstream`, `close`, `reset`,
/// `concurrent` and `pause`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    pub request: Option<String>,
    pub send: Option<String>,
    pub admin: Option<String>,
    pub wait: Option<BTreeMap<String, u64>>,
    pub write: Option<BTreeMap<String, String>>,
    pub upstream: Option<BTreeMap<String, Switch>>,
    pub close: Option<String>,
    pub reset: Option<String>,
    pub concurrent: Option<Vec<Step>>,
    #[serde(deserialize_with = "duration")]
    pub pause: Option<Duration>,

    pub to: Option<String>,
    pub http: Option<u8>,
    pub tls: Option<TlsClient>,
    /// Bytes in hexadecimal that go before everything, TLS included.
    pub first: Option<String>,
    pub from: Option<String>,
    pub connection: Option<String>,
    pub body_size: Option<usize>,
    pub trailers: Vec<String>,
    pub read: Option<Read>,
    /// What is sent goes in one packet with this side's end, which `read: end` says.
    pub with_end: bool,
    /// That end is the end of TCP, under TLS without `close_notify`.
    pub abrupt: bool,
    pub abandon: bool,
    /// Of a request of HTTP/2 that has a body the end is not sent. With `read: echo` its stream is held like the connection.
    pub open: bool,
    pub repeat: Option<usize>,
    pub expect: Option<u16>,
    pub end: Option<End>,
    pub ordered: bool,
    pub lines: Option<String>,
}

/// What is read after `send`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// An HTTP response.
    Response,
    /// Nothing.
    Nothing,
    /// Until the other side closes, to which this side says its own end, unless `end` says how it comes.
    End,
    /// As much as there was sent.
    Echo,
    /// A line.
    Line,
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It is closed, which is waited for.
    Closed,
    /// It is still open after a moment.
    Open,
}

/// Turns a scripted server off and on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Closes its socket and its connections.
    Stop,
    /// Listens again.
    Start,
}

/// How a client speaks TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsClient {
    /// Server name; none is sent without it.
    pub sni: Option<String>,
    /// Protocols offered.
    pub alpn: Vec<String>,
    /// The client's certificate.
    pub certificate: Option<String>,
    /// `1.2` or `1.3` only.
    pub version: Option<String>,
    /// The cipher suite of TLS 1.3 that it prefers, by IANA's name. As browsers: AES-128.
    pub suite: Option<String>,
}

/// A certificate to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificate {
    /// Its subject's common name.
    pub common_name: Option<String>,
    /// Subject alternative names: DNS names, IP addresses and URIs.
    pub names: Vec<String>,
    /// Who signs it: another certificate that is an authority; itself otherwise.
    pub issuer: Option<String>,
    /// Whether its time is over.
    pub expired: bool,
    /// Whether it may sign others.
    pub authority: bool,
    /// What its key is for instead (`keyUsage`, by rcgen's names).
    pub usages: Option<Vec<String>>,
    /// What kind of key it has instead of one on P-256: p521, rsa, ed25519.
    pub key: Option<String>,
    /// Whether it is one of X.509 v1, which has no extensions.
    pub first_version: bool,
    /// Those that it revokes (makes `${crl:NAME}`).
    pub revokes: Vec<String>,
}

/// A scripted server. What no rule answers, the built-in script does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// How it speaks.
    pub protocol: Protocol,
    /// The certificate it shows, if it speaks TLS.
    pub certificate: Option<String>,
    /// Who signs its clients' certificates; without it none is asked for.
    pub client_authority: Option<String>,
    /// Waits before it shakes hands.
    #[serde(deserialize_with = "duration")]
    pub handshake_delay: Option<Duration>,
    /// ALPN protocols it knows.
    pub alpn: Vec<String>,
    /// Those that it knows on its first connection, if others.
    pub alpn_first: Vec<String>,
    /// Answers, the first that fits.
    pub rules: Vec<Rule>,
    /// What a TCP server says first.
    pub greeting: Option<String>,
    /// Whether a TCP server sends back what it gets.
    pub echo: bool,
    /// Whether connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether it listens only once a step starts it.
    pub stopped: bool,
    /// Whether nothing that it sees is compared, as it comes at its own times: health checks.
    pub unseen: bool,
}

/// How a scripted server speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2, prior knowledge or ALPN.
    H2,
    /// Bytes.
    Tcp,
    /// Names.
    Dns,
}

/// An answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// For paths (names, of a name server) that start so.
    pub path: String,
    /// For so many requests.
    pub times: Option<usize>,
    /// Waits before it answers.
    #[serde(deserialize_with = "duration")]
    pub delay: Option<Duration>,
    /// Waits between head and body.
    #[serde(deserialize_with = "duration")]
    pub body_delay: Option<Duration>,
    /// 200 by default. Of a name server: a response code.
    pub status: Option<u16>,
    /// `name: value`.
    pub headers: Vec<String>,
    /// Text, or bytes after `hex:`.
    pub body: String,
    /// So many bytes of `x` instead.
    pub body_size: Option<usize>,
    /// `name: value`.
    pub trailers: Vec<String>,
    /// Bytes instead of all the above (HTTP/1).
    pub raw: Option<String>,
    /// Answers when it has the request's head. What becomes of the rest is seen: whether the other side ends it.
    pub early: bool,
    /// How it ends.
    pub then: Then,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// The connection stays.
    #[default]
    Keep,
    /// It is closed after the answer.
    Close,
    /// It is reset after the answer (HTTP/2: the stream, with INTERNAL_ERROR).
    Reset,
    /// It is closed instead of an answer (HTTP/2: GOAWAY).
    CloseAtOnce,
    /// It is reset instead of an answer (HTTP/2: the stream, with REFUSED_STREAM).
    ResetAtOnce,
}

/// A change of the bootstrap.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    pub name: String,
    /// What stands in the bootstrap.
    #[serde(default)]
    pub find: String,
    /// What stands there instead, the first time.
    #[serde(default)]
    pub replace: String,
    /// Whether it is accepted.
    pub accepted: bool,
    /// The row of docs/envoy-differences.md if Envoy does the opposite.
    pub differs: Option<String>,
    /// What weir's message contains, if it refuses.
    pub message: Option<String>,
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let seconds = match text.strip_suffix("ms") {
        Some(number) => number.parse::<f64>().map(|number| number / 1000.0),
        None => text.strip_suffix('s').unwrap_or(&text).parse(),
    };
    seconds.map(|seconds| Some(Duration::from_secs_f64(seconds))).map_err(serde::de::Error::custom)
}

impl From<Value> for Case {
    fn from(value: Value) -> Self {
        let mut case = Self { name: String::new(), steps: Vec::new(), after: After::default(), mistake: None };
        if let Err(mistake) = case.read(value) {
            case.mistake = Some(mistake);
        }
        case
    }
}

impl Case {
    fn read(&mut self, value: Value) -> Result<(), String> {
        let Value::Object(mut fields) = value else { return Err("a case is a mapping".to_owned()) };
        if let Some(Value::String(name)) = fields.remove("name") {
            self.name = name;
        }
        let mut after = serde_json::Map::new();
        for key in ["logs", "seen", "stats", "replace", "skip", "unordered", "differs"] {
            if let Some(value) = fields.remove(key) {
                after.insert(key.to_owned(), value);
            }
        }
        self.after = serde_json::from_value(Value::Object(after)).map_err(|error| error.to_string())?;
        if let Some(steps) = fields.remove("steps") {
            self.steps = serde_json::from_value(steps).map_err(|error| error.to_string())?;
            if let Some(key) = fields.keys().next() {
                return Err(format!("`{key}` stands beside `steps`, not in a step"));
            }
        } else {
            self.steps = vec![serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())?];
        }
        self.steps.iter().try_for_each(Step::check)
    }
}

impl Step {
    fn check(&self) -> Result<(), String> {
        let kinds = [
            self.request.is_some(),
            self.send.is_some(),
            self.admin.is_some(),
            self.wait.is_some(),
            self.write.is_some(),
            self.upstream.is_some(),
            self.close.is_some(),
            self.reset.is_some(),
            self.concurrent.is_some(),
            self.pause.is_some(),
        ];
        match kinds.iter().filter(|given| **given).count() {
            1 => self.concurrent.iter().flatten().try_for_each(Self::check),
            count => Err(format!("a step does one thing, not {count}: {self:?}")),
        }
    }
}

impl File {
    /// Reads a case file.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut whole: Value = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
        if let Some(Value::Array(cases)) = whole.get_mut("cases") {
            *cases = std::mem::take(cases).into_iter().flat_map(expanded).collect();
        }
        if let Some(Value::Array(configurations)) = whole.get_mut("configurations") {
            *configurations = std::mem::take(configurations).into_iter().flat_map(expanded).collect();
        }
        let mut file: Self = serde_json::from_value(whole).map_err(|error| error.to_string())?;
        if let Some(other) = &file.bootstrap_of {
            let other = Self::load(&path.with_file_name(other))?;
            file.bootstrap = other.bootstrap;
            file.log = file.log.or(other.log);
            file.replace.extend(other.replace);
            inherit(&mut file.upstreams, other.upstreams);
            inherit(&mut file.files, other.files);
            inherit(&mut file.certificates, other.certificates);
        }
        for case in &file.cases {
            if let Some(mistake) = &case.mistake {
                return Err(format!("case `{}`: {mistake}", case.name));
            }
        }
        let mut names: Vec<_> = file.cases.iter().map(|case| &case.name).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("two cases are named `{}`", pair[0])),
            None => Ok(file),
        }
    }
}

/// Adds what is not there yet.
fn inherit<T>(into: &mut BTreeMap<String, T>, from: BTreeMap<String, T>) {
    for (name, value) in from {
        into.entry(name).or_insert(value);
    }
}

/// A case for each element of its `each`: of a mapping `${key}` is filled in, of anything else `${each}`.
fn expanded(mut case: Value) -> Vec<Value> {
    let Some(Value::Array(elements)) = case.as_object_mut().and_then(|fields| fields.remove("each")) else {
        return vec![case];
    };
    elements
        .into_iter()
        .map(|element| {
            let values: Vec<(String, Value)> = match element {
                Value::Object(values) => values.into_iter().collect(),
                one => vec![("each".to_owned(), one)],
            };
            let mut case = case.clone();
            fill(&mut case, &values);
            case
        })
        .collect()
}

fn fill(value: &mut Value, values: &[(String, Value)]) {
    match value {
        Value::String(text) => {
            for (key, replacement) in values {
                let placeholder = format!("${{{key}}}");
                if *text == placeholder {
                    *value = replacement.clone();
                    return;
                }
                *text = text.replace(&placeholder, &plain(replacement));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| fill(element, values)),
        Value::Object(fields) => {
            let filled = std::mem::take(fields).into_iter().map(|(mut name, mut field)| {
                for (key, replacement) in values {
                    name = name.replace(&format!("${{{key}}}"), &plain(replacement));
                }
                fill(&mut field, values);
                (name, field)
            });
            *fields = filled.collect();
        }
        _ => {}
    }
}

/// A value within a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
