//! Upgrades (WebSocket and other protocols) and CONNECT tunnels: one attempt over a pooled connection; once the upstream
//! has switched, the connection leaves the pool and bytes pass both ways (`upgraded`). Where the route has a tunnel end
//! here, the upstream sees its bytes only, on a connection of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use smallvec::SmallVec;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    attempts::ATTEMPT_COUNT,
    charge::{self, Ended},
    outgoing::http2_connect,
};
use crate::{
    access_log::{LogType, View},
    cluster::PickContext,
    config::{
        cluster::{Cluster, Endpoint, RoutingPriority},
        route::{Connect, Forward, Hashed, HostRewrite, RequestStats},
    },
    http::{
        body::{ReadAhead, RequestBody, client::ClientBody},
        codec::{ambiguous::is_ambiguous, meters},
        filter::{chain::Chain, local_reply},
        headers::{
            lines::Of,
            mutate::{self, Changes},
            response, rewrite,
        },
        pool::{
            self, PoolError, Speaks, Want,
            names::{asked, naming_header},
        },
        stream::{
            Stream,
            failure::Failure,
            late::Late,
            payload::Payload,
            reply::Reply,
            response_body::{FromUpstream, ResponseBody},
            timers::{Expired, Timers, within},
            upgraded::{Accepted, Held, Upstream},
        },
    },
    telemetry::panics,
};

/// The answer to a request for an upgrade.
struct Asked {
    answered: Response<Option<Incoming>>,
    held: Held,
    /// Its bytes, if it has switched.
    switched: Option<Upstream>,
}

/// Why there is no answer.
enum NoAnswer {
    Failed(Failure),
    Expired(Expired),
}

