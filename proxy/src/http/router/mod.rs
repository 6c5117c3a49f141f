//! Forwarding a request: its cluster, its changes, attempts until one brings a response to pass on.
//!
//! `attempts` asks `upstream` for one exchange of an `outgoing` request after another, until `retry`, a pure function,
//! says that a response is to be passed on; `charge` counts, `internal_redirect` begins the request anew. A `mirror` goes
//! beside it; by `hedging`, attempts go on beside one another; after an `upgrade`, what passes is not HTTP. `finish` makes what comes of it the client's. `strict` refuses before
//! all of it.
//!
//! Above the filters, whose chain a response passes; nothing here knows of who dispatched the request.

pub(in crate::http) mod answer;
mod attempts;
mod choosing;
mod finish;
mod handshake;
mod hashing;
mod hedging;
mod internal_redirect;
mod mirror;
mod retry;
mod strict;
pub(super) mod timeouts;
mod upgrade;
mod upstream;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use smallvec::SmallVec;

use self::{
    answer::Answer,
    attempts::{ATTEMPT_COUNT, Attempts, Wants},
    hashing::hashed,
    retry::{RETRY_GRPC_ON, RETRY_ON},
    timeouts::{
        ALTERNATIVE, GRPC_TIMEOUT, HEDGE_ON_PER_TRY_TIMEOUT, PER_TRY_TIMEOUT, STREAM_DURATION, TIMEOUT, Timeouts,
        stream_lasts, to_grpc_timeout,
    },
};
use super::{
    body::{BodySource, client::ClientBody, kept::Kept},
    call::charge::{self, By},
    filter::{chain::Chain, local_reply},
    headers::{
        forwarded::has_envoys_own,
        lines::Of,
        mutate::{self, Changes},
        rewrite::{self, TooLong},
    },
    stream::{Stream, reply::Reply, route::Routed, timers::Timers},
};
use crate::{
    access_log::{Live, View},
    config::{
        cluster::Discovery,
        headers::HeaderChanges,
        request::header_matches,
        retry::{RetryOn, RetryPolicy},
        route::{Forward, HostRewrite},
    },
    matcher::HeaderMatcher,
};

const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RETRIABLE_STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const RETRIABLE_HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const ALT_STAT_NAME: HeaderName = HeaderName::from_static("x-envoy-upstream-alt-stat-name");

