//! Attempts at an upstream, one after another, until one brings a response to pass on, or agrees to switch protocols.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, request::Parts};
use hyper::body::Body;
use smallvec::SmallVec;

use super::{
    retry::{self, Outcome},
    timeouts::Timeouts,
    upstream::{Attempted, drain, exchange, open},
};
use crate::{
    access_log::Flag,
    config::{
        cluster::{Cluster, Endpoint, InUse, RoutingPriority, Template},
        filter::alpn::Names,
        retry::{RateLimitedBackOff, RetryPolicy},
        route::{Connect, Forward, Hashed, HostRewrite, RequestHandles, RequestStats},
    },
    filter_state::FilterState,
    http::{
        body::{BodySource, ReadAhead, RequestBody},
        call::{
            charge::{self, By, Ended},
            once::want,
        },
        filter::chain::Chain,
        headers::{
            mutate::{self, Changes, Hosts},
            rewrite,
        },
        pool::{Want, names::naming_header},
        stream::{
            Stream,
            connection::Connection,
            failure::Failure,
            route::Routed,
            timers::{Expired, Timers},
            tracking::{Limits, Tracking},
            verdict::{Asked, Verdict},
        },
    },
    telemetry::stats::Counter,
};

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

/// One attempt after another at the same request.
pub(super) struct Attempts<'a> {
    pub stream: Stream,
    pub chain: Chain,
    pub routed: &'a Routed,
    pub changes: Changes<'a>,
    pub forward: &'a Forward,
    pub cluster: Arc<Cluster>,
    /// The cluster that the endpoint of the last attempt is of, if `cluster` is an aggregate.
    pub member: Option<Arc<Cluster>>,
    pub policy: Option<Arc<RetryPolicy>>,
    pub timeouts: Timeouts,
    pub timers: Timers,
    pub parts: Parts,
    pub tried: SmallVec<[SocketAddr; 4]>,
    /// Of the endpoints that were tried.
    pub priorities: SmallVec<[u32; 4]>,
    pub retries: u32,
    /// What keeps the request on an endpoint, and the cookies that were made for it.
    pub hashed: Hashed,
    /// The statistics of the route and of the virtual cluster, if they have any.
    pub groups: SmallVec<[&'a RequestStats; 2]>,
    /// For statistics.
    pub by: By,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<Endpoint>>,
    /// An attempt was made, and no other is waited for: what becomes of the request now is charged to the cluster.
    pub tries: bool,
    /// Why the host that is meant can't be resolved.
    pub unresolved: Option<String>,
    pub wants: Wants<'a>,
    /// What the request was for before the last attempt's host took its place.
    pub before_rewrite: Option<Hosts>,
}

/// What a request wants of its upstream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wants<'a> {
    Response,
    /// That it switches protocols, or opens a tunnel.
    Switch,
    /// A connection: the tunnel ends here.
    Connection(&'a Connect),
}

/// What the connection of an attempt is wanted for.
pub(super) struct Errand {
    /// What [`naming_header`] found.
    name: Option<HeaderValue>,
    alpn: Option<Names>,
    shareable: Option<Box<FilterState>>,
    priority: RoutingPriority,
}

impl Errand {
    /// The first of `clusters` is the route's, the other the endpoint's.
    pub fn want<'w>(
        &'w self,
        connection: &'w Connection,
        clusters: (&Cluster, &'w Arc<Cluster>),
        endpoint: &'w Arc<Endpoint>,
    ) -> Want<'w> {
        let mut want = want(connection.behalf(), clusters, endpoint, self.name.as_ref(), self.priority);
        want.asked.overrides = self.alpn.as_deref();
        want.filter_state = self.shareable.as_deref();
        want
    }
}

/// Another attempt is to follow.
pub(super) struct Again {
    /// Counts among the cluster's retries until then.
    _retrying: InUse,
    /// How long the upstream wants it to wait.
    pub asked: Option<Duration>,
}

/// Why no other attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// None is wanted.
    Unwanted,
    /// One is, and may not be.
    Refused,
}

impl<'a> Attempts<'a> {
    /// Makes attempts until one brings a response to pass on or none may follow: that one is what to finish with.
    pub async fn run(&mut self, body: &mut BodySource) -> Attempted {
        loop {
            let last = !self.can_retry(body);
            let attempt_body = body.next();
            let Some(endpoint) = self.next() else { return Attempted::NoHost };
            let attempted = match body {
                // Rare enough not to be part of every request's task.
                BodySource::After(early) => {
                    early.ahead_while(Box::pin(self.attempt(&endpoint, attempt_body, last))).await
                }
                _ => self.attempt(&endpoint, attempt_body, last).await,
            };
            if let (BodySource::After(early), Attempted::Failed(failure)) = (&mut *body, &attempted)
                && !failure.is_overflow()
            {
                early.read_arrived().await;
            }
            self.abandon(body);
            self.ended(&attempted, &endpoint);
            self.endpoint = Some(endpoint);
            let Ok(again) = self.again(&attempted, body) else { return attempted };
            self.discard(attempted);
            if let Err(expired) = self.pause(again.asked, body).await {
                return Attempted::Expired(expired);
            }
            self.retried(again.asked.is_some());
        }
    }