/// Asks an upstream to switch protocols.
pub(super) async fn forward(
    mut stream: Stream,
    mut chain: Chain,
    changes: &Changes<'_>,
    cluster: Arc<Cluster>,
    (forward, hashed): (&Forward, Hashed),
    group: Option<&RequestStats>,
    (mut parts, mut body): (Parts, ClientBody),
) -> Response<ResponseBody> {
    stream.keep_request(&parts);
    let connection = stream.connection.clone();
    let shard = &connection.worker.stats;
    let internal = charge::is_internal(&parts.headers);
    let groups: SmallVec<[&RequestStats; 2]> = group.into_iter().chain(&changes.route.stats).collect();
    let context =
        PickContext { destination: connection.original_destination(), hash: hashed.hash, ..PickContext::default() };
    let Some(picked) = connection.worker.balancers.pick(&cluster, &context) else {
        shard.inc(cluster.stats.upstream_cx_none_healthy);
        let reply = Reply::no_host();
        charge::answer(&cluster, &groups, shard, reply.status, internal, None);
        return local_reply::answer(stream, chain, reply, Some(changes), &parts);
    };
    let (chosen, endpoint) = (picked.cluster(&cluster), &picked.endpoint);
    if let Some(rewrite @ HostRewrite::Auto) = &forward.host_rewrite
        && let Some(host) = rewrite::host(rewrite, &parts.uri, &parts.headers, &endpoint.hostname)
    {
        mutate::replace_host(&mut parts.headers, host, forward.append_forwarded_host);
    }
    if changes.virtual_host.attempt_count_in_request {
        parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(1));
    }
    stream.keep_request(&parts);
    stream.record.entry.upstream = Some(endpoint.logged());
    stream.record.entry.attempts = 1;
    let start = Instant::from_std(stream.record.entry.start);
    let idle = forward.idle_timeout.unwrap_or(connection.manager.stream_idle_timeout);
    let mut timers = Timers::new(start, None, forward.timeout, idle, None);
    let connect = forward.tunnel(&parts.method);
    let tunnel = parts.method == Method::CONNECT || connect.is_some();
    let head = (&parts.method, &parts.uri, &parts.headers);
    stream.begin_upstream_line(endpoint, head);
    let asking = ask(&mut stream, (&cluster, chosen), endpoint, (forward.priority, connect), &mut timers, &parts);
    let asked = body.ahead_while(asking).await;
    if matches!(&asked, Err(NoAnswer::Failed(failure)) if *failure != Failure::Overflow) {
        body.read_arrived().await;
    }
    let of = Some(&*endpoint.template);
    let Asked { answered, held, switched } = match asked {
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
            stream.record.upstream_ended(reply.flag);
            charge::attempt(&cluster, chosen, endpoint, shard, ended);
            if !matches!(&no_answer, NoAnswer::Expired(expired) if !charge::is_charged(*expired)) {
                charge::answer(&cluster, &groups, shard, reply.status, internal, of);
            }
            return local_reply::answer(stream, chain, reply, Some(changes), &parts);
        }
    };
    stream.record.upstream_responded(answered.status(), answered.headers());
    let http2 = stream.record.entry.upstream_protocol == Some("HTTP/2");
    if !http2 && parts.method == Method::GET && fails_handshake(&parts.headers, answered.status()) {
        let reply = Reply::new(answered.status(), "", None, "websocket_handshake_unsuccessful");
        groups.iter().for_each(|group| shard.inc(group.handles.upstream_rq_total));
        drop((answered, held));
        return local_reply::answer(stream, chain, reply, Some(changes), &parts);
    }
    charge::attempt(&cluster, chosen, endpoint, shard, Ended::Response(answered.status(), answered.headers()));
    groups.iter().for_each(|group| shard.inc(group.handles.upstream_rq_total));
    charge::answer(&cluster, &groups, shard, answered.status(), internal, of);
    let status = answered.status();
    let agreed = status == StatusCode::SWITCHING_PROTOCOLS || (tunnel && status.is_success());
    let switched = switched.filter(|_| agreed);
    timers.responded();
    let (mut answer, incoming) = answered.into_parts();
    let request_id = stream.request_id();
    let entry = &mut stream.record.entry;
    entry.response_started = Some(std::time::Instant::now());
    entry.response_code = answer.status.as_u16();
    entry.details = "via_upstream".into();
    if changes.virtual_host.attempt_count_in_response {
        answer.headers.insert(ATTEMPT_COUNT, HeaderValue::from(1));
    }
    for cookie in hashed.cookies {
        answer.headers.append(header::SET_COOKIE, cookie);
    }
    let view = View::live(&stream.record.entry, stream.live(&parts));
    mutate::apply_to_response(changes, &mut answer.headers, &view);
    chain.on_response(&stream, answer.status, &parts, &mut answer.headers);
    let entry = &mut stream.record.entry;
    response::finish(&connection.manager, &mut answer.headers, switched.is_some(), request_id);
    entry.kept.response(&connection.manager.wanted, &answer.headers);
    answer.version = Version::HTTP_11;
    answer.extensions.clear();
    let Some(upstream) = switched else {
        // What a client may send after such a request has no end.
        connection.before_response(&mut answer.headers, true);
        let length = incoming.as_ref().map_or(Some(0), |incoming| incoming.size_hint().exact());
        let body = length.map_or(meters::Body::Chunked, meters::Body::Of);
        stream.record.meter_response(answer.status, &answer.headers, body);
        let body = match (incoming, held) {
            (Some(incoming), Held::Lease(lease)) => {
                let trailers = lease.is_http2() || chosen.http1.trailers;
                let sent = connection.trailers_of_response(parts.version, &answer.headers);
                let from = FromUpstream {
                    incoming,
                    lease: Some(lease),
                    timers,
                    late: Some(Late::new(cluster.clone(), picked.member.clone(), endpoint.clone(), &groups)),
                    trailers,
                    sent,
                    throttle: None,
                    counting: None,
                    broken: None,
                };
                ResponseBody::upstream(from, stream.record)
            }
            _ => ResponseBody::local(Bytes::new(), false, stream.record),
        };
        return Response::from_parts(answer, body);
    };
    let (upstream, held) = match (upstream, held) {
        (Upstream::Tunnel(io), Held::Tunnel(counted)) if parts.method == Method::POST => {
            connection.before_response(&mut answer.headers, false);
            stream.record.meter_response(status, &answer.headers, meters::Body::Chunked);
            let payload = Payload::new(io, (connection.clone(), body), timers, counted);
            return Response::from_parts(answer, ResponseBody::payload(payload, stream.record));
        }
        others => others,
    };
    answer.headers.remove(header::CONTENT_LENGTH);
    stream.record.meter_response(status, &answer.headers, meters::Body::Switched);
    if connection.manager.log.on_established {
        stream.record.log_now(LogType::DownstreamTunnelSuccessfullyEstablished);
    }
    let accepted = Accepted { record: stream.record, upstream, idle, held, drain: connection.outer.clone() };
    if connection.multiplexed {
        answer.headers.remove(header::CONNECTION);
        answer.headers.remove(header::UPGRADE);
        answer.status = StatusCode::OK;
        if let Some(client) = stream.on_upgrade {
            panics::spawn_for(connection.id, accepted.run_stream(client, connection.activity.begin()));
        }
    } else {
        if tunnel {
            answer.headers.remove(header::CONNECTION);
        } else {
            answer.headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("upgrade"));
        }
        connection.accept_upgrade(accepted);
    }
    Response::from_parts(answer, ResponseBody::detached())
}

