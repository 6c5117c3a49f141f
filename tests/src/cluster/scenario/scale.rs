//! Many pods on one node: what enrolment costs, and that flips and replacements leave nothing behind.

use std::{thread, time::Duration};

use serde_json::Value;

use super::Namespaces;
use crate::{
    cluster::{Cluster, fixture::Pod, kubectl::eventually, node::Usage, report::Report},
    weirctl::text,
};

const NAMESPACE: &str = "weir-scale";
const PATIENCE: Duration = Duration::from_secs(900);
/// CPU time of the agent that one enrolment may take.
const BUDGET: Duration = Duration::from_millis(50);
/// How long things may take to be let go of.
const SETTLED: Duration = Duration::from_secs(45);
/// Descriptors that may come and go at any time: API calls and the like.
const SLACK: u64 = 16;
/// Growth of resident memory by the flips that is not a leak but an allocator's habit, in kB.
const MEMORY_SLACK: u64 = 16 * 1024;
/// Growth over the second half of the replacements, when the allocator has what it needs, in kB.
const LEAK: u64 = 4 * 1024;

/// What there is on the node.
#[derive(Debug)]
struct Held {
    agent: Usage,
    proxy: Usage,
    entries: u64,
    programs: u64,
    links: u64,
    namespaces: u64,
}

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario(&format!("{} pods on one node", cluster.pods));
    let (node, _) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(NAMESPACE, true)])?;
    let processes = Processes::of(cluster, &node)?;
    let empty = held(cluster, &node, processes)?;
    report.note(&format!("before: {empty:?}"));

    let light = Pod::idle(NAMESPACE, "light", &node, &cluster.image).command(&["sleep", "1000000"]);
    let light =
        light.spec("automountServiceAccountToken", false.into()).spec("terminationGracePeriodSeconds", 0.into());
    cluster.kubectl.apply(&[light.deployment(cluster.pods)])?;
    enrolled(cluster, cluster.pods)?;
    let full = held(cluster, &node, processes)?;
    report.note(&format!("with {} pods: {full:?}", cluster.pods));
    let each = (full.agent.cpu.saturating_sub(empty.agent.cpu)) / cluster.pods.max(1);
    let said = format!("{each:.1?} of the agent's CPU time each");
    report.check("enrolment", if each < BUDGET { Ok(said) } else { Err(said) });

    let rounds = cluster.flips.div_ceil(cluster.pods.max(1));
    let outcome = (0..rounds).try_for_each(|round| {
        let out = round % 2 == 0;
        let label = if out { "weir.dev/mesh=disabled" } else { "weir.dev/mesh-" };
        let arguments = ["-n", NAMESPACE, "label", "--overwrite", "pod", "-l", "app=light", label];
        cluster.kubectl.0.run(&arguments, b"", PATIENCE)?;
        enrolled(cluster, if out { 0 } else { cluster.pods })
    });
    let outcome = outcome.and_then(|()| {
        cluster.kubectl.0.run(
            &["-n", NAMESPACE, "label", "pod", "-l", "app=light", "weir.dev/mesh-"],
            b"",
            PATIENCE,
        )?;
        enrolled(cluster, cluster.pods)
    });
    report.check("label flips", outcome.map(|()| format!("{}", rounds * cluster.pods)));
    compare(report, "after the flips", &full, (&full, MEMORY_SLACK), cluster, &node, processes)?;

    let mut replaced = 0;
    let mut half = None;
    let outcome = loop {
        if replaced >= cluster.replacements {
            break Ok(());
        }
        let arguments = ["-n", NAMESPACE, "delete", "pod", "-l", "app=light", "--wait", "--timeout=600s"];
        let round = cluster.kubectl.0.run(&arguments, b"", PATIENCE).and_then(|_| enrolled(cluster, cluster.pods));
        if let Err(why) = round {
            break Err(format!("after {replaced}: {why}"));
        }
        replaced += cluster.pods;
        let now = held(cluster, &node, processes)?;
        report.note(&format!("{replaced} replaced: {now:?}"));
        if replaced >= cluster.replacements / 2 {
            half.get_or_insert(now);
        }
    };
    report.check("pod replacements", outcome.map(|()| format!("{replaced}")));
    // What many pods at once took is kept for the next ones; what goes on growing is lost.
    let memory = (half.as_ref().unwrap_or(&full), LEAK);
    compare(report, "after the replacements", &full, memory, cluster, &node, processes)?;

    cluster.kubectl.run(&["-n", NAMESPACE, "scale", "deployment", "light", "--replicas=0"])?;
    enrolled(cluster, 0)?;
    compare(report, "after all pods are gone", &empty, memory, cluster, &node, processes)
}

