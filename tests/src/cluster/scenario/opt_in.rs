//! Labels and annotations: what opts in and out, on running pods and on new ones, and what is said of those left out.

use super::{Namespaces, PATIENCE, first::First};
use crate::cluster::{Cluster, MESH_LABEL, fixture::Pod, kubectl::eventually, report::Report};
use weir_abi::Rule;

const MESH: &str = "weir-opt-in";
const PLAIN: &str = "weir-opt-out";
const WITH_LABEL: &str = "weir.dev/mesh=enabled";
const WITHOUT_LABEL: &str = "weir.dev/mesh-";

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("opt-in and opt-out");
    let (near, far) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(MESH, true), (PLAIN, false)])?;
    let image = cluster.image.as_str();
    cluster.kubectl.apply(&[
        Pod::server(PLAIN, "server", &far, image).manifest(),
        Pod::idle(PLAIN, "client", &near, image).manifest(),
    ])?;
    cluster.kubectl.ready(PLAIN, PATIENCE)?;
    let to = cluster.kubectl.pod_ip(&format!("{PLAIN}/server"))?;
    report.check("a running namespace is labelled", labelled(cluster, &to));
    report.check("the label is removed", unlabelled(cluster, &to));

    let first = |namespace: &str, name: &str| Pod::first(namespace, name, &near, image, &to, 8080);
    cluster.kubectl.apply(&[
        first(MESH, "default").manifest(),
        first(MESH, "out").label(MESH_LABEL, "disabled").manifest(),
        first(PLAIN, "in").label(MESH_LABEL, "enabled").manifest(),
        first(PLAIN, "default").manifest(),
        first(MESH, "excluded-port").annotation("weir.dev/exclude-outbound-ports", "8080").manifest(),
        first(MESH, "excluded-cidr").annotation("weir.dev/exclude-outbound-cidrs", &format!("{to}/32")).manifest(),
        first(MESH, "host").host_network().manifest(),
    ])?;
    for (pod, redirected) in [
        ("weir-opt-in/default", true),
        ("weir-opt-in/out", false),
        ("weir-opt-out/in", true),
        ("weir-opt-out/default", false),
        ("weir-opt-in/excluded-port", false),
        ("weir-opt-in/excluded-cidr", false),
        ("weir-opt-in/host", false),
    ] {
        let first = First::of(cluster, pod, PATIENCE);
        let judge = if redirected { First::was_redirected } else { First::was_left_alone };
        report.check(&format!("{pod}, from its first connection"), first.and_then(|first| judge(&first)));
    }
    for pod in ["weir-opt-in/out", "weir-opt-in/host"] {
        report.check(&format!("pod show {pod} says why not"), said(cluster, pod, "passed-over", ""));
    }
    malformed(cluster, report, &near, &to)?;
    replaced(cluster, report, &near, &to)?;
    restarted(cluster, report, &near)?;
    report.check("Kubernetes event Enrolled", enrolled_event(cluster));
    Ok(())
}

fn labelled(cluster: &Cluster, to: &str) -> Result<String, String> {
    cluster.kubectl.run(&["label", "namespace", PLAIN, WITH_LABEL])?;
    let client = format!("{PLAIN}/client");
    cluster.weir.state(&client, "enrolled")?;
    cluster.weir.state(&format!("{PLAIN}/server"), "enrolled")?;
    cluster.kubectl.sh(&client, &format!("curl -fsS -m 10 http://{to}:8080/"))?;
    match cluster.weir.counters(&client)?.of(Rule::Redirected) {
        0 => Err("nothing was redirected".to_owned()),
        times => Ok(format!("client and server enrolled, {times} redirected")),
    }
}

fn unlabelled(cluster: &Cluster, to: &str) -> Result<String, String> {
    cluster.kubectl.run(&["label", "namespace", PLAIN, WITHOUT_LABEL])?;
    let client = format!("{PLAIN}/client");
    eventually("withdrawal", PATIENCE, || match cluster.weir.pod(&client) {
        Ok(row) if row["state"] == "enrolled" || row["state"] == "withdrawing" => Err(row["state"].to_string()),
        _ => Ok(()),
    })?;
    let script = format!("curl -fsS -m 10 http://{to}:8080/ && cat /proc/net/tcp");
    let said = cluster.kubectl.sh(&client, &script)?;
    // 3A99 is 15001, and 0A is a listening socket; connections of before may go on.
    if said.lines().any(|line| line.contains(":3A99 00000000:0000 0A")) {
        return Err("a socket that listens on port 15001 is left in the pod".to_owned());
    }
    Ok("withdrawn, no socket left, traffic passes".to_owned())
}

