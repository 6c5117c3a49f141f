//! Applying header changes, and removing what ends at this hop.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{forwarded::X_FORWARDED_HOST, lines::Of};
use crate::{
    access_log::{View, format::Format},
    config::{
        filter::header_mutation::Mutation,
        headers::{Addition, Append, HeaderChanges, Mutations, Value},
        route::{Route, RouteTable, VirtualHost, WeightedCluster},
    },
};

const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Where the changes for a request come from, from the most specific to the least.
#[derive(Clone, Copy)]
pub(in crate::http) struct Changes<'a> {
    pub weighted: Option<&'a WeightedCluster>,
    pub route: &'a Route,
    pub virtual_host: &'a VirtualHost,
    pub table: &'a RouteTable,
}

impl<'a> Changes<'a> {
    /// In the order in which Envoy applies them.
    pub fn in_order(&self) -> impl Iterator<Item = &'a HeaderChanges> {
        let mut three = [&self.route.headers, &self.virtual_host.headers, &self.table.headers];
        if self.table.most_specific_wins {
            three.reverse();
        }
        self.weighted.map(|cluster| &cluster.headers).into_iter().chain(three)
    }
}

/// Removes, then adds. `format` writes the value of an addition with operators; the headers are those before the
/// additions.
pub(in crate::http) fn apply(
    changes: &Mutations,
    of: Of,
    headers: &mut HeaderMap,
    format: impl Fn(&mut Vec<u8>, &Format, &HeaderMap),
) {
    if changes.is_empty() {
        return;
    }
    for name in &changes.remove {
        headers.remove(name);
    }
    add(&changes.add, of, headers, format);
}

/// Adds headers; see [`apply`].
pub(in crate::http) fn add(
    additions: &[Addition],
    of: Of,
    headers: &mut HeaderMap,
    format: impl Fn(&mut Vec<u8>, &Format, &HeaderMap),
) {
    if additions.is_empty() {
        return;
    }
    let mut buffer = Vec::new();
    let values: Vec<Option<HeaderValue>> = additions
        .iter()
        .map(|addition| {
            let value = match &addition.value {
                Value::Fixed(value) => value.clone(),
                Value::Format(text) => {
                    buffer.clear();
                    format(&mut buffer, text, headers);
                    HeaderValue::from_bytes(&buffer).ok()?
                }
            };
            (addition.keep_empty || !value.is_empty()).then_some(value)
        })
        .collect();
    for (addition, value) in additions.iter().zip(values) {
        let Some(value) = value else { continue };
        let present = headers.contains_key(&addition.name);
        match addition.append {
            Append::AppendIfExistsOrAdd => of.append(headers, &addition.name, value),
            Append::AddIfAbsent if present => {}
            Append::OverwriteIfExists if !present => {}
            Append::AddIfAbsent | Append::OverwriteIfExists | Append::OverwriteIfExistsOrAdd => {
                headers.insert(addition.name.clone(), value);
            }
        }
    }
}

/// Applies one change of a filter.
pub(in crate::http) fn apply_one(
    mutation: &Mutation,
    of: Of,
    headers: &mut HeaderMap,
    format: impl Fn(&mut Vec<u8>, &Format, &HeaderMap),
) {
    match mutation {
        Mutation::Remove(name) => {
            headers.remove(name);
        }
        Mutation::RemoveMatching(matcher) => {
            let gone: Vec<HeaderName> =
                headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes())).cloned().collect();
            for name in gone {
                headers.remove(name);
            }
        }
        Mutation::Append(addition) => add(std::slice::from_ref(addition), of, headers, format),
    }
}

/// Applies the response changes of `changes`.
pub(in crate::http) fn apply_to_response(changes: &Changes<'_>, headers: &mut HeaderMap, view: &View<'_>) {
    for changes in changes.in_order() {
        apply(&changes.response, Of::Response, headers, |out, format, headers| {
            format.write_header(out, &View { response: Some(headers), ..*view });
        });
    }
}

/// Removes the headers that concern one connection only (RFC 9110 section 7.6.1), but for those that `connection` names
/// (`nominated`). An upgrade keeps its own.
pub(in crate::http) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if !upgrade {
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
}

