//! Asking a cluster something beside the request that is under way: a copy of it, a question about it.
//!
//! Above streams; filters and the router ask, on behalf of a request's connection, and listeners, on behalf of any. What comes of it is counted as
//! the cluster's, like any request.

pub(crate) mod authorization;
pub(in crate::http) mod charge;
pub(crate) mod grpc;
pub(in crate::http) mod once;
pub(in crate::http) mod outgoing;
pub(crate) mod tunnel;

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use self::{
    charge::{By, Ended},
    once::{Asks, want},
};
use super::{
    body::RequestBody,
    headers::forwarded,
    pool::{Lease, names::naming_header},
    stream::{
        behalf::Behalf,
        failure::Failure,
        timers::Expired,
        verdict::{Asked, Verdict},
    },
};
use crate::{
    cluster::{PickContext, Picked, Reach},
    config::cluster::{Cluster, RoutingPriority},
};

/// Tells an upstream how long its answer may take, in milliseconds.
pub(in crate::http) const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// What a cluster is asked.
pub(in crate::http) struct Question {
    /// In the form of prepared requests: a path, and `host`.
    pub parts: Parts,
    pub body: RequestBody,
    pub scheme: &'static str,
    /// For all of it.
    pub timeout: Option<Duration>,
    /// Bytes of the answer's body that are kept at most; none: it is read and none is kept.
    pub keep: Option<usize>,
}

/// An answer, all of which has come.
#[derive(Debug)]
pub(in crate::http) struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) enum Unanswered {
    /// The cluster turns requests away, or has no host.
    NoHost,
    /// It took too long.
    Late,
    /// It failed, or broke off.
    Failed(Failure),
    /// Its body is longer than what is kept.
    TooLong,
}

/// Asks a cluster.
pub(in crate::http) async fn ask(
    behalf: Behalf<'_>,
    cluster: &Arc<Cluster>,
    question: Question,
) -> Result<Answered, Unanswered> {
    let shard = &behalf.worker.stats;
    let by = By::of(&question.parts.headers);
    let of_request = Asked::by(&question.parts.headers);
    let answered = |status, of| charge::answer(cluster, &[], shard, status, &by, of);
    if cluster.drops_one().is_some() {
        answered(StatusCode::SERVICE_UNAVAILABLE, None);
        return Err(Unanswered::NoHost);
    }
    let context = PickContext {
        destination: behalf.destination,
        host: question.parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        ..PickContext::default()
    };
    if let Reach::Wait(resolving) = cluster.reach(&context) {
        // What comes of it is seen by who picks.
        Box::pin(resolving.failure()).await;
    }
    let Some(picked) = behalf.worker.balancers.pick(cluster, &context) else {
        shard.inc(cluster.stats.upstream_cx_none_healthy);
        answered(StatusCode::SERVICE_UNAVAILABLE, None);
        return Err(Unanswered::NoHost);
    };
    let (chosen, endpoint) = (picked.cluster(cluster), &picked.endpoint);
    let of = Some(&*endpoint.template);
    let attempted = |ended: Ended<'_>| charge::attempt(cluster, chosen, endpoint, shard, ended);
    let began = Instant::now();
    let until = question.timeout.map(|timeout| began + timeout);
    let keep = question.keep;
    let (response, mut lease) = match before(until, exchange(behalf, cluster, &picked, question)).await {
        None => {
            attempted(Ended::Expired(Expired::Global));
            answered(StatusCode::GATEWAY_TIMEOUT, of);
            return Err(Unanswered::Late);
        }
        Some(Err(failure)) => {
            if failure != Failure::Downstream {
                attempted(Ended::Failed(&failure));
                answered(failure.status(), of);
            }
            return Err(Unanswered::Failed(failure));
        }
        Some(Ok(exchanged)) => exchanged,
    };
    attempted(Ended::Response { of: of_request, status: response.status(), headers: response.headers() });
    answered(response.status(), of);
    charge::time(cluster, &[], shard, &by, of, began.elapsed());
    let (parts, body) = response.into_parts();
    let verdict = of_request.verdict(parts.status, &parts.headers, body.is_end_stream());
    verdict.charge(endpoint);
    match before(until, read(body, keep)).await {
        Some(Ok((body, trailers))) => {
            if verdict == Verdict::Later {
                Verdict::of_trailers(&trailers).charge(endpoint);
            }
            lease.release();
            Ok(Answered { status: parts.status, headers: parts.headers, body, trailers })
        }
        Some(Err(Broken::TooLong)) => Err(Unanswered::TooLong),
        Some(Err(Broken::Off(error))) => {
            if verdict == Verdict::Later {
                Verdict::Error.charge(endpoint);
            }
            let failure = Failure::of_body(&error, lease.is_http2());
            failure.end(&mut lease);
            Err(Unanswered::Failed(failure))
        }
        None => Err(Unanswered::Late),
    }
}

async fn exchange(
    behalf: Behalf<'_>,
    cluster: &Arc<Cluster>,
    picked: &Picked,
    question: Question,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let (chosen, endpoint) = (picked.cluster(cluster), &picked.endpoint);
    let Question { parts, body, scheme, .. } = question;
    let name = naming_header(cluster, &parts.headers);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    let want = want(behalf, (cluster, chosen), endpoint, name.as_ref(), RoutingPriority::Default);
    once::exchange(behalf, want, (Asks::Response, scheme), request, &()).await
}

/// Why a body was not read to its end.
enum Broken {
    TooLong,
    Off(hyper::Error),
}

/// Reads a body to its end.
async fn read(mut body: Incoming, keep: Option<usize>) -> Result<(Bytes, HeaderMap), Broken> {
    let (mut kept, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while !body.is_end_stream()
        && let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        match frame.map_err(Broken::Off)?.into_data() {
            Ok(data) => match keep {
                Some(most) if kept.len() + data.len() > most => return Err(Broken::TooLong),
                Some(_) => kept.extend_from_slice(&data),
                None => {}
            },
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((kept.freeze(), trailers))
}

/// What a future gives before a point in time, if there is one.
async fn before<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}

/// How long to wait before a question is asked again, which has failed so many times and once more: at random, as Envoy
/// waits between attempts.
pub(in crate::http) fn pause(failed: u32) -> Duration {
    const BASE_MILLIS: u64 = 25;
    Duration::from_millis(fastrand::u64(0..BASE_MILLIS << failed.min(3)))
}

/// Adds the headers that Envoy's own requests have, about this process and its patience.
pub(in crate::http) fn sign(behalf: Behalf<'_>, headers: &mut HeaderMap, timeout: Duration) {
    forwarded::from_here(behalf.node, headers);
    expect(headers, timeout);
}

/// Adds how long an answer may take, unless it may take any time.
pub(in crate::http) fn expect(headers: &mut HeaderMap, timeout: Duration) {
    if !timeout.is_zero()
        && let Ok(millis) = HeaderValue::try_from(timeout.as_millis().to_string())
    {
        headers.insert(EXPECTED_TIMEOUT, millis);
    }
}
