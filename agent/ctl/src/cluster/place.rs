//! Where things are in a cluster, from what its API server says: which weir pod answers for a node, which node has a pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Pod, PodStatus},
};

/// The container in which weirctl and the agent are.
pub const AGENT: &str = "agent";

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
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready").any(|condition| condition.status == "True")
}

/// Statuses of all its containers. The agent is a native sidecar, which counts among the init containers.
fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
}

fn agent_runs(pod: &Pod) -> bool {
    let mut containers = pod.status.iter().flat_map(containers).filter(|container| container.name == AGENT);
    containers.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
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
