//! What the user watches, step by step.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::lab::{CLIENT, Lab, NODE_A, NODE_B, Node, OUTSIDER, PORT, PROBE_PORT, Pod, V1, V2, number, wait_for};
use super::show::Show;

/// The service: no interface, route or socket has this address.
const SERVICE: &str = "http://10.96.0.10/";
/// Requests of the measurement.
const REQUESTS: usize = 1000;
/// Percentage of requests that the bootstrap gives to v2.
const V2_WEIGHT: f64 = 80.0;
/// How far the measured percentage may be off. 1000 draws at 80 % have a standard deviation of 1.26 points: 6 points is
/// 4.7 of them, which chance exceeds three times in a million runs.
const TOLERANCE: f64 = 6.0;
/// How long the trace may take to show what happened.
const TRACE_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for further lines.
const TRACE_QUIET: Duration = Duration::from_millis(700);

/// Runs all steps; an error is one that keeps the demo from going on, a failed promise is in `show`.
pub async fn tell(lab: &Lab, show: &mut Show) -> Result<()> {
    nodes_and_pods(lab, show).await?;
    weir_on_both(lab, show).await?;
    service_address(lab, show).await?;
    live_trace(lab, show).await?;
    weights_and_retries(lab, show).await?;
    real_client(lab, show).await?;
    outsider(lab, show).await?;
    probe(lab, show).await?;
    programs(lab, show).await
}

async fn nodes_and_pods(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "Two nodes, four pods",
        "Each is a network namespace on this machine; a bridge per node joins its pods, a cable joins the nodes. The \
         servers are nginx: reviews-v1 always answers, reviews-v2 answers 503 half the time. The outsider stays \
         outside the mesh.",
    );
    lab.wire().await?;
    lab.start_servers()?;
    show.wrote(
        "node-a 10.88.1.1 -------- 10.88.0.0/30 -------- node-b 10.88.2.1\n  \
         |- client    10.88.1.10                         |- reviews-v1  10.88.2.10\n  \
         `- outsider  10.88.1.11                         `- reviews-v2  10.88.2.11",
    );
    for pod in [&V1, &V2] {
        wait_for("nginx", || async { Ok(lab.attempt(&NODE_B_RUN.replace("{ip}", pod.ip)).await?.status.success()) })
            .await?;
    }
    let output = lab.attempt(&CLIENT.run(&format!("curl -sS --max-time 3 {SERVICE}"))).await?;
    show.typed(&CLIENT.run(&format!("curl -sS {SERVICE}")));
    show.wrote(&String::from_utf8_lossy(&output.stderr));
    show.check(
        "before weir, nothing answers at the service address",
        !output.status.success(),
        output.status.to_string(),
    );
    Ok(())
}

/// Asks a pod's probe port from node B.
const NODE_B_RUN: &str = "ip netns exec weir-demo-node-b curl -sS --max-time 3 http://{ip}:8081/";

async fn weir_on_both(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "An agent and a proxy on each node",
        "The agent holds the capabilities and loads eBPF; the proxy reads the pods' bytes and runs as uid 65532 with \
         no capability. Pods are enrolled from a file, while they run.",
    );
    for node in [&NODE_A, &NODE_B] {
        for command in lab.start_commands(node) {
            show.typed(&format!("{command} &"));
        }
    }
    let started = Instant::now();
    for node in [&NODE_A, &NODE_B] {
        lab.start_weir(node).await?;
    }
    let took = started.elapsed();
    show.say("");
    for node in [&NODE_A, &NODE_B] {
        shown(lab, show, &node.weirctl("pod list")).await?;
    }
    shown(lab, show, &NODE_A.weirctl("status")).await?;
    show.check("three pods are enrolled, proxies ready", true, format!("{:.1} s for both nodes", took.as_secs_f64()));
    let pid = number(&lab.json(&NODE_A, "status").await?["proxies"][0]["pid"]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the proxy's /proc/PID/status")?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
    };
    let (uid, effective, bounding) = (field("Uid"), field("CapEff"), field("CapBnd"));
    let none = |set: &str| set.bytes().all(|digit| digit == b'0') && !set.is_empty();
    let unprivileged =
        uid.starts_with("65532") && none(&effective) && field("NoNewPrivs") == "1" && field("Seccomp") == "2";
    show.check(
        "the proxy holds no privilege",
        unprivileged,
        format!(
            "uid {}, CapEff {effective}, CapBnd {bounding}, seccomp filter on",
            uid.split_whitespace().next().unwrap_or("?")
        ),
    );
    Ok(())
}

