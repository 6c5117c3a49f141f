//! Rolling upgrades of the DaemonSet under load.

use std::time::Duration;

use super::{Namespaces, disruptions::Newcomers};
use crate::cluster::{Cluster, WEIR_NAMESPACE, report::Report, steady::Steady};

const NAMESPACE: &str = "weir-upgrade";
const UPGRADES: u32 = 3;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("rolling upgrades under load");
    let (near, far) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, true)])?;
    let mut steady = Steady::start(cluster, NAMESPACE, &near, &far)?;
    let mut newcomers = Newcomers::new(cluster, NAMESPACE, &[&near, &far])?;
    for round in 1..=UPGRADES {
        let name = format!("rolling upgrade {round}");
        steady.phase(&name);
        let patch = serde_json::json!({"spec": {"template": {"metadata": {"annotations": {
            "weir.dev/acceptance": format!("{round} {}", std::process::id()),
        }}}}});
        let before = std::time::Instant::now();
        cluster.kubectl.run(&["-n", WEIR_NAMESPACE, "patch", "daemonset", "weir", "-p", &patch.to_string()])?;
        newcomers.create()?;
        let outcome = cluster.kubectl.weir_ready(PATIENCE);
        report.check(&name, outcome.map(|()| format!("rolled out in {:.0?}", before.elapsed())));
        newcomers.check(report, &name);
        // The older proxy drains for a while yet.
        std::thread::sleep(Duration::from_secs(5));
    }
    steady.finish(report)
}
