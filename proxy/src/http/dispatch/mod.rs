//! One request from its head to its response: prepared (`prepare`), routed, passed through the filters, and answered here
//! or forwarded.
//!
//! Above all that a request passes; its connection hands it over.

pub(in crate::http) mod prepare;

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Body, Incoming};

use self::prepare::{NO_PATH, PATH_NOT_NORMAL, Prepared};
use super::{
    body::client::ClientBody,
    codec::{
        framing::Verdict,
        malformed::{self, Malformed},
    },
    filter::{self, Passed, chain::Chain, exchange::Exchange, local_reply},
    headers::{
        forwarded::{self, NOT_DETECTED, X_FORWARDED_PROTO},
        nominated,
        request_id::{self, Trace},
        rewrite,
    },
    router::{
        self,
        answer::{Answer, Redirected},
    },
    stream::{
        Stream,
        connection::Connection,
        reply::Reply,
        response_body::ResponseBody,
        route::{self, CONNECT, Routed},
        running::Running,
        timers::Timers,
    },
};
use crate::{
    access_log::{Flag, LogType},
    config::route::{Action, RedirectPath, RequireTls, without_port},
};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Its stream is reset.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Nobody reads it.
    #[error("the client is gone")]
    Gone,
}

/// Answers a request, or resets its stream. `running`: what limits its response.
pub(super) async fn handle(
    connection: Rc<Connection>,
    running: Rc<Running>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Unanswered> {
    let active = connection.begin_request();
    let multiplexed = connection.multiplexed;
    let verdict = connection.verdict();
    let (mut parts, incoming) = request.into_parts();
    let mut stream = Stream::new(connection, running, &parts, !incoming.is_end_stream());
    if multiplexed {
        let manager = &stream.connection.manager;
        if let Err(malformed) = malformed::check(&parts, manager.max_headers, manager.underscores) {
            stream.reset(&malformed);
            return Err(malformed.into());
        }
    }
    if let Some(Verdict::Refused(refusal)) = verdict {
        return Ok(local_reply::refuse(stream, Reply::refused(refusal)));
    }
    if nominated::is_last(parts.version, &parts.headers) {
        stream.connection.wants_end();
    } else if !multiplexed && nominated::is_last_by_proxy(&parts.headers) {
        stream.connection.note_last_request();
        stream.connection.ends_with_request();
    }
    if stream.connection.sheds_requests() {
        stream.keep_request(&parts);
        let connection = stream.connection.clone();
        let mut response = local_reply::reject(stream, Reply::overloaded(connection.manager.tells_overload), &parts);
        if verdict.is_some() {
            // What follows its head is not HTTP.
            connection.say_last(response.headers_mut());
        }
        return Ok(response);
    }
    if verdict == Some(Verdict::Upgrade) {
        // What follows its head is not HTTP.
        stream.connection.ends_with_request();
    }
    let manager = stream.connection.manager.clone();
    let Connection { peer, local, .. } = *stream.connection;
    let says_scheme = multiplexed || parts.uri.scheme().is_some();
    let prepared = prepare::request(&manager, &mut parts, peer, local, stream.scheme);
    stream.scheme = forwarded::scheme(&manager, &parts.headers, says_scheme, stream.scheme);
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(reply) => {
            // What breaks the protocol is not known as a request.
            if reply.flag != Some(Flag::DownstreamProtocolError) {
                stream.keep_request(&parts);
            }
            return Ok(match &*reply.details {
                NOT_DETECTED => local_reply::reject(stream, *reply, &parts),
                // A client that is sent elsewhere, or that asks for what is nowhere, is not at odds with this side.
                NO_PATH => local_reply::reject(stream, *reply, &parts),
                _ if reply.status.is_redirection() => local_reply::reject(stream, *reply, &parts),
                // Of one that keeps to the protocol nothing is cut off.
                _ if reply.flag.is_none() => local_reply::reject(stream, *reply, &parts),
                _ => local_reply::refuse(stream, *reply),
            });
        }
    };
    if prepared.dropped > 0 {
        let Connection { worker, multiplexed, .. } = &*stream.connection;
        manager.stats.dropped_underscores(&worker.stats, *multiplexed, prepared.dropped);
    }
    // The codec says so where a body follows, if it is read before the response.
    if prepared.expected && !multiplexed && !incoming.is_end_stream() {
        manager.stats.continued(&stream.connection.worker.stats);
    }
    if verdict == Some(Verdict::Fragment) {
        stream.keep_request(&parts);
        let reply = Reply::new(StatusCode::BAD_REQUEST, "", None, PATH_NOT_NORMAL);
        return Ok(local_reply::reject(stream, reply, &parts));
    }
    if let Some(sampling) = &manager.tracing {
        let runtime = &stream.connection.worker.runtime;
        let trace = request_id::sample(sampling, manager.pack_trace_reason, runtime, &mut parts.headers);
        let tracing = &manager.stats.tracing;
        stream.connection.worker.stats.inc(match trace {
            Trace::No => tracing.not_traceable,
            Trace::Sampled => tracing.random_sampling,
            Trace::Service => tracing.service_forced,
            Trace::Client => tracing.client_enabled,
        });
    }
    stream.connection.rewrite_client_cert(&mut parts.headers);
    stream.prepared(&parts, prepared.client);
    stream.endless = prepared.upgrade.is_some();
    stream.on_upgrade = parts.extensions.remove();
    let mut body = ClientBody::new(incoming, stream.connection.multiplexed, stream.record.progress.clone());
    let mut response = loop {
        match route(stream, parts, body, &prepared).await {
            Answer::Response(response) => break response,
            Answer::None => return Err(Unanswered::Gone),
            Answer::Redirected(again) => Redirected { stream, parts, body } = *again,
        }
    };
    let announced = response.headers().contains_key(header::CONTENT_LENGTH);
    if announced && response.status() == StatusCode::NOT_MODIFIED && !multiplexed {
        response.body_mut().announce();
    }
    response.body_mut().keep_active(active);
    Ok(response)
}