    /// Picks the endpoint of the next attempt, and makes the request what it is to get.
    pub fn next(&mut self) -> Option<Arc<Endpoint>> {
        self.stream.record.entry.attempts = self.retries + 1;
        let Some(endpoint) = self.pick() else {
            if self.retries == 0 {
                self.stream.keep_request(&self.parts);
            }
            self.stream.connection.worker.stats.inc(self.cluster.stats.upstream_cx_none_healthy);
            return None;
        };
        self.prepare_attempt(&endpoint);
        self.tries = true;
        self.stream.keep_request(&self.parts);
        Some(endpoint)
    }

    /// Gives retries up if more of the body has come than is kept.
    pub fn abandon(&mut self, body: &BodySource) {
        if body.is_abandoned() {
            // As in Envoy, which does not ask any more whether there is to be another.
            self.stream.connection.worker.stats.inc(self.cluster.stats.retry_or_shadow_abandoned);
            self.policy = None;
        }
    }

    /// Makes no use of what an attempt has brought, which is an error of the host, whatever it says.
    pub fn discard(&self, attempted: Attempted) {
        let Attempted::Response(response, lease) = attempted else { return };
        if let Some(endpoint) = &self.endpoint {
            Verdict::Error.charge(endpoint);
        }
        // A request that is still being sent keeps its connection busy: no use to others.
        if self.stream.record.request_completed().is_some() {
            drain(response.into_body(), lease);
        }
    }

    /// How responses to the request are to be read.
    pub fn asked(&self) -> Asked {
        if self.stream.is_grpc() { Asked::Grpc } else { Asked::Http }
    }

    /// Logs how an attempt ended, and charges it to the endpoint and its cluster.
    pub fn ended(&mut self, attempted: &Attempted, endpoint: &Arc<Endpoint>) {
        attempted.tell(&self.stream, endpoint.address);
        let headless = HeaderMap::new();
        let ended = match attempted {
            Attempted::Response(response, ..) => {
                Ended::Response { of: self.asked(), status: response.status(), headers: response.headers() }
            }
            Attempted::Tunnel(_) => Ended::Response { of: Asked::Http, status: StatusCode::OK, headers: &headless },
            Attempted::Failed(failure) => {
                let flag = Some(failure.flag()).filter(|_| *failure != Failure::Downstream);
                self.stream.record.upstream_ended(flag);
                if failure.before_connection() || failure.is_overflow() {
                    self.take_host_back();
                }
                if *failure == Failure::NoWaiting {
                    self.stream.record.entry.upstream = None;
                }
                Ended::Failed(failure)
            }
            Attempted::Expired(expired) => {
                let per_try = matches!(expired, Expired::PerTry | Expired::PerTryIdle);
                if *expired == Expired::Global {
                    self.stream.record.overtaken();
                }
                self.stream.record.upstream_ended(per_try.then_some(Flag::UpstreamRequestTimeout));
                if *expired == Expired::Global {
                    self.in_groups(|group| group.upstream_rq_timeout);
                }
                Ended::Expired(*expired)
            }
            Attempted::Slow => {
                if let Some(line) = &mut self.stream.record.upstream {
                    line.entry.raise(Flag::UpstreamRequestTimeout);
                }
                Ended::Slow
            }
            Attempted::NoHost | Attempted::NoHandshake(_) => return,
        };
        charge::attempt(&self.cluster, self.chosen(), endpoint, &self.stream.connection.worker.stats, ended);
    }

    /// Whether the policy wants another attempt after what one has brought.
    pub fn wanted(&self, attempted: &Attempted) -> bool {
        let headless = HeaderMap::new();
        let outcome = match attempted {
            Attempted::Tunnel(_) => Outcome::Response(StatusCode::OK, &headless),
            Attempted::Response(response, ..) => Outcome::Response(response.status(), response.headers()),
            Attempted::Failed(failure) => Outcome::Failed(failure),
            Attempted::Expired(Expired::PerTry | Expired::PerTryIdle | Expired::StreamDuration) => Outcome::TimedOut,
            // Whatever the policy says of timeouts.
            Attempted::Slow => return self.policy.is_some(),
            Attempted::Expired(_) | Attempted::NoHost | Attempted::NoHandshake(_) => return false,
        };
        self.policy.as_ref().is_some_and(|policy| retry::wanted(policy, outcome))
    }

