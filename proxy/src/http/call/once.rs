//! One request to an upstream: over a connection of the pool, or one after another, until there is an answer.
//!
//! Everybody's: the router's attempts, questions, and tunnels. Who wants to know how far it is looks on ([`Onlooker`]).

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;

use super::outgoing::{http2_connect, upstream_request};
use crate::{
    config::cluster::{Cluster, Endpoint, RoutingPriority},
    http::{
        body::{ReadAhead, RequestBody},
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

/// What a request asks of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Asks {
    /// A response.
    Response,
    /// To switch protocols (an upgrade), or to be a tunnel.
    Switch,
    /// To be a tunnel, as a stream of HTTP/2: what speaks HTTP/1 is not asked.
    Stream,
}

/// Who looks on at an exchange.
pub(in crate::http) trait Onlooker {
    /// A connection is asked for.
    fn asks(&self) {}
    /// It is there; none: it could not be had.
    fn has(&self, _lease: Option<&Lease>) {}
    /// The request goes out over it, in this form.
    fn sends(&self, _request: &Request<RequestBody>) {}
}

/// Nobody.
impl Onlooker for () {}

/// Sends a request until there is an answer or none is to come.
pub(in crate::http) async fn exchange(
    behalf: Behalf<'_>,
    want: Want<'_>,
    (asks, scheme): (Asks, &str),
    mut request: Request<RequestBody>,
    onlooker: &impl Onlooker,
) -> Result<(Response<Incoming>, Lease), Failure> {
    loop {
        onlooker.asks();
        let acquiring = behalf.worker.pools.acquire(want);
        let mut lease = match request.body_mut().ahead_while(acquiring).await {
            Ok(lease) => lease,
            Err(error) => {
                onlooker.has(None);
                let failure = Failure::from(error);
                // In Envoy a connection fails, if at once, after what has come with the head was read.
                if !failure.is_overflow() {
                    request.body_mut().read_arrived().await;
                }
                return Err(failure);
            }
        };
        onlooker.has(Some(&lease));
        let converted = match asks {
            Asks::Response => upstream_request(request, lease.is_http2(), scheme),
            Asks::Switch | Asks::Stream if lease.is_http2() => http2_connect(request, scheme),
            // What had the form of HTTP/2 was given back by another connection.
            Asks::Switch if request.version() != Version::HTTP_2 => {
                lease.may_switch();
                Some(request)
            }
            Asks::Switch | Asks::Stream => {
                tracing::debug!(connection = behalf.id, "the upstream does not speak HTTP/2");
                None
            }
        };
        request = converted.ok_or(Failure::Protocol)?;
        onlooker.sends(&request);
        match send_once(behalf.id, &mut lease, request).await {
            Sent::Answered(response) => return Ok((response, lease)),
            Sent::Back(unsent) => request = *unsent,
            Sent::Failed(failure) => return Err(failure),
        }
    }
}

/// What became of a request that was sent once.
enum Sent {
    Answered(Response<Incoming>),
    /// The upstream closed a pooled connection before anything was sent: that is no failed attempt. Another connection
    /// may take it.
    Back(Box<Request<RequestBody>>),
    Failed(Failure),
}

/// Sends a request over a connection, for the client's of number `connection`. An answer that may be read in two ways is none.
async fn send_once(connection: u64, lease: &mut Lease, request: Request<RequestBody>) -> Sent {
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
            lease.answered(response.version(), response.headers());
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
        _ => {
            let failure = Failure::of_lease(&error, lease);
            if error.is_parse() {
                // The connection ends here, as nothing more of it can be read.
                lease.broken_off();
            }
            Sent::Failed(failure)
        }
    }
}