async fn route(mut stream: Stream, mut parts: Parts, mut body: ClientBody, prepared: &Prepared) -> Answer {
    if !parts.uri.path().is_empty() && !parts.uri.path().starts_with('/') {
        // As in Envoy, which has no routes for what is no path.
        let reply = Reply::new(StatusCode::NOT_FOUND, "", None, NO_PATH);
        stream.keep_request(&parts);
        return local_reply::answer(stream, Chain::default(), reply, None, &parts).into();
    }
    let (mut routed, mut redirected) = choose(&mut stream, &parts, prepared);
    stream.name_operation(&mut parts.headers, routed.as_ref());
    if stream.record.logs_early() {
        stream.keep_request(&parts);
    }
    if stream.connection.manager.log.on_start {
        stream.record.log_now(LogType::DownstreamStart);
    }
    let manager = stream.connection.manager.clone();
    let mut chain = Chain::new(&manager.filters, routed.as_ref());
    let mut timers = limits(&stream, routed.as_ref(), &parts);
    if let Some(upgrade) = &prepared.upgrade {
        if upgrade_allowed(&manager.upgrades, routed.as_ref(), upgrade) {
            stream.record.upgraded();
        } else if routed.is_some() || **upgrade != *CONNECT {
            stream.keep_request(&parts);
            let reply = Reply::new(StatusCode::FORBIDDEN, "", None, "upgrade_failed");
            return local_reply::answer(stream, chain, reply, routed.as_ref().map(Routed::changes).as_ref(), &parts)
                .into();
        }
    }
    let mut filters = &manager.filters[..];
    while !filters.is_empty() {
        let of_route = routed.as_ref();
        let mut exchange = Exchange { parts: &mut parts, body: &mut body, routed: of_route, client: prepared.client };
        let passing = filter::on_request(filters, &mut stream, &mut chain, &mut exchange);
        // One that waits for too long is given up.
        let passed = timers.during(passing).await.unwrap_or_else(|expired| Passed::Answered(stream.expired(expired)));
        match passed {
            Passed::All => break,
            Passed::Answered(reply) => {
                stream.keep_request(&parts);
                return local_reply::answer(stream, chain, reply, of_route.map(Routed::changes).as_ref(), &parts)
                    .into();
            }
            Passed::Reroute(left) => {
                filters = &filters[filters.len() - left..];
                stream.forget_route();
                (routed, redirected) = choose(&mut stream, &parts, prepared);
                chain.reroute(filters, routed.as_ref());
                timers = limits(&stream, routed.as_ref(), &parts);
                timers.moved();
            }
        }
    }
    let (shard, stats) = (&stream.connection.clone().worker.stats, &manager.stats.own);
    shard.inc(stats.rq_total);
    let Some(routed) = routed else {
        tracing::debug!(target: "router", connection = stream.connection.id, stream = stream.record.name(), "no route match for URL '{}'", parts.uri);
        stream.keep_request(&parts);
        let reply = if redirected {
            shard.inc(stats.rq_direct_response);
            https_redirect(&parts)
        } else {
            Reply::no_route()
        };
        return local_reply::answer(stream, chain, reply, None, &parts).into();
    };
    match &routed.route.action {
        Action::Forward(_) => {
            let upgrade = prepared.upgrade.is_some();
            restore_port(&mut parts);
            router::forward((stream, timers), chain, &routed, parts, body, upgrade).await
        }
        Action::Direct(direct) => {
            shard.inc(stats.rq_direct_response);
            stream.keep_request(&parts);
            let mut reply = Reply::new(direct.status, "", None, "direct_response");
            // As in Envoy: what was made, or is to be asked for, is what was asked for.
            if direct.status == StatusCode::CREATED || direct.status.is_redirection() {
                reply.headers.extend(located(stream.scheme, &parts));
            }
            reply.body = direct.body.clone();
            if let Some(format) = &direct.format {
                reply.fill(format, &stream.record.entry, Some(stream.live(&parts)), false);
            }
            local_reply::answer(stream, chain, reply, Some(&routed.changes()), &parts).into()
        }
        Action::Redirect(redirect) => {
            // As Envoy counts them.
            shard.inc(stats.rq_direct_response);
            let authority = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let rewritten = match &redirect.path {
                Some(RedirectPath::Rewrite(rewrite)) => rewrite::path(rewrite, &routed.route.matches.path, &parts.uri),
                _ => None,
            };
            let location = rewrite::location(redirect, rewritten.as_deref(), &parts.uri, authority, stream.scheme);
            if let Some(path) = rewritten {
                let Parts { uri, headers, .. } = &mut parts;
                // It is told of in logs only: one that is too long for a request stays what it was there.
                let _ = rewrite::apply(path, uri, (!manager.router.suppress_envoy_headers).then_some(headers));
            }
            stream.keep_request(&parts);
            let mut reply = Reply::new(redirect.status, "", None, "direct_response");
            if let Ok(location) = HeaderValue::from_bytes(&location) {
                reply.headers.insert(header::LOCATION, location);
            }
            local_reply::answer(stream, chain, reply, Some(&routed.changes()), &parts).into()
        }
    }
}

