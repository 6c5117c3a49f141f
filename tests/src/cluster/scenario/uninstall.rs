//! Install and uninstall under load, with pictures of every node before and after.

use std::time::Duration;

use super::Namespaces;
use crate::cluster::{
    Cluster, MESH_LABEL,
    kubectl::eventually,
    report::Report,
    snapshot::{self, Snapshot},
    steady::Steady,
};

const NAMESPACE: &str = "weir-uninstall-load";
const PATIENCE: Duration = Duration::from_secs(420);
/// How long the load goes on between.
const BETWEEN: Duration = Duration::from_secs(10);

/// Runs it: weir is taken off, put on and taken off again, and is there at the end.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("install and uninstall under load");
    let install = cluster.deed(&cluster.deeds.install, "--install")?;
    let uninstall = cluster.deed(&cluster.deeds.uninstall, "--uninstall")?;
    let (near, far) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, false)])?;
    let pods = [format!("{NAMESPACE}/load-client"), format!("{NAMESPACE}/load-server")];
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();

    report.check("uninstall of what is there", uninstall.run(&[], b"", PATIENCE).map(|_| "done".to_owned()));
    let mut steady = Steady::start(cluster, NAMESPACE, &near, &far)?;
    let before = snapshot::take(cluster, &pods)?;
    if let Some(file) = &cluster.before {
        report.check("nodes are as before the first install", compared_with(file, &before));
    }
    let watches = watches(cluster)?;

    steady.phase("install");
    let outcome = install.run(&[], b"", PATIENCE).and_then(|_| cluster.kubectl.weir_ready(PATIENCE));
    report.check("install", outcome.map(|()| "rolled out".to_owned()));
    steady.phase("label");
    cluster.kubectl.run(&["label", "namespace", NAMESPACE, &format!("{MESH_LABEL}=enabled")])?;
    for pod in &pods {
        cluster.weir.state(pod, "enrolled")?;
    }
    std::thread::sleep(BETWEEN);
    report.check("watches at the API server", one_watch_each(cluster, &watches));
    let during = snapshot::take(cluster, &pods)?;
    let changed = snapshot::differences(&before, &during).len();
    let outcome = if changed > 0 { Ok(format!("{changed} lines")) } else { Err("none".to_owned()) };
    report.check("differences while weir is installed", outcome);

    steady.phase("uninstall");
    report.check("uninstall", uninstall.run(&[], b"", PATIENCE).map(|_| "done".to_owned()));
    std::thread::sleep(BETWEEN);
    let outcome = eventually("sameness", Duration::from_secs(60), || {
        let differences = snapshot::differences(&before, &snapshot::take(cluster, &pods)?);
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
    });
    let lines: usize = before.values().map(Vec::len).sum();
    report.check("nodes and pods are as before install", outcome.map(|()| format!("{lines} lines equal")));
    steady.finish(report)?;
    report.check("install again", install.run(&[], b"", PATIENCE).map(|_| "done".to_owned()));
    Ok(())
}

fn compared_with(file: &std::path::Path, now: &Snapshot) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let first: Snapshot = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let nodes: Snapshot = now.iter().filter(|(place, _)| place.starts_with("node")).map(clone).collect();
    let first: Snapshot = first.iter().filter(|(place, _)| place.starts_with("node")).map(clone).collect();
    let differences = snapshot::differences(&first, &nodes);
    if differences.is_empty() {
        return Ok(format!("{} lines equal", first.values().map(Vec::len).sum::<usize>()));
    }
    Err(differences.join("; "))
}

fn clone((place, lines): (&String, &Vec<String>)) -> (String, Vec<String>) {
    (place.clone(), lines.clone())
}

/// Watches of the whole cluster's pods, namespaces and nodes that the API server serves.
fn watches(cluster: &Cluster) -> Result<Vec<(&'static str, u64)>, String> {
    let metrics = cluster.kubectl.run(&["get", "--raw", "/metrics"])?;
    let of = |resource: &'static str| {
        let wanted = |line: &&str| {
            line.starts_with("apiserver_longrunning_requests{")
                && line.contains(&format!("resource=\"{resource}\""))
                && line.contains("verb=\"WATCH\"")
        };
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        (resource, metrics.lines().filter(wanted).filter_map(count).sum::<f64>() as u64)
    };
    Ok(vec![of("pods"), of("namespaces"), of("nodes")])
}

fn one_watch_each(cluster: &Cluster, before: &[(&'static str, u64)]) -> Result<String, String> {
    let nodes = cluster.node_names()?.len() as u64;
    eventually("steady watches", Duration::from_secs(60), || {
        let now = watches(cluster)?;
        let more: Vec<(&str, u64)> =
            before.iter().zip(&now).map(|((name, before), (_, now))| (*name, now.saturating_sub(*before))).collect();
        let said = format!("{more:?} more, {nodes} nodes");
        if more.iter().all(|(_, more)| *more <= nodes) { Ok(said) } else { Err(said) }
    })
}
