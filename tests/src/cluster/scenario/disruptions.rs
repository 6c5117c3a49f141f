//! Things that end while traffic goes on: weir's pods, its processes, the API server, kubelets. No request may be lost,
//! and no new pod may pass unenrolled.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Namespaces, PATIENCE, first::First};
use crate::cluster::{Cluster, WEIR_NAMESPACE, fixture::Pod, kubectl::eventually, report::Report, steady::Steady};

const NAMESPACE: &str = "weir-disruptions";
/// How long weir may take to be whole again.
const RECOVERY: Duration = Duration::from_secs(240);
/// How long each phase goes on after everything is well again.
const AFTER: Duration = Duration::from_secs(5);
/// How often pods are killed while the API server is away.
const KILLS: Duration = Duration::from_secs(30);

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("disruptions under load");
    let (near, far) = cluster.two_nodes()?;
    let nodes = if near == far { vec![near.as_str()] } else { vec![near.as_str(), far.as_str()] };
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, true)])?;
    let mut steady = Steady::start(cluster, NAMESPACE, &near, &far)?;
    let mut newcomers = Newcomers::new(cluster, NAMESPACE, &nodes)?;

    steady.phase("nothing");
    newcomers.create()?;
    newcomers.check(report, "nothing");
    thread::sleep(AFTER);

    phase(cluster, report, &mut steady, &mut newcomers, "delete pod of weir on every node", |steady| {
        let pods = cluster.kubectl.weir_pods()?;
        let names: Vec<&str> = pods.iter().filter_map(|(_, pod)| pod["metadata"]["name"].as_str()).collect();
        // They drain: nothing that is under way breaks, so nothing is excused.
        let _ = &steady;
        cluster.kubectl.run(&[&["-n", WEIR_NAMESPACE, "delete", "pod", "--wait=false"], names.as_slice()].concat())
    });
    for container in ["agent", "proxy"] {
        for node in &nodes {
            let name = format!("kill -9 of the {container} container on {node}");
            phase(cluster, report, &mut steady, &mut newcomers, &name, |steady| {
                let processes = weirs_processes(cluster, node, container)?;
                match container {
                    "proxy" => steady.kill(|| cluster.nodes.kill(node, &processes))?,
                    _ => cluster.nodes.kill(node, &processes)?,
                }
                Ok(format!("{processes:?}"))
            });
        }
    }
    for node in &nodes {
        let name = format!("kill -9 of both containers at once on {node}");
        phase(cluster, report, &mut steady, &mut newcomers, &name, |steady| {
            // The keeper has the sockets, so connections wait; the kubelet takes its time with a container that ended
            // before, and a pod may have so many connections and no more.
            steady.may_lose();
            let both = [weirs_processes(cluster, node, "agent")?, weirs_processes(cluster, node, "proxy")?].concat();
            steady.kill(|| cluster.nodes.kill(node, &both))?;
            Ok(format!("{both:?}"))
        });
    }
    for node in &nodes {
        phase(cluster, report, &mut steady, &mut newcomers, &format!("restart of the kubelet on {node}"), |_| {
            let command = cluster.deed(&cluster.deeds.kubelet_restart, "--kubelet-restart")?;
            command.on(node).run(&[], b"", PATIENCE)
        });
    }
    if let Err(why) = outage(cluster, report, &mut steady, &mut newcomers, &nodes) {
        report.check("API server away", Err(why));
    }
    steady.finish(report)
}

/// One disruption: done, new pods made at once, weir whole again, the new pods enrolled.
fn phase<'a>(
    cluster: &Cluster,
    report: &mut Report,
    steady: &mut Steady<'a>,
    newcomers: &mut Newcomers<'_>,
    name: &str,
    disrupt: impl FnOnce(&mut Steady<'a>) -> Result<String, String>,
) {
    steady.phase(name);
    let before = Instant::now();
    let outcome = disrupt(steady).and_then(|_| newcomers.create()).and_then(|()| {
        // The status is as it was for a moment yet.
        thread::sleep(Duration::from_secs(2));
        whole(cluster)?;
        Ok(format!("weir is whole again after {:.0?}", before.elapsed()))
    });
    if report.check(name, outcome) {
        newcomers.check(report, name);
        thread::sleep(AFTER);
    }
}

/// Waits until weir runs on every node.
fn whole(cluster: &Cluster) -> Result<(), String> {
    eventually("weir on every node", RECOVERY, || {
        cluster.kubectl.weir_ready(Duration::from_secs(20))?;
        cluster.weir.run(&["status"]).map(drop)
    })
}

fn weirs_processes(cluster: &Cluster, node: &str, container: &str) -> Result<Vec<u32>, String> {
    let pods = cluster.kubectl.weir_pods()?;
    let (_, pod) = pods.iter().find(|(on, _)| on == node).ok_or_else(|| format!("no weir on {node}"))?;
    cluster.nodes.processes(node, pod, container)
}

