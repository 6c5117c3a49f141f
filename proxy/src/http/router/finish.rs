//! What becomes of a request after its last attempt: the response is passed on, its redirect followed, or an answer given.

use http::{HeaderName, HeaderValue, Response, header, response::Parts};
use hyper::{
    body::{Body, Incoming},
    ext::ReasonPhrase,
};

use super::{
    answer::{Answer, Redirected},
    attempts::{ATTEMPT_COUNT, Attempts},
    internal_redirect,
    upstream::{Attempted, drain},
};
use crate::{
    access_log::View,
    config::http1::HeaderNames,
    http::{
        body::{BodySource, counting::Counting},
        call::charge,
        codec::meters,
        filter::local_reply,
        headers::{mutate, response},
        pool::Lease,
        stream::{
            connection::Unread,
            failure::Failure,
            late::Late,
            reply::Reply,
            response_body::{FromUpstream, ResponseBody},
            timers::Expired,
            tracking,
            verdict::Verdict,
        },
    },
};

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Whether a header is about the body that it comes with, or about the connection.
fn of_body(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONTENT_TYPE
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION
            | header::TRAILER
    )
}

impl Attempts<'_> {
    /// Ends without another attempt: with the response, or with what went wrong.
    pub fn finish(mut self, attempted: Attempted, body: BodySource) -> Answer {
        match attempted {
            Attempted::Response(response, lease) => {
                let (stream, parts) = (&mut self.stream, &mut self.parts);
                match internal_redirect::follow(stream, self.routed, &self.cluster, parts, &response, &body) {
                    Some(body) => {
                        drain(response.into_body(), lease);
                        Answer::Redirected(Box::new(Redirected { stream: self.stream, parts: self.parts, body }))
                    }
                    None if self.agreed(&response) => self.switch(response, lease).into(),
                    None => self.respond(response, lease).into(),
                }
            }
            Attempted::Tunnel(tunnel) => self.carry(*tunnel, body).into(),
            Attempted::NoHandshake(head) => {
                let mut reply = Reply::new(head.status, "", None, "websocket_handshake_unsuccessful");
                // As in Envoy, which sends what it was answered, but for the body.
                for (name, value) in &head.headers {
                    if !of_body(name) {
                        reply.headers.append(name, value.clone());
                    }
                }
                local_reply::answer(self.stream, self.chain, reply, Some(&self.changes), &self.parts).into()
            }
            other => self.give_up(other),
        }
    }

    fn give_up(mut self, attempted: Attempted) -> Answer {
        let mut reply = match &attempted {
            Attempted::NoHost
            | Attempted::NoHandshake(_)
            | Attempted::Slow
            | Attempted::Response(..)
            | Attempted::Tunnel(_) => match self.unresolved.take() {
                Some(why) => Reply { details: why.into(), ..Reply::no_host() },
                None => Reply::no_host(),
            },
            Attempted::Failed(failure) => {
                if *failure == Failure::Downstream {
                    // Else the record tells that the client is gone.
                    let Some(refusal) = self.stream.connection.broken_body() else { return Answer::None };
                    let reply = Reply { close: true, ..Reply::refused(refusal) };
                    return local_reply::answer(self.stream, self.chain, reply, Some(&self.changes), &self.parts)
                        .into();
                }
                if let Some(reason) = failure.transport() {
                    self.stream.record.entry.transport_failure = reason.into();
                }
                Reply::failed(failure, self.retries > 0)
            }
            Attempted::Expired(expired) => self.stream.expired(*expired).or_nothing(self.timeouts.alternative),
        };
        let charged = match &attempted {
            Attempted::Expired(expired) => self.tries && expired.is_of_upstream(),
            _ => true,
        };
        if let (Attempted::Expired(expired), Some(completed)) = (&attempted, self.stream.record.request_completed())
            && expired.is_of_upstream()
        {
            let shard = &self.stream.connection.worker.stats;
            tracking::whole_used(&self.cluster, shard, self.timeouts.global, completed.elapsed());
        }
        if charged {
            let shard = &self.stream.connection.worker.stats;
            charge::answer(&self.cluster, &self.groups, shard, reply.status, &self.by, self.template());
        }
        // The stream's own limits are none of the router's.
        let of_stream =
            matches!(attempted, Attempted::Expired(Expired::Idle | Expired::MaxDuration | Expired::Request));
        if self.routed.virtual_host.attempt_count_in_response && self.stream.record.entry.attempts > 0 && !of_stream {
            reply.headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.stream.record.entry.attempts));
        }
        local_reply::answer(self.stream, self.chain, reply, Some(&self.changes), &self.parts).into()
    }

    pub fn respond(mut self, response: Response<Incoming>, lease: Lease) -> Response<ResponseBody> {
        let trailers = lease.is_http2() || self.chosen().http1.trailers;
        self.timers.responded();
        let connection = self.stream.connection.clone();
        let (mut parts, incoming) = response.into_parts();
        if let Some(status) = lease.interim()
            && !self.stream.record.health_check
        {
            let shard = &connection.worker.stats;
            charge::answer(&self.cluster, &self.groups, shard, status, &self.by, self.template());
        }
        let verdict = self.asked().verdict(parts.status, &parts.headers, incoming.is_end_stream());
        let counting = self.finish_head(&mut parts, verdict, false);
        let throttle = self.chain.throttle.take();
        let changes = self.chain.trailer_changes(&self.stream, &self.parts, Some(&parts.headers));
        if let (Some(counting), true) = (&counting, incoming.is_end_stream()) {
            counting.ended(self.stream.record.request_completed().map(|completed| completed.elapsed()));
        }
        let unread = if self.stream.record.request_completed().is_none() { Unread::Rest } else { Unread::Nothing };
        connection.ends_with_unbounded(self.parts.version, &parts.headers);
        connection.before_response(&mut parts.headers, unread);
        self.stream.record.entry.kept.response(&connection.manager.wanted, &parts.headers);
        if incoming.is_end_stream() {
            self.stream.record.upstream_complete();
            // The client has got nothing of it yet, as its line tells.
            self.stream.record.upstream_ended(None);
        }
        let body = incoming.size_hint().exact().map_or(meters::Body::Chunked, meters::Body::Of);
        self.stream.record.meter_response(parts.status, &parts.headers, body);
        parts.version = connection.response_version(self.parts.version);
        match self.cluster.http1.names {
            // Names as they came are among them.
            HeaderNames::AsTheyCame { reason: true } => {}
            HeaderNames::AsTheyCame { reason: false } => {
                parts.extensions.remove::<ReasonPhrase>();
            }
            // The upstream's own reason phrase among them: Envoy sends the standard ones.
            HeaderNames::Lower | HeaderNames::Words => parts.extensions.clear(),
        }
        let sent = connection.trailers_of_response(self.parts.version, &parts.headers);
        let from = FromUpstream {
            incoming,
            lease: Some(lease),
            late: self.endpoint.map(|endpoint| {
                Late::new(self.cluster.clone(), self.member, endpoint, &self.groups, verdict == Verdict::Later)
            }),
            trailers,
            sent,
            throttle,
            counting,
            changes,
            broken: None,
        };
        let mut response = Response::from_parts(parts, ResponseBody::upstream(from, self.timers, self.stream.record));
        response::set_reason(&mut response);
        response
    }

    /// Charges a response, and makes its head what the client is to get. `switched`: what follows it is not HTTP.
    pub fn finish_head(&mut self, parts: &mut Parts, verdict: Verdict, switched: bool) -> Option<Box<Counting>> {
        let connection = self.stream.connection.clone();
        let manager = &connection.manager;
        let shard = &connection.worker.stats;
        let counted = !self.stream.record.health_check;
        if counted {
            charge::answer(&self.cluster, &self.groups, shard, parts.status, &self.by, self.template());
        }
        if let Some(endpoint) = &self.endpoint
            && (!parts.status.is_server_error() || (counted && self.by.counts()))
        {
            verdict.charge(endpoint);
        }
        let now = std::time::Instant::now();
        let about = self.stream.about();
        let completed = self.stream.record.request_completed();
        if let Some(completed) = completed {
            let took = now.saturating_duration_since(completed);
            charge::time(&self.cluster, &self.groups, &connection.worker.stats, &self.by, self.template(), took);
        }
        let entry = &mut self.stream.record.entry;
        entry.response_started = Some(now);
        entry.timing.reply_began = Some(now);
        entry.response_code = parts.status.as_u16();
        entry.details = "via_upstream".into();
        if let Some(completed) = completed.filter(|_| !manager.router.suppress_envoy_headers) {
            let service = now.saturating_duration_since(completed);
            let millis = u64::try_from(service.as_millis()).unwrap_or(u64::MAX);
            parts.headers.insert(SERVICE_TIME, HeaderValue::from(millis));
        }
        if self.routed.virtual_host.attempt_count_in_response {
            parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.retries + 1));
        }
        for cookie in self.hashed.cookies.drain(..) {
            parts.headers.append(header::SET_COOKIE, cookie);
        }
        let view = View::live(&self.stream.record.entry, self.stream.live(&self.parts));
        mutate::apply_to_response(&self.changes, &mut parts.headers, &view);
        let live = Some(self.stream.live(&self.parts));
        let counting = self.chain.on_response(&self.stream, parts.status, live, &mut parts.headers);
        response::finish(manager, &mut parts.headers, switched, about);
        counting
    }
}