/// weir's processes on the node.
#[derive(Clone, Copy, Debug)]
struct Processes {
    agent: u32,
    proxy: u32,
}

impl Processes {
    fn of(cluster: &Cluster, node: &str) -> Result<Self, String> {
        let pods = cluster.kubectl.weir_pods()?;
        let (_, pod) = pods.iter().find(|(on, _)| on == node).ok_or_else(|| format!("no weir on {node}"))?;
        let first = |container: &str| {
            let processes = cluster.nodes.processes(node, pod, container)?;
            processes.first().copied().ok_or_else(|| format!("no {container}"))
        };
        Ok(Self { agent: first("agent")?, proxy: first("proxy")? })
    }
}

/// Waits until exactly so many pods of the namespace are enrolled, and none is on its way.
fn enrolled(cluster: &Cluster, wanted: u32) -> Result<(), String> {
    eventually(&format!("{wanted} enrolled pods"), PATIENCE, || {
        let list = cluster.weir.json(&["pod", "list", "-n", NAMESPACE])?;
        let rows: &[Value] = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |state: &str| rows.iter().filter(|row| text(row, "state") == state).count();
        let (enrolled, pending) = (of("enrolled"), of("pending") + of("withdrawing"));
        if enrolled == wanted as usize && pending == 0 {
            return Ok(());
        }
        Err(format!("{enrolled} enrolled, {pending} pending or withdrawing"))
    })
}

fn held(cluster: &Cluster, node: &str, processes: Processes) -> Result<Held, String> {
    let maps = cluster.weir.json(&["--node", node, "map", "list"])?;
    let mut entries = 0;
    // Arrays have all their entries always, and socket storage belongs to sockets.
    for map in maps.as_array().into_iter().flatten().filter(|map| text(map, "type").contains("hash")) {
        let dump = cluster.weir.json(&["--node", node, "map", "dump", text(map, "name")])?;
        entries += dump.as_array().map_or(0, Vec::len) as u64;
    }
    let programs = cluster.weir.json(&["--node", node, "prog", "list"])?;
    let count = |script: &str| -> Result<u64, String> {
        let text = cluster.nodes.sh(node, script)?;
        text.trim().parse().map_err(|error| format!("{text}: {error}"))
    };
    Ok(Held {
        agent: cluster.nodes.usage(node, processes.agent)?,
        proxy: cluster.nodes.usage(node, processes.proxy)?,
        entries,
        programs: programs.as_array().map(|rows| rows.len() as u64).unwrap_or_default(),
        links: count("find /sys/fs/bpf/weir -path '*/links/*' | wc -l")?,
        namespaces: count("ls /run/netns | wc -l")?,
    })
}

fn compare(
    report: &mut Report,
    when: &str,
    before: &Held,
    (memory, growth): (&Held, u64),
    cluster: &Cluster,
    node: &str,
    processes: Processes,
) -> Result<(), String> {
    thread::sleep(SETTLED);
    let after = held(cluster, node, processes)?;
    report.note(&format!("{when}: {after:?}"));
    for (what, before, after, slack) in [
        ("descriptors of the agent", before.agent.descriptors, after.agent.descriptors, SLACK),
        ("descriptors of the proxy", before.proxy.descriptors, after.proxy.descriptors, SLACK),
        ("resident memory of the agent, kB", memory.agent.resident, after.agent.resident, growth),
        ("resident memory of the proxy, kB", memory.proxy.resident, after.proxy.resident, growth),
        // PENDING and the like come and go with connections.
        ("map entries", before.entries, after.entries, SLACK),
        ("programs", before.programs, after.programs, 0),
        ("links", before.links, after.links, 0),
        ("network namespaces", before.namespaces, after.namespaces, 0),
    ] {
        let said = format!("{before} before, {after} after");
        report.check(&format!("{what}, {when}"), if after <= before + slack { Ok(said) } else { Err(said) });
    }
    Ok(())
}
