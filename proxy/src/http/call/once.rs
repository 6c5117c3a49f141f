//! One request over one connection of the pool.

use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::{
    config::cluster::{Cluster, Endpoint, RoutingPriority},
    http::{
        body::RequestBody,
        codec::ambiguous::is_ambiguous,
        headers::lines::Of,
        pool::{Lease, Speaks, Want, names::asked},
        stream::{behalf::Behalf, failure::Failure},
    },
};

/// What is wanted of the pool for a request on behalf of a connection: `cluster` is the route's, `chosen` the endpoint's, and `name`
/// is what [`naming_header`](crate::http::pool::names::naming_header) found.
pub(in crate::http) fn want<'a>(
    behalf: Behalf<'a>,
    (cluster, chosen): (&Cluster, &'a Arc<Cluster>),
    endpoint: &'a Arc<Endpoint>,
    name: Option<&'a HeaderValue>,
    priority: RoutingPriority,
) -> Want<'a> {
    Want {
        cluster: chosen,
        endpoint,
        dialer: behalf.dialer,
        scope: behalf.scope,
        speaks: Speaks::to(chosen, behalf.multiplexed),
        transport: chosen.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(cluster, name, &endpoint.hostname),
        shard: &behalf.worker.stats,
        priority,
        client: behalf.client,
        filter_state: None,
    }
}

/// What became of a request that was sent once.
pub(in crate::http) enum Sent {
    Answered(Response<Incoming>),
    /// The upstream closed a pooled connection before anything was sent: that is no failed attempt. Another connection
    /// may take it.
    Back(Box<Request<RequestBody>>),
    Failed(Failure),
}

/// Sends a request over a connection, for the client's of number `connection`. An answer that may be read in two ways is none.
pub(in crate::http) async fn send_once(connection: u64, lease: &mut Lease, request: Request<RequestBody>) -> Sent {
    let mut error = match lease.send(request).await {
        Ok(response) if !lease.is_http2() && is_ambiguous(response.status(), response.headers()) => {
            return Sent::Failed(Failure::Protocol);
        }
        Ok(response) if !lease.takes(response.headers()) => {
            // As in Envoy, whose HTTP/2 takes its own reset of a head that is too large for the upstream's.
            let failure = Failure::Reset;
            failure.end(lease);
            return Sent::Failed(failure);
        }
        Ok(mut response) => {
            Of::Response.join(response.headers_mut());
            return Sent::Answered(response);
        }
        Err(error) => error,
    };
    let unsent = error.take_message();
    let error = error.into_error();
    tracing::debug!(connection, %error, reused = lease.reused, "upstream request failed");
    match unsent {
        Some(unsent) if lease.reused => {
            lease.lost(false);
            Sent::Back(Box::new(unsent))
        }
        _ => Sent::Failed(Failure::of_lease(&error, lease)),
    }
}
