//! `redirect list` and `redirect show`.

use serde::{Deserialize, Serialize};
use weir_proto::agent::v1 as pb;

use super::{
    optional,
    pod::{self, Pod, Setup},
    rows::{One, Rows},
    shown,
};
use crate::{
    question::Explain,
    table::{Facts, Table},
    time::{Time, age},
};

/// The rule of the connections with which the proxy carries others on.
const PROXY_SOCKET: &str = "proxy-socket";

/// An original destination, and what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redirect {
    pod_uid: Option<String>,
    /// `namespace/name`; none for a pod that is gone.
    pub pod: Option<String>,
    direction: String,
    original_destination: String,
    listener: Option<String>,
    action: String,
    rule: String,
    count: u64,
    last_seen: Time,
}

impl From<pb::Redirect> for Redirect {
    fn from(row: pb::Redirect) -> Self {
        Self {
            pod_uid: optional(row.pod_uid),
            pod: optional(row.pod),
            direction: row.direction,
            original_destination: row.original_destination,
            listener: optional(row.listener).filter(|listener| listener != "-"),
            action: row.action,
            rule: row.rule,
            count: row.count,
            last_seen: Time(row.last_seen),
        }
    }
}

impl Redirect {
    /// Whether it is one with which the proxy carries on others, which it repeats, with other destinations.
    pub fn is_the_proxys(&self) -> bool {
        self.rule == PROXY_SOCKET
    }
}

/// One line for each original destination and rule.
pub fn table(rows: &Rows<Redirect>, now: Time) -> Table {
    let header = ["POD", "DIRECTION", "ORIGINAL-DESTINATION", "LISTENER", "VERDICT", "RULE", "COUNT", "LAST-SEEN"];
    rows.table(header, |row| {
        [
            shown(&row.pod).to_owned(),
            row.direction.clone(),
            row.original_destination.clone(),
            shown(&row.listener).to_owned(),
            row.action.clone(),
            row.rule.clone(),
            row.count.to_string(),
            age(now, row.last_seen),
        ]
    })
}

/// How a pod is redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSetup {
    pod_uid: String,
    pod: String,
    state: String,
    reason: Option<String>,
    #[serde(flatten)]
    setup: Setup,
}

impl From<Pod> for PodSetup {
    fn from(pod: Pod) -> Self {
        Self { pod: pod.full_name(), pod_uid: pod.uid, state: pod.state, reason: pod.reason, setup: pod.setup }
    }
}

/// How a pod is redirected, as text.
pub fn setup(One { node, item: pod }: &One<PodSetup>) -> String {
    let mut facts = Facts::new();
    facts.line("pod", &pod.pod);
    facts.node(node.as_deref());
    facts.line("state", &pod.state);
    if let Some(reason) = &pod.reason {
        facts.line("reason", reason);
    }
    if !pod::is_wanted(&pod.state) {
        return facts.to_string();
    }
    pod.setup.facts(&mut facts);
    format!("{facts}\n{}", pod.setup.decisions())
}

/// The verdict on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    pod: String,
    enrolled: bool,
    from: String,
    to: String,
    protocol: String,
    direction: String,
    action: String,
    rule: String,
    listener: Option<String>,
    hint: String,
}

impl Verdict {
    /// The agent's answer to what was asked.
    pub fn new(answer: pb::ExplainResponse, asked: &Explain) -> Self {
        Self {
            pod: answer.pod,
            enrolled: answer.enrolled,
            from: asked.from.clone(),
            to: answer.to,
            protocol: asked.protocol.clone(),
            direction: answer.direction,
            action: answer.action,
            rule: answer.rule,
            listener: optional(answer.listener),
            hint: answer.hint,
        }
    }
}

/// The verdict on one connection, as text.
pub fn verdict(One { node, item: verdict }: &One<Verdict>) -> String {
    let mut facts = Facts::new();
    facts.line("pod", &verdict.pod);
    facts.node(node.as_deref());
    facts.line("from", &verdict.from);
    facts.line("to", &verdict.to);
    facts.line("protocol", &verdict.protocol);
    facts.line("direction", &verdict.direction);
    facts.line("verdict", &verdict.action);
    facts.line("rule", &verdict.rule);
    facts.line("listener", shown(&verdict.listener));
    facts.line("hint", &verdict.hint);
    facts.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn rows_say_where_connections_went() {
        let row = Redirect::from(pb::Redirect {
            pod_uid: "u1".to_owned(),
            pod: "default/web".to_owned(),
            direction: "outbound".to_owned(),
            original_destination: "10.96.0.10:80".to_owned(),
            listener: "10.0.0.2:15001".to_owned(),
            action: "redirect".to_owned(),
            rule: "redirected".to_owned(),
            count: 12,
            last_seen: 1_000_000_000,
        });
        let gone = Redirect::from(pb::Redirect { listener: "-".to_owned(), ..Default::default() });
        assert_eq!(
            table(&Rows::here(vec![row.clone()]), Time(4_000_000_000)).to_string(),
            "\
POD          DIRECTION  ORIGINAL-DESTINATION  LISTENER        VERDICT   RULE        COUNT  LAST-SEEN
default/web  outbound   10.96.0.10:80         10.0.0.2:15001  redirect  redirected  12     3s
"
        );
        assert_eq!(crate::show::read_back(&row)["last_seen"], "1970-01-01T00:00:01Z");
        let gone = crate::show::read_back(&gone);
        assert_eq!((&gone["listener"], &gone["pod"], &gone["last_seen"]), (&Value::Null, &Value::Null, &Value::Null));
    }

    #[test]
    fn the_setup_is_that_of_the_pod() {
        let value = crate::show::read_back(&PodSetup::from(crate::show::pod::tests::web()));
        assert_eq!((&value["pod"], &value["counters"]["steered"]), (&"default/web".into(), &3.into()));
        assert_eq!(value.as_object().unwrap().len(), 12);
    }

    #[test]
    fn a_verdict_names_its_rule() {
        let asked = Explain {
            pod: "web".to_owned(),
            to: "10.0.0.2:8080".parse().unwrap(),
            from: "node".to_owned(),
            protocol: "tcp".to_owned(),
        };
        let answer = pb::ExplainResponse {
            pod: "default/web".to_owned(),
            direction: "inbound".to_owned(),
            action: "pass".to_owned(),
            rule: "node-probe".to_owned(),
            hint: "a probe".to_owned(),
            to: "10.0.0.2:8080".to_owned(),
            listener: String::new(),
            enrolled: true,
        };
        let answer = Verdict::new(answer, &asked);
        assert_eq!(crate::show::read_back(&answer).as_object().unwrap().len(), 10);
        assert_eq!(
            verdict(&One::here(answer)),
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