/// Forwards a request by a route whose action is to forward, within the limits that run already.
pub(super) async fn forward(
    (mut stream, mut timers): (Stream, Timers),
    chain: Chain,
    routed: &Routed,
    mut parts: Parts,
    mut body: ClientBody,
    upgrade: bool,
) -> Answer {
    let Some(forward) = routed.forward() else {
        return local_reply::answer(stream, chain, Reply::no_route(), None, &parts).into();
    };
    let changes = routed.changes();
    let Some(cluster) = stream.cluster.clone() else {
        let name = routed.cluster.as_deref().unwrap_or_default();
        tracing::debug!(connection = stream.connection.id, stream = stream.record.name(), "unknown cluster '{name}'");
        stream.keep_request(&parts);
        let reply = Reply::no_cluster(forward.cluster_not_found);
        return local_reply::answer(stream, chain, reply, Some(&changes), &parts).into();
    };
    tracing::debug!(
        connection = stream.connection.id,
        stream = stream.record.name(),
        "cluster '{}' match for URL '{}'",
        cluster.name,
        parts.uri
    );
    let (group, group_stats) = routed.virtual_host.group(&stream.view(&parts));
    stream.record.entry.virtual_cluster = group.cloned();
    if let Some(reply) = strict::refusal(&stream.connection.manager.router.strict_headers, &parts.headers) {
        stream.keep_request(&parts);
        return local_reply::answer(stream, chain, reply, Some(&changes), &parts).into();
    }
    if let Some(why) = cluster.drops_one() {
        stream.keep_request(&parts);
        let worker = stream.connection.worker.clone();
        let reply = Reply::dropped(why, !stream.connection.manager.router.suppress_envoy_headers);
        let groups: SmallVec<[_; 2]> = group_stats.into_iter().chain(&routed.route.stats).collect();
        let by = By::routed(&stream, &parts.headers, parts.headers.get(ALT_STAT_NAME).cloned());
        charge::answer(&cluster, &groups, &worker.stats, reply.status, &by, None);
        return local_reply::answer(stream, chain, reply, Some(&changes), &parts).into();
    }
    // Known to the request's headers before there is an attempt.
    stream.record.entry.attempts = 1;
    // What a client steers its request by.
    let steered = has_envoys_own(&parts.headers);
    let configured = cluster.policies.retry.as_ref().or(forward.retry.as_ref());
    let policy = retry_policy(configured, &stream, &parts, steered);
    let respects = stream.connection.manager.router.respect_expected_rq_timeout;
    let mut timeouts = Timeouts::of(forward, stream.is_grpc(), &parts.headers, (steered, respects));
    if stream.is_grpc()
        && let Some(Some(lasts)) = stream_lasts(forward, &parts.headers)
    {
        parts.headers.insert(GRPC_TIMEOUT, to_grpc_timeout(lasts));
    }
    let hashed = hashed(&stream, &cluster, forward, &parts);
    let alternative = if steered { parts.headers.get(ALT_STAT_NAME).cloned() } else { None };
    if steered {
        remove_steering(&mut parts.headers);
    }
    if let Err(TooLong) = finalize(&stream, routed, &changes, forward, &timeouts, &mut parts) {
        stream.keep_request(&parts);
        let reply = Reply::new(StatusCode::URI_TOO_LONG, "", None, "rewritten_path_too_long");
        return local_reply::answer(stream, chain, reply, Some(&changes), &parts).into();
    }
    let wants = match forward.tunnel(&parts.method) {
        Some(connect) => Wants::Connection(connect),
        None if upgrade => Wants::Switch,
        None => Wants::Response,
    };
    if upgrade {
        timers.endless();
        if !handshake::to_websocket(&parts.headers) {
            // As in Envoy, whose timeouts begin with the end of the request but for WebSocket's.
            timeouts.end_with_the_request();
        }
    }
    if let Some(changes) = chain.trailer_changes(&stream, &parts, None) {
        body.change_trailers(changes);
    }
    let mirrors = if cluster.policies.mirrors.is_empty() { &forward.mirrors } else { &cluster.policies.mirrors };
    if matches!(wants, Wants::Response) && !mirrors.is_empty() {
        if routed.virtual_host.attempt_count_in_request {
            // Copies are of the first one.
            parts.headers.insert(ATTEMPT_COUNT, HeaderValue::from(1_u32));
        }
        mirror::start(&stream, mirrors, &parts, &mut body, timeouts.global);
    }
    let mut body = match wants {
        Wants::Response => {
            let kept = policy.is_some() || forward.internal_redirects.is_some();
            body_source(&stream, routed, (kept, timeouts.hedge), body)
        }
        Wants::Switch | Wants::Connection(_) => BodySource::After(body),
    };
    timers.respond_within(timeouts.global);
    let by = By::routed(&stream, &parts.headers, alternative);
    let mut attempts = Attempts {
        changes,
        routed,
        forward,
        cluster,
        member: None,
        policy,
        timeouts,
        timers,
        parts,
        tried: SmallVec::new(),
        priorities: SmallVec::new(),
        retries: 0,
        hashed,
        by,
        groups: group_stats.into_iter().chain(&routed.route.stats).collect(),
        endpoint: None,
        tries: false,
        unresolved: None,
        wants,
        before_rewrite: None,
        chain,
        stream,
    };
    let found = match &attempts.cluster.discovery {
        Discovery::ForwardProxy(_) => Box::pin(attempts.reach(&mut body)).await,
        _ => None,
    };
    let attempted = match found {
        Some(attempted) => attempted,
        None if attempts.hedges() => Box::pin(attempts.run_hedged(&mut body)).await,
        None => attempts.run(&mut body).await,
    };
    attempts.finish(attempted, body)
}

/// `kept`: attempts may follow the first; `hedge`: beside it.
fn body_source(stream: &Stream, routed: &Routed, (kept, hedge): (bool, bool), body: ClientBody) -> BodySource {
    if stream.record.progress.is_none() {
        return BodySource::None;
    }
    if !kept {
        return BodySource::Once(Some(body));
    }
    let limit = routed.route.buffer_limit.unwrap_or(stream.connection.manager.buffer_limit);
    BodySource::Kept(Kept::new(body, limit, hedge))
}