fn said(cluster: &Cluster, pod: &str, state: &str, word: &str) -> Result<String, String> {
    eventually("reason", PATIENCE, || {
        let reason = cluster.weir.state(pod, state)?;
        if reason.is_empty() || !reason.contains(word) {
            return Err(format!("{state}: {reason:?}, expected a reason with {word:?}"));
        }
        Ok(format!("{state}: {reason}"))
    })
}

fn malformed(cluster: &Cluster, report: &mut Report, near: &str, to: &str) -> Result<(), String> {
    let annotation = "weir.dev/exclude-outbound-ports";
    let pod = Pod::first(MESH, "malformed", near, &cluster.image, to, 8080).annotation(annotation, "80,http");
    cluster.kubectl.apply(&[pod.manifest()])?;
    let name = format!("{MESH}/malformed");
    report.check("a malformed annotation holds the pod, with the reason", said(cluster, &name, "pending", annotation));
    cluster.kubectl.run(&[
        "-n",
        MESH,
        "annotate",
        "--overwrite",
        "pod",
        "malformed",
        "weir.dev/exclude-outbound-ports=81",
    ])?;
    let first = First::of(cluster, &name, PATIENCE);
    report.check("mended, it starts enrolled", first.and_then(|first| first.was_redirected()));
    Ok(())
}

fn replaced(cluster: &Cluster, report: &mut Report, near: &str, to: &str) -> Result<(), String> {
    let name = format!("{MESH}/default");
    let before = cluster.kubectl.pod(&name)?["metadata"]["uid"].clone();
    cluster.kubectl.run(&["-n", MESH, "delete", "pod", "default", "--wait"])?;
    cluster.kubectl.apply(&[Pod::first(MESH, "default", near, &cluster.image, to, 8080).manifest()])?;
    let first = First::of(cluster, &name, PATIENCE);
    report.check("a pod is replaced under its name", first.and_then(|first| first.was_redirected()));
    cluster.weir.state(&name, "enrolled")?;
    let after = cluster.weir.pod(&name)?["uid"].clone();
    let outcome = if after == before { Err("it has the old uid".to_owned()) } else { Ok("the new uid".to_owned()) };
    report.check("kubectl weir shows the new one", outcome);
    Ok(())
}

fn restarted(cluster: &Cluster, report: &mut Report, near: &str) -> Result<(), String> {
    let name = format!("{MESH}/default");
    for (what, restarts) in [("all containers", 1), ("the sandbox", 2)] {
        let pod = cluster.kubectl.pod(&name)?;
        let victims = match what {
            "the sandbox" => cluster.nodes.pod_processes(near, &pod),
            _ => cluster.nodes.processes(near, &pod, "main"),
        };
        let outcome = victims.and_then(|victims| cluster.nodes.kill(near, &victims)).and_then(|()| {
            eventually("restart", PATIENCE, || {
                let count = cluster.kubectl.pod(&name)?["status"]["containerStatuses"][0]["restartCount"].as_u64();
                if count >= Some(restarts) { Ok(()) } else { Err(format!("{count:?} restarts")) }
            })?;
            let first = First::of(cluster, &name, PATIENCE)?.was_redirected()?;
            cluster.weir.state(&name, "enrolled")?;
            Ok(first)
        });
        report.check(&format!("restart of {what}"), outcome);
    }
    Ok(())
}

fn enrolled_event(cluster: &Cluster) -> Result<String, String> {
    eventually("event", PATIENCE, || {
        let events = cluster.kubectl.json(&["-n", MESH, "get", "events", "--field-selector", "reason=Enrolled"])?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let first = items.first().ok_or("none")?;
        Ok(format!("{} on {}", first["message"], first["involvedObject"]["name"]))
    })
}
