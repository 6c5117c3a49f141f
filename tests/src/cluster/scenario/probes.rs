//! Pods with every kind of probe, and whether those stay green.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use weir_abi::Rule;

use crate::cluster::{Cluster, fixture::Pod};

/// A pod that the kubelet probes once a second.
#[derive(Debug)]
pub struct Probed {
    /// `namespace/name`.
    pub pod: String,
    /// Whether its probes are connections; `exec` is none.
    pub connects: bool,
    manifest: Value,
}

/// A pod for each kind of probe; gRPC where the image has a server for it.
pub fn pods(cluster: &Cluster, namespace: &str, near: &str, far: &str) -> Vec<Probed> {
    let image = cluster.image.as_str();
    let mut probes = vec![
        ("probe-http", near, None, json!({"httpGet": {"path": "/", "port": 8080}})),
        ("probe-tcp", near, None, json!({"tcpSocket": {"port": 8080}})),
        ("probe-exec", near, None, json!({"exec": {"command": ["true"]}})),
    ];
    if let Some(server) = &cluster.probe_server {
        probes.push(("probe-grpc", far, Some(server), json!({"grpc": {"port": 8082}})));
    }
    let made = probes.into_iter().map(|(name, node, server, probe)| {
        let pod = Pod::server(namespace, name, node, image);
        let pod = match server {
            Some(server) => pod.command(&server.split(' ').collect::<Vec<_>>()),
            None => pod,
        };
        let connects = probe["exec"].is_null();
        Probed { pod: format!("{namespace}/{name}"), connects, manifest: probed(pod, &probe).manifest() }
    });
    made.collect()
}

/// With all three probes of this kind, and the label `probed`.
fn probed(pod: Pod, probe: &Value) -> Pod {
    let every = |failures: u32| {
        let mut probe = probe.clone();
        probe["periodSeconds"] = 1.into();
        probe["timeoutSeconds"] = 2.into();
        probe["failureThreshold"] = failures.into();
        probe
    };
    pod.label("probed", "true")
        .container("startupProbe", every(60))
        .container("readinessProbe", every(2))
        .container("livenessProbe", every(3))
}

/// What the kubelet says of a probed pod.
#[derive(Debug, PartialEq, Eq)]
struct Health {
    ready: bool,
    /// When `ready` last changed.
    since: String,
    restarts: u64,
}

impl Probed {
    /// Its manifest.
    pub fn manifest(&self) -> Value {
        self.manifest.clone()
    }

    fn health(&self, cluster: &Cluster) -> Result<Health, String> {
        let status = cluster.kubectl.pod(&self.pod)?["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").cloned().unwrap_or_default();
        Ok(Health {
            ready: ready["status"] == "True",
            since: ready["lastTransitionTime"].as_str().unwrap_or_default().to_owned(),
            restarts: status["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default(),
        })
    }

    fn counted(&self, cluster: &Cluster, enrolled: bool) -> Result<u64, String> {
        if enrolled { Ok(cluster.weir.counters(&self.pod)?.of(Rule::NodeProbe)) } else { Ok(0) }
    }
}

/// Looks at probed pods for a while: ready all the time, never restarted. Probes of enrolled pods that are connections
/// must have passed as the node's own.
pub fn stay_green(
    cluster: &Cluster,
    pods: &[Probed],
    span: Duration,
    enrolled: bool,
) -> Vec<(String, Result<String, String>)> {
    let look = || -> Vec<Result<(Health, u64), String>> {
        pods.iter().map(|pod| Ok((pod.health(cluster)?, pod.counted(cluster, enrolled)?))).collect()
    };
    let before = look();
    thread::sleep(span);
    let after = look();
    let outcomes = pods.iter().zip(before).zip(after).map(|((pod, before), after)| {
        let outcome = before.and_then(|before| after.and_then(|after| judged(pod, before, after, span, enrolled)));
        (pod.pod.rsplit('/').next().unwrap_or(&pod.pod).to_owned(), outcome)
    });
    outcomes.collect()
}

fn judged(
    pod: &Probed,
    (before, counted): (Health, u64),
    (after, counts): (Health, u64),
    span: Duration,
    enrolled: bool,
) -> Result<String, String> {
    let passed = counts.saturating_sub(counted);
    let said = format!("{after:?}, node-probe +{passed} in {span:.0?}");
    // Two probes a second; half of them is enough on a slow machine.
    let expected = if enrolled && pod.connects { span.as_secs() } else { 0 };
    if before == after && after.ready && after.restarts == 0 && passed >= expected {
        Ok(said)
    } else {
        Err(format!("{said}; before: {before:?}; expected no change, ready, and node-probe +{expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_was_not_ready_for_a_moment_or_was_not_probed_is_not_green() {
        let pod = Probed { pod: "a/b".to_owned(), connects: true, manifest: Value::Null };
        let health = |since: &str| Health { ready: true, since: since.to_owned(), restarts: 0 };
        let span = Duration::from_secs(10);
        assert!(judged(&pod, (health("1"), 0), (health("1"), 19), span, true).is_ok());
        assert!(judged(&pod, (health("1"), 0), (health("1"), 3), span, true).unwrap_err().contains("node-probe +3"));
        assert!(judged(&pod, (health("1"), 0), (health("2"), 19), span, true).is_err());
        assert!(judged(&pod, (health("1"), 0), (health("1"), 0), span, false).is_ok());
    }
}
