//! Changing trailers: they come when the heads that values are made of have long gone.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri, request::Parts};
use smallvec::SmallVec;

use super::{lines::Of, mutate};
use crate::{
    access_log::{Entry, Live, View},
    config::filter::header_mutation::HeaderMutation,
};

/// What filters change of a message's trailers, in their order.
pub(in crate::http) type TrailerLists = SmallVec<[Arc<HeaderMutation>; 2]>;

/// Changes that a message's trailers wait for, and what they are made of.
#[derive(Debug)]
pub(in crate::http) struct TrailerChanges {
    lists: TrailerLists,
    entry: Entry,
    method: Method,
    uri: Uri,
    scheme: &'static str,
    request: HeaderMap,
    /// Of the response; none: the trailers are the request's.
    response: Option<HeaderMap>,
}

impl TrailerChanges {
    /// Of the trailers of a request, or of the response with these headers.
    pub fn new(
        lists: TrailerLists,
        entry: &Entry,
        (parts, scheme): (&Parts, &'static str),
        response: Option<&HeaderMap>,
    ) -> Box<Self> {
        Box::new(Self {
            lists,
            entry: entry.clone(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            scheme,
            request: parts.headers.clone(),
            response: response.cloned(),
        })
    }

    /// Changes the trailers, which have come.
    pub fn apply(&self, trailers: &mut HeaderMap) {
        let live = Live { method: &self.method, uri: &self.uri, scheme: self.scheme, headers: &self.request };
        let view = View { response: self.response.as_ref(), ..View::live(&self.entry, live) };
        let of = if self.response.is_some() { Of::Response } else { Of::Request };
        let mutations = self.lists.iter().flat_map(|list| match of {
            Of::Request => &list.request_trailers,
            Of::Response => &list.response_trailers,
        });
        for mutation in mutations {
            mutate::apply_one(mutation, of, trailers, |out, format, trailers| {
                let trailers = Some(trailers).filter(|_| self.response.is_some());
                format.write_header(out, &View { trailers, ..view });
            });
        }
    }
}
