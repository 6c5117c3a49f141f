//! Upgrades (WebSocket and other protocols on HTTP/1.1): one attempt over a pooled connection; once the upstream has
//! switched, the connection leaves the pool and bytes pass both ways (`upgraded`).

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use super::{
    body::{FromUpstream, ResponseBody},
    charge::{self, Ended},
    filter,
    mutate::{self, Changes},
    pool::{Lease, Speaks, Switched, Want},
    reply::Reply,
    request_body::RequestBody,
    response,
    stream::Stream,
    timers::{Expired, Timers, within},
    upgraded::Accepted,
    upstream::{Failure, asked, is_ambiguous, naming_header},
};
use crate::{
    cluster::PickContext,
    config::{
        cluster::{Cluster, Endpoint, RoutingPriority},
        route::RequestStats,
    },
    telemetry::access_log::{Live, View},
};

/// The answer to a request for an upgrade.
struct Asked {
    answered: Response<Incoming>,
    lease: Lease,
    /// The connection's bytes, if it has switched.
    switched: oneshot::Receiver<Switched>,
}

/// Why there is no answer.
enum NoAnswer {
    Failed(Failure),
    Expired(Expired),
}

/// Asks an upstream to switch protocols.
pub(super) async fn forward(
    mut stream: Stream,
    changes: &Changes<'_>,
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
    timeout: Option<Duration>,
    group: Option<&RequestStats>,
    parts: Parts,
) -> Response<ResponseBody> {
    stream.keep_request(&parts);
    let connection = stream.connection.clone();
    let shard = &connection.worker.stats;
    let internal = charge::is_internal(&parts.headers);
    let groups: SmallVec<[&RequestStats; 2]> = group.into_iter().chain(&changes.route.stats).collect();
    let context = PickContext { destination: connection.original_destination(), ..PickContext::default() };
    let Some(endpoint) = connection.worker.balancers.pick(&cluster, &context) else {
        shard.inc(cluster.stats.upstream_cx_none_healthy);
        let reply = Reply::no_host();
        charge::answer(&cluster, &groups, shard, reply.status, internal, false);
        return stream.answer(reply, Some(changes), &parts);
    };
    stream.record.entry.upstream_host = Some(endpoint.address);
    stream.record.entry.attempts = 1;
    let start = Instant::from_std(stream.record.entry.start);
    let mut timers = Timers::new(start, None, timeout, connection.manager.stream_idle_timeout, None);
    let asked = ask(&mut stream, &cluster, &endpoint, priority, &mut timers, &parts).await;
    let canary = endpoint.template.canary;
    let Asked { answered, lease, switched } = match asked {
        Ok(answered) => answered,
        Err(no_answer) => {
            let (ended, reply) = match &no_answer {
                NoAnswer::Expired(expired) => (Ended::Expired(*expired), Reply::expired(*expired)),
                NoAnswer::Failed(failure) => {
                    if let Some(reason) = failure.transport() {
                        stream.record.entry.transport_failure = reason.into();
                    }
                    (Ended::Failed(failure), Reply::failed(failure, false))
                }
            };
            charge::attempt(&cluster, &endpoint, shard, ended);
            charge::answer(&cluster, &groups, shard, reply.status, internal, canary);
            return stream.answer(reply, Some(changes), &parts);
        }
    };
    charge::attempt(&cluster, &endpoint, shard, Ended::Response(answered.status(), answered.headers()));
    groups.iter().for_each(|group| shard.inc(group.handles.upstream_rq_total));
    charge::answer(&cluster, &groups, shard, answered.status(), internal, canary);
    let switched = Some(switched).filter(|_| answered.status() == StatusCode::SWITCHING_PROTOCOLS);
    timers.responded();
    let (mut answer, incoming) = answered.into_parts();
    let request_id = stream.request_id();
    let entry = &mut stream.record.entry;
    entry.response_started = Some(std::time::Instant::now());
    entry.response_code = answer.status.as_u16();
    entry.details = "via_upstream".into();
    let live = Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers: &parts.headers };
    let view = View { entry, request: Some(live), response: None };
    mutate::apply_to_response(changes, &mut answer.headers, &view);
    filter::on_response(&mut stream, answer.status, &parts, &mut answer.headers);
    let entry = &mut stream.record.entry;
    response::finish(&connection.manager, &mut answer.headers, switched.is_some(), request_id);
    entry.kept.response(&connection.manager.wanted, &answer.headers);
    answer.version = Version::HTTP_11;
    answer.extensions.clear();
    let Some(upstream) = switched else {
        // What a client may send after such a request has no end.
        connection.before_response(&mut answer.headers, true);
        let trailers = cluster.http1_trailers;
        let from = FromUpstream { incoming, lease: Some(lease), timers, trailers, throttle: None, counting: None };
        return Response::from_parts(answer, ResponseBody::upstream(from, stream.record));
    };
    answer.headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("upgrade"));
    let idle = connection.manager.stream_idle_timeout;
    connection.accept_upgrade(Accepted { record: stream.record, upstream, idle, lease });
    Response::from_parts(answer, ResponseBody::detached())
}

async fn ask(
    stream: &mut Stream,
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    priority: RoutingPriority,
    timers: &mut Timers,
    parts: &Parts,
) -> Result<Asked, NoAnswer> {
    let connection = stream.connection.clone();
    let name = naming_header(cluster, &parts.headers);
    let want = Want {
        cluster,
        endpoint,
        dialer: &connection.dialer,
        scope: &connection.scope,
        speaks: Speaks::Http1,
        transport: cluster.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(cluster, name.as_ref(), &endpoint.hostname),
        shard: &connection.worker.stats,
        priority,
        client: connection.client(),
    };
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    loop {
        let acquired = within(timers, connection.worker.pools.acquire(want)).await.map_err(NoAnswer::Expired)?;
        let mut lease = acquired.map_err(|error| NoAnswer::Failed(error.into()))?;
        let Some(switched) = lease.switching() else { return Err(NoAnswer::Failed(Failure::Protocol)) };
        let entry = &mut stream.record.entry;
        entry.upstream_local = lease.local();
        entry.upstream_tls = lease.tls().cloned();
        entry.upstream_protocol = Some("HTTP/1.1");
        let mut error = match within(timers, lease.send(request)).await.map_err(NoAnswer::Expired)? {
            Ok(answered) if is_ambiguous(answered.status(), answered.headers()) => {
                return Err(NoAnswer::Failed(Failure::Protocol));
            }
            Ok(answered) => return Ok(Asked { answered, lease, switched }),
            Err(error) => error,
        };
        match error.take_message() {
            // The upstream closed a pooled connection before anything was sent: that is no failed attempt.
            Some(unsent) if lease.reused => request = unsent,
            _ => return Err(NoAnswer::Failed(Failure::of_exchange(&error.into_error()))),
        }
    }
}
