//! `pod list` and `pod show`.

use serde::{Deserialize, Serialize};
use weir_abi::Rule;
use weir_proto::agent::v1 as pb;

use super::{
    Counts, list, number, optional,
    rows::{One, Rows},
    shown, sorted,
};
use crate::{
    table::{Facts, Table},
    time::{Time, age},
};

/// The state of a pod that the agent knows and does not enrol.
const PASSED_OVER: &str = "passed-over";
const PENDING: &str = "pending";

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Kubernetes' UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    service_account: String,
    /// `enrolled`, `pending`, `withdrawing` or `passed-over`.
    pub state: String,
    /// Why it is pending or passed over.
    pub reason: Option<String>,
    /// Whether it is pending for so long, and not for a reason of its own, that it counts against the node's health.
    pub overdue: bool,
    netns: Option<String>,
    netns_cookie: Option<u64>,
    ips: Vec<String>,
    slot: Option<u32>,
    listeners: u32,
    enrolled: Time,
    /// How it is redirected.
    #[serde(flatten)]
    pub setup: Setup,
}

/// How a pod is redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    outbound_listeners: Vec<String>,
    inbound_listeners: Vec<String>,
    excluded_outbound_cidrs: Vec<String>,
    excluded_outbound_ports: Vec<u32>,
    excluded_inbound_ports: Vec<u32>,
    probe_ports: Vec<u32>,
    fail_open: bool,
    counters: Counts,
}

impl From<pb::Pod> for Pod {
    fn from(pod: pb::Pod) -> Self {
        // 0 is a slot, too.
        let has_slot = pod.listeners > 0 || ![PENDING, PASSED_OVER].contains(&pod.state.as_str());
        Self {
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
            service_account: pod.service_account,
            state: pod.state,
            reason: optional(pod.reason),
            netns: optional(pod.netns),
            netns_cookie: (pod.netns_cookie != 0).then_some(pod.netns_cookie),
            ips: pod.ips,
            slot: has_slot.then_some(pod.slot),
            overdue: pod.overdue,
            listeners: pod.listeners,
            enrolled: Time(pod.enrolled),
            setup: Setup {
                outbound_listeners: pod.outbound_listeners,
                inbound_listeners: pod.inbound_listeners,
                excluded_outbound_cidrs: pod.excluded_outbound_cidrs,
                excluded_outbound_ports: pod.excluded_outbound_ports,
                excluded_inbound_ports: pod.excluded_inbound_ports,
                probe_ports: pod.probe_ports,
                fail_open: pod.fail_open,
                counters: sorted(pod.counters),
            },
        }
    }
}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Why there is nothing to see of it yet: it is pending, and not redirected either.
    pub fn not_yet(&self) -> Option<&str> {
        if self.state == PENDING && self.slot.is_none() { Some(shown(&self.reason)) } else { None }
    }

    /// Whether it is to be enrolled.
    pub fn is_wanted(&self) -> bool {
        is_wanted(&self.state)
    }
}

/// Whether a pod in this state is to be enrolled.
pub fn is_wanted(state: &str) -> bool {
    state != PASSED_OVER
}

/// One line a pod.
pub fn table(pods: &Rows<Pod>, now: Time) -> Table {
    let header = ["POD", "STATE", "IPS", "SLOT", "NETNS", "REDIRECTED", "STEERED", "REFUSED", "AGE", "REASON"];
    pods.table(header, |pod| {
        [
            pod.full_name(),
            pod.state.clone(),
            list(&pod.ips),
            number(pod.slot),
            number(pod.netns_cookie),
            pod.setup.count(Rule::Redirected).to_string(),
            pod.setup.count(Rule::Steered).to_string(),
            pod.setup.refused().to_string(),
            age(now, pod.enrolled),
            shown(&pod.reason).to_owned(),
        ]
    })
}

impl Setup {
    fn count(&self, rule: Rule) -> u64 {
        self.counters.get(rule.name()).copied().unwrap_or_default()
    }

    /// Decisions that refused a connection.
    fn refused(&self) -> u64 {
        let refusing = Rule::ALL.into_iter().filter(|rule| rule.action() == weir_abi::Action::Refuse);
        refusing.map(|rule| self.count(rule)).sum()
    }

