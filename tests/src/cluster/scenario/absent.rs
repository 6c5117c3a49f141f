//! A node whose weir is gone though its enrolled pods are there: nothing passes unseen, and `kubectl weir` says so.

use std::time::Duration;

use serde_json::json;

use super::{Namespaces, PATIENCE, first::First};
use crate::cluster::{Cluster, WEIR_NAMESPACE, fixture::Pod, kubectl::eventually, report::Report};

const NAMESPACE: &str = "weir-absent";
/// An image that no registry has.
const NO_IMAGE: &str = "weir.invalid/none:0";
/// How long weir may take to leave and to come back.
const RECOVERY: Duration = Duration::from_secs(300);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("a node without weir");
    let (near, far) = cluster.two_nodes()?;
    if near == far {
        return Err("it takes two nodes".to_owned());
    }
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, true)])?;
    cluster.kubectl.apply(&[
        Pod::server(NAMESPACE, "server", &near, &cluster.image).manifest(),
        Pod::idle(NAMESPACE, "client", &far, &cluster.image).manifest(),
    ])?;
    cluster.kubectl.ready(NAMESPACE, PATIENCE)?;
    let to = cluster.kubectl.pod_ip(&format!("{NAMESPACE}/server"))?;

    let broken = Broken::on(cluster, &far)?;
    gone(cluster, &far)?;
    // They fail, and say on standard error which node has none.
    for arguments in [["status"].as_slice(), &["pod", "list", "-A"], &["pod", "show", "weir-absent/client"]] {
        let outcome = match cluster.weir.run(arguments) {
            Ok(said) => Err(format!("exit code 0: {said}")),
            Err(why) if why.contains(&format!("node {far}: ")) => Ok(why),
            Err(why) => Err(why),
        };
        report.check(&format!("kubectl weir {}, without weir on {far}", arguments.join(" ")), outcome);
    }
    let script = format!("curl -sS -m 8 -o /dev/null -w '%{{http_code}}' http://{to}:8080/ 2>/dev/null; echo \" $?\"");
    let outcome = match cluster.kubectl.sh(&format!("{NAMESPACE}/client"), &script)?.trim() {
        "200 0" => Err("it was passed".to_owned()),
        said => Ok(format!("not carried, not passed: curl says {said}")),
    };
    report.check("a connection of an enrolled pod there", outcome);
    let held = Pod::first(NAMESPACE, "held", &far, &cluster.image, &to, 8080);
    cluster.kubectl.apply(&[held.manifest()])?;
    report.check("a new pod there is held, and an event says why", eventually("event", PATIENCE, || held_by(cluster)));
    drop(broken);

    report.check("weir comes back", cluster.kubectl.weir_ready(RECOVERY).map(|()| "rolled out".to_owned()));
    let outcome = eventually("answer", PATIENCE, || {
        cluster.kubectl.sh(&format!("{NAMESPACE}/client"), &format!("curl -fsS -m 8 http://{to}:8080/"))
    });
    report.check("the pod's connections are carried again", outcome.map(|said| said.trim().to_owned()));
    let first = First::of(cluster, &format!("{NAMESPACE}/held"), RECOVERY);
    report.check("the held pod starts enrolled", first.and_then(|first| first.was_redirected()));
    report.check("kubectl weir status", cluster.weir.run(&["status", "--check"]).map(|_| "well".to_owned()));
    Ok(())
}

/// An upgrade to an image that does not exist; rolled back when it goes.
struct Broken<'a>(&'a Cluster);

impl<'a> Broken<'a> {
    /// Takes weir's pod off a node, where its successor cannot start.
    fn on(cluster: &'a Cluster, node: &str) -> Result<Self, String> {
        let patch = json!({"spec": {"template": {"spec": {"initContainers": [{"name": "agent", "image": NO_IMAGE}]}}}});
        cluster.kubectl.run(&["-n", WEIR_NAMESPACE, "patch", "daemonset", "weir", "-p", &patch.to_string()])?;
        let this = Self(cluster);
        for (on, pod) in cluster.kubectl.weir_pods()? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if on == node {
                cluster.kubectl.run(&["-n", WEIR_NAMESPACE, "delete", "pod", name, "--wait=false"])?;
            }
        }
        Ok(this)
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if let Err(why) = self.0.kubectl.run(&["-n", WEIR_NAMESPACE, "rollout", "undo", "daemonset/weir"]) {
            println!("       the DaemonSet is left with a broken image: {why}");
        }
    }
}

/// Waits until a node has a pod of weir that cannot start, and no other.
fn gone(cluster: &Cluster, node: &str) -> Result<(), String> {
    eventually("end of weir's pod", RECOVERY, || {
        let arguments = ["-n", WEIR_NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=weir"];
        let field = format!("--field-selector=spec.nodeName={node}");
        let left = cluster.kubectl.json(&[arguments.as_slice(), &[&field]].concat())?;
        let left = left["items"].as_array().cloned().unwrap_or_default();
        match left.as_slice() {
            [pod] if pod["status"]["phase"] == "Pending" => Ok(()),
            pods => Err(format!("{} pods", pods.len())),
        }
    })
}

fn held_by(cluster: &Cluster) -> Result<String, String> {
    let fields = "--field-selector=reason=FailedCreatePodSandBox,involvedObject.name=held";
    let events = cluster.kubectl.json(&["-n", NAMESPACE, "get", "events", fields])?;
    let items = events["items"].as_array().cloned().unwrap_or_default();
    let messages = items.iter().filter_map(|event| event["message"].as_str());
    match messages.into_iter().find(|message| message.contains("weir")) {
        Some(message) => Ok(message.to_owned()),
        None => Err(format!("{} events", items.len())),
    }
}
