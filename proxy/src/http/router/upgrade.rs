//! Upgrades (WebSocket and other protocols) and CONNECT tunnels: attempts like those at any request, until an upstream
//! has switched. Its connection then leaves the pool, and bytes pass both ways (`upgraded`). Where the route has a tunnel
//! end here, the upstream sees its bytes only, on a connection of its own.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts, response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::io::AsyncWriteExt;

use super::{
    attempts::{Attempts, Wants},
    upstream::Attempted,
};
use crate::{
    access_log::LogType,
    config::route::{Connect, RequestStats},
    http::{
        body::BodySource,
        codec::meters,
        pool::{self, Lease, Speaks, Want, tunnel::Tunnel},
        stream::{
            Stream,
            failure::Failure,
            payload::Payload,
            response_body::ResponseBody,
            timers::Timers,
            upgraded::{Accepted, Held, Upstream},
        },
    },
    telemetry::panics,
};

/// Whether an upgrade is one to WebSocket.
pub(super) fn to_websocket(request: &HeaderMap) -> bool {
    request.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether an answer to a WebSocket handshake over HTTP/1 is none. What says that something went wrong passes as it is.
pub(super) fn fails_handshake(request: &Parts, status: StatusCode) -> bool {
    request.method == Method::GET
        && to_websocket(&request.headers)
        && status != StatusCode::SWITCHING_PROTOCOLS
        && status.as_u16() < 400
}

/// Gives the head of an answer that accepts an upgrade over HTTP/2 the form that it has in HTTP/1.
pub(super) fn as_http1<B>(response: &mut Response<B>, request: &Parts) {
    if response.extensions().get::<OnUpgrade>().is_some()
        && request.method != Method::CONNECT
        && response.status().is_success()
        && let Some(upgrade) = request.headers.get(header::UPGRADE)
    {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::UPGRADE, upgrade.clone());
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Makes a connection that gets the bytes of the tunnel: the upstream is asked nothing. `groups` count it.
pub(super) async fn open(
    stream: &mut Stream,
    timers: &mut Timers,
    groups: &[&RequestStats],
    want: Want<'_>,
    connect: &Connect,
) -> Attempted {
    let want = Want { speaks: Speaks::Http1, ..want };
    let opening = async {
        let mut tunnel = pool::tunnel::connect(want).await?;
        if let Some(header) = &connect.proxy_header {
            let header = header.bytes(Some(want.client), want.client);
            tunnel.io.write_all(&header).await.map_err(|_| Failure::Terminated)?;
            tunnel.counted.passed(header.len() as u64, 0);
        }
        Ok(tunnel)
    };
    let tunnel = match stream.record.within(timers, opening).await {
        Err(expired) => return Attempted::Expired(expired),
        Ok(Err(failure)) => return Attempted::Failed(failure),
        Ok(Ok(tunnel)) => tunnel,
    };
    groups.iter().for_each(|group| want.shard.inc(group.handles.upstream_rq_total));
    let entry = &mut stream.record.entry;
    entry.upstream_local = tunnel.local;
    entry.upstream_tls.clone_from(&tunnel.tls);
    tunnel.made.tell(entry);
    stream.record.upstream_ready();
    stream.record.upstream_responded(StatusCode::OK, &HeaderMap::new());
    Attempted::Tunnel(Box::new(tunnel))
}

impl Attempts<'_> {
    /// Whether the upstream has agreed to what was wanted: what follows the head of its response is not HTTP.
    pub fn agreed<B>(&self, response: &Response<B>) -> bool {
        let status = response.status();
        matches!(self.wants, Wants::Switch)
            && (status == StatusCode::SWITCHING_PROTOCOLS
                || (self.parts.method == Method::CONNECT && status.is_success()))
    }

    /// The upstream has agreed.
    pub fn switch(mut self, mut response: Response<Incoming>, mut lease: Lease) -> Response<ResponseBody> {
        let stream = response.extensions_mut().remove::<OnUpgrade>();
        let upstream = match lease.switched() {
            Some(connection) => Upstream::Connection(connection),
            None => match stream {
                Some(stream) => Upstream::Stream(stream),
                // It has no bytes, then.
                None => return self.respond(response, lease),
            },
        };
        let (mut head, _) = response.into_parts();
        self.accepted(&mut head);
        self.pass(head, upstream, Held::Lease(lease))
    }

    /// The upstream has a connection for the tunnel.
    pub fn carry(mut self, tunnel: Tunnel, body: BodySource) -> Response<ResponseBody> {
        let (mut head, ()) = Response::new(()).into_parts();
        self.accepted(&mut head);
        match body {
            BodySource::After(body) if self.parts.method == Method::POST => {
                let connection = self.stream.connection.clone();
                let running = self.stream.record.running.clone();
                running.begin(self.timers);
                let payload = Payload::new(tunnel.io, (connection, body), running, tunnel.counted);
                // The bodies of the request and of its response are the tunnel.
                self.stream.connection.before_response(&mut head.headers, false);
                self.stream.record.meter_response(head.status, &head.headers, meters::Body::Chunked);
                Response::from_parts(head, ResponseBody::payload(payload, self.stream.record))
            }
            _ => self.pass(head, Upstream::Tunnel(tunnel.io), Held::Tunnel(tunnel.counted)),
        }
    }

    fn accepted(&mut self, head: &mut response::Parts) {
        self.timers.responded();
        // What looks at a response's body has nothing to look at.
        let _ = self.finish_head(head, true);
        head.version = http::Version::HTTP_11;
        head.extensions.clear();
    }

    /// Bytes pass both ways once hyper has given the client's side back.
    fn pass(mut self, mut head: response::Parts, upstream: Upstream, held: Held) -> Response<ResponseBody> {
        let connection = self.stream.connection.clone();
        let (idle, until) = self.timers.of_tunnel();
        head.headers.remove(header::CONTENT_LENGTH);
        self.stream.record.meter_response(head.status, &head.headers, meters::Body::Switched);
        if connection.manager.log.on_established {
            self.stream.record.log_now(LogType::DownstreamTunnelSuccessfullyEstablished);
        }
        let drain = connection.outer.clone();
        let accepted = Accepted { record: self.stream.record, upstream, idle, until, held, drain };
        if connection.multiplexed {
            head.headers.remove(header::CONNECTION);
            head.headers.remove(header::UPGRADE);
            head.status = StatusCode::OK;
            if let Some(client) = self.stream.on_upgrade {
                panics::spawn_for(connection.id, accepted.run_stream(client, connection.activity.begin()));
            }
        } else {
            if self.parts.method == Method::CONNECT {
                head.headers.remove(header::CONNECTION);
            } else {
                head.headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("upgrade"));
            }
            connection.accept_upgrade(accepted);
        }
        Response::from_parts(head, ResponseBody::detached())
    }
}
