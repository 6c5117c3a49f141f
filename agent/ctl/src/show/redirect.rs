//! `redirect list` and `redirect show`.

use serde_json::{Value, json};
use weir_proto::agent::v1::{ExplainResponse, Pod, Redirect};

use super::{
    counts_json, optional,
    pod::{decisions, full_name, set_up},
};
use crate::{
    cli::Explain,
    table::{Facts, Table},
    time::{age, rfc3339},
};

/// The rule of the connections with which the proxy carries others on.
const PROXY_SOCKET: &str = "proxy-socket";

/// The rows to show. The proxy's own connections repeat those that they carry on, with other destinations: only if `all`
/// are wanted.
pub fn listed(mut rows: Vec<Redirect>, all: bool) -> Vec<Redirect> {
    rows.retain(|row| all || row.rule != PROXY_SOCKET);
    rows
}

/// One line for each original destination and rule.
pub fn table(rows: &[Redirect], now: u64) -> Table {
    let mut table =
        Table::new(["POD", "DIRECTION", "ORIGINAL-DESTINATION", "LISTENER", "VERDICT", "RULE", "COUNT", "LAST-SEEN"]);
    for row in rows {
        table.row([
            row.pod.clone(),
            row.direction.clone(),
            row.original_destination.clone(),
            row.listener.clone(),
            row.action.clone(),
            row.rule.clone(),
            row.count.to_string(),
            age(now, row.last_seen),
        ]);
    }
    table
}

/// A row as JSON.
pub fn json(row: &Redirect) -> Value {
    json!({
        "pod_uid": optional(&row.pod_uid),
        "pod": optional(&row.pod),
        "direction": row.direction,
        "original_destination": row.original_destination,
        "listener": optional(row.listener.trim_start_matches('-')),
        "action": row.action,
        "rule": row.rule,
        "count": row.count,
        "last_seen": optional(&rfc3339(row.last_seen)),
    })
}

/// How a pod is redirected.
pub fn setup(pod: &Pod) -> String {
    let mut facts = Facts::new();
    facts.line("pod", full_name(pod));
    facts.line("state", &pod.state);
    if !pod.reason.is_empty() {
        facts.line("reason", &pod.reason);
    }
    set_up(&mut facts, pod);
    format!("{facts}\n{}", decisions(pod))
}

/// How a pod is redirected, as JSON.
pub fn setup_json(pod: &Pod) -> Value {
    json!({
        "pod_uid": pod.uid,
        "pod": full_name(pod),
        "state": pod.state,
        "reason": optional(&pod.reason),
        "outbound_listeners": pod.outbound_listeners,
        "inbound_listeners": pod.inbound_listeners,
        "excluded_outbound_cidrs": pod.excluded_outbound_cidrs,
        "excluded_outbound_ports": pod.excluded_outbound_ports,
        "excluded_inbound_ports": pod.excluded_inbound_ports,
        "probe_ports": pod.probe_ports,
        "fail_open": pod.fail_open,
        "counters": counts_json(&pod.counters),
    })
}

/// The verdict on one connection.
pub fn verdict(answer: &ExplainResponse, asked: &Explain) -> String {
    let mut facts = Facts::new();
    facts.line("pod", &answer.pod);
    facts.line("from", &asked.from);
    facts.line("to", &answer.to);
    facts.line("protocol", &asked.protocol);
    facts.line("direction", &answer.direction);
    facts.line("verdict", &answer.action);
    facts.line("rule", &answer.rule);
    facts.line("listener", &answer.listener);
    facts.line("hint", &answer.hint);
    facts.to_string()
}

/// The verdict on one connection, as JSON.
pub fn verdict_json(answer: &ExplainResponse, asked: &Explain) -> Value {
    json!({
        "pod": answer.pod,
        "enrolled": answer.enrolled,
        "from": asked.from,
        "to": answer.to,
        "protocol": asked.protocol,
        "direction": answer.direction,
        "action": answer.action,
        "rule": answer.rule,
        "listener": optional(&answer.listener),
        "hint": answer.hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_where_connections_went() {
        let row = Redirect {
            pod_uid: "u1".to_owned(),
            pod: "default/web".to_owned(),
            direction: "outbound".to_owned(),
            original_destination: "10.96.0.10:80".to_owned(),
            listener: "10.0.0.2:15001".to_owned(),
            action: "redirect".to_owned(),
            rule: "redirected".to_owned(),
            count: 12,
            last_seen: 1_000_000_000,
        };
        let gone = Redirect { listener: "-".to_owned(), ..Default::default() };
        assert_eq!(
            table(std::slice::from_ref(&row), 4_000_000_000).to_string(),
            "\
POD          DIRECTION  ORIGINAL-DESTINATION  LISTENER        VERDICT   RULE        COUNT  LAST-SEEN
default/web  outbound   10.96.0.10:80         10.0.0.2:15001  redirect  redirected  12     3s
"
        );
        assert_eq!(json(&row)["last_seen"], "1970-01-01T00:00:01Z");
        assert_eq!((&json(&gone)["listener"], &json(&gone)["pod"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn the_proxys_own_connections_are_listed_only_if_asked_for() {
        let row = |rule: &str| Redirect { rule: rule.to_owned(), ..Default::default() };
        let rows = vec![row("redirected"), row("proxy-socket"), row("own-address")];
        assert_eq!(listed(rows.clone(), false), [row("redirected"), row("own-address")]);
        assert_eq!(listed(rows.clone(), true), rows);
    }

    #[test]
    fn a_verdict_names_its_rule() {
        let asked = Explain {
            pod: "web".to_owned(),
            to: "10.0.0.2:8080".parse().unwrap(),
            from: "node".to_owned(),
            protocol: "tcp".to_owned(),
        };
        let answer = ExplainResponse {
            pod: "default/web".to_owned(),
            direction: "inbound".to_owned(),
            action: "pass".to_owned(),
            rule: "node-probe".to_owned(),
            hint: "a probe".to_owned(),
            to: "10.0.0.2:8080".to_owned(),
            listener: String::new(),
            enrolled: true,
        };
        assert_eq!(
            verdict(&answer, &asked),
            "\
pod        default/web
from       node
to         10.0.0.2:8080
protocol   tcp
direction  inbound
verdict    pass
rule       node-probe
listener   -
hint       a probe
"
        );
    }
}