/// The policy of the route or the cluster, changed by what an internal client asks for.
fn retry_policy(
    configured: Option<&Arc<RetryPolicy>>,
    stream: &Stream,
    parts: &Parts,
    steered: bool,
) -> Option<Arc<RetryPolicy>> {
    let asked = |name: &HeaderName| if steered { parts.headers.get(name)?.to_str().ok() } else { None };
    let (on, _) = asked(&RETRY_ON).map(RetryOn::of_http).unwrap_or_default();
    let (on_grpc, _) = asked(&RETRY_GRPC_ON).map(RetryOn::of_grpc).unwrap_or_default();
    let on = on.and(on_grpc);
    let mut policy = configured.cloned();
    if !on.is_empty() {
        let mut changed = policy.as_deref().cloned().unwrap_or_else(|| RetryPolicy::new(RetryOn::default()));
        changed.on = changed.on.and(on);
        policy = Some(Arc::new(changed));
    }
    let changed = |policy: &mut Option<Arc<RetryPolicy>>, change: &dyn Fn(&mut RetryPolicy)| {
        if let Some(policy) = policy {
            change(Arc::make_mut(policy));
        }
    };
    if let Some(retries) = asked(&MAX_RETRIES).and_then(|value| value.parse().ok()) {
        changed(&mut policy, &|policy| policy.retries = retries);
    }
    if let Some(codes) = asked(&RETRIABLE_STATUS_CODES) {
        let codes = codes.split(',').filter_map(|code| code.trim().parse::<u16>().ok());
        changed(&mut policy, &|policy| policy.status_codes.extend(codes.clone()));
    }
    if let Some(names) = asked(&RETRIABLE_HEADER_NAMES) {
        let names = names.split(',').filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
        changed(&mut policy, &|policy| policy.response_headers.extend(names.clone().map(HeaderMatcher::present)));
    }
    policy.filter(|policy| !policy.on.is_empty()).filter(|policy| {
        let view = stream.view(parts);
        policy.request_headers.is_empty() || policy.request_headers.iter().any(|matcher| header_matches(matcher, &view))
    })
}

/// Removes what the client has steered its request by.
fn remove_steering(headers: &mut HeaderMap) {
    for name in [
        &TIMEOUT,
        &PER_TRY_TIMEOUT,
        &ALTERNATIVE,
        &RETRY_ON,
        &RETRY_GRPC_ON,
        &MAX_RETRIES,
        &RETRIABLE_STATUS_CODES,
        &RETRIABLE_HEADER_NAMES,
        &HEDGE_ON_PER_TRY_TIMEOUT,
        &STREAM_DURATION,
        &ALT_STAT_NAME,
    ] {
        headers.remove(name);
    }
}

/// Makes the request what the upstream gets, but for what changes with each attempt.
fn finalize(
    stream: &Stream,
    routed: &Routed,
    changes: &Changes<'_>,
    forward: &Forward,
    timeouts: &Timeouts,
    parts: &mut Parts,
) -> Result<(), TooLong> {
    let router = &stream.connection.manager.router;
    timeouts.tell(&mut parts.headers, Duration::ZERO, !router.suppress_envoy_headers);
    let Parts { method, uri, headers, .. } = parts;
    let apply = |changes: &HeaderChanges, headers: &mut HeaderMap| {
        mutate::apply(&changes.request, Of::Request, headers, |out, format, headers| {
            let live = Live { method, uri, scheme: stream.scheme, headers };
            format.write_header(out, &View::live(&stream.record.entry, live));
        });
    };
    if let Some(cluster) = changes.weighted {
        apply(&cluster.headers, headers);
        if let Some(host) = &cluster.host_rewrite {
            // As in Envoy, nothing says what it was, and the route's own follows.
            headers.insert(header::HOST, host.clone());
        }
    }
    for changes in (Changes { weighted: None, ..*changes }).in_order() {
        apply(changes, headers);
    }
    let rewrite = forward.host_rewrite.as_ref().filter(|rewrite| !matches!(rewrite, HostRewrite::Auto));
    if let Some(host) = rewrite.and_then(|rewrite| rewrite::host(rewrite, uri, headers, "")) {
        mutate::replace_host(headers, host, forward.append_forwarded_host);
    }
    let rewrite = forward.path_rewrite.as_ref();
    match rewrite.and_then(|rewrite| rewrite::path(rewrite, &routed.route.matches.path, uri)) {
        Some(path) => rewrite::apply(path, uri, (!router.suppress_envoy_headers).then_some(headers)),
        None => Ok(()),
    }
}
