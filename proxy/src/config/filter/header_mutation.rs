//! Changing headers, trailers and query parameters.

use http::HeaderName;

use crate::{
    access_log::format::Format,
    config::headers::{Addition, Append},
    matcher::StringMatcher,
};

/// `HeaderMutation`, of the filter or of a route.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutation {
    /// To the request's headers.
    pub request: Vec<Mutation>,
    /// To the request's query parameters.
    pub query: Vec<QueryMutation>,
    /// To the response's headers.
    pub response: Vec<Mutation>,
    /// To the request's trailers.
    pub request_trailers: Vec<Mutation>,
    /// To the response's trailers.
    pub response_trailers: Vec<Mutation>,
    /// Routes' changes are applied from the least to the most specific.
    pub most_specific_wins: bool,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// A header goes.
    Remove(HeaderName),
    /// Headers whose names match go.
    RemoveMatching(StringMatcher),
    /// A header is added or replaced.
    Append(Box<Addition>),
}

/// A change of a query parameter.
#[derive(Clone, Debug)]
pub enum QueryMutation {
    /// It goes.
    Remove(Box<str>),
    /// It is added or replaced, with a value that is percent-encoded.
    Append(Box<str>, Box<Format>, Append),
}
