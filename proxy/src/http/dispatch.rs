//! One request from its head to its response: prepared, routed, answered.

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;

use super::{
    body::ResponseBody,
    downstream::Connection,
    filter::{self, Exchange},
    forwarded::X_FORWARDED_PROTO,
    framing::Verdict,
    reply::Reply,
    request::{self, Prepared},
    request_body::ClientBody,
    rewrite, router,
    stream::{Routed, Stream},
};
use crate::{
    config::route::{Action, RequireTls},
    telemetry::access_log::Flag,
};

/// Answers a request.
pub(super) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let active = connection.activity.begin();
    let verdict = connection.verdict();
    let (mut parts, incoming) = request.into_parts();
    let mut stream = Stream::new(connection, &parts, &incoming);
    match verdict {
        Some(Verdict::Refused(refusal)) => return Ok(stream.refuse(Reply::refused(refusal))),
        // What follows its head is not HTTP.
        Some(Verdict::Upgrade) => stream.connection.closing.set(true),
        Some(Verdict::Fragment) | None => {}
    }
    let manager = stream.connection.manager.clone();
    let Connection { peer, local, .. } = *stream.connection;
    let prepared = match request::prepare(&manager, &mut parts, peer, local, stream.scheme) {
        Ok(prepared) => prepared,
        Err(reply) => {
            // What breaks the protocol is not known as a request.
            if reply.flag != Some(Flag::DownstreamProtocolError) {
                stream.keep_request(&parts);
            }
            return Ok(stream.refuse(*reply));
        }
    };
    if verdict == Some(Verdict::Fragment) {
        stream.keep_request(&parts);
        return Ok(stream.refuse(Reply::new(StatusCode::BAD_REQUEST, "", None, "path_normalization_failed")));
    }
    stream.connection.rewrite_client_cert(&mut parts.headers);
    stream.prepared(&parts, prepared.client.address);
    let mut response = route(stream, parts, incoming, prepared).await;
    response.body_mut().keep_active(active);
    Ok(response)
}

async fn route(mut stream: Stream, mut parts: Parts, incoming: Incoming, prepared: Prepared) -> Response<ResponseBody> {
    if parts.uri.path() == "*" {
        // As in Envoy, which has no routes for what is no path.
        stream.keep_request(&parts);
        return stream.answer(Reply::new(StatusCode::NOT_FOUND, "", None, "absolute_path_rejected"), None, &parts);
    }
    let table = stream.connection.manager.routes.clone();
    let random = fastrand::u64(..);
    let (virtual_host, route) = {
        let view = stream.view(&parts);
        let domain = match &table.vhost_header {
            Some(name) => parts.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes),
            None => view.authority,
        };
        let virtual_host = table.virtual_host(domain).cloned();
        let route = virtual_host.as_ref().and_then(|host| host.route(&view, random)).cloned();
        (virtual_host, route)
    };
    let must_use_tls = match virtual_host.as_ref().map_or(RequireTls::None, |host| host.require_tls) {
        RequireTls::None => false,
        RequireTls::ExternalOnly => !prepared.client.internal,
        RequireTls::All => true,
    };
    let redirected = must_use_tls && forwarded_scheme(&parts) != b"https";
    let routed = virtual_host.zip(route.filter(|_| !redirected)).map(|(virtual_host, route)| {
        let (cluster, weighted) = match &route.action {
            Action::Forward(forward) => forward.clusters.pick(&parts.headers, fastrand::u64(..)),
            Action::Redirect(_) | Action::Direct(_) => (None, None),
        };
        Routed { table, virtual_host, route, cluster, weighted }
    });
    if let Some(routed) = &routed {
        let virtual_cluster = routed.virtual_host.virtual_cluster(&stream.view(&parts));
        stream.record.entry.virtual_cluster = virtual_cluster.map(|cluster| cluster.name.clone());
        stream.routed(routed);
    }
    let mut body = ClientBody::new(incoming, stream.record.progress.clone());
    if !stream.connection.manager.filters.is_empty() {
        let routed = routed.as_ref();
        let mut exchange = Exchange { parts: &mut parts, body: &mut body, routed, client: prepared.client };
        if let Some(reply) = filter::on_request(&mut stream, &mut exchange).await {
            stream.keep_request(&parts);
            return stream.answer(reply, routed.map(Routed::changes).as_ref(), &parts);
        }
    }
    let manager = stream.connection.manager.clone();
    let (shard, stats) = (&stream.connection.clone().worker.stats, &manager.stats.own);
    shard.inc(stats.rq_total);
    let Some(routed) = routed else {
        stream.keep_request(&parts);
        let reply = if redirected { https_redirect(&parts) } else { Reply::no_route() };
        return stream.answer(reply, None, &parts);
    };
    match &routed.route.action {
        Action::Forward(_) => router::forward(stream, &routed, parts, body, prepared.upgrade).await,
        Action::Direct(direct) => {
            shard.inc(stats.rq_direct_response);
            stream.keep_request(&parts);
            let mut reply = Reply::new(direct.status, "", None, "direct_response");
            reply.body = direct.body.clone();
            if let Some(format) = &direct.format {
                reply.fill(format, &stream, &parts, false);
            }
            stream.answer(reply, Some(&routed.changes()), &parts)
        }
        Action::Redirect(redirect) => {
            // As Envoy counts them.
            shard.inc(stats.rq_direct_response);
            stream.keep_request(&parts);
            let authority = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let location =
                rewrite::location(redirect, &routed.route.matches.path, &parts.uri, authority, stream.scheme);
            let mut reply = Reply::new(redirect.status, "", None, "direct_response");
            if let Ok(location) = HeaderValue::from_bytes(&location) {
                reply.headers.insert(header::LOCATION, location);
            }
            stream.answer(reply, Some(&routed.changes()), &parts)
        }
    }
}

fn forwarded_scheme(parts: &Parts) -> &[u8] {
    parts.headers.get(X_FORWARDED_PROTO).map_or(b"", HeaderValue::as_bytes)
}

fn https_redirect(parts: &Parts) -> Reply {
    let mut reply = Reply::new(StatusCode::MOVED_PERMANENTLY, "", None, "direct_response");
    reply.body = Bytes::new();
    let host = parts.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let mut location = b"https://".to_vec();
    location.extend_from_slice(host);
    location.extend_from_slice(parts.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    if let Ok(location) = HeaderValue::from_bytes(&location) {
        reply.headers.insert(header::LOCATION, location);
    }
    reply
}
