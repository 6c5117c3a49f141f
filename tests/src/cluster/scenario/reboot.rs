//! A node reboots: pods of enrolled namespaces are held until weir is there, others start at once.

use super::{Namespaces, PATIENCE, first::First};
use crate::cluster::{Cluster, fixture::Pod, kubectl::eventually, report::Report};
use std::time::Duration;

const MESH: &str = "weir-reboot";
const PLAIN: &str = "weir-reboot-plain";
/// Pods of each kind.
const PODS: u32 = 3;
/// How long a node may take to come back.
const RECOVERY: Duration = Duration::from_secs(300);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("reboot of a node");
    let reboot = cluster.deed(&cluster.deeds.reboot, "--reboot")?;
    let (near, far) = cluster.two_nodes()?;
    if near == far {
        return Err("needs two nodes".to_owned());
    }
    let _namespaces = Namespaces::make(cluster, &[(MESH, true), (PLAIN, false)])?;
    cluster.kubectl.apply(&[Pod::server(PLAIN, "server", &near, &cluster.image).manifest()])?;
    let to = cluster.kubectl.pod_ip(&format!("{PLAIN}/server"))?;
    let pods: Vec<(String, &str)> =
        (0..PODS).flat_map(|at| [(format!("mesh-{at}"), MESH), (format!("plain-{at}"), PLAIN)]).collect();
    let manifests: Vec<_> = pods
        .iter()
        .map(|(name, namespace)| Pod::first(namespace, name, &far, &cluster.image, &to, 8080).manifest())
        .collect();
    cluster.kubectl.apply(&manifests)?;
    for (name, namespace) in &pods {
        First::of(cluster, &format!("{namespace}/{name}"), PATIENCE)?;
    }
    reboot.on(&far).run(&[], b"", RECOVERY)?;
    let mut starts = Vec::new();
    for (name, namespace) in &pods {
        let pod = format!("{namespace}/{name}");
        let outcome = eventually("start after the reboot", RECOVERY, || {
            let found = cluster.kubectl.pod(&pod)?;
            let status = &found["status"]["containerStatuses"][0];
            let started = status["state"]["running"]["startedAt"].as_str();
            match (status["restartCount"].as_u64(), started) {
                (Some(1..), Some(started)) => Ok(started.to_owned()),
                (restarts, _) => Err(format!("{restarts:?} restarts, {}", status["state"])),
            }
        });
        let outcome = outcome.and_then(|started| {
            let first = First::of(cluster, &pod, PATIENCE)?;
            let said = if *namespace == MESH { first.was_redirected() } else { first.was_left_alone() }?;
            starts.push((*namespace, started.clone()));
            Ok(format!("started {started}: {said}"))
        });
        report.check(&pod, outcome);
    }
    cluster.kubectl.weir_ready(RECOVERY)?;
    let agent = cluster.kubectl.weir_pods()?.into_iter().find(|(node, _)| *node == far);
    let agent =
        agent.map(|(_, pod)| pod["status"]["initContainerStatuses"][0]["state"]["running"]["startedAt"].clone());
    report.note(&format!("weir's agent started {}", agent.unwrap_or_default()));
    let earliest = |of: &str| starts.iter().filter(|(namespace, _)| *namespace == of).map(|(_, at)| at).min();
    if let (Some(mesh), Some(plain)) = (earliest(MESH), earliest(PLAIN)) {
        report.note(&format!("first start of a pod that is not enrolled {plain}, of an enrolled one {mesh}"));
        let outcome = if plain <= mesh { Ok("yes".to_owned()) } else { Err(format!("{plain} after {mesh}")) };
        report.check("pods that are not enrolled did not wait for weir", outcome);
    }
    Ok(())
}
