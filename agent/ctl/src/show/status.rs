//! `status`: of one node in full, of a whole cluster one line a node.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weir_proto::agent::v1 as pb;

use super::{Counts, counts, optional, pod::Pod, rows::placed, shown, sorted};
use crate::{
    table::{Facts, Table},
    time::{Time, age, span},
};

/// Pods that the line of a node names; of the others it says how many there are.
const NAMED: usize = 3;
/// The fault that counts events which watchers did not see.
const EVENT_DROPPED: &str = "event-dropped";

/// A node's agent, proxies and pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    version: String,
    instance: String,
    node: String,
    pid: u32,
    started: Time,
    kernel: String,
    cgroup2: String,
    pods_cgroup: Option<String>,
    pods_cgroup_error: Option<String>,
    pin_path: String,
    adopted: bool,
    healthy: bool,
    proxies: Vec<Proxy>,
    pods_enrolled: u32,
    pods_pending: u32,
    pods_passed_over: u32,
    pending: Vec<Pod>,
    source_error: Option<String>,
    source_notes: Vec<String>,
    refused: Counts,
    faults: Counts,
    watchers: u32,
    keeper: Option<Keeper>,
    cni: Option<String>,
    cni_error: Option<String>,
}

/// What keeps the listening sockets while there is no agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Keeper {
    pid: Option<i32>,
    pods: u32,
    sockets: u32,
    problem: Option<String>,
}

impl From<pb::Keeper> for Keeper {
    fn from(keeper: pb::Keeper) -> Self {
        Self {
            pid: (keeper.pid != 0).then_some(keeper.pid),
            pods: keeper.pods,
            sockets: keeper.sockets,
            problem: optional(keeper.problem),
        }
    }
}

