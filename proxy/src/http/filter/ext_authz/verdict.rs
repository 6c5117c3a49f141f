//! What an answer says.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::PathAndQuery};
use serde_json::{Map, Value};

use crate::config::headers::Append;

/// What an answer says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The request may pass.
    Passed(Box<Passed>),
    /// It may not.
    Denied(Box<Denied>),
    /// Nobody has answered, or the service says that it has failed, and how.
    Failed(Option<Box<Denied>>),
}

/// What becomes of a request that may pass.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Changes of its headers.
    pub request: Vec<Change>,
    /// Headers that it loses.
    pub remove: Vec<HeaderName>,
    /// Query parameters that it gets.
    pub set_parameters: Vec<(String, String)>,
    /// Query parameters that it loses.
    pub remove_parameters: Vec<String>,
    /// Changes of its response's headers.
    pub response: Vec<Change>,
    pub metadata: Map<String, Value>,
    /// Some header was none.
    pub invalid: bool,
}

/// What a client gets whose request may not pass.
#[derive(Debug)]
pub(super) struct Denied {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    pub metadata: Map<String, Value>,
    /// Some header was none.
    pub invalid: bool,
}

/// A change of headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub how: How,
}

/// How a header is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Header(Append),
    /// The value of one that is there gets longer, after a comma.
    Longer,
}

impl Change {
    /// None: that is no header.
    pub fn new(name: &str, value: &[u8], how: How) -> Option<Self> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(is_free)?;
        Some(Self { name, value: HeaderValue::from_bytes(value).ok()?, how })
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        let (name, value) = (&self.name, self.value.clone());
        let present = headers.contains_key(name);
        match self.how {
            How::Header(Append::AppendIfExistsOrAdd) => {
                headers.append(name, value);
            }
            How::Header(Append::AddIfAbsent) if present => {}
            How::Header(Append::OverwriteIfExists) if !present => {}
            How::Header(_) => {
                headers.insert(name, value);
            }
            How::Longer => {
                let joined = headers.get(name).map(|known| [known.as_bytes(), b",", value.as_bytes()].concat());
                if let Some(joined) = joined.and_then(|joined| HeaderValue::from_bytes(&joined).ok()) {
                    headers.insert(name, joined);
                }
            }
        }
    }
}

impl Verdict {
    /// Whether some header of it is none.
    pub fn is_invalid(&self) -> bool {
        match self {
            Self::Passed(passed) => passed.invalid,
            Self::Denied(denied) | Self::Failed(Some(denied)) => denied.invalid,
            Self::Failed(None) => false,
        }
    }
}

impl Passed {
    /// Whether it changes anything that routes may depend on.
    pub fn changes_request(&self) -> bool {
        !self.request.is_empty()
            || !self.remove.is_empty()
            || !self.set_parameters.is_empty()
            || !self.remove_parameters.is_empty()
    }

    /// What is asked for with other query parameters, which are in the order of their names then; none: nothing changes.
    pub fn target(&self, uri: &Uri) -> Option<Uri> {
        if self.set_parameters.is_empty() && self.remove_parameters.is_empty() {
            return None;
        }
        let mut parameters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(name).or_default().push(value);
        }
        for (name, value) in &self.set_parameters {
            parameters.insert(name, vec![value]);
        }
        for name in &self.remove_parameters {
            parameters.remove(&**name);
        }
        let pairs =
            parameters.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
        let query = pairs.collect::<Vec<_>>().join("&");
        let target = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
        Some(Uri::from(PathAndQuery::try_from(target).ok()?))
    }
}

/// Whether a header may be changed by an answer.
pub(super) fn is_free(name: &HeaderName) -> bool {
    *name != header::HOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_changed_in_each_way() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        for (name, value, how) in [
            ("a", "2", How::Longer),
            ("b", "2", How::Longer),
            ("c", "1", How::Header(Append::OverwriteIfExists)),
            ("d", "1", How::Header(Append::AddIfAbsent)),
            ("d", "2", How::Header(Append::AddIfAbsent)),
            ("d", "3", How::Header(Append::AppendIfExistsOrAdd)),
        ] {
            Change::new(name, value.as_bytes(), how).unwrap().apply(&mut headers);
        }
        let of = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!([of("a"), of("b"), of("c"), of("d")], [vec!["1,2"], vec![], vec![], vec!["1", "3"]]);
        assert_eq!(Change::new("host", b"x", How::Longer), None);
        assert_eq!(Change::new("a b", b"x", How::Longer), None);
    }

    #[test]
    fn query_parameters_are_set_and_removed() {
        let passed = Passed {
            set_parameters: vec![("n".to_owned(), "v".to_owned())],
            remove_parameters: vec!["q".to_owned()],
            ..Passed::default()
        };
        assert_eq!(passed.target(&Uri::from_static("/p?q=1&r=2")).unwrap(), "/p?n=v&r=2");
        assert_eq!(Passed::default().target(&Uri::from_static("/p?q=1")), None);
    }
}
