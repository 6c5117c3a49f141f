//! Copies of requests, sent to other clusters, whose answers nobody sees.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request, header, request::Parts};
use hyper::body::Body;

use super::outgoing::upstream_request;
use crate::{
    cluster::PickContext,
    config::{
        cluster::{Cluster, RoutingPriority},
        route::{Forward, Mirror},
    },
    http::{
        body::{RequestBody, client::ClientBody, copied::Copied},
        headers::forwarded,
        pool::{
            Speaks, Want,
            names::{asked, naming_header},
        },
        stream::{Stream, connection::Connection},
    },
    telemetry::panics,
};

/// Sends copies of a request where its route says. The request is as the upstream gets it.
pub(super) fn start(
    stream: &Stream,
    forward: &Forward,
    parts: &Parts,
    body: &mut ClientBody,
    timeout: Option<Duration>,
) {
    for mirror in &forward.mirrors {
        if !mirror.fraction.is_none_or(|fraction| fraction.sample()) {
            continue;
        }
        let snapshot = stream.connection.worker.snapshot.load();
        let Some(cluster) = snapshot.cluster(&mirror.cluster).cloned() else { continue };
        let copy = if stream.record.progress.is_some() {
            let copied = Copied::new(stream.connection.manager.buffer_limit);
            body.copy_to(copied.clone());
            RequestBody::Copy(copied)
        } else {
            RequestBody::Empty
        };
        let connection = stream.connection.clone();
        let mut parts = parts.clone();
        prepare(mirror, &connection, &mut parts);
        panics::spawn_for(connection.id, async move {
            let sending = send(connection, cluster, parts, copy);
            match timeout {
                Some(timeout) => tokio::time::timeout(timeout, sending).await.unwrap_or_default(),
                None => sending.await,
            };
        });
    }
}

fn prepare(mirror: &Mirror, connection: &Connection, parts: &mut Parts) {
    if let Some(host) = &mirror.host {
        parts.headers.insert(header::HOST, host.clone());
    } else if mirror.suffix
        && let Some(host) = parts.headers.get(header::HOST).and_then(|host| shadow_host(host.as_bytes()))
    {
        parts.headers.insert(header::HOST, host);
    }
    forwarded::from_here(&connection.manager, &mut parts.headers);
}

/// `-shadow` is appended to a host, before its port.
fn shadow_host(host: &[u8]) -> Option<HeaderValue> {
    let bare = crate::config::route::without_port(host);
    let (bare, port) = host.split_at(bare.len());
    HeaderValue::from_bytes(&[bare, b"-shadow", port].concat()).ok()
}

/// Sends a copy and reads the answer, if there is one, to its end.
async fn send(connection: Rc<Connection>, cluster: Arc<Cluster>, parts: Parts, body: RequestBody) {
    let context = PickContext { destination: connection.original_destination(), ..PickContext::default() };
    let Some(picked) = connection.worker.balancers.pick(&cluster, &context) else { return };
    let (chosen, endpoint) = (picked.cluster(&cluster), &picked.endpoint);
    let name = naming_header(&cluster, &parts.headers);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    let want = Want {
        cluster: chosen,
        endpoint,
        dialer: &connection.dialer,
        scope: &connection.scope,
        speaks: Speaks::to(chosen, connection.multiplexed),
        transport: chosen.transports.choose(endpoint.template.metadata.as_deref()),
        asked: asked(&cluster, name.as_ref(), &endpoint.hostname),
        shard: &connection.worker.stats,
        priority: RoutingPriority::Default,
        client: connection.client(),
    };
    // A pooled connection that has just closed took nothing of the request: another one is tried.
    let (response, mut lease) = loop {
        let Ok(mut lease) = connection.worker.pools.acquire(want).await else { return };
        let scheme = if connection.tls.is_some() { "https" } else { "http" };
        let Some(converted) = upstream_request(request, lease.is_http2(), scheme) else { return };
        request = converted;
        match lease.send(request).await {
            Ok(response) => break (response, lease),
            Err(mut error) => {
                lease.lost(false);
                match error.take_message() {
                    Some(unsent) if lease.reused => request = unsent,
                    _ => return,
                }
            }
        }
    };
    let mut answer = response.into_body();
    while !answer.is_end_stream() {
        match std::future::poll_fn(|cx| std::pin::Pin::new(&mut answer).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return lease.lost(false),
            None => break,
        }
    }
    lease.release();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_copies() {
        assert_eq!(shadow_host(b"a.test").unwrap(), "a.test-shadow");
        assert_eq!(shadow_host(b"a.test:80").unwrap(), "a.test-shadow:80");
    }
}
