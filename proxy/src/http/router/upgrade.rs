//! Upgrades (WebSocket and other protocols) and CONNECT tunnels: one attempt over a pooled connection; once the upstream
//! has switched, the connection leaves the pool and bytes pass both ways (`upgraded`). Where the route has a tunnel end
//! here, the upstream sees its bytes only, on a connection of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts, response};
use http_body::Body;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use smallvec::SmallVec;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::attempts::{ATTEMPT_COUNT, named_destination};
use crate::{
    access_log::{LogType, View},
    cluster::PickContext,
    config::{
        cluster::{Cluster, Endpoint, Template},
        route::{Connect, Forward, Hashed, HostRewrite, RequestStats},
    },
    http::{
        body::{ReadAhead, RequestBody, client::ClientBody},
        call::{
            charge::{self, By, Ended},
            once::{Sent, send_once, want},
            outgoing::http2_connect,
        },
        codec::meters,
        filter::{chain::Chain, local_reply},
        headers::{
            self,
            mutate::{self, Changes},
            rewrite,
        },
        pool::{self, Lease, PoolError, Speaks, Want, names::naming_header},
        stream::{
            Stream,
            failure::Failure,
            late::Late,
            payload::Payload,
            reply::Reply,
            response_body::{FromUpstream, ResponseBody},
            timers::{Expired, Timers},
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

/// A request for an upgrade or a tunnel, on its way.
struct Upgrade<'a> {
    stream: Stream,
    chain: Chain,
    changes: &'a Changes<'a>,
    forward: &'a Forward,
    cluster: Arc<Cluster>,
    groups: SmallVec<[&'a RequestStats; 2]>,
    by: By,
    hashed: Hashed,
    parts: Parts,
}

/// Asks an upstream to switch protocols.
pub(super) async fn forward(
    mut stream: Stream,
    chain: Chain,
    changes: &Changes<'_>,
    cluster: Arc<Cluster>,
    (forward, hashed): (&Forward, Hashed),
    (group, alternative): (Option<&RequestStats>, Option<HeaderValue>),
    (parts, body): (Parts, ClientBody),
) -> Response<ResponseBody> {
    stream.keep_request(&parts);
    let by = By::routed(&stream, &parts.headers, alternative);
    let groups = group.into_iter().chain(&changes.route.stats).collect();
    Upgrade { stream, chain, changes, forward, cluster, groups, by, hashed, parts }.run(body).await
}

impl Upgrade<'_> {
    async fn run(mut self, mut body: ClientBody) -> Response<ResponseBody> {
        let connection = self.stream.connection.clone();
        let shard = &connection.worker.stats;
        let (destination, hash) = (connection.original_destination(), self.hashed.hash);
        let context = PickContext {
            destination,
            destination_header: named_destination(&self.cluster, &self.parts.headers),
            metadata: [self.stream.record.entry.metadata.as_deref(), connection.metadata.as_deref()],
            filter_state: self.stream.record.entry.filter_state.as_deref(),
            hash,
            ..PickContext::default()
        };
        let Some(picked) = connection.worker.balancers.pick(&self.cluster, &context) else {
            shard.inc(self.cluster.stats.upstream_cx_none_healthy);
            return self.reply(Reply::no_host(), None);
        };
        let (chosen, endpoint) = (picked.cluster(&self.cluster).clone(), &picked.endpoint);
        self.prepare(endpoint);
        let start = Instant::from_std(self.stream.record.entry.start);
        let idle = self.forward.idle_timeout.unwrap_or(connection.manager.stream_idle_timeout);
        let longest = self.forward.max_stream_duration.unwrap_or(connection.manager.max_stream_duration);
        let mut timers = Timers::new(start, None, self.forward.timeout, idle, longest);
        let asked = body.ahead_while(self.ask(&chosen, endpoint, &mut timers)).await;
        if matches!(&asked, Err(NoAnswer::Failed(failure)) if *failure != Failure::Overflow) {
            body.read_arrived().await;
        }
        let Asked { answered, held, switched } = match asked {
            Ok(asked) => asked,
            Err(no_answer) => return self.give_up(&no_answer, &chosen, endpoint),
        };
        let (status, method) = (answered.status(), &self.parts.method);
        self.stream.record.upstream_responded(status, answered.headers());
        let http2 = self.stream.record.entry.upstream_protocol == Some("HTTP/2");
        self.groups.iter().for_each(|group| shard.inc(group.handles.upstream_rq_total));
        if !http2 && *method == Method::GET && fails_handshake(&self.parts.headers, status) {
            let reply = Reply::new(status, "", None, "websocket_handshake_unsuccessful");
            return local_reply::answer(self.stream, self.chain, reply, Some(self.changes), &self.parts);
        }
        charge::attempt(&self.cluster, &chosen, endpoint, shard, Ended::Response(status, answered.headers()));
        self.charge(status, Some(&*endpoint.template));
        let post = *method == Method::POST;
        let tunnel = *method == Method::CONNECT || self.forward.tunnel(method).is_some();
        let agreed = status == StatusCode::SWITCHING_PROTOCOLS || (tunnel && status.is_success());
        let switched = switched.filter(|_| agreed);
        timers.responded();
        let (answer, incoming) = answered.into_parts();
        let answer = self.finish(answer, switched.is_some());
        match (switched, held) {
            (None, held) => {
                let late = Late::new(self.cluster.clone(), picked.member.clone(), endpoint.clone(), &self.groups);
                self.pass_on(answer, incoming, held, (timers, late), chosen.http1.trailers)
            }
            (Some(Upstream::Tunnel(io)), Held::Tunnel(counted)) if post => {
                let running = self.stream.record.running.clone();
                running.begin(timers);
                let payload = Payload::new(io, (connection, body), running, counted);
                self.pass_payload(answer, payload)
            }
            (Some(upstream), held) => {
                self.switch(answer, tunnel, (upstream, held), (idle, longest.map(|longest| start + longest)))
            }
        }
    }

    /// Makes the request what `endpoint` is to get.
    fn prepare(&mut self, endpoint: &Endpoint) {
        let Parts { uri, headers, .. } = &mut self.parts;
        if let Some(rewrite @ HostRewrite::Auto) = &self.forward.host_rewrite
            && let Some(host) = rewrite::host(rewrite, uri, headers, &endpoint.hostname)
        {
            mutate::replace_host(headers, host, self.forward.append_forwarded_host);
        }
        if self.changes.virtual_host.attempt_count_in_request {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(1));
        }
        self.stream.keep_request(&self.parts);
        self.stream.record.entry.upstream = Some(endpoint.logged());
        self.stream.record.entry.attempts = 1;
        let Parts { method, uri, headers, .. } = &self.parts;
        self.stream.begin_upstream_line(endpoint, (method, uri, headers));
    }

    /// Counts the answer to the client.
    fn charge(&self, status: StatusCode, of: Option<&Template>) {
        let shard = &self.stream.connection.worker.stats;
        charge::answer(&self.cluster, &self.groups, shard, status, &self.by, of);
    }

    fn reply(self, reply: Reply, of: Option<&Template>) -> Response<ResponseBody> {
        self.charge(reply.status, of);
        local_reply::answer(self.stream, self.chain, reply, Some(self.changes), &self.parts)
    }

    fn give_up(mut self, why: &NoAnswer, chosen: &Cluster, endpoint: &Endpoint) -> Response<ResponseBody> {
        let (ended, reply) = match why {
            // No request for an upgrade ends.
            NoAnswer::Expired(expired) => (Ended::Expired(*expired), Reply::expired(*expired, false)),
            NoAnswer::Failed(failure) => {
                if let Some(reason) = failure.transport() {
                    self.stream.record.entry.transport_failure = reason.into();
                }
                (Ended::Failed(failure), Reply::failed(failure, false))
            }
        };
        self.stream.record.upstream_ended(reply.flag);
        charge::attempt(&self.cluster, chosen, endpoint, &self.stream.connection.worker.stats, ended);
        match why {
            NoAnswer::Expired(expired) if !charge::is_charged(*expired) => {
                local_reply::answer(self.stream, self.chain, reply, Some(self.changes), &self.parts)
            }
            _ => self.reply(reply, Some(&*endpoint.template)),
        }
    }

    /// Makes the answer's head what the client is to get.
    fn finish(&mut self, mut answer: response::Parts, switched: bool) -> response::Parts {
        let request_id = self.stream.request_id();
        let entry = &mut self.stream.record.entry;
        entry.response_started = Some(std::time::Instant::now());
        entry.response_code = answer.status.as_u16();
        entry.details = "via_upstream".into();
        if self.changes.virtual_host.attempt_count_in_response {
            answer.headers.insert(ATTEMPT_COUNT, HeaderValue::from(1));
        }
        for cookie in self.hashed.cookies.drain(..) {
            answer.headers.append(header::SET_COOKIE, cookie);
        }
        let view = View::live(&self.stream.record.entry, self.stream.live(&self.parts));
        mutate::apply_to_response(self.changes, &mut answer.headers, &view);
        self.chain.on_response(&self.stream, answer.status, &self.parts, &mut answer.headers);
        let manager = self.stream.connection.manager.clone();
        headers::response::finish(&manager, &mut answer.headers, switched, request_id);
        self.stream.record.entry.kept.response(&manager.wanted, &answer.headers);
        answer.version = Version::HTTP_11;
        answer.extensions.clear();
        answer
    }

    /// The upstream has not switched: its answer is one like others. `trailers`: the cluster takes those of HTTP/1.
    fn pass_on(
        mut self,
        mut answer: response::Parts,
        incoming: Option<Incoming>,
        held: Held,
        (timers, late): (Timers, Late),
        trailers: bool,
    ) -> Response<ResponseBody> {
        let connection = self.stream.connection.clone();
        // What a client may send after such a request has no end.
        connection.before_response(&mut answer.headers, true);
        let length = incoming.as_ref().map_or(Some(0), |incoming| incoming.size_hint().exact());
        let body = length.map_or(meters::Body::Chunked, meters::Body::Of);
        self.stream.record.meter_response(answer.status, &answer.headers, body);
        let body = match (incoming, held) {
            (Some(incoming), Held::Lease(lease)) => {
                let trailers = lease.is_http2() || trailers;
                let sent = connection.trailers_of_response(self.parts.version, &answer.headers);
                let from = FromUpstream {
                    incoming,
                    lease: Some(lease),
                    late: Some(late),
                    trailers,
                    sent,
                    throttle: None,
                    counting: None,
                    broken: None,
                };
                ResponseBody::upstream(from, timers, self.stream.record)
            }
            _ => ResponseBody::local(Bytes::new(), false, self.stream.record),
        };
        Response::from_parts(answer, body)
    }

    /// The bodies of the request and of its response are the tunnel.
    fn pass_payload(mut self, mut answer: response::Parts, payload: Payload) -> Response<ResponseBody> {
        self.stream.connection.before_response(&mut answer.headers, false);
        self.stream.record.meter_response(answer.status, &answer.headers, meters::Body::Chunked);
        Response::from_parts(answer, ResponseBody::payload(payload, self.stream.record))
    }

    /// Bytes pass both ways once hyper has given the client's side back.
    fn switch(
        mut self,
        mut answer: response::Parts,
        tunnel: bool,
        (upstream, held): (Upstream, Held),
        (idle, until): (Option<Duration>, Option<Instant>),
    ) -> Response<ResponseBody> {
        let connection = self.stream.connection.clone();
        answer.headers.remove(header::CONTENT_LENGTH);
        self.stream.record.meter_response(answer.status, &answer.headers, meters::Body::Switched);
        if connection.manager.log.on_established {
            self.stream.record.log_now(LogType::DownstreamTunnelSuccessfullyEstablished);
        }
        let drain = connection.outer.clone();
        let accepted = Accepted { record: self.stream.record, upstream, idle, until, held, drain };
        if connection.multiplexed {
            answer.headers.remove(header::CONNECTION);
            answer.headers.remove(header::UPGRADE);
            answer.status = StatusCode::OK;
            if let Some(client) = self.stream.on_upgrade {
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

    async fn ask(
        &mut self,
        chosen: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        timers: &mut Timers,
    ) -> Result<Asked, NoAnswer> {
        let connection = self.stream.connection.clone();
        let name = naming_header(&self.cluster, &self.parts.headers);
        let clusters = (&*self.cluster, chosen);
        let mut want = want(connection.behalf(), clusters, endpoint, name.as_ref(), self.forward.priority);
        let shareable = self.stream.record.entry.filter_state.as_ref().and_then(|state| state.shareable());
        want.filter_state = shareable.as_deref();
        let alpn = self.stream.alpn.clone();
        want.asked.overrides = alpn.as_deref();
        if let Some(connect) = self.forward.tunnel(&self.parts.method) {
            return open(&mut self.stream, connect, Want { speaks: Speaks::Http1, ..want }, timers).await;
        }
        loop {
            let record = &mut self.stream.record;
            let acquired = record.within(timers, connection.worker.pools.acquire(want)).await;
            let mut lease = acquired.map_err(NoAnswer::Expired)?.map_err(|error| NoAnswer::Failed(error.into()))?;
            let request = self.request(&lease).ok_or(NoAnswer::Failed(Failure::Protocol))?;
            let switched = lease.switching().map(Upstream::Connection);
            self.has(&lease, &request);
            let sent = send_once(connection.id, &mut lease, request);
            match self.stream.record.within(timers, sent).await.map_err(NoAnswer::Expired)? {
                Sent::Failed(failure) => return Err(NoAnswer::Failed(failure)),
                Sent::Back(_) => {}
                Sent::Answered(mut answered) => {
                    if connection.manager.wanted.meters {
                        let received = meters::response_read(&answered, lease.is_http2());
                        self.stream.record.entry.meters.upstream_received += received;
                    }
                    let switched = switched.or_else(|| switched_stream(&mut answered, &self.parts));
                    return Ok(Asked { answered: answered.map(Some), held: Held::Lease(lease), switched });
                }
            }
        }
    }

    /// The request in the form of the protocol that is spoken over `lease`. None: it has none.
    fn request(&self, lease: &Lease) -> Option<Request<RequestBody>> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        if lease.is_http2() { http2_connect(request, self.stream.scheme) } else { Some(request) }
    }

    /// Takes note of what the request goes over.
    fn has(&mut self, lease: &Lease, request: &Request<RequestBody>) {
        let record = &mut self.stream.record;
        record.entry.upstream_local = lease.local();
        record.entry.upstream_tls = lease.tls().cloned();
        if let Some(made) = lease.made() {
            made.tell(&mut record.entry);
        }
        record.entry.upstream_protocol = Some(if lease.is_http2() { "HTTP/2" } else { "HTTP/1.1" });
        if self.stream.connection.manager.wanted.meters {
            record.entry.meters.upstream_sent += meters::request_written(request);
        }
        record.upstream_ready();
    }
}

/// Whether an answer to a WebSocket handshake over HTTP/1 is none. What says that something went wrong passes as it is.
fn fails_handshake(request: &HeaderMap, status: StatusCode) -> bool {
    let websocket = request.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket && status != StatusCode::SWITCHING_PROTOCOLS && status.as_u16() < 400
}

/// A connection that gets the bytes of the tunnel: the upstream is asked nothing.
async fn open(stream: &mut Stream, connect: &Connect, want: Want<'_>, timers: &mut Timers) -> Result<Asked, NoAnswer> {
    let record = &mut stream.record;
    let tunnel = record.within(timers, pool::tunnel::connect(want)).await.map_err(NoAnswer::Expired)?;
    let mut tunnel = tunnel.map_err(|error: PoolError| NoAnswer::Failed(error.into()))?;
    if let Some(header) = &connect.proxy_header {
        let header = header.bytes(Some(want.client), want.client);
        tunnel.io.write_all(&header).await.map_err(|_| NoAnswer::Failed(Failure::Terminated))?;
        tunnel.counted.passed(header.len() as u64, 0);
    }
    let entry = &mut stream.record.entry;
    entry.upstream_local = tunnel.local;
    entry.upstream_tls = tunnel.tls;
    tunnel.made.tell(entry);
    stream.record.upstream_ready();
    let switched = Some(Upstream::Tunnel(tunnel.io));
    Ok(Asked { answered: Response::new(None), held: Held::Tunnel(tunnel.counted), switched })
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
