//! Asking for what a request needs and has not come: its virtual host, the routes of its scope, its cluster. It waits, as
//! long as its own limits allow, and is routed anew.

use http::{HeaderValue, header};
use tokio::time::Instant;

use super::exchange::Exchange;
use crate::{
    config::filter::{RouteFilter, on_demand::OnDemand},
    http::{
        body::ReadAhead,
        stream::{
            Stream,
            reply::Reply,
            timers::{Timers, within},
        },
    },
};

/// Waits for what a request needs. The answer, if that takes too long.
pub(super) async fn on_request(
    own: &OnDemand,
    of_route: Option<&RouteFilter>,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Option<Reply> {
    let Some(routed) = exchange.routed else {
        let parts = &*exchange.parts;
        let authority = parts.headers.get(header::HOST).map_or(b"".as_slice(), HeaderValue::as_bytes);
        let needed = stream.connection.manager.routes.ask(&parts.headers, authority)?;
        stream.keep_request(parts);
        let waited = wait(needed.answered(), stream, exchange).await;
        stream.reroute = waited.is_ok();
        return waited.err();
    };
    let config = match of_route {
        Some(RouteFilter::OnDemand(config)) => config,
        _ => own,
    };
    let (clusters, name) = (config.clusters.as_ref()?, routed.cluster.as_ref()?);
    if stream.cluster.is_some() || name.is_empty() {
        return None;
    }
    let asked = clusters.ask(name)?;
    let worker = stream.connection.worker.clone();
    let is_there = || worker.snapshot.load().cluster(name).is_some();
    // It may have come before it was asked for.
    if !is_there() {
        let answered = tokio::time::timeout(clusters.timeout, asked.answered());
        if let Err(reply) = wait(answered, stream, exchange).await {
            return Some(reply);
        }
    }
    stream.reroute = is_there();
    None
}

/// Waits within the limits that a request has without a route.
async fn wait<F: Future>(future: F, stream: &mut Stream, exchange: &mut Exchange<'_>) -> Result<(), Reply> {
    let manager = stream.connection.manager.clone();
    let began = Instant::from_std(stream.record.entry.start);
    let progress = stream.record.progress.clone();
    let mut timers =
        Timers::new(began, progress.as_ref(), None, manager.stream_idle_timeout, manager.max_stream_duration)
            .with_request_timeout(manager.request_timeout);
    let waited = within(&mut timers, &mut stream.record, exchange.body.ahead_while(future)).await;
    waited.map(drop).map_err(Reply::expired)
}