    /// Whether another attempt follows this one; counts why it does not though it should.
    pub fn again(&mut self, attempted: &Attempted, body: &BodySource) -> Result<Again, Last> {
        let stats = &self.cluster.stats;
        if !self.wanted(attempted) {
            if self.retries > 0 && matches!(attempted, Attempted::Response(..) | Attempted::Tunnel(_)) {
                self.count(stats.upstream_rq_retry_success, |group| group.upstream_rq_retry_success);
            }
            return Err(Last::Unwanted);
        }
        if !self.can_retry(body) {
            self.count(stats.upstream_rq_retry_limit_exceeded, |group| group.upstream_rq_retry_limit_exceeded);
            self.stream.record.entry.raise(Flag::UpstreamRetryLimitExceeded);
            return Err(Last::Refused);
        }
        let priority = self.forward.priority;
        let Some(retrying) = self.cluster.limits(priority).1.retries.take(self.cluster.retry_limit(priority)) else {
            self.count(stats.upstream_rq_retry_overflow, |group| group.upstream_rq_retry_overflow);
            self.stream.record.entry.raise(Flag::UpstreamOverflow);
            return Err(Last::Refused);
        };
        let limited = self.policy.as_ref().and_then(|policy| policy.rate_limited.as_ref());
        let asked = match (limited, attempted) {
            (Some(limited), Attempted::Response(response, ..)) => {
                let asked = limited.pause(response.headers(), std::time::SystemTime::now());
                asked.map(|pause| RateLimitedBackOff::spread(pause, fastrand::f64()))
            }
            _ => None,
        };
        if let Attempted::Response(response, ..) = attempted {
            stats.retry.charge(&self.stream.connection.worker.stats, response.status().as_u16());
            let body = response.body().size_hint().exact().unwrap_or_default();
            self.stream.record.entry.meters.upstream_received.wire += body;
        }
        if !matches!(attempted, Attempted::Slow) {
            self.stream.record.upstream_ended(None);
        }
        self.retries += 1;
        self.tries = false;
        if self.routed.virtual_host.timeout_retry_header {
            // Of an old stream Envoy says so just as little as of a reset one.
            let in_time =
                !matches!(attempted, Attempted::Slow | Attempted::Expired(Expired::PerTry | Expired::PerTryIdle));
            let timed_out = if in_time { "false" } else { "true" };
            self.parts.headers.insert(IS_TIMEOUT_RETRY, HeaderValue::from_static(timed_out));
        }
        Ok(Again { _retrying: retrying, asked })
    }

    /// Counts another attempt. `asked`: it has waited for as long as the upstream wanted.
    pub fn retried(&self, asked: bool) {
        let (connection, stream) = (self.stream.connection.id, self.stream.record.name());
        tracing::debug!(connection, stream, "performing retry");
        let stats = &self.cluster.stats;
        self.count(stats.upstream_rq_retry, |group| group.upstream_rq_retry);
        self.stream.connection.worker.stats.inc(if asked {
            stats.upstream_rq_retry_backoff_ratelimited
        } else {
            stats.upstream_rq_retry_backoff_exponential
        });
    }

    /// What is known of the endpoint of the last attempt.
    pub fn template(&self) -> Option<&Template> {
        self.endpoint.as_deref().map(|endpoint| &*endpoint.template)
    }

    /// Counts one in the statistics of the cluster, of the route and of the virtual cluster.
    fn count(&self, of_cluster: Counter, of_group: impl Fn(&RequestHandles) -> Counter) {
        self.stream.connection.worker.stats.inc(of_cluster);
        self.in_groups(of_group);
    }

    /// Counts one in the statistics of the route and of the virtual cluster.
    pub fn in_groups(&self, counter: impl Fn(&RequestHandles) -> Counter) {
        for group in &self.groups {
            self.stream.connection.worker.stats.inc(counter(&group.handles));
        }
    }

    /// Whether the policy and the body allow another attempt after this one.
    fn can_retry(&self, body: &BodySource) -> bool {
        body.can_replay() && self.policy.as_ref().is_some_and(|policy| self.retries < policy.retries)
    }

    /// Waits before another attempt; `asked`: as long as the upstream wants. What comes of the body meanwhile is read.
    async fn pause(&mut self, asked: Option<Duration>, body: &mut BodySource) -> Result<(), Expired> {
        let pause = self.back_off(asked);
        self.timers.attempt(None, None);
        let pausing = body.ahead_while(tokio::time::sleep(pause));
        self.stream.record.within(&mut self.timers, pausing).await
    }

