//! NetworkPolicy: a namespace that denies everything but one peer and DNS has the same verdicts with weir as without it,
//! and its probes stay green.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use weir_abi::Rule;

use super::{
    Namespaces, PATIENCE,
    probes::{self, Probed},
};
use crate::cluster::{
    Cluster, MESH_LABEL,
    fixture::{Pod, service},
    kubectl::eventually,
    report::Report,
};

const MESH: &str = "weir-policy";
const OUTSIDE: &str = "weir-policy-outside";
/// How long an enforcer may take to apply policies.
const APPLIED: Duration = Duration::from_secs(60);
/// How long it may take over pods and policies of which nothing can be seen from outside.
const SETTLED: Duration = Duration::from_secs(10);
/// How long probes are watched without weir, and with it.
const GREEN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(180)];

/// A way from one pod to another.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    from: String,
    to: String,
    expected: Expected,
}

/// What policies say of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Allowed,
    Denied,
    /// Enforcers differ: whatever it is without weir.
    Same,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    /// With curl's exit code, which differs: a denied connection of an enrolled pod is made to the proxy, and ends.
    Denied(u32),
}

/// Runs it.
pub fn run(cluster: &Cluster, report: &mut Report) -> Result<(), String> {
    report.scenario("NetworkPolicy");
    let (near, far) = cluster.two_nodes()?;
    let _namespaces = Namespaces::make(cluster, &[(MESH, false), (OUTSIDE, false)])?;
    let probed = probes::pods(cluster, MESH, &near, &far);
    deploy(cluster, &near, &far, &probed)?;
    let ways = ways(cluster)?;
    for way in &ways {
        eventually(way.name, PATIENCE, || match verdict(cluster, way)? {
            Verdict::Allowed => Ok(()),
            denied => Err(format!("{denied:?} before there is any policy")),
        })?;
    }
    cluster.kubectl.apply(&policies())?;
    enforced(cluster, &ways)?;
    thread::sleep(SETTLED);

    let without = verdicts(cluster, report, &ways, "without weir");
    green(cluster, report, &probed, false);

    cluster.kubectl.run(&["label", "namespace", MESH, &format!("{MESH_LABEL}=enabled")])?;
    for pod in ["server", "friend", "friend-far", "stranger"] {
        cluster.weir.state(&format!("{MESH}/{pod}"), "enrolled")?;
    }
    for pod in &probed {
        cluster.weir.state(&pod.pod, "enrolled")?;
    }
    let server = format!("{MESH}/server");
    let before = cluster.weir.counters(&server)?;
    let with = verdicts(cluster, report, &ways, "enrolled");
    for ((way, without), with) in ways.iter().zip(&without).zip(&with) {
        report.check(&format!("{}: the same with weir as without", way.name), same(*without, *with));
    }
    report.check("only what is allowed reaches the server", reached(cluster, &server, &before, &with));
    green(cluster, report, &probed, true);

    // A pod that is new has its policies applied by the enforcer and its sockets by weir, in whatever order.
    cluster.kubectl.run(&["-n", MESH, "delete", "pod", "friend", "stranger", "--wait"])?;
    cluster.kubectl.apply(&clients(&near, &cluster.image))?;
    cluster.kubectl.ready(MESH, PATIENCE)?;
    thread::sleep(SETTLED);
    let new: Vec<Way> =
        ways.into_iter().filter(|way| way.from.starts_with(MESH) && way.expected != Expected::Same).collect();
    verdicts(cluster, report, &new, "enrolled, new pods");
    Ok(())
}

