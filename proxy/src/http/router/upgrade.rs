//! Upgrades (WebSocket and other protocols) and CONNECT tunnels: attempts like those at any request, until an upstream
//! has switched. Its connection then leaves the pool, and bytes pass both ways (`upgraded`). Where the route has a tunnel
//! end here, the upstream sees its bytes only, on a connection of its own.

use http::{HeaderValue, Method, Response, StatusCode, header, response};
use hyper::{body::Incoming, upgrade::OnUpgrade};

use super::attempts::{Attempts, Wants};
use crate::{
    access_log::LogType,
    http::{
        body::BodySource,
        codec::meters,
        pool::{Lease, tunnel::Tunnel},
        stream::{
            connection::Unread,
            payload::Payload,
            response_body::ResponseBody,
            upgraded::{Accepted, Held, Upstream},
            verdict::Verdict,
        },
    },
    telemetry::panics,
};

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
                self.stream.connection.before_response(&mut head.headers, Unread::Nothing);
                self.stream.record.meter_response(head.status, &head.headers, meters::Body::Chunked);
                Response::from_parts(head, ResponseBody::payload(payload, self.stream.record))
            }
            _ => self.pass(head, Upstream::Tunnel(tunnel.io), Held::Tunnel(tunnel.counted)),
        }
    }

    fn accepted(&mut self, head: &mut response::Parts) {
        self.timers.responded();
        // What looks at a response's body has nothing to look at.
        let _ = self.finish_head(head, Verdict::Success, true);
        self.stream.record.entry.kept.response(&self.stream.connection.manager.wanted, &head.headers);
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