impl Keeper {
    fn plain(&self) -> String {
        let Self { pods, sockets, .. } = self;
        let kept = format!("{sockets} sockets of {pods} pods");
        match (self.pid, &self.problem) {
            (Some(pid), None) => format!("pid {pid}, {kept}"),
            (Some(pid), Some(problem)) => format!("pid {pid}, {kept}: {problem}"),
            (None, problem) => format!("none: {}", problem.as_deref().unwrap_or("not started yet")),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Proxy {
    version: String,
    /// Nanoseconds since the machine started, which may be more than a JSON number holds exactly.
    generation: String,
    pid: i32,
    uid: u32,
    workers: u32,
    state: String,
    connected: Time,
    open: u64,
    /// For how long it has owed the agent an answer; 0: it answers, or cannot be asked.
    unanswered_ns: u64,
}

impl From<pb::StatusResponse> for Status {
    fn from(status: pb::StatusResponse) -> Self {
        let mut status = Self {
            version: status.version,
            instance: status.instance,
            node: status.node,
            pid: status.pid,
            started: Time(status.started),
            kernel: status.kernel,
            cgroup2: status.cgroup2,
            pods_cgroup: optional(status.pods_cgroup),
            pods_cgroup_error: optional(status.pods_cgroup_error),
            pin_path: status.pin_path,
            adopted: status.adopted,
            healthy: false,
            proxies: status.proxies.into_iter().map(Proxy::from).collect(),
            pods_enrolled: status.pods_enrolled,
            pods_pending: status.pods_pending,
            pods_passed_over: status.pods_passed_over,
            pending: status.pending.into_iter().map(Pod::from).collect(),
            source_error: optional(status.source_error),
            source_notes: status.source_notes,
            refused: sorted(status.refused),
            faults: sorted(status.faults),
            watchers: status.watchers,
            keeper: status.keeper.map(Keeper::from),
            cni: optional(status.cni),
            cni_error: optional(status.cni_error),
        };
        status.healthy = status.trouble().is_empty() && !status.pending.iter().any(|pod| pod.overdue);
        status
    }
}

impl From<pb::Proxy> for Proxy {
    fn from(proxy: pb::Proxy) -> Self {
        Self {
            version: proxy.version,
            generation: proxy.generation.to_string(),
            pid: proxy.pid,
            uid: proxy.uid,
            workers: proxy.workers,
            state: proxy.state,
            connected: Time(proxy.connected),
            open: proxy.open,
            unanswered_ns: proxy.unanswered_ns,
        }
    }
}

impl Proxy {
    fn is_ready(&self) -> bool {
        self.state == "ready"
    }

    /// That it does not answer, and what may stall by that: it may hang, or only be busy.
    fn hangs(&self) -> Option<String> {
        let whose = if self.is_ready() { "connections of this node's pods" } else { "the connections that it holds" };
        (self.unanswered_ns > 0)
            .then(|| format!("has not answered for {}: {whose} may stall", span(self.unanswered_ns)))
    }
}

impl Status {
    /// Whether nothing needs attention.
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// What an operator looks at first.
    pub fn plain(&self, now: Time) -> String {
        let mut facts = Facts::new();
        let (version, pid, instance, node) = (&self.version, self.pid, &self.instance, &self.node);
        let up = age(now, self.started);
        facts.line("agent", format!("{version} pid {pid}, instance {instance}, node {node}, up {up}"));
        facts.line("kernel", &self.kernel);
        facts.line("cgroup2", &self.cgroup2);
        facts.line(
            "pods' cgroup",
            self.pods_cgroup_error.as_ref().or(self.pods_cgroup.as_ref()).map_or("", |text| text),
        );
        facts.line("pins", format!("{}{}", self.pin_path, if self.adopted { " (adopted)" } else { "" }));
        let ready = self.proxies.iter().filter(|proxy| proxy.is_ready()).count();
        facts.line("proxies", format!("{} connected, {ready} ready", self.proxies.len()));
        for proxy in &self.proxies {
            let mut line = format!(
                "{} {} pid {} uid {}, {} workers, connected {} ago",
                proxy.state,
                proxy.version,
                proxy.pid,
                proxy.uid,
                proxy.workers,
                age(now, proxy.connected)
            );
            if proxy.state == "draining" || (proxy.state == "standby" && proxy.open > 0) {
                line.push_str(&format!(", {} connections open", proxy.open));
            }
            if let Some(hangs) = proxy.hangs() {
                line.push_str(&format!(", {hangs}"));
            }
            facts.line("", line);
        }
        let mut pods = format!("{} enrolled, {} pending", self.pods_enrolled, self.pods_pending);
        if self.pods_passed_over > 0 {
            pods.push_str(&format!(", {} passed over", self.pods_passed_over));
        }
        facts.line("pods", pods);
        for pending in &self.pending {
            facts.line("", format!("{}: {}", pending.full_name(), shown(&pending.reason)));
        }
        facts.line("pod source", self.source_error.as_deref().unwrap_or("ok"));
        for note in &self.source_notes {
            facts.line("", note);
        }
        facts.line("refused", counts(&self.refused));
        facts.line("faults", counts(self.faults.iter().filter(|(_, count)| **count > 0)));
        facts.line("watchers", self.watchers.to_string());
        facts.line("cni", self.cni_error.as_ref().or(self.cni.as_ref()).map_or("off", |text| text));
        facts.line("keeper", self.keeper.as_ref().map_or_else(|| "off".to_owned(), Keeper::plain));
        facts.to_string()
    }

    /// The versions of its proxies, the accepting one's first.
    fn proxy_versions(&self) -> Vec<&str> {
        let mut proxies: Vec<&Proxy> = self.proxies.iter().collect();
        proxies.sort_by_key(|proxy| !proxy.is_ready());
        let mut versions: Vec<&str> = Vec::new();
        for proxy in proxies {
            if !versions.contains(&proxy.version.as_str()) {
                versions.push(&proxy.version);
            }
        }
        versions
    }

    /// What the operator has to see to, in few words each.
    fn trouble(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.proxies.iter().any(Proxy::is_ready) {
            notes.push("no proxy is ready".to_owned());
        }
        let hangs = |proxy: &Proxy| Some(format!("proxy {} ({}) {}", proxy.pid, proxy.version, proxy.hangs()?));
        notes.extend(self.proxies.iter().filter_map(hangs));
        if let Some(error) = &self.source_error {
            notes.push(format!("pod source: {error}"));
        }
        if let Some(error) = &self.pods_cgroup_error {
            notes.push(format!("pods' cgroup: {error}"));
        }
        if let Some(error) = &self.cni_error {
            notes.push(format!("cni: {error}"));
        }
        if let Some(problem) = self.keeper.as_ref().and_then(|keeper| keeper.problem.as_ref()) {
            notes.push(format!("keeper: {problem}"));
        }
        notes
    }

    /// The same, and pods that are pending for whatever reason; those that count against the node first.
    fn notes(&self) -> Vec<String> {
        let mut notes = self.trouble();
        let (overdue, others): (Vec<&Pod>, Vec<&Pod>) = self.pending.iter().partition(|pod| pod.overdue);
        let named = overdue.into_iter().chain(others).take(NAMED);
        notes.extend(named.map(|pod| format!("{}: {}", pod.full_name(), shown(&pod.reason))));
        match (self.pods_pending as usize).saturating_sub(NAMED.min(self.pending.len())) {
            0 => {}
            more => notes.push(format!("{more} more pending")),
        }
        notes.extend(self.source_notes.iter().take(NAMED).cloned());
        notes
    }
}

/// What a node of a cluster said.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its status, or why there is none.
    pub status: Result<Status, String>,
    /// Which pod of weir does not start there beside the one that answers, and why.
    pub stalled: Option<String>,
}

impl Node {
    /// Whether it answers, and nothing there needs attention.
    pub fn is_well(&self) -> bool {
        self.stalled.is_none() && self.status.as_ref().is_ok_and(Status::is_healthy)
    }
}

/// One line a node.
pub fn table(nodes: &[Node]) -> Table {
    let mut table =
        Table::new(["NODE", "HEALTHY", "AGENT", "PROXY", "ENROLLED", "PENDING", "REFUSED", "FAULTS", "DROPS", "NOTES"]);
    for node in nodes {
        let cells = match &node.status {
            // Why is said on standard error.
            Err(_) => ["no", "", "", "", "", "", "", "", "no answer"].map(str::to_owned),
            Ok(status) => {
                let dropped = status.faults.get(EVENT_DROPPED).copied().unwrap_or_default();
                [
                    if status.healthy { "yes" } else { "no" }.to_owned(),
                    status.version.clone(),
                    status.proxy_versions().join(","),
                    status.pods_enrolled.to_string(),
                    status.pods_pending.to_string(),
                    status.refused.values().sum::<u64>().to_string(),
                    (status.faults.values().sum::<u64>() - dropped).to_string(),
                    dropped.to_string(),
                    node.stalled.iter().cloned().chain(status.notes()).collect::<Vec<_>>().join("; "),
                ]
            }
        };
        table.row(std::iter::once(node.name.clone()).chain(cells));
    }
    table
}

/// The same as JSON: each node's status, or its error.
pub fn nodes_json(nodes: &[Node]) -> serde_json::Result<Value> {
    let node = |node: &Node| match &node.status {
        Ok(status) => {
            let mut value = placed(&node.name, serde_json::to_value(status)?);
            value["stalled"] = json!(node.stalled);
            Ok(value)
        }
        Err(why) => Ok(json!({ "node": node.name, "error": why })),
    };
    nodes.iter().map(node).collect()
}

/// What each node runs.
pub fn versions(nodes: &[Node]) -> Table {
    let mut table = Table::new(["NODE", "AGENT", "PROXY"]);
    for node in nodes {
        let (agent, proxies) = node.versions();
        table.row([node.name.clone(), agent.unwrap_or_default().to_owned(), proxies.join(",")]);
    }
    table
}

/// The same as JSON.
pub fn versions_json(nodes: &[Node]) -> Value {
    let node = |node: &Node| {
        let (agent, proxies) = node.versions();
        json!({ "node": node.name, "agent": agent, "proxies": proxies })
    };
    nodes.iter().map(node).collect()
}

impl Node {
    fn versions(&self) -> (Option<&str>, Vec<&str>) {
        match &self.status {
            Ok(status) => (Some(&status.version), status.proxy_versions()),
            Err(_) => (None, Vec::new()),
        }
    }
}

/// Who runs another version than the others: one line, none where all are the same.
pub fn skew(nodes: &[Node], own: &str) -> Option<String> {
    let mut versions: BTreeSet<(&str, String)> = BTreeSet::new();
    versions.insert((own, "weirctl here".to_owned()));
    for node in nodes {
        let Ok(status) = &node.status else { continue };
        versions.insert((&status.version, format!("agent on {}", node.name)));
        versions.extend(status.proxy_versions().iter().map(|version| (*version, format!("proxy on {}", node.name))));
    }
    let distinct: BTreeSet<&str> = versions.iter().map(|(version, _)| *version).collect();
    if distinct.len() < 2 {
        return None;
    }
    let of = |version: &str| {
        let who: Vec<&str> = versions.iter().filter(|(its, _)| *its == version).map(|(_, who)| who.as_str()).collect();
        match who.len() {
            0..=NAMED => format!("{version} ({})", who.join(", ")),
            _ => format!("{version} ({} and {} more)", who[..NAMED].join(", "), who.len() - NAMED),
        }
    };
    Some(format!("versions differ: {}", distinct.into_iter().map(of).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> pb::StatusResponse {
        pb::StatusResponse {
            version: "0.1.0".to_owned(),
            instance: "default".to_owned(),
            node: "node-a".to_owned(),
            pid: 12,
            started: 1_000_000_000,
            kernel: "6.18.44".to_owned(),
            cgroup2: "/sys/fs/cgroup".to_owned(),
            pin_path: "/sys/fs/bpf/weir/default".to_owned(),
            adopted: true,
            proxies: vec![pb::Proxy {
                version: "0.1.0".to_owned(),
                pid: 40,
                uid: 65532,
                workers: 2,
                state: "ready".to_owned(),
                connected: 1_000_000_000,
                ..Default::default()
            }],
            pods_enrolled: 3,
            pods_pending: 1,
            pending: vec![pb::Pod {
                namespace: "default".to_owned(),
                name: "late".to_owned(),
                reason: "no netns".to_owned(),
                state: "pending".to_owned(),
                ..Default::default()
            }],
            faults: [("pending-insert".to_owned(), 2), (EVENT_DROPPED.to_owned(), 0)].into(),
            refused: [("no-listener".to_owned(), 5)].into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_needs_attention_stands_out() {
        let status = Status::from(answer());
        assert_eq!(
            status.plain(Time(61_000_000_000)),
            "\
agent         0.1.0 pid 12, instance default, node node-a, up 60s
kernel        6.18.44
cgroup2       /sys/fs/cgroup
pods' cgroup  -
pins          /sys/fs/bpf/weir/default (adopted)
proxies       1 connected, 1 ready
              ready 0.1.0 pid 40 uid 65532, 2 workers, connected 60s ago
pods          3 enrolled, 1 pending
              default/late: no netns
pod source    ok
refused       no-listener 5
faults        pending-insert 2
watchers      0
cni           off
keeper        off
"
        );
        let keeper = |pid, problem: &str| {
            let keeper = pb::Keeper { pid, pods: 3, sockets: 12, problem: problem.to_owned() };
            Status::from(pb::StatusResponse { pods_passed_over: 2, keeper: Some(keeper), ..answer() })
        };
        let text = keeper(77, "").plain(Time(0));
        assert!(text.contains("3 enrolled, 1 pending, 2 passed over\n"), "{text}");
        assert!(text.ends_with("keeper        pid 77, 12 sockets of 3 pods\n"), "{text}");
        assert!(keeper(0, "no such file").plain(Time(0)).ends_with("keeper        none: no such file\n"));
        let value = crate::show::read_back(&status);
        assert_eq!((&value["faults"][EVENT_DROPPED], &value["healthy"]), (&0.into(), &true.into()));
    }

    #[test]
    fn health_needs_a_ready_proxy_and_no_pod_that_is_overdue() {
        let healthy = |change: &dyn Fn(&mut pb::StatusResponse)| {
            let mut answer = answer();
            (answer.pods_pending, answer.pending) = (0, Vec::new());
            change(&mut answer);
            Status::from(answer).is_healthy()
        };
        assert!(healthy(&|_| {}));
        let pending = |overdue| {
            let late = pb::Pod { overdue, ..answer().pending.remove(0) };
            move |answer: &mut pb::StatusResponse| (answer.pods_pending, answer.pending) = (1, vec![late.clone()])
        };
        assert!(healthy(&pending(false)), "one that anybody may make");
        assert!(!healthy(&pending(true)));
        let malformed = "namespace shop: label x: invalid".to_owned();
        assert!(healthy(&|answer| answer.source_notes = vec![malformed.clone()]), "nor is a label the node's fault");
        assert!(!healthy(&|answer| answer.source_error = "pods.toml: line 3".to_owned()));
        assert!(!healthy(&|answer| answer.pods_cgroup_error = "no kubepods below /sys/fs/cgroup".to_owned()));
        assert!(!healthy(&|answer| answer.cni_error = "/etc/cni/net.d has no CNI configuration yet".to_owned()));
        let trouble = pb::Keeper { problem: "it ended".to_owned(), ..Default::default() };
        assert!(!healthy(&|answer| answer.keeper = Some(trouble.clone())));
        assert!(!healthy(&|answer| answer.proxies[0].state = "draining".to_owned()));
        assert!(!healthy(&|answer| answer.proxies[0].unanswered_ns = 1));
    }

    #[test]
    fn a_proxy_that_does_not_answer_is_named_with_what_may_stall() {
        let mut answer = answer();
        (answer.pods_pending, answer.pending) = (0, Vec::new());
        answer.proxies[0].unanswered_ns = 37_900_000_000;
        let standby = pb::Proxy { pid: 41, state: "standby".to_owned(), ..answer.proxies[0].clone() };
        answer.proxies.push(standby);
        let status = Status::from(answer);
        assert_eq!(
            status.notes(),
            [
                "proxy 40 (0.1.0) has not answered for 37s: connections of this node's pods may stall",
                "proxy 41 (0.1.0) has not answered for 37s: the connections that it holds may stall"
            ]
        );
        let line = "ready 0.1.0 pid 40 uid 65532, 2 workers, connected 60s ago, has not answered for 37s: connections of this \
             node's pods may stall\n";
        let text = status.plain(Time(61_000_000_000));
        assert!(text.contains(line), "{text}");
        assert_eq!(crate::show::read_back(&status)["proxies"][0]["unanswered_ns"], 37_900_000_000_u64);
    }

    #[test]
    fn a_cluster_has_one_line_a_node() {
        let mut busy = answer();
        busy.node = "node-b".to_owned();
        busy.pods_pending = 5;
        busy.pending = vec![busy.pending[0].clone(); 5];
        busy.pending[4] = pb::Pod { name: "stuck".to_owned(), overdue: true, ..busy.pending[0].clone() };
        busy.faults.insert(EVENT_DROPPED.to_owned(), 7);
        busy.proxies.push(pb::Proxy {
            version: "0.0.9".to_owned(),
            state: "draining".to_owned(),
            ..Default::default()
        });
        let mut well = answer();
        well.pods_pending = 1;
        well.source_notes = vec!["namespace shop: label x: invalid".to_owned()];
        let node = |name: &str, status| Node { name: name.to_owned(), status, stalled: None };
        let nodes =
            [node("a", Ok(well.clone().into())), node("b", Ok(busy.into())), node("c", Err("no weir pod".to_owned()))];
        assert_eq!(
            table(&nodes).to_string(),
            "\
NODE  HEALTHY  AGENT  PROXY        ENROLLED  PENDING  REFUSED  FAULTS  DROPS  NOTES
a     yes      0.1.0  0.1.0        3         1        5        2       0      default/late: no netns; namespace shop: label x: invalid
b     no       0.1.0  0.1.0,0.0.9  3         5        5        2       7      default/stuck: no netns; default/late: no netns; default/late: no netns; 2 more pending
c     no       -      -            -         -        -        -       -      no answer
"
        );
        let stalled = Some("weir-x of a newer revision does not start: agent: ErrImagePull".to_owned());
        let mut idle = well.clone();
        (idle.pods_pending, idle.pending, idle.source_notes) = (0, Vec::new(), Vec::new());
        let stalled = Node { stalled, ..node("a", Ok(idle.clone().into())) };
        assert!(!stalled.is_well() && node("a", Ok(idle.into())).is_well());
        let text = table(&[stalled]).to_string();
        assert!(text.ends_with("  weir-x of a newer revision does not start: agent: ErrImagePull\n"), "{text}");
        let skewed = skew(&nodes, "0.1.0").unwrap();
        assert_eq!(
            skewed,
            "versions differ: 0.0.9 (proxy on b); 0.1.0 (agent on a, agent on b, proxy on a and 2 more)"
        );
        assert_eq!(skew(&nodes[..1], "0.1.0"), None);
        assert!(skew(&[node("a", Ok(well.into()))], "0.2.0").is_some());
    }
}
