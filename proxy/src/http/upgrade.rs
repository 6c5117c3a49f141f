//! Upgrades (WebSocket and other protocols on HTTP/1.1): one attempt on a connection of its own; once the upstream has
//! switched, bytes pass both ways (`upgraded`).

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    body::{FromUpstream, ResponseBody},
    charge, filter,
    mutate::{self, Changes},
    pool::{self, InUse, Lease, Speaks, Want},
    reply::Reply,
    request_body::RequestBody,
    response,
    stream::Stream,
    timers::{Timers, within},
    upgraded::Accepted,
    upstream::{Failure, asked, naming_header},
};
use crate::{
    cluster::PickContext,
    config::{cluster::Cluster, route::RequestStats},
    telemetry::access_log::{Live, View},
};

/// Asks an upstream to switch protocols.
pub(super) async fn forward(
    mut stream: Stream,
    changes: &Changes<'_>,
    cluster: Arc<Cluster>,
    timeout: Option<Duration>,
    group: Option<&RequestStats>,
    parts: Parts,
) -> Response<ResponseBody> {
    stream.keep_request(&parts);
    let connection = stream.connection.clone();
    let context = PickContext { destination: Some(connection.destination), ..PickContext::default() };
    let Some(endpoint) = connection.worker.balancers.pick(&cluster, &context) else {
        return stream.answer(Reply::no_host(), Some(changes), &parts);
    };
    stream.record.entry.upstream_host = Some(endpoint.address);
    stream.record.entry.attempts = 1;
    let name = naming_header(&cluster, &parts.headers);
    let want = Want {
        cluster: &cluster,
        endpoint: &endpoint,
        dialer: &connection.dialer,
        scope: &connection.scope,
        speaks: Speaks::Http1,
        transport: cluster.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(&cluster, name.as_ref(), &endpoint.hostname),
        shard: &connection.worker.stats,
    };
    let Some(in_use) = InUse::take(&cluster.usage.requests, cluster.breakers.max_requests) else {
        return stream.answer(Reply::failed(&Failure::Overflow, false), Some(changes), &parts);
    };
    let start = Instant::from_std(stream.record.entry.start);
    let mut timers = Timers::new(start, None, timeout, connection.manager.stream_idle_timeout, None);
    let mut upgrading = match within(&mut timers, pool::connect_for_upgrade(want)).await {
        Err(expired) => return stream.answer(Reply::expired(expired), Some(changes), &parts),
        Ok(Err(error)) => {
            let failure = Failure::from(error);
            if let Some(reason) = failure.transport() {
                stream.record.entry.transport_failure = reason.into();
            }
            return stream.answer(Reply::failed(&failure, false), Some(changes), &parts);
        }
        Ok(Ok(upgrading)) => upgrading,
    };
    stream.record.entry.upstream_local = upgrading.local;
    stream.record.entry.upstream_tls.clone_from(&upgrading.tls);
    stream.record.entry.upstream_protocol = Some("HTTP/1.1");
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    let answered = match within(&mut timers, upgrading.sender.send_request(request)).await {
        Err(expired) => return stream.answer(Reply::expired(expired), Some(changes), &parts),
        Ok(Err(error)) => {
            return stream.answer(Reply::failed(&Failure::of_exchange(&error), false), Some(changes), &parts);
        }
        Ok(Ok(answered)) => answered,
    };
    let switched = answered.status() == StatusCode::SWITCHING_PROTOCOLS;
    timers.responded();
    let (mut answer, incoming) = answered.into_parts();
    let request_id = stream.request_id();
    let groups: SmallVec<[&RequestStats; 2]> = group.into_iter().chain(&changes.route.stats).collect();
    let (shard, internal) = (&connection.worker.stats, charge::is_internal(&parts.headers));
    groups.iter().for_each(|group| shard.inc(group.handles.upstream_rq_total));
    charge::answer(&cluster, &groups, shard, answer.status, internal, endpoint.template.canary);
    let entry = &mut stream.record.entry;
    entry.response_started = Some(std::time::Instant::now());
    entry.response_code = answer.status.as_u16();
    entry.details = "via_upstream".into();
    let live = Live { method: &parts.method, uri: &parts.uri, scheme: stream.scheme, headers: &parts.headers };
    let view = View { entry, request: Some(live), response: None };
    mutate::apply_to_response(changes, &mut answer.headers, &view);
    filter::on_response(&mut stream, answer.status, &parts, &mut answer.headers);
    let entry = &mut stream.record.entry;
    response::finish(&connection.manager, &mut answer.headers, switched, request_id);
    entry.kept.response(&connection.manager.wanted, &answer.headers);
    answer.version = Version::HTTP_11;
    answer.extensions.clear();
    if !switched {
        // What a client may send after such a request has no end.
        connection.before_response(&mut answer.headers, true);
        let lease = None::<Lease>;
        let from = FromUpstream {
            incoming,
            lease,
            timers,
            trailers: cluster.http1_trailers,
            throttle: None,
            counting: None,
            _in_use: in_use,
        };
        return Response::from_parts(answer, ResponseBody::upstream(from, stream.record));
    }
    answer.headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("upgrade"));
    let idle = connection.manager.stream_idle_timeout;
    connection.accept_upgrade(Accepted { record: stream.record, upstream: upgrading.switched, idle });
    drop(in_use);
    Response::from_parts(answer, ResponseBody::detached())
}