async fn service_address(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "A service address that exists only in the mesh",
        "No interface has 10.96.0.10 and no route leads there. connect() is rewritten in the kernel to the pod's own \
         address, port 15001, where the proxy accepts; it reads the original destination from the socket and routes.",
    );
    let answer = shown(lab, show, &CLIENT.run(&format!("curl -s {SERVICE}"))).await?;
    show.check("redirected and answered", answer.starts_with("reviews v"), answer.trim());
    let told = shown(
        lab,
        show,
        &CLIENT.run(&format!("curl -s -o /dev/null -w '%{{remote_ip}}:%{{remote_port}}\\n' {SERVICE}")),
    )
    .await?;
    show.check("the client sees the service it asked for", told.trim() == "10.96.0.10:80", told.trim());
    shown(lab, show, &NODE_A.weirctl("redirect list")).await?;
    let verdict = shown(lab, show, &NODE_A.weirctl("redirect show client --to 10.96.0.10:80")).await?;
    show.check("weirctl explains why", verdict.contains("redirect"), "redirect show client --to 10.96.0.10:80");
    Ok(())
}

async fn live_trace(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "Live: each decision as it is made",
        "Events come from a ring buffer in the kernel, switched on only while somebody watches.",
    );
    let command = NODE_A.weirctl("event trace client --follow");
    show.typed(&format!("{command} &"));
    let mut trace = lab.spawn(&command)?;
    let mut lines = BufReader::new(trace.stdout.take().context("the trace's output is piped")?).lines();
    wait_for("a watcher of events", || async { Ok(number(&lab.json(&NODE_A, "status").await?["watchers"]) > 0) })
        .await?;
    let request = CLIENT.run(&format!("curl -s {SERVICE}"));
    show.typed(&request);
    lab.run(&request).await?;
    let mut seen = Vec::new();
    let deadline = Instant::now() + TRACE_PATIENCE;
    while Instant::now() < deadline {
        match tokio::time::timeout(TRACE_QUIET, lines.next_line()).await {
            Ok(Ok(Some(line))) => seen.push(line),
            Ok(_) => break,
            Err(_) if seen.iter().any(|line| line.contains("10.96.0.10")) => break,
            Err(_) => {}
        }
    }
    trace.kill().await.context("the trace")?;
    show.wrote(&seen.join("\n"));
    let decision = seen.iter().find(|line| line.contains("10.96.0.10:80") && line.contains("redirect"));
    let named = decision.is_some_and(|line| line.contains("client") && line.contains("curl"));
    show.check("the trace names pod, process and destination", named, format!("{} events of one request", seen.len()));
    Ok(())
}

async fn weights_and_retries(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        &format!("{REQUESTS} requests: weights, and failures hidden by retries"),
        "20 % are for v1 and 80 % for v2, chosen once per request. v2's failures are retried by the proxy.",
    );
    let before = upstream_failures()?;
    let command = CLIENT
        .run(&format!("curl -s -o /dev/null -w '%{{http_code}} %header{{x-version}}\\n' '{SERVICE}?[1-{REQUESTS}]'"));
    show.typed(&format!("{command} | sort | uniq -c"));
    let started = Instant::now();
    let output = lab.run(&command).await?;
    let took = started.elapsed();
    let answers: Vec<(&str, &str)> = output.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut kinds: Vec<&str> = output.lines().collect();
    kinds.sort_unstable();
    kinds.dedup();
    let counts: Vec<String> =
        kinds.iter().map(|kind| format!("{:>7} {kind}", output.lines().filter(|line| line == kind).count())).collect();
    show.wrote(&counts.join("\n"));

    let v2 = answers.iter().filter(|(_, version)| *version == "v2").count();
    let share = 100.0 * v2 as f64 / answers.len().max(1) as f64;
    show.check(
        "weights 20/80 as configured",
        answers.len() == REQUESTS && (share - V2_WEIGHT).abs() <= TOLERANCE,
        format!(
            "{:.1} / {share:.1} % of {} (tolerance {TOLERANCE} points), {:.1} s",
            100.0 - share,
            answers.len(),
            took.as_secs_f64()
        ),
    );
    let seen = answers.iter().filter(|(status, _)| *status != "200").count();
    show.typed(&format!("grep -c ' 503$' {}", V2.access_log()));
    let hidden = upstream_failures()? - before;
    show.wrote(&upstream_failures()?.to_string());
    show.check(
        "failures hidden by retries",
        seen == 0 && hidden > 0 && answers.len() == REQUESTS,
        format!("v2 answered 503 {hidden} times, the client saw {seen}"),
    );
    Ok(())
}

/// 503s that v2's nginx has logged.
fn upstream_failures() -> Result<usize> {
    Ok(V2.accesses()?.iter().filter(|(_, status)| status == "503").count())
}

