//! A request as filters see it, what routes say about them, and what one of them decides.

use http::request::Parts;

use crate::{
    config::filter::{Overrides, RouteFilter},
    http::{
        body::client::ClientBody,
        headers::forwarded::Client,
        stream::{reply::Reply, route::Routed},
    },
};

/// A request as filters see it.
pub(in crate::http) struct Exchange<'a> {
    pub parts: &'a mut Parts,
    pub body: &'a mut ClientBody,
    /// Where it goes, if there is a route.
    pub routed: Option<&'a Routed>,
    pub client: Client,
}

/// What a filter decides about a request.
pub(super) struct Decided<S> {
    /// The answer, if the request goes no further.
    pub reply: Option<Reply>,
    /// What it has to do when the response comes.
    pub left: Option<S>,
}

impl<S> Decided<S> {
    /// The request passes, and nothing is left to do.
    pub const PASSED: Self = Self { reply: None, left: None };
}

/// What a route says about a filter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    pub disabled: Option<bool>,
    pub config: Option<&'a RouteFilter>,
}

/// What is said about a filter, from the most specific place to the least.
pub(super) fn levels(routed: Option<&Routed>) -> impl Iterator<Item = &Overrides> {
    routed.into_iter().flat_map(|routed| {
        let weighted = routed.weighted().map(|cluster| &cluster.filters);
        let rest = [&routed.route.filters, &routed.virtual_host.filters, &routed.table.filters];
        weighted.into_iter().chain(rest).filter(|overrides| !overrides.is_empty())
    })
}

/// What is said about the filter of this name.
pub(super) fn said<'a>(name: &str, routed: Option<&'a Routed>) -> Said<'a> {
    let mut said = Said::default();
    for known in levels(routed).filter_map(|overrides| overrides.get(name)) {
        said.disabled = said.disabled.or(Some(known.disabled));
        said.config = said.config.or(known.config.as_ref());
    }
    said
}
