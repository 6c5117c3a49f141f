//! `pod list` and `pod show`.

use serde_json::{Value, json};
use weir_abi::Rule;
use weir_proto::agent::v1::Pod;

use super::{counts_json, list, optional};
use crate::{
    table::{Facts, Table},
    time::{age, rfc3339},
};

/// `namespace/name`.
pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Whether the kernel has a slot for it: 0 is a slot, too.
pub fn has_slot(pod: &Pod) -> bool {
    pod.listeners > 0 || pod.state != "pending"
}

/// One line a pod.
pub fn table(pods: &[Pod], now: u64) -> Table {
    let mut table =
        Table::new(["POD", "STATE", "IPS", "SLOT", "NETNS", "REDIRECTED", "STEERED", "REFUSED", "AGE", "REASON"]);
    for pod in pods {
        let count = |rule: Rule| pod.counters.get(rule.name()).copied().unwrap_or_default();
        table.row([
            full_name(pod),
            pod.state.clone(),
            list(&pod.ips),
            if has_slot(pod) { pod.slot.to_string() } else { String::new() },
            if pod.netns_cookie == 0 { String::new() } else { pod.netns_cookie.to_string() },
            count(Rule::Redirected).to_string(),
            count(Rule::Steered).to_string(),
            refused(pod).to_string(),
            age(now, pod.enrolled),
            pod.reason.clone(),
        ]);
    }
    table
}

/// Decisions that refused a connection.
fn refused(pod: &Pod) -> u64 {
    let refusing = Rule::ALL.into_iter().filter(|rule| rule.action() == weir_abi::Action::Refuse);
    refusing.filter_map(|rule| pod.counters.get(rule.name())).sum()
}

/// Everything of a pod.
pub fn facts(pod: &Pod, now: u64) -> String {
    let mut facts = Facts::new();
    facts.line("pod", full_name(pod));
    facts.line("uid", &pod.uid);
    facts.line("service account", &pod.service_account);
    facts.line("state", &pod.state);
    if !pod.reason.is_empty() {
        facts.line("reason", &pod.reason);
    }
    facts.line("enrolled", if pod.enrolled == 0 { String::new() } else { format!("{} ago", age(now, pod.enrolled)) });
    facts.line("netns", &pod.netns);
    facts.line("netns cookie", if pod.netns_cookie == 0 { String::new() } else { pod.netns_cookie.to_string() });
    facts.line("addresses", list(&pod.ips));
    facts.line("slot", if has_slot(pod) { pod.slot.to_string() } else { String::new() });
    facts.line("sockets kept", pod.listeners.to_string());
    set_up(&mut facts, pod);
    format!("{facts}\n{}", decisions(pod))
}

/// How the pod is redirected.
pub fn set_up(facts: &mut Facts, pod: &Pod) {
    facts.line("outbound to", list(&pod.outbound_listeners));
    facts.line("inbound to", list(&pod.inbound_listeners));
    facts.line("excluded outbound CIDRs", list(&pod.excluded_outbound_cidrs));
    facts.line("excluded outbound ports", list(&pod.excluded_outbound_ports));
    facts.line("excluded inbound ports", list(&pod.excluded_inbound_ports));
    facts.line("probe ports", list(&pod.probe_ports));
    facts.line("without a proxy", if pod.fail_open { "passes (fail-open)" } else { "waits or is refused" });
}

/// Decisions by rule, in the order of the rules' numbers; those that happened.
pub fn decisions(pod: &Pod) -> Table {
    let mut table = Table::new(["DIRECTION", "RULE", "VERDICT", "COUNT"]);
    for rule in Rule::ALL {
        if let Some(count) = pod.counters.get(rule.name()) {
            table.row(
                [rule.direction().name(), rule.name(), rule.action().name(), &count.to_string()].map(str::to_owned),
            );
        }
    }
    table
}

/// A pod as JSON.
pub fn json(pod: &Pod) -> Value {
    json!({
        "uid": pod.uid,
        "namespace": pod.namespace,
        "name": pod.name,
        "service_account": pod.service_account,
        "state": pod.state,
        "reason": optional(&pod.reason),
        "netns": pod.netns,
        "netns_cookie": (pod.netns_cookie != 0).then_some(pod.netns_cookie),
        "ips": pod.ips,
        "slot": has_slot(pod).then_some(pod.slot),
        "listeners": pod.listeners,
        "enrolled": optional(&rfc3339(pod.enrolled)),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::show) fn web() -> Pod {
        Pod {
            uid: "u1".to_owned(),
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            service_account: "web".to_owned(),
            netns: "/run/netns/web".to_owned(),
            netns_cookie: 4711,
            ips: vec!["10.0.0.2".to_owned(), "fd00::2".to_owned()],
            state: "enrolled".to_owned(),
            probe_ports: vec![8080],
            counters: [("steered".to_owned(), 3), ("redirected".to_owned(), 2), ("no-listener".to_owned(), 1)].into(),
            listeners: 4,
            enrolled: 1,
            outbound_listeners: vec!["10.0.0.2:15001".to_owned()],
            inbound_listeners: vec!["10.0.0.2:15006".to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn pods_are_a_table_with_reasons() {
        let late = Pod {
            name: "late".to_owned(),
            namespace: "default".to_owned(),
            state: "pending".to_owned(),
            reason: "netns /run/netns/late: no such file".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            table(&[late, web()], 5_000_000_001).to_string(),
            "\
POD           STATE     IPS               SLOT  NETNS  REDIRECTED  STEERED  REFUSED  AGE  REASON
default/late  pending   -                 -     -      0           0        0        -    netns /run/netns/late: no such file
default/web   enrolled  10.0.0.2,fd00::2  0     4711   2           3        1        5s   -
"
        );
    }

    #[test]
    fn a_pod_shows_its_decisions_in_the_order_of_the_rules() {
        let text = facts(&web(), 5_000_000_001);
        assert!(text.contains("excluded outbound ports  -\n"), "{text}");
        assert!(
            text.ends_with(
                "\n\
DIRECTION  RULE         VERDICT   COUNT
outbound   redirected   redirect  2
inbound    no-listener  refuse    1
inbound    steered      steer     3
"
            ),
            "{text}"
        );
    }

    #[test]
    fn json_has_every_name() {
        let value = json(&web());
        assert_eq!(value["counters"]["redirected"], 2);
        assert_eq!((&value["slot"], &value["reason"]), (&0.into(), &Value::Null));
        assert_eq!(value.as_object().unwrap().len(), 20);
    }
}
