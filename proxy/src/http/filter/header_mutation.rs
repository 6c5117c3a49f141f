//! Changing headers and query parameters.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Uri, uri::PathAndQuery};
use smallvec::SmallVec;

use super::exchange::{Exchange, levels};
use crate::{
    access_log::{Live, View},
    config::{
        filter::{
            Overrides, RouteFilter,
            header_mutation::{HeaderMutation, Mutation, QueryMutation},
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

    pub fn on_response(&self, headers: &mut HeaderMap, view: &View<'_>) {
        for mutation in self.0.iter().flat_map(|list| &list.response) {
            apply(mutation, Of::Response, headers, |out, format, headers| {
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
            apply(mutation, Of::Request, &mut parts.headers, |out, format, headers| {
                let live = Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers };
                format.write_header(out, &View::live(&stream.record.entry, live));
            });
        }
        if !list.query.is_empty()
            && let Some(changed) = query(&parts.uri, &list.query)
        {
            parts.uri = changed;
        }
    }
}

/// Applies one change.
pub(in crate::http) fn apply(
    mutation: &Mutation,
    of: Of,
    headers: &mut HeaderMap,
    format: impl Fn(&mut Vec<u8>, &crate::access_log::format::Format, &HeaderMap),
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
        Mutation::Append(addition) => mutate::add(std::slice::from_ref(addition), of, headers, format),
    }
}

/// The target with its query changed. None: it would not be valid.
fn query(uri: &Uri, mutations: &[QueryMutation]) -> Option<Uri> {
    let mut pairs: Vec<(String, String)> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        })
        .collect();
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(name) => pairs.retain(|(key, _)| **key != **name),
            QueryMutation::Append(name, value, append) => {
                let present = pairs.iter().any(|(key, _)| **key == **name);
                let replace = match append {
                    Append::AppendIfExistsOrAdd => false,
                    Append::AddIfAbsent if present => continue,
                    Append::OverwriteIfExists if !present => continue,
                    Append::AddIfAbsent | Append::OverwriteIfExists | Append::OverwriteIfExistsOrAdd => true,
                };
                if replace {
                    pairs.retain(|(key, _)| **key != **name);
                }
                pairs.push((name.to_string(), value.to_string()));
            }
        }
    }
    // As Envoy keeps them.
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut target = uri.path().to_owned();
    for (index, (key, value)) in pairs.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(key);
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
        let append = |key: &str, value: &str, how| QueryMutation::Append(key.into(), value.into(), how);
        let uri = Uri::from_static("/p?a=1&b=2");
        let changed = query(
            &uri,
            &[
                QueryMutation::Remove("a".into()),
                append("b", "3", Append::AppendIfExistsOrAdd),
                append("c", "4", Append::AddIfAbsent),
                append("d", "5", Append::OverwriteIfExists),
            ],
        );
        assert_eq!(changed.unwrap(), "/p?b=2&b=3&c=4");
        assert_eq!(query(&uri, &[append("a", "9", Append::OverwriteIfExistsOrAdd)]).unwrap(), "/p?a=9&b=2");
    }
}
