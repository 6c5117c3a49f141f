//! Role based access control of requests.

use http::StatusCode;

use super::Exchange;
use crate::{
    config::{
        filter::rbac::Rbac,
        rbac::{Action, Rules, Subject, Verdict},
    },
    http::{reply::Reply, stream::Stream},
};

/// The namespace of the metadata that tells of verdicts.
const NAMESPACE: &str = "envoy.filters.http.rbac";

pub(super) fn on_request(rbac: &Rbac, stream: &mut Stream, exchange: &Exchange<'_>) -> Option<Reply> {
    let evaluate = |rules: &Rules, stream: &Stream| {
        rules.evaluate(&Subject {
            request: Some(stream.view(exchange.parts)),
            local: stream.connection.local,
            direct_remote: stream.connection.peer,
            remote: exchange.client.address,
            server_name: stream.connection.server_name.as_deref().unwrap_or_default(),
            peer: stream.connection.peer_names(),
            metadata: stream.metadata.as_deref(),
            route_metadata: exchange.routed.and_then(|routed| routed.route.metadata.as_ref()),
        })
    };
    if let Some(rules) = &rbac.shadow {
        let verdict = evaluate(rules, stream);
        note(stream, &rbac.shadow_prefix, "shadow", &verdict);
    }
    let rules = rbac.rules.as_ref()?;
    let verdict = evaluate(rules, stream);
    if rules.action == Action::Log {
        stream.metadata_mut().set("envoy.common", "access_log_hint", verdict.policy.is_some());
        return None;
    }
    if verdict.policy.is_some() {
        note(stream, &rbac.prefix, "enforced", &verdict);
    }
    if verdict.allowed {
        return None;
    }
    let policy = verdict.policy.as_deref().unwrap_or("none").replace(' ', "_");
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    Some(Reply::new(StatusCode::FORBIDDEN, "RBAC: access denied", None, details))
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
