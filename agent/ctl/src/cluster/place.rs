//! Where things are in a cluster, from what its API server says: which weir pod answers for a node, which node has a pod.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Pod, PodCondition, PodStatus},
};

/// The container in which weirctl and the agent are.
pub const AGENT: &str = "agent";

/// The label by which a DaemonSet tells the revisions of its template apart.
const REVISION: &str = "controller-revision-hash";
/// A pod that runs should be ready by then.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// Why a container waits while all is well.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What answers for each node: the name of a pod, or why none does.
pub type Weirs = BTreeMap<String, Result<String, String>>;

/// The weir pod of each node that has one. Of several, as in a rolling update, the newest that is ready; if none is,
/// the newest whose agent runs: it is the one that knows why.
pub fn weirs(pods: &[Pod]) -> Weirs {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_of_daemon_set(pod)) {
        if let Some(node) = node(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let choose = |pods: Vec<&Pod>| {
        let best = pods.into_iter().max_by_key(|pod| (agent_runs(pod), is_ready(pod), !is_leaving(pod), created(pod)));
        match best {
            Some(pod) if agent_runs(pod) => Ok(name(pod)),
            Some(pod) => Err(format!("weir pod {} does not run: {}", name(pod), trouble(pod))),
            None => Err("no weir pod".to_owned()),
        }
    };
    by_node.into_iter().map(|(node, pods)| (node.to_owned(), choose(pods))).collect()
}

/// A rollout that does not go on, on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The node.
    pub node: String,
    /// Which pod does not start or get ready there, and why.
    pub what: String,
}

impl std::fmt::Display for Stalled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "node {}: {}", self.node, self.what)
    }
}

/// Pods of weir that do not start or do not get ready, on nodes where another one answers. Those that only have not come
/// that far yet are not meant.
pub fn stalled(pods: &[Pod], weirs: &Weirs, now: Timestamp) -> Vec<Stalled> {
    let mut stalled = Vec::new();
    for (node, answering) in weirs {
        let Ok(answering) = answering else { continue };
        let Some(answering) = pods.iter().find(|pod| name(pod) == *answering) else { continue };
        let is_other = |pod: &&Pod| is_of_daemon_set(pod) && !is_leaving(pod) && !is_ready(pod);
        let here =
            pods.iter().filter(|pod| intended_node(pod) == Some(node.as_str()) && created(pod) > created(answering));
        stalled.extend(here.filter(is_other).filter_map(|pod| {
            let newer = if revision(pod) == revision(answering) { "" } else { " of a newer revision" };
            let does_not_start = |obstacle| format!("does not start: {obstacle}");
            let what = obstacle(pod).map(does_not_start).or_else(|| unready(pod, now))?;
            Some(Stalled { node: node.clone(), what: format!("{}{newer} {what}", name(pod)) })
        }));
    }
    stalled
}

/// Nodes that should have a weir pod and have none, as far as can be told: a DaemonSet says on how many nodes it wants
/// pods, not on which.
pub fn without_weir(weirs: &Weirs, wanted: usize, nodes: &[String]) -> BTreeSet<String> {
    if wanted <= weirs.len() {
        return BTreeSet::new();
    }
    nodes.iter().filter(|node| !weirs.contains_key(*node)).cloned().collect()
}

/// On how many nodes weir is to run.
pub fn wanted(set: &DaemonSet) -> usize {
    let wanted = set.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
    usize::try_from(wanted).unwrap_or_default()
}

/// The node of a pod, or why nobody can be asked about it.
pub fn of_pod(pod: &Pod) -> Result<&str, String> {
    let full_name = format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), name(pod));
    node(pod).ok_or_else(|| {
        let status = pod.status.clone().unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or("Pending");
        let conditions = status.conditions.unwrap_or_default();
        let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let why = scheduled.and_then(|condition| condition.message.as_deref().or(condition.reason.as_deref()));
        format!("pod {full_name} is on no node yet: {phase}{}", why.map_or_else(String::new, |why| format!(", {why}")))
    })
}

/// The node of a pod that has one.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The node of a pod, also of one that a DaemonSet made for it and that has no room there.
fn intended_node(pod: &Pod) -> Option<&str> {
    let affinity = || pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref();
    let required = || affinity()?.required_during_scheduling_ignored_during_execution.as_ref();
    let fields = || required()?.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten()).next();
    let named = || fields().filter(|field| field.key == "metadata.name")?.values.as_ref()?.first().map(String::as_str);
    node(pod).or_else(named)
}

fn revision(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(REVISION)
}