    /// Adds what is set up.
    pub fn facts(&self, facts: &mut Facts) {
        facts.line("outbound to", list(&self.outbound_listeners));
        facts.line("inbound to", list(&self.inbound_listeners));
        facts.line("excluded outbound CIDRs", list(&self.excluded_outbound_cidrs));
        facts.line("excluded outbound ports", list(&self.excluded_outbound_ports));
        facts.line("excluded inbound ports", list(&self.excluded_inbound_ports));
        facts.line("probe ports", list(&self.probe_ports));
        facts.line("without a proxy", if self.fail_open { "passes (fail-open)" } else { "waits or is refused" });
    }

    /// Decisions by rule, in the order of the rules' numbers; those that happened.
    pub fn decisions(&self) -> Table {
        let mut table = Table::new(["DIRECTION", "RULE", "VERDICT", "COUNT"]);
        for rule in Rule::ALL {
            if let Some(count) = self.counters.get(rule.name()) {
                table.row(
                    [rule.direction().name(), rule.name(), rule.action().name(), &count.to_string()].map(str::to_owned),
                );
            }
        }
        table
    }
}

/// Everything of a pod.
pub fn facts(One { node, item: pod }: &One<Pod>, now: Time) -> String {
    let mut facts = Facts::new();
    facts.line("pod", pod.full_name());
    facts.node(node.as_deref());
    facts.line("uid", &pod.uid);
    facts.line("service account", &pod.service_account);
    facts.line("state", &pod.state);
    if let Some(reason) = &pod.reason {
        facts.line("reason", reason);
    }
    if !pod.is_wanted() {
        return facts.to_string();
    }
    facts.line(
        "enrolled",
        if pod.enrolled == Time(0) { String::new() } else { format!("{} ago", age(now, pod.enrolled)) },
    );
    facts.line("netns", shown(&pod.netns));
    facts.line("netns cookie", number(pod.netns_cookie));
    facts.line("addresses", list(&pod.ips));
    facts.line("slot", number(pod.slot));
    facts.line("sockets kept", pod.listeners.to_string());
    pod.setup.facts(&mut facts);
    format!("{facts}\n{}", pod.setup.decisions())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;

    pub(in crate::show) fn web() -> Pod {
        Pod::from(pb::Pod {
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
        })
    }

    #[test]
    fn pods_are_a_table_with_reasons() {
        let late = Pod::from(pb::Pod {
            name: "late".to_owned(),
            namespace: "default".to_owned(),
            state: "pending".to_owned(),
            reason: "netns /run/netns/late: no such file".to_owned(),
            ..Default::default()
        });
        assert_eq!(late.not_yet(), Some("netns /run/netns/late: no such file"));
        assert_eq!(web().not_yet(), None);
        assert_eq!(
            table(&Rows::here(vec![late, web()]), Time(5_000_000_001)).to_string(),
            "\
POD           STATE     IPS               SLOT  NETNS  REDIRECTED  STEERED  REFUSED  AGE  REASON
default/late  pending   -                 -     -      0           0        0        -    netns /run/netns/late: no such file
default/web   enrolled  10.0.0.2,fd00::2  0     4711   2           3        1        5s   -
"
        );
    }

    #[test]
    fn a_pod_shows_its_decisions_in_the_order_of_the_rules() {
        let text = facts(&One::here(web()), Time(5_000_000_001));
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
        let value = crate::show::read_back(&web());
        assert_eq!(value["counters"]["redirected"], 2);
        assert_eq!((&value["slot"], &value["reason"]), (&0.into(), &Value::Null));
        assert_eq!(value.as_object().unwrap().len(), 21);
    }

    #[test]
    fn a_pod_that_is_passed_over_shows_why_and_no_more() {
        let pod = Pod::from(pb::Pod {
            uid: "u1".to_owned(),
            name: "dns".to_owned(),
            namespace: "kube-system".to_owned(),
            state: PASSED_OVER.to_owned(),
            reason: "it is on the host's network".to_owned(),
            ..Default::default()
        });
        assert!(!pod.is_wanted() && pod.slot.is_none());
        assert_eq!(
            facts(&One::here(pod).of_node("n1"), Time(0)),
            "\
pod              kube-system/dns
node             n1
uid              u1
service account  -
state            passed-over
reason           it is on the host's network
"
        );
    }

    #[test]
    fn names_that_another_version_does_not_write_have_their_default() {
        let pod: Pod = serde_json::from_str(r#"{"name": "web", "state": "enrolled", "new": 1}"#).unwrap();
        assert_eq!((pod.name.as_str(), pod.slot, pod.is_wanted()), ("web", None, true));
    }
}