fn deploy(cluster: &Cluster, near: &str, far: &str, probed: &[Probed]) -> Result<(), String> {
    let image = cluster.image.as_str();
    let mut manifests = clients(near, image);
    manifests.extend([
        Pod::server(MESH, "server", near, image).manifest(),
        Pod::idle(MESH, "friend-far", far, image).label("role", "friend").manifest(),
        service(MESH, "server", "server", 80, 8080, json!({})),
        Pod::server(OUTSIDE, "server", far, image).manifest(),
        Pod::idle(OUTSIDE, "stranger", near, image).manifest(),
        Pod::idle(OUTSIDE, "host-near", near, image).host_network().manifest(),
        Pod::idle(OUTSIDE, "host-far", far, image).host_network().manifest(),
    ]);
    manifests.extend(probed.iter().map(Probed::manifest));
    cluster.kubectl.apply(&manifests)?;
    cluster.kubectl.ready(MESH, PATIENCE)?;
    cluster.kubectl.ready(OUTSIDE, PATIENCE)
}

fn clients(near: &str, image: &str) -> Vec<Value> {
    vec![
        Pod::idle(MESH, "friend", near, image).label("role", "friend").manifest(),
        Pod::idle(MESH, "stranger", near, image).manifest(),
    ]
}

/// Nothing in or out, but: DNS; from friends to the server's one port. Strangers may leave, and not enter.
fn policies() -> Vec<Value> {
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": MESH, "name": name}, "spec": spec,
        })
    };
    let app = |name: &str| json!({"podSelector": {"matchLabels": {"app": name}}});
    let friends = json!({"podSelector": {"matchLabels": {"role": "friend"}}});
    let to_server = json!([{"to": [app("server")], "ports": [{"protocol": "TCP", "port": 8080}]}]);
    vec![
        policy("deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
        policy(
            "dns",
            json!({"podSelector": {}, "policyTypes": ["Egress"],
                   "egress": [{"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}]}),
        ),
        policy(
            "friends-in",
            json!({"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
                   "ingress": [{"from": [friends], "ports": [{"protocol": "TCP", "port": 8080}]}]}),
        ),
        policy(
            "friends-out",
            json!({"podSelector": {"matchLabels": {"role": "friend"}}, "policyTypes": ["Egress"], "egress": to_server}),
        ),
        policy(
            "stranger-out",
            json!({"podSelector": {"matchLabels": {"app": "stranger"}}, "policyTypes": ["Egress"], "egress": to_server}),
        ),
    ]
}

fn ways(cluster: &Cluster) -> Result<Vec<Way>, String> {
    let ip = |pod: &str| cluster.kubectl.pod_ip(pod).map(|ip| format!("{ip}:8080"));
    let server = ip(&format!("{MESH}/server"))?;
    let outside = ip(&format!("{OUTSIDE}/server"))?;
    let way = |name, from: &str, to: &str, expected| Way { name, from: from.to_owned(), to: to.to_owned(), expected };
    let within = |pod: &str| format!("{MESH}/{pod}");
    let without = |pod: &str| format!("{OUTSIDE}/{pod}");
    Ok(vec![
        way("a friend, same node", &within("friend"), &server, Expected::Allowed),
        way("a friend, other node", &within("friend-far"), &server, Expected::Allowed),
        way("a friend, by the service's name", &within("friend"), "server", Expected::Allowed),
        way("a stranger of the namespace, denied on entering", &within("stranger"), &server, Expected::Denied),
        way("a friend to elsewhere, denied on leaving", &within("friend"), &outside, Expected::Denied),
        way("a pod of another namespace", &without("stranger"), &server, Expected::Denied),
        way("a host-network pod of the node", &without("host-near"), &server, Expected::Same),
        way("a host-network pod of another node", &without("host-far"), &server, Expected::Same),
    ])
}

fn verdict(cluster: &Cluster, way: &Way) -> Result<Verdict, String> {
    let script = format!("curl -sS -m 8 -o /dev/null -w '%{{http_code}}' http://{}/ 2>/dev/null; echo \" $?\"", way.to);
    Verdict::parse(&cluster.kubectl.sh(&way.from, &script)?)
}

impl Verdict {
    fn parse(said: &str) -> Result<Self, String> {
        let odd = || format!("odd: {said:?}");
        let (status, code) = said.trim().split_once(' ').ok_or_else(odd)?;
        match (status, code.parse()) {
            ("200", Ok(0)) => Ok(Self::Allowed),
            ("000", Ok(code)) if code != 0 => Ok(Self::Denied(code)),
            _ => Err(odd()),
        }
    }
}

/// Waits until a denied way is denied.
fn enforced(cluster: &Cluster, ways: &[Way]) -> Result<(), String> {
    let denied = ways.iter().filter(|way| way.expected == Expected::Denied);
    denied.into_iter().try_for_each(|way| {
        eventually("enforcement", APPLIED, || match verdict(cluster, way)? {
            Verdict::Denied(_) => Ok(()),
            Verdict::Allowed => Err(format!("{} still passes", way.name)),
        })
        .map_err(|why| {
            format!(
                "the cluster enforces no NetworkPolicy, so nothing can be shown ({why}); it takes a network plugin that \
                 does, or an enforcer beside it, such as kube-router with --run-firewall"
            )
        })
    })
}

fn verdicts(cluster: &Cluster, report: &mut Report, ways: &[Way], when: &str) -> Vec<Option<Verdict>> {
    let of = |way: &Way, report: &mut Report| {
        let found = verdict(cluster, way);
        let outcome = found.clone().and_then(|found| match (way.expected, found) {
            (Expected::Allowed, Verdict::Denied(_)) | (Expected::Denied, Verdict::Allowed) => {
                Err(format!("{found:?}, expected {:?}", way.expected))
            }
            _ => Ok(format!("{found:?}")),
        });
        report.check(&format!("{}, {when}", way.name), outcome);
        found.ok()
    };
    ways.iter().map(|way| of(way, report)).collect()
}

/// A denied request is denied with weir too, though curl may say so differently.
fn same(without: Option<Verdict>, with: Option<Verdict>) -> Result<String, String> {
    let said = format!("{without:?}, {with:?}");
    match (without, with) {
        (Some(Verdict::Allowed), Some(Verdict::Allowed)) | (Some(Verdict::Denied(_)), Some(Verdict::Denied(_))) => {
            Ok(said)
        }
        _ => Err(said),
    }
}

/// What the server's namespace saw of all that: a connection for each request that was allowed, all of which are its
/// own, and no more.
fn reached(
    cluster: &Cluster,
    server: &str,
    before: &crate::weirctl::Counters,
    verdicts: &[Option<Verdict>],
) -> Result<String, String> {
    let allowed = verdicts.iter().filter(|verdict| **verdict == Some(Verdict::Allowed)).count() as u64;
    let steered = cluster.weir.counters(server)?.since(before).of(Rule::Steered);
    let said = format!("{allowed} allowed, {steered} steered");
    if steered == allowed { Ok(said) } else { Err(said) }
}

fn green(cluster: &Cluster, report: &mut Report, pods: &[Probed], enrolled: bool) {
    let span = GREEN[usize::from(enrolled)];
    let when = if enrolled { "enrolled" } else { "without weir" };
    for (name, outcome) in probes::stay_green(cluster, pods, span, enrolled) {
        report.check(&format!("{name} under default deny, {when}"), outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_page_or_a_curl_that_failed() {
        assert_eq!(Verdict::parse("200 0\n"), Ok(Verdict::Allowed));
        assert_eq!(Verdict::parse("000 28"), Ok(Verdict::Denied(28)));
        assert!(Verdict::parse("503 0").is_err());
        assert!(Verdict::parse("").is_err());
    }

    #[test]
    fn denied_in_another_way_is_the_same() {
        assert!(same(Some(Verdict::Denied(7)), Some(Verdict::Denied(56))).is_ok());
        assert!(same(Some(Verdict::Denied(7)), Some(Verdict::Allowed)).is_err());
        assert!(same(None, None).is_err());
    }
}
