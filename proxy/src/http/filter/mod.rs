//! The filters before the router: requests pass them in order, responses in reverse order (`chain`).
//!
//! Each filter is a file. It decides about a request as an `exchange` shows it, and gives back what is left for the
//! response; the `chain` keeps that. A reply made here takes the way of a response (`local_reply`).
//!
//! Above streams, below the router: no filter knows where or how a request is forwarded.

mod alpn;
mod buffer;
pub(in crate::http) mod chain;
mod cors;
mod dynamic_forward_proxy;
pub(in crate::http) mod exchange;
mod ext_authz;
mod fault;

mod grpc_stats;
mod header_mutation;
mod health_check;
mod jwt_authn;
mod local_ratelimit;
pub(in crate::http) mod local_reply;
mod on_demand;
mod peer_metadata;
mod rbac;
mod set_filter_state;

use std::sync::Arc;

use http::StatusCode;

use self::{
    chain::{Chain, State},
    exchange::{Exchange, Said, said},
};
use super::stream::{Stream, reply::Reply};
use crate::{
    access_log::Flag,
    config::filter::{FilterKind, HttpFilter, RouteFilter},
};

/// What has become of a request at the filters.
pub(super) enum Passed {
    /// It has passed all of them.
    All,
    /// One of them answers it.
    Answered(Reply),
    /// Its route is to be chosen anew before it goes on: so many filters are left.
    Reroute(usize),
}

/// Passes a request through filters.
pub(super) async fn on_request(
    filters: &[HttpFilter],
    stream: &mut Stream,
    chain: &mut Chain,
    exchange: &mut Exchange<'_>,
) -> Passed {
    for (index, filter) in filters.iter().enumerate() {
        let said = said(&filter.name, exchange.routed);
        if said.disabled.unwrap_or(filter.disabled) {
            continue;
        }
        let Some(kind) = filter.kind.current() else {
            let reply = Reply::new(StatusCode::INTERNAL_SERVER_ERROR, "", Flag::NoFilterConfigFound, "");
            return Passed::Answered(reply);
        };
        chain.after = filters.len() - index - 1;
        if let Some(reply) = pass(&filter.name, &kind, said, stream, chain, exchange).await {
            return Passed::Answered(reply);
        }
        if std::mem::take(&mut stream.reroute) {
            // What has come may need more.
            let again = usize::from(matches!(*kind, FilterKind::OnDemand(_)));
            return Passed::Reroute(chain.after + again);
        }
    }
    Passed::All
}

async fn pass(
    name: &Arc<str>,
    kind: &FilterKind,
    said: Said<'_>,
    stream: &mut Stream,
    chain: &mut Chain,
    exchange: &mut Exchange<'_>,
) -> Option<Reply> {
    match (kind, said.config) {
        (_, Some(RouteFilter::Buffer(None))) => None,
        (FilterKind::Buffer(_), Some(RouteFilter::Buffer(Some(limit)))) | (FilterKind::Buffer(limit), _) => {
            Box::pin(buffer::on_request(*limit, stream, exchange)).await
        }
        (FilterKind::Alpn(alpn), _) => {
            alpn::on_request(alpn, stream);
            None
        }
        (FilterKind::Cors(stats), _) => {
            let decided = cors::on_request(stats, stream, exchange, name);
            chain.keep(decided.left.map(State::Cors));
            decided.reply
        }
        (FilterKind::DynamicForwardProxy(filter), said) => {
            let of_route = match said {
                Some(RouteFilter::DynamicForwardProxy(of_route)) => Some(&**of_route),
                _ => None,
            };
            Box::pin(dynamic_forward_proxy::on_request(filter, of_route, stream, exchange)).await
        }
        (FilterKind::ExtAuthz(filter), _) => {
            let decided = Box::pin(ext_authz::on_request(filter, name, stream, exchange)).await;
            chain.keep(decided.left.map(State::ExtAuthz));
            decided.reply
        }
        (FilterKind::Fault(own), said) => {
            let fault = match said {
                Some(RouteFilter::Fault(fault)) => fault,
                _ => own,
            };
            let throttle = &mut chain.throttle;
            let decided = Box::pin(fault::on_request(fault, own, name, stream, throttle, exchange)).await;
            chain.keep(decided.left.map(State::Fault));
            decided.reply
        }
        (FilterKind::HeaderMutation(own), _) => {
            header_mutation::on_request(own, name, stream, exchange);
            None
        }
        (FilterKind::HealthCheck(check), _) => {
            let decided = Box::pin(health_check::on_request(check, stream, exchange)).await;
            chain.keep(decided.left.map(State::HealthCheck));
            decided.reply
        }
        (FilterKind::JwtAuthn(filter), said) => {
            let of_route = match said {
                Some(RouteFilter::JwtAuthn(of_route)) => Some(&**of_route),
                _ => None,
            };
            Box::pin(jwt_authn::on_request(filter, of_route, stream, exchange)).await
        }
        (FilterKind::LocalRateLimit(_), Some(RouteFilter::LocalRateLimit(limit)))
        | (FilterKind::LocalRateLimit(limit), _) => {
            let decided = local_ratelimit::on_request(limit, stream, exchange);
            chain.keep(decided.left.map(State::LocalRateLimit));
            decided.reply
        }
        (FilterKind::Rbac(own), said) => {
            let rbac = match said {
                Some(RouteFilter::Rbac(rbac)) => rbac,
                _ => own,
            };
            rbac::on_request(rbac, own, stream, exchange)
        }
        (FilterKind::PeerMetadata(headers), _) => {
            let left = peer_metadata::on_request(*headers, &mut exchange.parts.headers);
            chain.keep(left.map(State::PeerMetadata));
            None
        }
        (FilterKind::SetFilterState(filter), _) => {
            set_filter_state::on_request(filter, stream, exchange);
            None
        }
        (FilterKind::Measuring, _) => None,
        (FilterKind::OnDemand(own), said) => {
            Box::pin(on_demand::on_request(own, said, stream, exchange)).await;
            None
        }
        // What came by itself is no such thing again.
        (FilterKind::Discovered(_), _) => None,
        (FilterKind::GrpcStats(stats), _) => {
            let call = grpc_stats::on_request(stats, stream, exchange);
            chain.keep(call.map(State::GrpcStats));
            None
        }
    }
}
