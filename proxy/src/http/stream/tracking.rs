//! What a request to an upstream adds to statistics that its cluster keeps on demand (`track_cluster_stats`): how large it
//! and its response are, and how much of their time they have taken.
//!
//! Of the attempt under way it belongs to the request's record. It is counted when it is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode, Uri};

use crate::{access_log, config::cluster::Cluster, telemetry::stats::Shard};

/// An attempt, as it is tracked.
#[derive(Debug)]
pub(in crate::http) struct Tracking {
    cluster: Arc<Cluster>,
    shard: Shard,
    began: Instant,
    /// How long it and all attempts together may take.
    limits: Limits,
    /// All attempts together had taken too long before it was answered: its own limit had no part in that.
    overtaken: bool,
    /// How much all have taken is known.
    complete: bool,
    request: Head,
    response: Option<Head>,
    connected: bool,
    /// Bytes of bodies.
    pub sent: u64,
    pub received: u64,
}

/// How long an attempt, and all of a request's together, may take; none: any time.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Limits {
    pub whole: Option<Duration>,
    pub per_try: Option<Duration>,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    bytes: u64,
    fields: u64,
}

impl Head {
    /// Of headers, and of pseudo-headers: their names and the lengths of their values.
    fn of(headers: &HeaderMap, pseudo: &[(&str, usize)]) -> Self {
        // What `host` is here is `:authority` there.
        let host = if headers.contains_key(http::header::HOST) { ":authority".len() - "host".len() } else { 0 };
        let besides: usize = pseudo.iter().map(|(name, value)| name.len() + value).sum();
        Self {
            bytes: (access_log::size(headers) + host + besides) as u64,
            fields: (headers.len() + pseudo.len()) as u64,
        }
    }

    fn of_request(method: &Method, uri: &Uri, scheme: &str, headers: &HeaderMap) -> Self {
        let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
        Self::of(headers, &[(":method", method.as_str().len()), (":path", path), (":scheme", scheme.len())])
    }
}

impl Tracking {
    /// Of an attempt that begins with this head, where its cluster tracks any.
    pub fn of(
        cluster: &Arc<Cluster>,
        shard: &Shard,
        limits: Limits,
        (method, uri, scheme, headers): (&Method, &Uri, &str, &HeaderMap),
    ) -> Option<Box<Self>> {
        cluster.stats.tracked.any().then(|| {
            Box::new(Self {
                cluster: cluster.clone(),
                shard: shard.clone(),
                began: Instant::now(),
                limits,
                overtaken: false,
                complete: false,
                request: Head::of_request(method, uri, scheme, headers),
                response: None,
                connected: false,
                sent: 0,
                received: 0,
            })
        })
    }

    /// It has a connection.
    pub fn ready(&mut self) {
        self.connected = true;
    }

    /// Its response begins.
    pub fn responded(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.response = Some(Head::of(headers, &[(":status", status.as_str().len())]));
    }

    /// All attempts together have taken too long, and it was not answered.
    pub fn overtaken(&mut self) {
        self.overtaken = true;
    }

    /// The request is answered to the end, or not any more, after `taken`.
    pub fn complete(&mut self, taken: Duration) {
        if !std::mem::replace(&mut self.complete, true) {
            whole_used(&self.cluster, &self.shard, self.limits.whole, taken);
        }
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        let tracked = &self.cluster.stats.tracked;
        if let Some(budgets) = tracked.budgets.as_ref().filter(|_| !self.overtaken) {
            let used = percent(self.began.elapsed(), self.limits.per_try);
            self.shard.record(budgets.upstream_rq_timeout_budget_per_try_percent_used, used);
        }
        let Some(sizes) = &tracked.sizes else { return };
        self.shard.record(sizes.upstream_rq_headers_size, self.request.bytes);
        self.shard.record(sizes.upstream_rq_headers_count, self.request.fields);
        self.shard.record(sizes.upstream_rq_body_size, if self.connected { self.sent } else { 0 });
        let Some(response) = self.response else { return };
        self.shard.record(sizes.upstream_rs_headers_size, response.bytes);
        self.shard.record(sizes.upstream_rs_headers_count, response.fields);
        self.shard.record(sizes.upstream_rs_body_size, self.received);
    }
}

/// A request has taken so much of the time that it may take.
pub(in crate::http) fn whole_used(cluster: &Cluster, shard: &Shard, limit: Option<Duration>, taken: Duration) {
    if let Some(budgets) = &cluster.stats.tracked.budgets {
        shard.record(budgets.upstream_rq_timeout_budget_percent_used, percent(taken, limit));
    }
}

/// How much of a limit something has taken; of any time, nothing.
fn percent(taken: Duration, limit: Option<Duration>) -> u64 {
    let limit = limit.map_or(0, |limit| limit.as_millis());
    u64::try_from((taken.as_millis() * 100).checked_div(limit).unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_taken_in_percent() {
        let percent =
            |taken, limit: Option<u64>| percent(Duration::from_millis(taken), limit.map(Duration::from_millis));
        assert_eq!(
            [percent(299, Some(300)), percent(500, Some(200)), percent(7, None), percent(7, Some(0))],
            [99, 250, 0, 0]
        );
    }

    #[test]
    fn heads_are_reckoned_with_pseudo_headers() {
        let headers = HeaderMap::from_iter([
            (http::header::HOST, "a".parse().unwrap()),
            ("x-forwarded-proto".parse().unwrap(), "http".parse().unwrap()),
        ]);
        let head = Head::of_request(&Method::GET, &Uri::from_static("/"), "http", &headers);
        assert_eq!(head, Head { bytes: 59, fields: 5 });
    }
}
