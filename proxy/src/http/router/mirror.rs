//! Copies of requests, sent to other clusters, whose answers nobody sees.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::{
    charge::{self, By, Ended},
    outgoing::upstream_request,
    upstream::{Sent, send_once, want},
};
use crate::{
    access_log::{Live, View},
    cluster::{PickContext, Picked},
    config::{
        cluster::{Cluster, RoutingPriority},
        route::Mirror,
    },
    http::{
        body::{RequestBody, client::ClientBody, copied::Copied},
        filter::header_mutation,
        headers::{forwarded, lines::Of},
        pool::{Lease, names::naming_header},
        stream::{Stream, connection::Connection, failure::Failure, timers::Expired},
    },
    telemetry::panics,
};

/// Sends copies of a request where `mirrors` say. The request is as the upstream gets it.
pub(super) fn start(
    stream: &Stream,
    mirrors: &[Mirror],
    parts: &Parts,
    body: &mut ClientBody,
    timeout: Option<Duration>,
) {
    copy(stream, mirrors, parts, body, timeout, &mut Vec::new());
}

/// Sends copies, and copies of copies where a cluster that gets one has mirrors of its own. Those that the copy at hand
/// came through are in `through`: nothing goes round in a circle.
fn copy(
    stream: &Stream,
    mirrors: &[Mirror],
    parts: &Parts,
    body: &mut ClientBody,
    timeout: Option<Duration>,
    through: &mut Vec<Arc<str>>,
) {
    for mirror in mirrors {
        if !mirror.fraction.as_ref().is_none_or(|fraction| fraction.sample(&stream.connection.worker.runtime)) {
            continue;
        }
        let snapshot = stream.connection.worker.snapshot.load();
        let name = mirror.cluster.resolve(&parts.headers);
        let Some(cluster) = name.and_then(|name| snapshot.cluster(&name)).cloned() else { continue };
        let copied = if stream.record.progress.is_some() {
            let copied = Copied::new(stream.connection.manager.buffer_limit);
            body.copy_to(copied.clone());
            RequestBody::Copy(copied)
        } else {
            RequestBody::Empty
        };
        let mut parts = parts.clone();
        prepare(mirror, stream, &mut parts);
        if !cluster.policies.mirrors.is_empty() && !through.contains(&cluster.name) {
            through.push(cluster.name.clone());
            copy(stream, &cluster.policies.mirrors, &parts, body, timeout, through);
            through.pop();
        }
        let connection = stream.connection.clone();
        connection.worker.stats.inc(mirror.stats.handles.rq_total);
        panics::spawn_for(connection.id, send(connection, cluster, parts, copied, timeout));
    }
}

fn prepare(mirror: &Mirror, stream: &Stream, parts: &mut Parts) {
    let Parts { method, uri, headers, .. } = parts;
    for mutation in &mirror.headers {
        header_mutation::apply(mutation, Of::Request, headers, |out, format, headers| {
            let live = Live { method, uri, scheme: stream.scheme, headers };
            format.write_header(out, &View::live(&stream.record.entry, live));
        });
    }
    if let Some(host) = &mirror.host {
        headers.insert(header::HOST, host.clone());
    } else if mirror.suffix
        && let Some(host) = headers.get(header::HOST).and_then(|host| shadow_host(host.as_bytes()))
    {
        headers.insert(header::HOST, host);
    }
    forwarded::from_here(&stream.connection.manager, headers);
}

/// `-shadow` is appended to a host, before its port.
fn shadow_host(host: &[u8]) -> Option<HeaderValue> {
    let bare = crate::config::route::without_port(host);
    let (bare, port) = host.split_at(bare.len());
    HeaderValue::from_bytes(&[bare, b"-shadow", port].concat()).ok()
}

/// Sends a copy, reads the answer, if there is one, to its end, and counts what came of it.
async fn send(
    connection: Rc<Connection>,
    cluster: Arc<Cluster>,
    parts: Parts,
    body: RequestBody,
    timeout: Option<Duration>,
) {
    let shard = &connection.worker.stats;
    let by = By::of(&parts.headers);
    let answered = |status, of| charge::answer(&cluster, &[], shard, status, &by, of);
    if cluster.drops_one().is_some() {
        return answered(StatusCode::SERVICE_UNAVAILABLE, None);
    }
    let context = PickContext { destination: connection.original_destination(), ..PickContext::default() };
    let Some(picked) = connection.worker.balancers.pick(&cluster, &context) else {
        shard.inc(cluster.stats.upstream_cx_none_healthy);
        return answered(StatusCode::SERVICE_UNAVAILABLE, None);
    };
    let (chosen, endpoint) = (picked.cluster(&cluster), &picked.endpoint);
    let of = Some(&*endpoint.template);
    let attempted = |ended: Ended<'_>| charge::attempt(&cluster, chosen, endpoint, shard, ended);
    let began = Instant::now();
    let until = timeout.map(|timeout| began + timeout);
    let (response, mut lease) = match before(until, exchange(&connection, &cluster, &picked, parts, body)).await {
        None => {
            attempted(Ended::Expired(Expired::Global));
            return answered(StatusCode::GATEWAY_TIMEOUT, of);
        }
        Some(Err(Failure::Downstream)) => return,
        Some(Err(failure)) => {
            attempted(Ended::Failed(&failure));
            return answered(failure.status(), of);
        }
        Some(Ok(exchanged)) => exchanged,
    };
    attempted(Ended::Response(response.status(), response.headers()));
    answered(response.status(), of);
    charge::time(&cluster, &[], shard, &by, of, began.elapsed());
    match before(until, read(response.into_body())).await {
        Some(Ok(())) => lease.release(),
        Some(Err(error)) => Failure::of_body(&error, lease.is_http2()).end(&mut lease),
        None => {}
    }
}

async fn exchange(
    connection: &Rc<Connection>,
    cluster: &Arc<Cluster>,
    picked: &Picked,
    parts: Parts,
    body: RequestBody,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let (chosen, endpoint) = (picked.cluster(cluster), &picked.endpoint);
    let name = naming_header(cluster, &parts.headers);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    let want = want(connection, (cluster, chosen), endpoint, name.as_ref(), RoutingPriority::Default);
    loop {
        let mut lease = connection.worker.pools.acquire(want).await?;
        let scheme = if connection.tls.is_some() { "https" } else { "http" };
        request = upstream_request(request, lease.is_http2(), scheme).ok_or(Failure::Protocol)?;
        match send_once(connection, &mut lease, request).await {
            Sent::Answered(response) => return Ok((response, lease)),
            Sent::Back(unsent) => request = *unsent,
            Sent::Failed(failure) => return Err(failure),
        }
    }
}

/// Reads a body to its end.
async fn read(mut body: Incoming) -> Result<(), hyper::Error> {
    while !body.is_end_stream()
        && let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        frame?;
    }
    Ok(())
}

/// What a future gives before a point in time, if there is one.
async fn before<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
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
