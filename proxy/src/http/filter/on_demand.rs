//! Asking for what a request needs and has not come: its virtual host, the routes of its scope, its cluster. It waits, as
//! long as its own limits allow, and is routed anew.

use http::{HeaderValue, header};

use super::exchange::Exchange;
use crate::{
    config::filter::{RouteFilter, on_demand::OnDemand},
    http::{body::ReadAhead, stream::Stream},
};

/// Waits for what a request needs.
pub(super) async fn on_request(
    own: &OnDemand,
    of_route: Option<&RouteFilter>,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) {
    let Some(routed) = exchange.routed else {
        let parts = &*exchange.parts;
        let authority = parts.headers.get(header::HOST).map_or(b"".as_slice(), HeaderValue::as_bytes);
        let Some(needed) = stream.connection.manager.routes.ask(&parts.headers, authority) else { return };
        stream.keep_request(parts);
        wait(needed.answered(), stream, exchange).await;
        stream.reroute = true;
        return;
    };
    let config = match of_route {
        Some(RouteFilter::OnDemand(config)) => config,
        _ => own,
    };
    let (Some(clusters), Some(name)) = (&config.clusters, &routed.cluster) else { return };
    if stream.cluster.is_some() || name.is_empty() {
        return;
    }
    let Some(asked) = clusters.ask(name) else { return };
    let connection = stream.connection.clone();
    let is_there = || connection.snapshot().load().cluster(name).is_some();
    // It may have come before it was asked for.
    if !is_there() {
        wait(tokio::time::timeout(clusters.timeout, asked.answered()), stream, exchange).await;
    }
    stream.reroute = is_there();
}

/// Waits; what comes of the body meanwhile is read.
async fn wait<F: Future>(future: F, stream: &mut Stream, exchange: &mut Exchange<'_>) {
    stream.record.while_logging(exchange.body.ahead_while(future)).await;
}
