//! Cases: what is sent, what the specification demands, and what Envoy does where that is something else.

use super::{
    frame::{HEADERS, WHOLE, headers, string},
    outcome::Step,
};

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The section of RFC 9113, or of the specification named.
    pub section: &'static str,
    pub name: String,
    pub listener: &'static str,
    /// Whether the preface and SETTINGS are exchanged first.
    pub greets: bool,
    pub steps: Vec<Step>,
    /// What the specification demands, or allows if it leaves the choice.
    pub demanded: &'static str,
    /// What weir does instead.
    pub weir: Option<Instead>,
    /// What Envoy does instead.
    pub envoy: Option<Instead>,
}

/// What a proxy does instead.
#[derive(Clone, Copy, Debug)]
pub struct Instead {
    /// The row of docs/envoy-differences.md.
    pub row: &'static str,
    pub outcome: &'static str,
}

/// A case on the usual listener.
pub fn case(section: &'static str, name: impl Into<String>, steps: impl Into<Steps>, demanded: &'static str) -> Case {
    let (name, steps) = (name.into(), steps.into().0);
    Case { section, name, listener: "main", greets: true, steps, demanded, weir: None, envoy: None }
}

impl Case {
    pub fn on(mut self, listener: &'static str) -> Self {
        self.listener = listener;
        self
    }

    /// Without preface and SETTINGS: the case has its own.
    pub fn bare(mut self) -> Self {
        self.greets = false;
        self
    }

    /// What weir does instead.
    pub fn weir(mut self, row: &'static str, outcome: &'static str) -> Self {
        self.weir = Some(Instead { row, outcome });
        self
    }

    /// What Envoy does instead.
    pub fn envoy(mut self, row: &'static str, outcome: &'static str) -> Self {
        self.envoy = Some(Instead { row, outcome });
        self
    }

    /// What weir is to do.
    pub fn of_weir(&self) -> &'static str {
        self.weir.map_or(self.demanded, |instead| instead.outcome)
    }

    /// What Envoy is to do.
    pub fn of_envoy(&self) -> &'static str {
        self.envoy.map_or(self.demanded, |instead| instead.outcome)
    }
}

/// Steps from bytes, lists of bytes, or lists of steps.
#[derive(Clone, Debug)]
pub struct Steps(pub Vec<Step>);

impl From<Vec<u8>> for Steps {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![Step::Send(bytes)])
    }
}

impl<const N: usize> From<[Vec<u8>; N]> for Steps {
    fn from(frames: [Vec<u8>; N]) -> Self {
        Self(vec![Step::Send(frames.concat())])
    }
}

impl<const N: usize> From<[Step; N]> for Steps {
    fn from(steps: [Step; N]) -> Self {
        Self(steps.to_vec())
    }
}

/// Fields of a request.
pub type Fields<'a> = Vec<(&'a str, &'a str)>;

/// What every request needs, with a path.
pub fn request(path: &str) -> Fields<'_> {
    vec![(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "any.test")]
}

/// The same of a request with a body.
pub fn post(path: &str) -> Fields<'_> {
    vec![(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "any.test")]
}

/// A request's fields and more.
pub fn with<'a>(mut fields: Fields<'a>, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    fields.extend(more);
    fields
}

/// A request's fields without one.
pub fn without<'a>(fields: Fields<'a>, name: &str) -> Fields<'a> {
    fields.into_iter().filter(|(known, _)| *known != name).collect()
}

/// A whole GET on a stream.
pub fn get(stream: u32) -> Vec<u8> {
    headers(WHOLE, stream, &request("/echo"))
}

/// A GET on stream 1 whose header block begins with these bytes.
pub fn get_after(encoded: &[u8]) -> Vec<u8> {
    super::frame::frame(HEADERS, WHOLE, 1, &[encoded, &super::frame::block(&request("/echo"))].concat())
}

/// A GET on stream 1 whose header block ends with these bytes.
pub fn get_before(encoded: &[u8]) -> Vec<u8> {
    super::frame::frame(HEADERS, WHOLE, 1, &[&super::frame::block(&request("/echo")), encoded].concat())
}

/// A literal field of a new name whose value is encoded already, `huffman` or not.
pub fn literal(name: &str, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut bytes = vec![0];
    string(&mut bytes, name.as_bytes());
    let at = bytes.len();
    string(&mut bytes, value);
    if huffman {
        bytes[at] |= 0x80;
    }
    bytes
}