/// A pod's name.
pub fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// Whether it is the DaemonSet's: the chart has others with the same label.
pub fn is_of_daemon_set(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "DaemonSet")
}

/// Whether it is being deleted.
pub fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn created(pod: &Pod) -> impl Ord + use<> {
    pod.metadata.creation_timestamp.clone()
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

fn condition<'p>(pod: &'p Pod, name: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == name)
}

/// Statuses of all its containers. The agent is a native sidecar, which counts among the init containers.
fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

fn agent_runs(pod: &Pod) -> bool {
    let mut containers = pod.status.iter().flat_map(containers).filter(|container| container.name == AGENT);
    containers.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// What keeps a pod from starting, if it is more than that this takes its time.
fn obstacle(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let of_container = |container: &ContainerStatus| {
        let state = container.state.as_ref()?;
        let why = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => waiting.reason.clone().filter(|reason| !STARTING.contains(&reason.as_str()))?,
            (_, Some(ended)) if ended.exit_code != 0 => {
                format!("{}, exit code {}", ended.reason.as_deref().unwrap_or("Error"), ended.exit_code)
            }
            _ => return None,
        };
        Some(format!("{}: {why}", container.name))
    };
    let unscheduled = || {
        let condition = condition(pod, "PodScheduled").filter(|condition| condition.status == "False")?;
        condition.message.clone().or_else(|| condition.reason.clone())
    };
    containers(status).find_map(of_container).or_else(unscheduled)
}

/// That a pod runs, and is not ready though it should be by now.
fn unready(pod: &Pod, now: Timestamp) -> Option<String> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "False")?;
    let running = containers(pod.status.as_ref()?).filter_map(|container| container.state.as_ref()?.running.as_ref());
    let started = running.filter_map(|running| Some(running.started_at.as_ref()?.0)).max()?;
    let since = now.duration_since(started.max(condition.last_transition_time.as_ref()?.0));
    let why = condition.message.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    (since > PATIENCE).then(|| format!("is not ready after {} s{why}", since.as_secs()))
}

