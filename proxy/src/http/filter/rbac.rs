//! Role based access control of requests.

use http::StatusCode;

use super::exchange::Exchange;
use crate::{
    config::{
        filter::rbac::Rbac,
        rbac::{Engine, Subject, Verdict},
    },
    http::stream::{Stream, reply::Reply},
    telemetry::stats::{Counter, Scope},
};

/// The namespace of the metadata that tells of verdicts.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// `own` is the filter's: it counts, also where a route has other rules. Those say what is counted by policy.
pub(super) fn on_request(rbac: &Rbac, own: &Rbac, stream: &mut Stream, exchange: &Exchange<'_>) -> Option<Reply> {
    let evaluate = |rules: &Engine, stream: &Stream| {
        rules.evaluate(&Subject {
            request: Some(stream.view(exchange.parts)),
            local: stream.connection.local,
            direct_remote: stream.connection.direct_peer,
            remote: exchange.client.address,
            server_name: stream.connection.server_name.as_deref().unwrap_or_default(),
            peer: stream.connection.peer_names(),
            metadata: stream.record.entry.metadata.as_deref(),
            filter_state: stream.record.entry.filter_state.as_deref(),
            route_metadata: exchange.routed.and_then(|routed| routed.route.metadata.as_deref()),
        })
    };
    if let Some(rules) = &rbac.shadow {
        let verdict = evaluate(rules, stream);
        note(stream, prefix(&rbac.shadow_prefix, &own.shadow_prefix), "shadow", &verdict);
        let stats = &own.shadow_stats;
        let counter = if verdict.allowed { stats.shadow_allowed } else { stats.shadow_denied };
        count(rbac, stream, &stats.scope, counter, "shadow_", &verdict);
    }
    let rules = rbac.rules.as_ref()?;
    let verdict = evaluate(rules, stream);
    let counter = if verdict.allowed { own.stats.allowed } else { own.stats.denied };
    count(rbac, stream, &own.stats.scope, counter, "", &verdict);
    note(stream, prefix(&rbac.prefix, &own.prefix), "enforced", &verdict);
    if let Some(hint) = verdict.hint {
        stream.metadata_mut().set("envoy.common", "access_log_hint", hint);
    }
    if verdict.allowed {
        return None;
    }
    let policy = verdict.policy.as_deref().unwrap_or("none").replace(' ', "_");
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    Some(Reply::new(StatusCode::FORBIDDEN, "RBAC: access denied", None, details))
}

/// The prefix of metadata: the filter's where a route says none.
fn prefix<'a>(of_route: &'a str, own: &'a str) -> &'a str {
    if of_route.is_empty() { own } else { of_route }
}

/// Counts a verdict, and by policy where that is wanted.
fn count(rbac: &Rbac, stream: &Stream, scope: &Scope, counter: Counter, kind: &str, verdict: &Verdict) {
    let shard = &stream.connection.worker.stats;
    shard.inc(counter);
    if let (true, Some(policy)) = (rbac.track_policies, &verdict.policy) {
        let result = if verdict.allowed { "allowed" } else { "denied" };
        shard.inc(scope.counter_seen(format_args!("policy.{policy}.{kind}{result}")));
    }
}

/// Notes a verdict as dynamic metadata, for access logs.
fn note(stream: &mut Stream, prefix: &str, which: &str, verdict: &Verdict) {
    let metadata = stream.metadata_mut();
    if let Some(policy) = &verdict.policy {
        metadata.set(NAMESPACE, &format!("{prefix}{which}_effective_policy_id"), &**policy);
    }
    let result = if verdict.allowed { "allowed" } else { "denied" };
    metadata.set(NAMESPACE, &format!("{prefix}{which}_engine_result"), result);
}
