//! The filters before the router: requests pass them in order, responses in reverse order.
//!
//! A request's [`Chain`] exists only where filters are configured. It holds what they have to do when the response
//! comes, and the choices that routes made for them.

mod buffer;
mod cors;
mod fault;
mod grpc_stats;
mod header_mutation;
mod health_check;
mod local_ratelimit;
mod rbac;

use http::{HeaderMap, request::Parts};
use smallvec::SmallVec;

use super::{
    body::{client::ClientBody, counting::Counting},
    headers::forwarded::Client,
    stream::{Stream, reply::Reply, route::Routed},
};
use crate::{
    config::filter::{FilterKind, HttpFilter, Overrides, RouteFilter},
    telemetry::access_log::View,
};

/// A request as filters see it.
pub(super) struct Exchange<'a> {
    pub parts: &'a mut Parts,
    pub body: &'a mut ClientBody,
    /// Where it goes, if there is a route.
    pub routed: Option<&'a Routed>,
    pub client: Client,
}

/// What filters have to do when the response comes, in their order.
#[derive(Debug, Default)]
pub(super) struct Chain {
    states: SmallVec<[State; 2]>,
}

#[derive(Debug)]
enum State {
    Cors(cors::Allowed),
    HeaderMutation(header_mutation::Lists),
    LocalRateLimit(local_ratelimit::Shown),
    HealthCheck(health_check::Checked),
    /// A fault that counts as active.
    Fault(#[expect(dead_code, reason = "held")] fault::Active),
    GrpcStats(grpc_stats::Call),
}

/// What a route says about a filter.
#[derive(Clone, Copy, Debug, Default)]
struct Said<'a> {
    disabled: Option<bool>,
    config: Option<&'a RouteFilter>,
}

/// What is said about a filter, from the most specific place to the least.
fn levels(routed: Option<&Routed>) -> impl Iterator<Item = &Overrides> {
    routed.into_iter().flat_map(|routed| {
        let weighted = routed.weighted().map(|cluster| &cluster.filters);
        let rest = [&routed.route.filters, &routed.virtual_host.filters, &routed.table.filters];
        weighted.into_iter().chain(rest).filter(|overrides| !overrides.is_empty())
    })
}

fn said<'a>(name: &str, routed: Option<&'a Routed>) -> Said<'a> {
    let mut said = Said::default();
    for known in levels(routed).filter_map(|overrides| overrides.get(name)) {
        said.disabled = said.disabled.or(Some(known.disabled));
        said.config = said.config.or(known.config.as_ref());
    }
    said
}

/// Notes what applies to the response even if the request passes no filter.
pub(super) fn prepare(stream: &mut Stream, routed: Option<&Routed>) {
    let manager = stream.connection.manager.clone();
    for filter in &manager.filters {
        if let FilterKind::HeaderMutation(own) = &filter.kind {
            let said = said(&filter.name, routed);
            if !said.disabled.unwrap_or(filter.disabled) {
                let lists = header_mutation::Lists::new(own, &filter.name, levels(routed));
                stream.chain.states.push(State::HeaderMutation(lists));
            }
        }
    }
}

/// Passes a request through the filters. A reply: one of them answers it.
pub(super) async fn on_request(stream: &mut Stream, exchange: &mut Exchange<'_>) -> Option<Reply> {
    prepare(stream, exchange.routed);
    let manager = stream.connection.manager.clone();
    for filter in &manager.filters {
        let said = said(&filter.name, exchange.routed);
        if said.disabled.unwrap_or(filter.disabled) {
            continue;
        }
        if let Some(reply) = pass(stream, exchange, filter, said).await {
            return Some(reply);
        }
    }
    None
}

async fn pass(stream: &mut Stream, exchange: &mut Exchange<'_>, filter: &HttpFilter, said: Said<'_>) -> Option<Reply> {
    match (&filter.kind, said.config) {
        (_, Some(RouteFilter::Buffer(None))) => None,
        (FilterKind::Buffer(_), Some(RouteFilter::Buffer(Some(limit)))) | (FilterKind::Buffer(limit), _) => {
            Box::pin(buffer::on_request(*limit, stream, exchange)).await
        }
        (FilterKind::Cors(stats), _) => cors::on_request(stats, stream, exchange, &filter.name),
        (FilterKind::Fault(own), said) => {
            let fault = match said {
                Some(RouteFilter::Fault(fault)) => fault,
                _ => own,
            };
            Box::pin(fault::on_request(fault, &own.stats, stream, exchange)).await
        }
        (FilterKind::HeaderMutation(own), _) => {
            header_mutation::on_request(own, &filter.name, stream, exchange);
            None
        }
        (FilterKind::HealthCheck(check), _) => Box::pin(health_check::on_request(check, stream, exchange)).await,
        (FilterKind::LocalRateLimit(_), Some(RouteFilter::LocalRateLimit(limit)))
        | (FilterKind::LocalRateLimit(limit), _) => local_ratelimit::on_request(limit, stream, exchange),
        (FilterKind::Rbac(own), said) => {
            let rbac = match said {
                Some(RouteFilter::Rbac(rbac)) => rbac,
                _ => own,
            };
            rbac::on_request(rbac, own, stream, exchange)
        }
        (FilterKind::GrpcStats(stats), _) => {
            grpc_stats::on_request(stats, stream, exchange);
            None
        }
    }
}

impl Chain {
    /// Whether no filter has anything to do with the response.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Passes a response's headers through the filters. `view` is of the request.
    /// Gives what counts the messages of its body, if a filter does.
    pub fn on_response(
        &mut self,
        status: http::StatusCode,
        headers: &mut HeaderMap,
        view: &View<'_>,
    ) -> Option<Box<Counting>> {
        let mut counting = None;
        for state in self.states.iter_mut().rev() {
            match state {
                State::Cors(allowed) => allowed.on_response(headers),
                State::HeaderMutation(lists) => lists.on_response(headers, view),
                State::LocalRateLimit(shown) => shown.on_response(headers),
                State::HealthCheck(checked) => checked.on_response(status, headers),
                State::Fault(_) => {}
                State::GrpcStats(call) => counting = Some(call.on_response(status, headers)),
            }
        }
        counting
    }
}

/// Passes a response's headers through the stream's filters.
pub(super) fn on_response(stream: &mut Stream, status: http::StatusCode, parts: &Parts, headers: &mut HeaderMap) {
    if stream.chain.is_empty() {
        return;
    }
    let view = View::live(&stream.record.entry, stream.live(parts));
    stream.counting = stream.chain.on_response(status, headers, &view);
}
