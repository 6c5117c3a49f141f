//! Copies of requests, sent to other clusters, whose answers nobody sees.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header, request::Parts};

use crate::{
    access_log::{Live, View},
    config::{cluster::Cluster, route::Mirror},
    http::{
        body::{RequestBody, client::ClientBody, copied::Copied},
        call::{self, Question},
        headers::{forwarded, lines::Of, mutate},
        stream::{Stream, behalf::Kept},
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
        let snapshot = stream.connection.snapshot().load();
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
        let connection = &stream.connection;
        connection.worker.stats.inc(mirror.stats.handles.rq_total);
        let scheme = if connection.tls.is_some() { "https" } else { "http" };
        let question = Question { parts, body: copied, scheme, timeout, keep: None };
        panics::spawn_for(connection.id, send(connection.behalf().kept(&connection.worker), cluster, question));
    }
}

fn prepare(mirror: &Mirror, stream: &Stream, parts: &mut Parts) {
    let Parts { method, uri, headers, .. } = parts;
    for mutation in &mirror.headers {
        mutate::apply_one(mutation, Of::Request, headers, |out, format, headers| {
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
    forwarded::from_here(stream.connection.manager.node_address, headers);
}

/// `-shadow` is appended to a host, before its port.
fn shadow_host(host: &[u8]) -> Option<HeaderValue> {
    let bare = crate::config::route::without_port(host);
    let (bare, port) = host.split_at(bare.len());
    HeaderValue::from_bytes(&[bare, b"-shadow", port].concat()).ok()
}

/// Sends a copy, reads the answer, if there is one, to its end, and counts what came of it. The client may have gone by then.
async fn send(client: Kept, cluster: Arc<Cluster>, question: Question) {
    // Nobody sees it.
    let _ = call::ask(client.behalf(), &cluster, question).await;
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