/// Chooses a request's route. Whether it is to come by TLS instead, and has none for that.
fn choose(stream: &mut Stream, parts: &Parts, prepared: &Prepared) -> (Option<Routed>, bool) {
    let connection = &stream.connection;
    let (virtual_host, routed) =
        route::resolve(&connection.manager.routes, &stream.view(parts), &connection.worker.runtime);
    let must_use_tls = match virtual_host.as_ref().map_or(RequireTls::None, |host| host.require_tls) {
        RequireTls::None => false,
        RequireTls::ExternalOnly => !prepared.client.internal,
        RequireTls::All => true,
    };
    let redirected = must_use_tls && forwarded_scheme(parts) != b"https";
    let routed = routed.filter(|_| !redirected);
    if let Some(routed) = &routed {
        stream.routed(routed);
    }
    (routed, redirected)
}

/// The limits of a request up to its response, as far as they are known before it is forwarded: its route's, else those of
/// the manager.
fn limits(stream: &Stream, routed: Option<&Routed>, parts: &Parts) -> Timers {
    let manager = &stream.connection.manager;
    let forward = routed.and_then(Routed::forward);
    let idle = forward.and_then(|forward| forward.idle_timeout).unwrap_or(manager.stream_idle_timeout);
    let lasts = forward.and_then(|forward| router::timeouts::stream_lasts(forward, &parts.headers));
    stream.timers(idle, lasts.unwrap_or(manager.max_stream_duration))
}

/// Whether a request may switch protocols: what its route says, else what the manager does.
fn upgrade_allowed(by_manager: &[Box<str>], routed: Option<&Routed>, upgrade: &str) -> bool {
    let rules = routed.and_then(Routed::forward).map_or(&[][..], |forward| &forward.upgrades);
    match rules.iter().find(|rule| *rule.kind == *upgrade) {
        Some(rule) => rule.enabled,
        None => by_manager.iter().any(|kind| **kind == *upgrade),
    }
}

/// Where a tunnel leads is nothing without the port, which only who chose its route did without.
fn restore_port(parts: &mut Parts) {
    if parts.method != Method::CONNECT {
        return;
    }
    let port = parts.uri.authority().and_then(|authority| authority.port());
    if let (Some(port), Some(host)) = (port, parts.headers.get(header::HOST))
        && without_port(host.as_bytes()).len() == host.len()
    {
        let whole = [host.as_bytes(), b":", port.as_str().as_bytes()].concat();
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            parts.headers.insert(header::HOST, whole);
        }
    }
}

fn forwarded_scheme(parts: &Parts) -> &[u8] {
    parts.headers.get(X_FORWARDED_PROTO).map_or(b"", HeaderValue::as_bytes)
}

fn https_redirect(parts: &Parts) -> Reply {
    let mut reply = Reply::new(StatusCode::MOVED_PERMANENTLY, "", None, "direct_response");
    reply.body = Bytes::new();
    reply.headers.extend(located("https", parts));
    reply
}

/// `location`: where the request went, under a scheme.
fn located(scheme: &str, parts: &Parts) -> Option<(HeaderName, HeaderValue)> {
    let mut location = format!("{scheme}://").into_bytes();
    location.extend_from_slice(parts.headers.get(header::HOST).map_or(b"", HeaderValue::as_bytes));
    location.extend_from_slice(parts.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    HeaderValue::from_bytes(&location).ok().map(|location| (header::LOCATION, location))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a future of such a function takes.
    fn size_of<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn a_request_is_no_larger_than_most_become() {
        // Every request takes it as long as it lasts. What few become stands apart (`Box::pin`).
        let size = size_of(handle);
        assert!(size <= 12 * 1024, "{size}");
    }
}