/// Whether an answer to a WebSocket handshake over HTTP/1 is none. What says that something went wrong passes as it is.
fn fails_handshake(request: &HeaderMap, status: StatusCode) -> bool {
    let websocket = request.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket && status != StatusCode::SWITCHING_PROTOCOLS && status.as_u16() < 400
}

/// `connect`: the upstream is asked nothing, and gets the bytes of the tunnel.
async fn ask(
    stream: &mut Stream,
    (cluster, chosen): (&Arc<Cluster>, &Arc<Cluster>),
    endpoint: &Arc<Endpoint>,
    (priority, connect): (RoutingPriority, Option<&Connect>),
    timers: &mut Timers,
    parts: &Parts,
) -> Result<Asked, NoAnswer> {
    let connection = stream.connection.clone();
    let name = naming_header(cluster, &parts.headers);
    let want = Want {
        cluster: chosen,
        endpoint,
        dialer: &connection.dialer,
        scope: &connection.scope,
        speaks: if connect.is_some() { Speaks::Http1 } else { Speaks::to(chosen, connection.multiplexed) },
        transport: chosen.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(cluster, name.as_ref(), &endpoint.hostname),
        shard: &connection.worker.stats,
        priority,
        client: connection.client(),
    };
    if let Some(connect) = connect {
        let record = &mut stream.record;
        let tunnel = within(timers, record, pool::tunnel::connect(want)).await.map_err(NoAnswer::Expired)?;
        let mut tunnel = tunnel.map_err(|error: PoolError| NoAnswer::Failed(error.into()))?;
        if let Some(header) = &connect.proxy_header {
            let header = header.bytes(Some(connection.client()), connection.client());
            tunnel.io.write_all(&header).await.map_err(|_| NoAnswer::Failed(Failure::Terminated))?;
            tunnel.counted.passed(header.len() as u64, 0);
        }
        let entry = &mut stream.record.entry;
        entry.upstream_local = tunnel.local;
        entry.upstream_tls = tunnel.tls;
        tunnel.made.tell(entry);
        stream.record.upstream_ready();
        let switched = Some(Upstream::Tunnel(tunnel.io));
        return Ok(Asked { answered: Response::new(None), held: Held::Tunnel(tunnel.counted), switched });
    }
    loop {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = parts.headers.clone();
        let acquiring = connection.worker.pools.acquire(want);
        let acquired = within(timers, &mut stream.record, acquiring).await.map_err(NoAnswer::Expired)?;
        let mut lease = acquired.map_err(|error| NoAnswer::Failed(error.into()))?;
        let http2 = lease.is_http2();
        if http2 {
            request = http2_connect(request, stream.scheme).ok_or(NoAnswer::Failed(Failure::Protocol))?;
        }
        let switched = lease.switching().map(Upstream::Connection);
        let entry = &mut stream.record.entry;
        entry.upstream_local = lease.local();
        entry.upstream_tls = lease.tls().cloned();
        if let Some(made) = lease.made() {
            made.tell(entry);
        }
        entry.upstream_protocol = Some(if http2 { "HTTP/2" } else { "HTTP/1.1" });
        if connection.manager.wanted.meters {
            entry.meters.upstream_sent += meters::request_written(&request);
        }
        stream.record.upstream_ready();
        let answered = within(timers, &mut stream.record, lease.send(request)).await;
        let mut error = match answered.map_err(NoAnswer::Expired)? {
            Ok(answered) if !http2 && is_ambiguous(answered.status(), answered.headers()) => {
                return Err(NoAnswer::Failed(Failure::Protocol));
            }
            Ok(mut answered) => {
                Of::Response.join(answered.headers_mut());
                if connection.manager.wanted.meters {
                    stream.record.entry.meters.upstream_received += meters::response_read(&answered, http2);
                }
                let switched = switched.or_else(|| switched_stream(&mut answered, parts));
                return Ok(Asked { answered: answered.map(Some), held: Held::Lease(lease), switched });
            }
            Err(error) => error,
        };
        match error.take_message() {
            // The upstream closed a pooled connection before anything was sent: that is no failed attempt.
            Some(_) if lease.reused => lease.lost(false),
            _ => return Err(NoAnswer::Failed(Failure::of_lease(&error.into_error(), &mut lease))),
        }
    }
}

/// The stream that the upstream has accepted over HTTP/2, if it has; to who looks at the answer it is HTTP/1's.
fn switched_stream<B>(answered: &mut Response<B>, asked: &Parts) -> Option<Upstream> {
    let stream = answered.extensions_mut().remove::<OnUpgrade>()?;
    if let Some(upgrade) = asked.headers.get(header::UPGRADE).filter(|_| asked.method != Method::CONNECT) {
        *answered.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answered.headers_mut().insert(header::UPGRADE, upgrade.clone());
        answered.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Some(Upstream::Stream(stream))
}
