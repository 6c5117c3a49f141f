//! Every kind of traffic of enrolled pods, and what `kubectl weir` counts of it; none of it for pods that are not.

use std::time::Duration;

use serde_json::json;
use weir_abi::Rule;

use super::{
    Namespaces, PATIENCE,
    probes::{self, Probed},
};
use crate::{
    cluster::{
        Cluster,
        fixture::{Pod, service},
        kubectl::eventually,
        report::Report,
    },
    weirctl::Counters,
};

const MESH: &str = "weir-traffic";
const PLAIN: &str = "weir-traffic-plain";
const NODE_PORT: u16 = 30_980;
/// How long probed pods are watched.
const PROBED: Duration = Duration::from_secs(15);

/// One kind of traffic.
struct Kind {
    name: &'static str,
    from: String,
    /// A script that fails where the traffic does.
    script: String,
    /// What its output must contain.
    expected: String,
    /// What is counted of it: of which pod, by which rule, and at least how often.
    counted: Vec<(String, Rule, u64)>,
}

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("traffic");
    let (near, far) = cluster.two_nodes()?;
    if near == far {
        report.note("one node only: \"other node\" is the same one");
    }
    let _namespaces = Namespaces::make(cluster, &[(MESH, true), (PLAIN, false)])?;
    deploy(cluster, &near, &far)?;
    for pod in ["client", "near", "far"] {
        cluster.weir.state(&format!("{MESH}/{pod}"), "enrolled")?;
    }
    for kind in kinds(cluster, &near, &far)? {
        report.check(kind.name, shown(cluster, &kind));
    }
    probes(cluster, report, &near, &far);
    plain(cluster, report)
}

fn deploy(cluster: &Cluster, near: &str, far: &str) -> Result<(), String> {
    let image = cluster.image.as_str();
    let mut manifests = vec![
        Pod::idle(MESH, "client", near, image).manifest(),
        Pod::server(MESH, "near", near, image).label("group", "all").manifest(),
        Pod::server(MESH, "far", far, image).label("group", "all").manifest(),
        Pod::server(MESH, "host", far, image).host_network().manifest(),
        Pod::idle(MESH, "host-near", near, image).host_network().manifest(),
        Pod::idle(PLAIN, "client", near, image).manifest(),
        Pod::server(PLAIN, "server", far, image).manifest(),
        service(MESH, "near", "near", 80, 8080, json!({})),
        service(MESH, "far", "far", 80, 8080, json!({})),
        service(MESH, "client", "client", 80, 8080, json!({})),
        service(MESH, "headless", "far", 8080, 8080, json!({"clusterIP": "None"})),
        service(PLAIN, "server", "server", 80, 8080, json!({})),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": MESH, "name": "external"},
               "spec": {"type": "ExternalName", "externalName": format!("far.{MESH}.svc.cluster.local")}}),
    ];
    let mut node_port = service(MESH, "node-port", "far", 80, 8080, json!({"type": "NodePort"}));
    node_port["spec"]["ports"][0]["nodePort"] = NODE_PORT.into();
    manifests.push(node_port);
    manifests.extend(probes::pods(cluster, MESH, near, far).iter().map(Probed::manifest));
    // Nothing may come in. Where the network enforces it, the kubelet's probes must pass all the same.
    manifests.push(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": MESH, "name": "deny-probed"},
        "spec": {"podSelector": {"matchLabels": {"probed": "true"}}, "policyTypes": ["Ingress"]},
    }));
    cluster.kubectl.apply(&manifests)?;
    cluster.kubectl.ready(MESH, PATIENCE)?;
    cluster.kubectl.ready(PLAIN, PATIENCE)
}

