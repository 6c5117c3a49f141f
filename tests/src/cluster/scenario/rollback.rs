//! Rolling upgrades that fail half-way and are rolled back, under load: nothing is lost, and new pods are enrolled in the
//! meantime.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{Namespaces, PATIENCE, disruptions::Newcomers};
use crate::cluster::{Cluster, WEIR_NAMESPACE, kubectl::eventually, report::Report, steady::Steady};

const NAMESPACE: &str = "weir-rollback";
/// An image that no registry has.
const NO_IMAGE: &str = "weir.invalid/none:0";
/// How long a failed upgrade is left alone.
const LEFT: Duration = Duration::from_secs(20);
/// How long weir may take to be rolled out again.
const RECOVERY: Duration = Duration::from_secs(300);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("rolling upgrades that fail, and are rolled back, under load");
    let (near, far) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, true)])?;
    let mut steady = Steady::start(cluster, NAMESPACE, &near, &far)?;
    let mut newcomers = Newcomers::new(cluster, NAMESPACE, &[&near, &far])?;
    for (name, list, container) in [
        ("an agent without an image", "initContainers", json!({"name": "agent", "image": NO_IMAGE})),
        // The new agent runs and has taken over; no proxy comes after it.
        ("a proxy without an image", "containers", json!({"name": "proxy", "image": NO_IMAGE})),
        (
            "a proxy that ends at once",
            "containers",
            json!({"name": "proxy", "command": ["/usr/bin/weir-proxy", "--no"]}),
        ),
    ] {
        steady.phase(&format!("upgrade to {name}"));
        let patch = json!({"spec": {"template": {"spec": {list: [container]}}}});
        cluster.kubectl.run(&["-n", WEIR_NAMESPACE, "patch", "daemonset", "weir", "-p", &patch.to_string()])?;
        let stuck = eventually("weir pod that cannot start", PATIENCE, || stuck(cluster));
        report.check(&format!("upgrade to {name} is stuck"), stuck);
        newcomers.create()?;
        newcomers.check(report, &format!("while {name}"));
        thread::sleep(LEFT);
        let said = cluster.weir.run(&["status"]);
        report.check(&format!("kubectl weir status, while {name}"), said.and_then(|said| every_node(cluster, &said)));

        steady.phase(&format!("rollback from {name}"));
        cluster.kubectl.run(&["-n", WEIR_NAMESPACE, "rollout", "undo", "daemonset/weir"])?;
        let outcome = cluster.kubectl.weir_ready(RECOVERY).map(|()| "rolled out".to_owned());
        report.check(&format!("rollback from {name}"), outcome);
        newcomers.create()?;
        newcomers.check(report, &format!("after {name}"));
        thread::sleep(Duration::from_secs(5));
    }
    steady.finish(report)
}

/// Why the newest of weir's pods does not start.
fn stuck(cluster: &Cluster) -> Result<String, String> {
    for (node, pod) in cluster.kubectl.weir_pods()? {
        let statuses = |list: &str| pod["status"][list].as_array().cloned().unwrap_or_default();
        let all = [statuses("initContainerStatuses"), statuses("containerStatuses")].concat();
        let waiting = |status: &Value| status["state"]["waiting"]["reason"].as_str().map(str::to_owned);
        let bad = |reason: &String| ["ErrImage", "ImagePull", "CrashLoop"].iter().any(|bad| reason.contains(bad));
        if let Some(reason) = all.iter().filter_map(waiting).find(bad) {
            return Ok(format!("{reason} on {node}"));
        }
    }
    Err("all of them start".to_owned())
}

fn every_node(cluster: &Cluster, said: &str) -> Result<String, String> {
    let nodes = cluster.node_names()?;
    let has = |node: &String| said.lines().any(|line| line.split_whitespace().next() == Some(node));
    if nodes.iter().all(has) { Ok(format!("{} nodes answered", nodes.len())) } else { Err(said.to_owned()) }
}
