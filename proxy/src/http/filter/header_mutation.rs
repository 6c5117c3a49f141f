//! Changing headers and query parameters.

use std::sync::Arc;

use http::{HeaderMap, Uri, uri::PathAndQuery};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use smallvec::SmallVec;

use super::exchange::{Exchange, levels};
use crate::{
    access_log::{Live, View, format::Format},
    config::{
        filter::{
            Overrides, RouteFilter,
            header_mutation::{HeaderMutation, QueryMutation},
        },
        headers::Append,
    },
    http::{
        headers::{lines::Of, mutate},
        stream::Stream,
    },
};

/// The mutations that apply to a stream, in order.
#[derive(Debug)]
pub(super) struct Lists(SmallVec<[Arc<HeaderMutation>; 2]>);

impl Lists {
    /// The filter's own, then what routes say.
    pub fn new<'a>(own: &Arc<HeaderMutation>, name: &str, levels: impl Iterator<Item = &'a Overrides>) -> Self {
        let mut lists = SmallVec::new();
        lists.push(own.clone());
        lists.extend(levels.filter_map(|overrides| match overrides.get(name)?.config.as_ref()? {
            RouteFilter::HeaderMutation(mutation) => Some(mutation.clone()),
            _ => None,
        }));
        if own.most_specific_wins {
            lists[1..].reverse();
        }
        Self(lists)
    }

    /// Those that change trailers of requests, or of responses.
    pub fn of_trailers(&self, of: Of) -> impl Iterator<Item = &Arc<HeaderMutation>> {
        self.0.iter().filter(move |list| match of {
            Of::Request => !list.request_trailers.is_empty(),
            Of::Response => !list.response_trailers.is_empty(),
        })
    }

    pub fn on_response(&self, headers: &mut HeaderMap, view: &View<'_>) {
        for mutation in self.0.iter().flat_map(|list| &list.response) {
            mutate::apply_one(mutation, Of::Response, headers, |out, format, headers| {
                format.write_header(out, &View { response: Some(headers), ..*view });
            });
        }
    }
}

pub(super) fn on_request(own: &Arc<HeaderMutation>, name: &str, stream: &Stream, exchange: &mut Exchange<'_>) {
    let lists = Lists::new(own, name, levels(exchange.routed));
    for list in &lists.0 {
        let parts = &mut *exchange.parts;
        for mutation in &list.request {
            mutate::apply_one(mutation, Of::Request, &mut parts.headers, |out, format, headers| {
                let live = Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers };
                format.write_header(out, &View::live(&stream.record.entry, live));
            });
        }
        if !list.query.is_empty()
            && let Some(changed) = query(&parts.uri, &list.query, |out, format| {
                let live =
                    Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers: &parts.headers };
                format.write_header(out, &View::live(&stream.record.entry, live));
            })
        {
            parts.uri = changed;
        }
    }
}

/// What Envoy encodes of a value that it adds to a query.
const VALUE: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// What a request's target can't have in its query as it is.
const QUERY: AsciiSet = CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// A parameter of a query.
struct Parameter {
    /// Its name, decoded.
    name: String,
    /// The name and the value, as they are sent.
    sent: (String, String),
}

impl Parameter {
    fn received(piece: &str) -> Self {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let decoded = percent_decode_str(name).decode_utf8_lossy().into_owned();
        Self { name: decoded, sent: (name.to_owned(), value.to_owned()) }
    }

    fn made(name: &str, value: &[u8]) -> Self {
        let sent = (utf8_percent_encode(name, &QUERY).to_string(), percent_encode(value, &VALUE).to_string());
        Self { name: name.to_owned(), sent }
    }
}

/// The target with its query changed; `format` writes a value. None: it would not be valid.
fn query(uri: &Uri, mutations: &[QueryMutation], format: impl Fn(&mut Vec<u8>, &Format)) -> Option<Uri> {
    let pieces = uri.query().unwrap_or_default();
    let mut parameters: Vec<Parameter> = pieces.split('&').map(Parameter::received).collect();
    // What a separator ends with is nothing.
    parameters.pop_if(|last| last.sent == Default::default());
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(name) => parameters.retain(|parameter| *parameter.name != **name),
            QueryMutation::Append(name, value, append) => {
                let present = parameters.iter().any(|parameter| *parameter.name == **name);
                match append {
                    Append::AddIfAbsent if present => continue,
                    Append::OverwriteIfExists if !present => continue,
                    Append::AppendIfExistsOrAdd | Append::AddIfAbsent => {}
                    Append::OverwriteIfExists | Append::OverwriteIfExistsOrAdd => {
                        parameters.retain(|parameter| *parameter.name != **name);
                    }
                }
                let mut written = Vec::new();
                format(&mut written, value);
                parameters.push(Parameter::made(name, &written));
            }
        }
    }
    // As Envoy keeps them.
    parameters.sort_by(|one, other| one.name.cmp(&other.name));
    let mut target = uri.path().to_owned();
    for (index, Parameter { sent: (name, value), .. }) in parameters.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(name);
        target.push('=');
        target.push_str(value);
    }
    PathAndQuery::try_from(target).ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_change() {
        let append = |key: &str, value: &str, how| {
            QueryMutation::Append(key.into(), Box::new(Format::text(value).unwrap()), how)
        };
        let change = |target: &str, mutations: &[QueryMutation]| {
            let format = |out: &mut Vec<u8>, format: &Format| out.extend(format.as_literal().unwrap().bytes());
            query(&target.parse().unwrap(), mutations, format).unwrap().to_string()
        };
        let mutations = [
            QueryMutation::Remove("a".into()),
            append("b", "3", Append::AppendIfExistsOrAdd),
            append("c", "a b&c", Append::AddIfAbsent),
            append("d", "5", Append::OverwriteIfExists),
        ];
        assert_eq!(change("/p?a=1&b=2", &mutations), "/p?b=2&b=3&c=a%20b%26c");
        assert_eq!(change("/p?a=1&b=2", &[append("a", "9", Append::OverwriteIfExistsOrAdd)]), "/p?a=9&b=2");
        // Names are compared decoded, and sent as they came.
        assert_eq!(change("/p?%61=1&b=%26c", &[append("a", "9", Append::AddIfAbsent)]), "/p?%61=1&b=%26c");
        assert_eq!(change("/p?&b&", &[append("k /", "", Append::AddIfAbsent)]), "/p?=&b=&k%20/=");
        assert_eq!(change("/p?", &[QueryMutation::Remove("a".into())]), "/p");
    }
}