/// Why a pod's agent does not run.
fn trouble(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "Pending".to_owned() };
    for container in containers(status) {
        let Some(state) = &container.state else { continue };
        let (reason, message) = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => (&waiting.reason, &waiting.message),
            (_, Some(ended)) if ended.exit_code != 0 => (&ended.reason, &ended.message),
            _ => continue,
        };
        let reason = reason.as_deref().unwrap_or("waiting");
        let message = message.as_ref().map_or_else(String::new, |message| format!(", {message}"));
        return format!("container {}: {reason}{message}", container.name);
    }
    let why = status.message.as_ref().or(status.reason.as_ref());
    let phase = status.phase.as_deref().unwrap_or("Pending");
    format!("{phase}{}", why.map_or_else(String::new, |why| format!(", {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn weir(name: &str, node: &str, minute: u32, ready: &str, state: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "namespace": "weir-system",
                "creationTimestamp": format!("2026-11-21T07:{minute:02}:00Z"),
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "weir", "uid": "d" }],
            },
            "spec": { "nodeName": node, "containers": [] },
            "status": {
                "phase": "Running",
                "conditions": [{ "type": "Ready", "status": ready }],
                "initContainerStatuses": [{
                    "name": "agent", "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": state,
                }],
            },
        }))
        .unwrap()
    }

    fn noon() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn running() -> serde_json::Value {
        json!({ "running": { "startedAt": "2026-11-21T07:00:00Z" } })
    }

    #[test]
    fn the_newest_ready_pod_answers_for_its_node() {
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s" } });
        let mut job = weir("weir-uninstall-x", "n1", 9, "True", running());
        job.metadata.owner_references.as_mut().unwrap()[0].kind = "Job".to_owned();
        let mut leaving = weir("weir-leaving", "n5", 2, "False", running());
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        let pods = [
            weir("weir-old", "n1", 1, "True", running()),
            weir("weir-new", "n1", 2, "True", running()),
            weir("weir-starting", "n1", 3, "False", running()),
            weir("weir-sick", "n2", 1, "False", running()),
            weir("weir-crash", "n3", 1, "False", waiting),
            weir("weir-unscheduled", "", 1, "False", running()),
            leaving,
            job,
        ];
        let chosen = weirs(&pods);
        let expected = [
            ("n1", Ok("weir-new")),
            ("n2", Ok("weir-sick")),
            ("n3", Err("weir pod weir-crash does not run: container agent: CrashLoopBackOff, back-off 10s")),
            ("n5", Ok("weir-leaving")),
        ];
        let text = |result: Result<&str, &str>| result.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(chosen, expected.map(|(node, pod)| (node.to_owned(), text(pod))).into());
        let nodes = ["n1", "n2", "n3", "n4", "n5"].map(str::to_owned);
        assert_eq!(without_weir(&chosen, 5, &nodes), ["n4".to_owned()].into());
        assert!(without_weir(&chosen, 4, &nodes).is_empty(), "n4 is not to have one");
    }

    #[test]
    fn a_pod_that_keeps_a_rollout_from_going_on_is_named() {
        let next = |state: serde_json::Value, revision: &str| {
            let mut pod = weir("weir-next", "n1", 5, "False", state);
            pod.metadata.labels = Some([(REVISION.to_owned(), revision.to_owned())].into());
            pod
        };
        let said = |next: Pod| {
            let mut old = weir("weir-old", "n1", 1, "True", running());
            old.metadata.labels = Some([(REVISION.to_owned(), "a".to_owned())].into());
            let pods = [old, next];
            stalled(&pods, &weirs(&pods), noon()).iter().map(Stalled::to_string).collect::<Vec<_>>()
        };
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason, "message": "long" } });
        let ended = || json!({ "terminated": { "reason": "Error", "exitCode": 101 } });
        let newer = "node n1: weir-next of a newer revision does not start: agent:";
        for reason in ["ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError"] {
            assert_eq!(said(next(waiting(reason), "b")), [format!("{newer} {reason}")]);
        }
        assert_eq!(said(next(ended(), "b")), [format!("{newer} Error, exit code 101")]);
        assert_eq!(said(next(ended(), "a")), ["node n1: weir-next does not start: agent: Error, exit code 101"]);
        for starting in [waiting("PodInitializing"), waiting("ContainerCreating"), running()] {
            assert_eq!(said(next(starting, "b")), [""; 0]);
        }
        let full = json!([{ "type": "PodScheduled", "status": "False", "message": "0/2 nodes: 1 Insufficient cpu" }]);
        let term = json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] });
        let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } });
        let mut unscheduled = next(running(), "b");
        unscheduled.spec = Some(
            serde_json::from_value(json!({ "containers": [], "affinity": { "nodeAffinity": required } })).unwrap(),
        );
        unscheduled.status = Some(serde_json::from_value(json!({ "phase": "Pending", "conditions": full })).unwrap());
        let no_room = "node n1: weir-next of a newer revision does not start: 0/2 nodes: 1 Insufficient cpu";
        assert_eq!(said(unscheduled), [no_room]);
        let unready_in = |state: serde_json::Value, time: &str| {
            let mut pod = next(state, "b");
            let conditions = json!([{
                "type": "Ready", "status": "False", "lastTransitionTime": time,
                "message": "containers with unready status: [proxy]",
            }]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(conditions).unwrap();
            pod
        };
        let unready_since = |time: &str| unready_in(running(), time);
        assert_eq!(said(unready_since("2026-11-21T11:58:00Z")), [""; 0]);
        let just_started = json!({ "running": { "startedAt": "2026-11-21T11:59:00Z" } });
        for state in [waiting("ContainerCreating"), just_started] {
            assert_eq!(said(unready_in(state, "2026-11-21T11:00:00Z")), [""; 0]);
        }
        assert_eq!(
            said(unready_since("2026-11-21T11:57:50Z")),
            [
                "node n1: weir-next of a newer revision is not ready after 130 s: containers with unready status: [proxy]"
            ]
        );
        let mut leaving = next(waiting("ErrImagePull"), "b");
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        assert_eq!(said(leaving), [""; 0]);
    }

    #[test]
    fn a_pod_on_no_node_says_why() {
        let pod = |status: serde_json::Value| -> Pod {
            let metadata = json!({ "name": "web", "namespace": "demo" });
            serde_json::from_value(json!({ "metadata": metadata, "spec": { "containers": [] }, "status": status }))
                .unwrap()
        };
        let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available" });
        let unscheduled = pod(json!({ "phase": "Pending", "conditions": [condition] }));
        assert_eq!(
            of_pod(&unscheduled).unwrap_err(),
            "pod demo/web is on no node yet: Pending, 0/2 nodes are available"
        );
        assert_eq!(of_pod(&pod(json!({}))).unwrap_err(), "pod demo/web is on no node yet: Pending");
        assert_eq!(of_pod(&weir("web", "n1", 1, "True", running())), Ok("n1"));
    }
}