    /// How long to wait before another attempt; `asked`: as long as the upstream wants.
    pub fn back_off(&self, asked: Option<Duration>) -> Duration {
        let of_policy = || self.policy.as_ref().map(|policy| policy.pause(self.retries, fastrand::f64()));
        asked.or_else(of_policy).unwrap_or_default()
    }

    fn prepare_attempt(&mut self, endpoint: &Endpoint) {
        if let Some(HostRewrite::Auto) = &self.forward.host_rewrite
            && let Some(host) =
                rewrite::host(&HostRewrite::Auto, &self.parts.uri, &self.parts.headers, &endpoint.hostname)
        {
            // Of a retry, as in Envoy, the host that the attempt before had is what it was.
            self.before_rewrite = Some(Hosts::of(&self.parts.headers));
            mutate::replace_host(&mut self.parts.headers, host, self.forward.append_forwarded_host);
        }
        if self.routed.virtual_host.attempt_count_in_request {
            self.parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(self.retries + 1));
        }
        if self.retries > 0 {
            self.lower_expected_timeout();
        }
        self.tried.push(endpoint.address);
        let entry = &mut self.stream.record.entry;
        entry.upstream = Some(endpoint.logged());
        entry.upstream_local = None;
        entry.upstream_connection = 0;
        entry.upstream_tls = None;
        entry.transport_failure = "".into();
    }

    /// No host was asked: the request is for the one that it was for.
    fn take_host_back(&mut self) {
        let Some(hosts) = self.before_rewrite.take() else { return };
        if let Some(host) = hosts.host() {
            self.stream.record.entry.kept.rename_host(host);
        }
        hosts.restore(&mut self.parts.headers);
    }

    /// A retry has what is left of the whole request's time.
    fn lower_expected_timeout(&mut self) {
        let spent = self.stream.record.request_completed().map_or(Duration::ZERO, |completed| completed.elapsed());
        let expected = !self.stream.connection.manager.router.suppress_envoy_headers;
        self.timeouts.tell(&mut self.parts.headers, spent, expected);
    }

    async fn attempt(&mut self, endpoint: &Arc<Endpoint>, body: RequestBody, last: bool) -> Attempted {
        let connection = self.stream.connection.clone();
        let (request, errand) = self.begin(endpoint, body, last);
        let chosen = self.member.as_ref().unwrap_or(&self.cluster);
        let want = errand.want(&connection, (&self.cluster, chosen), endpoint);
        let (stream, timers, groups) = (&mut self.stream, &mut self.timers, &*self.groups);
        match self.wants {
            Wants::Response => exchange(stream, timers, groups, want, (request, None)).await,
            Wants::Switch => exchange(stream, timers, groups, want, (request, Some(&self.parts))).await,
            Wants::Connection(connect) => open(stream, timers, groups, want, connect).await,
        }
    }

    /// An attempt begins: its request, and what is wanted for it.
    pub fn begin(&mut self, endpoint: &Endpoint, body: RequestBody, last: bool) -> (Request<RequestBody>, Errand) {
        self.timers.attempt(self.timeouts.per_try, self.timeouts.per_try_idle);
        self.timers.stream_may_last(self.timeouts.stream.or(self.chosen().max_stream_duration));
        let errand = Errand {
            name: naming_header(&self.cluster, &self.parts.headers),
            alpn: self.stream.alpn.clone(),
            shareable: self.stream.record.entry.filter_state.as_ref().and_then(|state| state.shareable()),
            priority: self.forward.priority,
        };
        let request = self.request(body, last);
        let head = (request.method(), request.uri(), request.headers());
        self.stream.begin_upstream_line(endpoint, head);
        let (shard, scheme) = (&self.stream.connection.worker.stats, self.stream.scheme);
        let limits = Limits { whole: self.timeouts.global, per_try: self.timeouts.per_try };
        self.stream.record.tracking = Tracking::of(&self.cluster, shard, limits, (head.0, head.1, scheme, head.2));
        (request, errand)
    }

    /// The request for one attempt; the last one takes the headers, others copy them.
    fn request(&mut self, body: RequestBody, last: bool) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        if self.stream.connection.manager.http1.names.kept() {
            // Names as they came are among them.
            *request.extensions_mut() = self.parts.extensions.clone();
        }
        // The response's headers may be made from the request's.
        let needed = !matches!(self.wants, Wants::Response)
            || !self.chain.is_empty()
            || self.forward.internal_redirects.is_some()
            || self.stream.connection.manager.local_reply.is_some()
            || self.changes.in_order().any(|changes| !changes.response.is_empty());
        *request.headers_mut() =
            if last && !needed { std::mem::take(&mut self.parts.headers) } else { self.parts.headers.clone() };
        request
    }
}
