//! What clusters do to pods all day, under load: a node is drained, a container beside the server ends again and again.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use super::{Namespaces, PATIENCE};
use crate::cluster::{
    Cluster,
    fixture::{Pod, service},
    kubectl::eventually,
    report::Report,
    steady::Steady,
};

const BESIDE: &str = "weir-churn-beside";
const DRAINED: &str = "weir-churn-drained";
/// How long a container ends again and again.
const ENDING: Duration = Duration::from_secs(40);
/// How long a drain may take.
const DRAIN: Duration = Duration::from_secs(240);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("a drained node and restarting containers, under load");
    let (near, far) = cluster.two_nodes()?;
    if near == far {
        return Err("it takes two nodes".to_owned());
    }
    beside(cluster, report, &near, &far)?;
    drain(cluster, report, &near, &far)
}

/// A container ends again and again beside one that serves.
fn beside(cluster: &Cluster, report: &mut Report, near: &str, far: &str) -> Result<(), String> {
    let _namespaces = Namespaces::make(cluster, &[(BESIDE, true)])?;
    cluster.kubectl.apply(&[ending(far, &cluster.image)])?;
    let pod = format!("{BESIDE}/ending");
    let to = format!("{}:8080", cluster.kubectl.pod_ip(&pod)?);
    let mut steady = Steady::start_to(cluster, BESIDE, near, &to)?;
    steady.phase("a container beside the server ends again and again");
    let before = restarts(cluster, &pod)?;
    thread::sleep(ENDING);
    let outcome = restarts(cluster, &pod).and_then(|after| match after - before {
        0 => Err("none".to_owned()),
        times => Ok(times.to_string()),
    });
    report.check("restarts of the container meanwhile", outcome);
    let outcome = cluster.weir.state(&pod, "enrolled").map(|reason| format!("enrolled, reason {reason:?}"));
    report.check("kubectl weir shows its pod enrolled all the same", outcome);
    steady.finish(report)
}

/// A node is drained of pods that others find by their service.
fn drain(cluster: &Cluster, report: &mut Report, near: &str, far: &str) -> Result<(), String> {
    let _namespaces = Namespaces::make(cluster, &[(DRAINED, true)])?;
    let _uncordoned = Uncordoned { cluster, nodes: [near, far] };
    // All on the node that is drained later.
    cluster.kubectl.run(&["cordon", near])?;
    cluster.kubectl.apply(&[
        servers(&cluster.image),
        service(DRAINED, "servers", "servers", 80, 8080, json!({})),
        // Pods leave one by one, each when its successor is ready.
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
               "metadata": {"namespace": DRAINED, "name": "servers"},
               "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "servers"}}}}),
    ])?;
    ready(cluster)?;
    cluster.kubectl.run(&["uncordon", near])?;
    let found = cluster.kubectl.json(&["-n", DRAINED, "get", "service", "servers"])?;
    let to = format!("{}:80", found["spec"]["clusterIP"].as_str().ok_or("a service without an address")?);
    let mut steady = Steady::start_to(cluster, DRAINED, near, &to)?;
    steady.phase(&format!("drain of {far}"));
    let arguments = ["drain", far, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s"];
    let selector = ["--pod-selector=app=servers"];
    let outcome = cluster.kubectl.0.run(&[arguments.as_slice(), &selector].concat(), b"", DRAIN);
    report.check("drain", outcome.map(|_| "done".to_owned()));
    report.check("its pods run elsewhere, enrolled", moved(cluster, near));
    thread::sleep(Duration::from_secs(5));
    let outcome = cluster.weir.run(&["status", "--check"]).map(|_| "well".to_owned());
    report.check(&format!("kubectl weir status, {far} drained"), outcome);
    steady.finish(report)
}

/// Lets pods come again when it goes.
struct Uncordoned<'a> {
    cluster: &'a Cluster,
    nodes: [&'a str; 2],
}

impl Drop for Uncordoned<'_> {
    fn drop(&mut self) {
        let [near, far] = self.nodes;
        if let Err(why) = self.cluster.kubectl.run(&["uncordon", near, far]) {
            println!("       a node is left cordoned: {why}");
        }
    }
}

/// Two that go on serving until nobody finds them any more, as a deployment should.
fn servers(image: &str) -> Value {
    let pod = Pod::server(DRAINED, "servers", "", image)
        .container("readinessProbe", json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}))
        .container("lifecycle", json!({"preStop": {"exec": {"command": ["sleep", "8"]}}}))
        .spec("terminationGracePeriodSeconds", 20.into())
        .spec("tolerations", json!([]))
        .spec("nodeSelector", json!({}));
    pod.deployment(2)
}

/// A server with a container beside it that ends every second or as fast as the kubelet lets it.
fn ending(node: &str, image: &str) -> Value {
    let mut pod = Pod::server(BESIDE, "ending", node, image).manifest();
    let beside = json!({"name": "ending", "image": image, "imagePullPolicy": "IfNotPresent",
                        "command": ["sh", "-c", "sleep 1; exit 1"]});
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        containers.push(beside);
    }
    pod
}

fn ready(cluster: &Cluster) -> Result<(), String> {
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let arguments = ["-n", DRAINED, "rollout", "status", "deployment/servers", &limit];
    cluster.kubectl.0.run(&arguments, b"", 2 * PATIENCE).map(drop)
}

/// How often the one has ended; the other must not have.
fn restarts(cluster: &Cluster, pod: &str) -> Result<u64, String> {
    let pod = cluster.kubectl.pod(pod)?;
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let of = |name: &str| {
        let found = statuses.iter().find(|status| status["name"] == name);
        found.and_then(|status| status["restartCount"].as_u64()).unwrap_or_default()
    };
    match of("main") {
        0 => Ok(of("ending")),
        times => Err(format!("the server was restarted {times} times")),
    }
}

fn moved(cluster: &Cluster, to: &str) -> Result<String, String> {
    ready(cluster)?;
    eventually("pods elsewhere", PATIENCE, || {
        let pods = cluster.kubectl.json(&["-n", DRAINED, "get", "pods", "-l", "app=servers"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        for pod in &pods {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if pod["spec"]["nodeName"] != to {
                return Err(format!("{name} is on {}", pod["spec"]["nodeName"]));
            }
            cluster.weir.state(&format!("{DRAINED}/{name}"), "enrolled")?;
        }
        Ok(format!("{} pods on {to}", pods.len()))
    })
}
