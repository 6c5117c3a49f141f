//! What the filters that a request has passed do to its response.

use http::{HeaderMap, StatusCode, request::Parts};
use smallvec::SmallVec;

use super::{
    cors,
    exchange::{levels, said},
    ext_authz, fault, grpc_stats,
    header_mutation::Lists,
    health_check, local_ratelimit, peer_metadata,
};
use crate::{
    access_log::{Live, View},
    config::filter::{FilterKind, HttpFilter},
    http::{
        body::{counting::Counting, throttle::Throttle},
        headers::{
            lines::Of,
            trailers::{TrailerChanges, TrailerLists},
        },
        stream::{Stream, route::Routed},
    },
};

/// What filters have to do when the response comes.
#[derive(Debug, Default)]
pub(in crate::http) struct Chain {
    /// In the filters' order, with how many filters come after each.
    states: SmallVec<[(usize, State); 2]>,
    /// How many come after the one that a request is at.
    pub(super) after: usize,
    /// Slows the response's body down.
    pub throttle: Option<Throttle>,
}

#[derive(Debug)]
pub(super) enum State {
    Cors(cors::Allowed),
    HeaderMutation(Lists),
    LocalRateLimit(local_ratelimit::Shown),
    HealthCheck(health_check::Responds),
    ExtAuthz(ext_authz::Responds),
    PeerMetadata(peer_metadata::OfResponse),
    /// A fault that counts as active.
    Fault(#[expect(dead_code, reason = "held")] fault::Active),
    GrpcStats(grpc_stats::Call),
}

impl Chain {
    /// What applies to the response even if the request passes no filter.
    pub fn new(filters: &[HttpFilter], routed: Option<&Routed>) -> Self {
        let mut chain = Self::default();
        chain.reroute(filters, routed);
        chain
    }

    /// The same of the filters that are left, as another route says it.
    pub fn reroute(&mut self, left: &[HttpFilter], routed: Option<&Routed>) {
        self.states.retain(|(after, state)| *after >= left.len() || !matches!(state, State::HeaderMutation(_)));
        for (index, filter) in left.iter().enumerate() {
            if let Some(FilterKind::HeaderMutation(own)) = filter.kind.current().as_deref() {
                let said = said(&filter.name, routed);
                if !said.disabled.unwrap_or(filter.disabled) {
                    let lists = Lists::new(own, &filter.name, levels(routed));
                    self.insert(left.len() - index - 1, State::HeaderMutation(lists));
                }
            }
        }
    }

    /// Keeps what the filter that a request is at has to do when the response comes.
    pub(super) fn keep(&mut self, left: Option<State>) {
        if let Some(state) = left {
            self.insert(self.after, state);
        }
    }

    fn insert(&mut self, after: usize, state: State) {
        let place = self.states.partition_point(|(known, _)| *known >= after);
        self.states.insert(place, (after, state));
    }

    /// Whether no filter has anything to do with the response.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// What filters change of the trailers of the request, or of the response with these headers; none: nothing.
    pub fn trailer_changes(
        &self,
        stream: &Stream,
        parts: &Parts,
        response: Option<&HeaderMap>,
    ) -> Option<Box<TrailerChanges>> {
        let of = if response.is_some() { Of::Response } else { Of::Request };
        let mut lists: SmallVec<[&Lists; 2]> = SmallVec::new();
        lists.extend(self.states.iter().filter_map(|(_, state)| match state {
            State::HeaderMutation(lists) => Some(lists),
            _ => None,
        }));
        if response.is_some() {
            lists.reverse();
        }
        let lists: TrailerLists = lists.into_iter().flat_map(|lists| lists.of_trailers(of)).cloned().collect();
        let request = (parts, stream.scheme);
        (!lists.is_empty()).then(|| TrailerChanges::new(lists, &stream.record.entry, request, response))
    }

    /// Passes a response's headers through the filters. `parts` are the request's.
    /// Gives what counts the messages of its body, if a filter does.
    pub fn on_response(
        &mut self,
        stream: &Stream,
        status: StatusCode,
        live: Option<Live<'_>>,
        headers: &mut HeaderMap,
    ) -> Option<Box<Counting>> {
        if self.is_empty() {
            return None;
        }
        let view = View::perhaps_live(&stream.record.entry, live);
        let mut counting = None;
        for (_, state) in self.states.iter_mut().rev() {
            match state {
                State::Cors(allowed) => allowed.on_response(headers),
                State::HeaderMutation(lists) => lists.on_response(headers, &view),
                State::LocalRateLimit(shown) => shown.on_response(headers),
                State::HealthCheck(responds) => responds.on_response(stream, status, headers),
                State::ExtAuthz(responds) => responds.on_response(headers),
                State::PeerMetadata(taken) => taken.on_response(headers),
                State::Fault(_) => {}
                State::GrpcStats(call) => counting = Some(call.on_response(status, headers)),
            }
        }
        counting
    }
}