async fn real_client(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "The application sees the real client",
        "Two proxies are in between, but nginx logs the client pod's address: accept() and getpeername() in the pod \
         answer with it. No TPROXY, no NAT, no header to trust.",
    );
    shown(lab, show, &format!("tail -n 3 {}", V1.access_log())).await?;
    let accesses: Vec<_> = V1.accesses()?.into_iter().chain(V2.accesses()?).collect();
    let others = accesses.iter().filter(|(ip, _)| ip != CLIENT.ip).count();
    show.check(
        "nginx saw the client pod, always",
        others == 0 && accesses.len() >= REQUESTS,
        format!("{} of {} requests from {}", accesses.len() - others, accesses.len(), CLIENT.ip),
    );
    shown(lab, show, &NODE_B.weirctl("redirect list")).await?;
    Ok(())
}

async fn outsider(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "The pod that is not enrolled is untouched",
        "Same node, same kernel, same hooks: its namespace is not in the map, so nothing happens to its connections.",
    );
    let before = decisions(lab, &NODE_A).await?;
    let service = OUTSIDER.run(&format!("curl -sS --max-time 3 {SERVICE}"));
    show.typed(&service);
    let output = lab.attempt(&service).await?;
    show.wrote(&String::from_utf8_lossy(&output.stderr));
    show.check("the outsider cannot reach the service address", !output.status.success(), output.status.to_string());

    let seen = V1.accesses()?.len();
    let direct = format!("http://{}:{PORT}/?[1-20]", V1.ip);
    shown(lab, show, &format!("{} | sort | uniq -c", OUTSIDER.run(&format!("curl -s '{direct}'")))).await?;
    wait_for("nginx's log", || async { Ok(V1.accesses()?.len() >= seen + 20) }).await?;
    let new: Vec<_> = V1.accesses()?.split_off(seen);
    let as_itself = new.iter().filter(|(ip, _)| ip == OUTSIDER.ip).count();
    show.check(
        "its direct requests arrive as its own",
        as_itself == 20,
        format!("{as_itself} of 20 from {}", OUTSIDER.ip),
    );
    let after = decisions(lab, &NODE_A).await?;
    show.check(
        "no decision of node A's programs is about it",
        after == before && !is_listed(lab, &OUTSIDER).await?,
        format!("{} decisions before and after, not among the pods", after),
    );
    Ok(())
}

/// Decisions over all pods of a node.
async fn decisions(lab: &Lab, node: &Node) -> Result<u64> {
    let pods = lab.json(node, "pod list").await?;
    let pods = pods.as_array().context("pod list is a list")?;
    Ok(pods
        .iter()
        .filter_map(|pod| pod["counters"].as_object())
        .flat_map(|counters| counters.values())
        .map(number)
        .sum())
}

async fn is_listed(lab: &Lab, pod: &Pod) -> Result<bool> {
    let pods = lab.json(&NODE_A, "pod list").await?;
    Ok(pods.as_array().context("pod list is a list")?.iter().any(|row| row["name"] == pod.name))
}

async fn probe(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step(
        "The node's own probes go straight to the application",
        "A process in the node's namespace and outside the pods' cgroups, as the kubelet is, reaches the ports that \
         the pod's probes name without the proxy. It is told by its socket, not by its address.",
    );
    let before = probes(lab).await?;
    let command = NODE_B_RUN.replace("{ip}", V1.ip);
    debug_assert!(command.contains(&PROBE_PORT.to_string()));
    let answer = shown(lab, show, &command).await?;
    let passed = probes(lab).await? - before;
    shown(lab, show, &NODE_B.weirctl(&format!("redirect show reviews-v1 --from node --to {}:{PROBE_PORT}", V1.ip)))
        .await?;
    show.check(
        "a probe passes the mesh by",
        answer.contains("10.88.2.1") && passed == 1,
        format!("{}; {passed} more node-probe decision", answer.trim()),
    );
    Ok(())
}

/// Probes that passed to reviews-v1.
async fn probes(lab: &Lab) -> Result<u64> {
    let pods = lab.json(&NODE_B, "pod list").await?;
    let pods = pods.as_array().context("pod list is a list")?;
    Ok(pods.iter().filter(|pod| pod["name"] == V1.name).map(|pod| number(&pod["counters"]["node-probe"])).sum())
}

async fn programs(lab: &Lab, show: &mut Show) -> Result<()> {
    show.step("What runs in the kernel", "Pinned under /sys/fs/bpf/weir: the redirect outlives agent and proxy.");
    let programs = shown(lab, show, &NODE_A.weirctl("prog list")).await?;
    let all = ["weir_connect4", "weir_connect6", "weir_sockops", "weir_sklookup"];
    show.check("weir's programs are attached", all.iter().all(|name| programs.contains(name)), all.join(", "));
    Ok(())
}

/// Runs a command, shows it as typed and what it wrote, and gives that.
async fn shown(lab: &Lab, show: &Show, command: &str) -> Result<String> {
    show.typed(command);
    let output = lab.run(command).await?;
    show.wrote(&output);
    Ok(output)
}