/// The API server is away; meanwhile sandboxes and containers of pods are killed, and the agent once.
fn outage<'a>(
    cluster: &Cluster,
    report: &mut Report,
    steady: &mut Steady<'a>,
    newcomers: &mut Newcomers<'_>,
    nodes: &[&str],
) -> Result<(), String> {
    let stop = cluster.deed(&cluster.deeds.api_stop, "--api-stop")?;
    let start = cluster.deed(&cluster.deeds.api_start, "--api-start")?;
    let victims = newcomers.create_named("victim")?;
    newcomers.check(report, "before the API server goes away");
    let described: Vec<(String, Value)> = victims
        .iter()
        .map(|(node, pod)| Ok((node.clone(), cluster.kubectl.pod(pod)?)))
        .collect::<Result<_, String>>()?;
    let agents = nodes
        .iter()
        .map(|node| Ok((*node, weirs_processes(cluster, node, "agent")?)))
        .collect::<Result<Vec<_>, String>>()?;

    let phase = format!("API server away for {:.0?}", cluster.api_outage);
    steady.phase(&phase);
    let began = Instant::now();
    stop.run(&[], b"", PATIENCE)?;
    // Whatever fails meanwhile, it must come back.
    let outcome = (|| {
        let mut killed = (0, 0);
        while began.elapsed() + KILLS < cluster.api_outage {
            for (node, pod) in &described {
                // One that waits to be restarted has no process.
                if let Ok(processes) = cluster.nodes.pod_processes(node, pod) {
                    cluster.nodes.kill(node, &processes)?;
                    killed.0 += 1;
                }
            }
            if killed.1 == 0 && began.elapsed() > cluster.api_outage / 2 {
                for (node, processes) in &agents {
                    cluster.nodes.kill(node, processes)?;
                    killed.1 += 1;
                }
            }
            thread::sleep(KILLS);
        }
        thread::sleep(cluster.api_outage.saturating_sub(began.elapsed()));
        Ok::<_, String>(killed)
    })();
    start.run(&[], b"", PATIENCE)?;
    let (sandboxes, agents) = outcome?;
    eventually("API server", RECOVERY, || cluster.kubectl.run(&["get", "--raw", "/readyz"]).map(drop))?;
    report.check(
        &phase,
        whole(cluster).map(|()| format!("meanwhile {sandboxes} sandboxes and {agents} agents were killed")),
    );
    for (_, pod) in &victims {
        let outcome = eventually("restart", RECOVERY, || {
            let restarts = cluster.kubectl.pod(pod)?["status"]["containerStatuses"][0]["restartCount"].as_u64();
            match restarts {
                Some(1..) => First::of(cluster, pod, PATIENCE)?.was_redirected().map(|said| (restarts, said)),
                _ => Err(format!("{restarts:?} restarts")),
            }
        });
        report.check(
            &format!("{pod}, killed meanwhile"),
            outcome.map(|(restarts, said)| format!("{} restarts, the last one: {said}", restarts.unwrap_or_default())),
        );
    }
    newcomers.create()?;
    newcomers.check(report, "the API server is back");
    thread::sleep(AFTER);
    Ok(())
}

/// New pods, one on each node, that connect with their first breath.
pub struct Newcomers<'a> {
    cluster: &'a Cluster,
    namespace: &'static str,
    nodes: Vec<String>,
    to: String,
    made: u32,
    waiting: Vec<String>,
}

impl<'a> Newcomers<'a> {
    /// Pods of a namespace with a load server, which they connect to.
    pub fn new(cluster: &'a Cluster, namespace: &'static str, nodes: &[&str]) -> Result<Self, String> {
        let to = cluster.kubectl.pod_ip(&format!("{namespace}/load-server"))?;
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Ok(Self { cluster, namespace, nodes, to, made: 0, waiting: Vec::new() })
    }

    /// Makes one on each node.
    pub fn create(&mut self) -> Result<(), String> {
        self.create_named("newcomer").map(drop)
    }

    /// Makes one on each node; gives nodes and pods.
    pub fn create_named(&mut self, name: &str) -> Result<Vec<(String, String)>, String> {
        let mut made = Vec::new();
        for node in self.nodes.clone() {
            self.made += 1;
            let name = format!("{name}-{}", self.made);
            let pod = Pod::first(self.namespace, &name, &node, &self.cluster.image, &self.to, 8080);
            self.cluster.kubectl.apply(&[pod.manifest()])?;
            self.waiting.push(format!("{}/{name}", self.namespace));
            made.push((node, format!("{}/{name}", self.namespace)));
        }
        Ok(made)
    }

    /// Checks that those made since the last time were redirected from their first connection on.
    pub fn check(&mut self, report: &mut Report, phase: &str) {
        for pod in std::mem::take(&mut self.waiting) {
            let first = First::of(self.cluster, &pod, PATIENCE);
            let name = pod.rsplit('/').next().unwrap_or(&pod);
            report.check(&format!("{phase}: new pod {name}"), first.and_then(|first| first.was_redirected()));
        }
    }
}