fn kinds(cluster: &Cluster, near: &str, far: &str) -> Result<Vec<Kind>, String> {
    let pod = |name: &str| format!("{MESH}/{name}");
    let (client, near_pod, far_pod) = (pod("client"), pod("near"), pod("far"));
    let ip = |name: &str| cluster.kubectl.pod_ip(&pod(name));
    let address = |node: &str| -> Result<String, String> {
        let found = cluster.kubectl.json(&["get", "node", node])?;
        let addresses = found["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
        internal.and_then(|it| it["address"].as_str()).map(str::to_owned).ok_or("a node without address".to_owned())
    };
    let get = |to: &str| format!("curl -fsS -m 10 http://{to}/");
    let out = |pod: &str| (pod.to_owned(), Rule::Redirected, 1);
    let into = |pod: &str| (pod.to_owned(), Rule::Steered, 1);
    let kind = |name, from: &str, script: String, expected: &str, counted| Kind {
        name,
        from: from.to_owned(),
        script,
        expected: expected.to_owned(),
        counted,
    };
    let token = "curl -fsSk -m 10 -H \"Authorization: Bearer \
                 $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\" \
                 https://kubernetes.default.svc.cluster.local/version"
        .to_owned();
    let lookup = format!("nslookup far.{MESH}.svc.cluster.local");
    // busybox's nslookup knows UDP only; a query of DNS over TCP is 2 bytes of length before the same.
    let over_tcp = "exec 3<>/dev/tcp/$(awk '/^nameserver/ { print $2; exit }' /etc/resolv.conf)/53 && \
                    printf '\\x00\\x36\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\
                    \\x0akubernetes\\x07default\\x03svc\\x07cluster\\x05local\\x00\\x00\\x01\\x00\\x01' >&3 && \
                    timeout 5 dd bs=1 count=8 <&3 2>/dev/null | od -An -tx1";
    let over_tcp = format!("bash -c {}", quoted(over_tcp));
    Ok(vec![
        kind(
            "pod IP, same node",
            &client,
            get(&format!("{}:8080", ip("near")?)),
            "near",
            vec![out(&client), into(&near_pod)],
        ),
        kind(
            "pod IP, other node",
            &client,
            get(&format!("{}:8080", ip("far")?)),
            "far",
            vec![out(&client), into(&far_pod)],
        ),
        kind("ClusterIP, same node", &client, get("near"), "near", vec![out(&client), into(&near_pod)]),
        kind("ClusterIP, other node", &client, get("far"), "far", vec![out(&client), into(&far_pod)]),
        kind("headless service", &client, get("headless:8080"), "far", vec![out(&client), into(&far_pod)]),
        kind(
            "NodePort, own node",
            &client,
            get(&format!("{}:{NODE_PORT}", address(near)?)),
            "far",
            vec![out(&client), into(&far_pod)],
        ),
        kind(
            "NodePort, other node",
            &client,
            get(&format!("{}:{NODE_PORT}", address(far)?)),
            "far",
            vec![out(&client), into(&far_pod)],
        ),
        kind("to a host-network pod", &client, get(&format!("{}:8080", address(far)?)), far, vec![out(&client)]),
        kind(
            "from a host-network pod, same node",
            &pod("host-near"),
            get(&format!("{}:8080", ip("near")?)),
            "near",
            vec![into(&near_pod)],
        ),
        kind(
            "from a host-network pod, other node",
            &pod("host-near"),
            get(&format!("{}:8080", ip("far")?)),
            "far",
            vec![into(&far_pod)],
        ),
        kind("API server with the pod's token", &client, token, "gitVersion", vec![out(&client)]),
        kind("DNS over UDP", &client, lookup, "Address", vec![]),
        kind("DNS over TCP", &client, over_tcp, "12 34", vec![out(&client)]),
        kind("ExternalName", &client, get("external"), "far", vec![out(&client), into(&far_pod)]),
        // By its short name it would find its own host's name, which is its own address.
        kind(
            "the pod to itself by its own service",
            &near_pod,
            get(&format!("near.{MESH}")),
            "near",
            vec![out(&near_pod), into(&near_pod)],
        ),
        kind(
            "the pod to itself by its own address",
            &near_pod,
            get(&format!("{}:8080", ip("near")?)),
            "near",
            vec![(near_pod.clone(), Rule::OwnAddress, 1)],
        ),
        kind(
            "the pod to itself over loopback",
            &near_pod,
            get("127.0.0.1:8080"),
            "near",
            vec![(near_pod.clone(), Rule::Loopback, 1)],
        ),
        kind(
            "a pod without weir to an enrolled one",
            &format!("{PLAIN}/client"),
            get(&format!("{}:8080", ip("far")?)),
            "far",
            vec![into(&far_pod)],
        ),
        kind(
            "an enrolled pod to one without weir",
            &client,
            get(&format!("server.{PLAIN}")),
            "server",
            vec![out(&client)],
        ),
        kind(
            "UDP is left alone, large answers too",
            &client,
            format!(
                "for i in 1 2 3 4 5; do nslookup near.{MESH}.svc.cluster.local >/dev/null || exit 1; done; echo well"
            ),
            "well",
            vec![],
        ),
    ])
}

fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', "'\\''"))
}

fn shown(cluster: &Cluster, kind: &Kind) -> Result<String, String> {
    let counters = |pod: &str| cluster.weir.counters(pod);
    let before = kind.counted.iter().map(|(pod, ..)| counters(pod)).collect::<Result<Vec<_>, _>>()?;
    let said = cluster.kubectl.sh(&kind.from, &kind.script)?;
    if !said.contains(&kind.expected) {
        return Err(format!("expected {:?} in {:?}", kind.expected, said.trim()));
    }
    let mut seen = vec![format!("{:?}", kind.expected)];
    for ((pod, rule, times), before) in kind.counted.iter().zip(&before) {
        let since = eventually("count", PATIENCE, || {
            let since: Counters = counters(pod)?.since(before);
            if since.of(*rule) >= *times { Ok(since) } else { Err(format!("{pod}: {} not counted", rule.name())) }
        })?;
        let name = pod.rsplit('/').next().unwrap_or(pod);
        seen.push(format!("{name} {} +{}", rule.name(), since.of(*rule)));
    }
    Ok(seen.join(", "))
}

/// Probes stay green, and pass as the node's own where they are connections.
fn probes(cluster: &Cluster, report: &mut Report, near: &str, far: &str) {
    let pods = probes::pods(cluster, MESH, near, far);
    for (name, outcome) in probes::stay_green(cluster, &pods, PROBED, true) {
        report.check(&format!("{name}, with a default-deny NetworkPolicy"), outcome);
    }
}

/// A namespace without the label has no redirects at all.
fn plain(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    cluster
        .kubectl
        .sh(&format!("{PLAIN}/client"), "for i in 1 2 3; do curl -fsS -m 10 http://server/ || exit 1; done")?;
    let list = cluster.weir.json(&["redirect", "list", "-n", PLAIN])?;
    let rows = list.as_array().map_or(0, Vec::len);
    let outcome = if rows == 0 { Ok("no row".to_owned()) } else { Err(format!("{rows} rows: {list}")) };
    report.check("redirect list of the namespace without the label", outcome);
    let sockets = cluster.kubectl.sh(&format!("{PLAIN}/client"), "cat /proc/net/tcp")?;
    let listening = sockets.lines().filter(|line| line.contains(":3A99 ") || line.contains(":3A9E ")).count();
    let outcome = if listening == 0 { Ok("none".to_owned()) } else { Err(format!("{listening}")) };
    report.check("weir's sockets in a pod without the label", outcome);
    Ok(())
}