/// Adds this hop to `via`, in one line with those before it.
pub(in crate::http) fn append_via(headers: &mut HeaderMap, via: &HeaderValue) {
    let mut value = Vec::new();
    for before in headers.get_all(header::VIA) {
        value.extend_from_slice(before.as_bytes());
        value.extend_from_slice(b", ");
    }
    value.extend_from_slice(via.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(header::VIA, value);
    }
}

/// `te: trailers` concerns the whole path, for gRPC; anything else does not.
pub(in crate::http) fn keep_only_trailers_in_te(headers: &mut HeaderMap) {
    let Some(te) = headers.get(header::TE) else { return };
    let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|token| token.trim() == "trailers"));
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(header::TE);
    }
}

/// The host becomes another; what it was is kept beside it, for the upstream `forwarded` too.
pub(in crate::http) fn replace_host(headers: &mut HeaderMap, host: HeaderValue, forwarded: bool) {
    if let Some(old) = headers.insert(header::HOST, host) {
        if forwarded {
            append_forwarded_host(headers, &old);
        }
        headers.insert(ORIGINAL_HOST, old);
    }
}

/// What says which host a request is for.
#[derive(Debug)]
pub(in crate::http) struct Hosts([Option<HeaderValue>; 3]);

impl Hosts {
    const NAMES: [HeaderName; 3] = [header::HOST, ORIGINAL_HOST, X_FORWARDED_HOST];

    /// As `headers` have it.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(Self::NAMES.map(|name| headers.get(name).cloned()))
    }

    /// The host itself.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.0[0].as_ref()
    }

    /// Has `headers` say so again.
    pub fn restore(self, headers: &mut HeaderMap) {
        for (name, value) in Self::NAMES.into_iter().zip(self.0) {
            match value {
                Some(value) => headers.insert(name, value),
                None => headers.remove(name),
            };
        }
    }
}

/// Adds a host to `x-forwarded-host`, in one line with those before it, unless it is the last of them.
fn append_forwarded_host(headers: &mut HeaderMap, host: &HeaderValue) {
    let mut value = Vec::new();
    for before in headers.get_all(X_FORWARDED_HOST) {
        value.extend_from_slice(before.as_bytes());
        value.push(b',');
    }
    let last = value.split(|byte| *byte == b',').rev().nth(1);
    if last.is_some_and(|last| last.trim_ascii() == host.as_bytes()) {
        return;
    }
    value.extend_from_slice(host.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(X_FORWARDED_HOST, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::format::Format;

    fn addition(name: &'static str, value: &'static str, append: Append) -> Addition {
        Addition {
            name: HeaderName::from_static(name),
            value: Value::Fixed(HeaderValue::from_static(value)),
            append,
            keep_empty: false,
        }
    }

    #[test]
    fn append_actions() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        headers.insert("gone", HeaderValue::from_static("1"));
        let changes = Mutations {
            remove: vec![HeaderName::from_static("gone")],
            add: vec![
                addition("a", "2", Append::AppendIfExistsOrAdd),
                addition("a", "3", Append::AddIfAbsent),
                addition("b", "1", Append::OverwriteIfExists),
                addition("c", "1", Append::AddIfAbsent),
                addition("d", "", Append::AppendIfExistsOrAdd),
                addition("gone", "2", Append::OverwriteIfExistsOrAdd),
                Addition {
                    value: Value::Format(Format::text("%PROTOCOL%").unwrap()),
                    ..addition("e", "", Append::AppendIfExistsOrAdd)
                },
            ],
        };
        apply(&changes, Of::Request, &mut headers, |out, _, _| out.extend_from_slice(b"formatted"));
        let values: Vec<_> = headers.get_all("a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(!headers.contains_key("b") && !headers.contains_key("d"));
        assert_eq!(
            (&headers["c"], &headers["gone"], &headers["e"]),
            (&HeaderValue::from_static("1"), &HeaderValue::from_static("2"), &HeaderValue::from_static("formatted"))
        );
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("x-end", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers, false);
        keep_only_trailers_in_te(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-end"]);
        assert_eq!(headers["te"], "trailers");
    }
}
