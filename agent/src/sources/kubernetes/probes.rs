//! The ports of a pod that the kubelet connects to: those of its HTTP, TCP and gRPC probes and lifecycle hooks.
//!
//! The kubelet's connections to exactly these ports pass untouched. A port is read as the kubelet reads it
//! (`pkg/probe/util.go`, ResolveContainerPort): a name is looked up among the ports of the same container, and one that
//! is not found there may be a number written as text. A probe that names a host does not go to the pod.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::absent::or_default;

/// A container of a pod's spec.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Of an init container: `Always` if it runs beside the others.
    restart_policy: String,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ContainerPort>,
    liveness_probe: Option<Handler>,
    readiness_probe: Option<Handler>,
    startup_probe: Option<Handler>,
    lifecycle: Option<Lifecycle>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Lifecycle {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

/// What a probe or hook does; `exec` and `sleep` connect to nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Handler {
    http_get: Option<Target>,
    tcp_socket: Option<Target>,
    grpc: Option<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    port: Port,
    #[serde(default)]
    host: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(i64),
    Name(String),
}

/// Ports that the kubelet connects to, in order.
pub fn ports(containers: &[Container], init_containers: &[Container]) -> Vec<u16> {
    let beside = init_containers.iter().filter(|container| container.restart_policy == "Always");
    let ports: BTreeSet<u16> = containers.iter().chain(beside).flat_map(Container::probe_ports).collect();
    ports.into_iter().collect()
}

impl Container {
    fn probe_ports(&self) -> impl Iterator<Item = u16> {
        let hooks = self.lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]);
        let probes = [&self.liveness_probe, &self.readiness_probe, &self.startup_probe];
        let handlers = probes.into_iter().chain(hooks).flatten();
        let targets = handlers.flat_map(|handler| [&handler.http_get, &handler.tcp_socket, &handler.grpc]).flatten();
        let of_pod = targets.filter(|target| target.host.as_deref().unwrap_or_default().is_empty());
        of_pod.filter_map(|target| self.number(&target.port))
    }

    fn number(&self, port: &Port) -> Option<u16> {
        let number = match port {
            Port::Number(number) => *number,
            Port::Name(name) => match self.ports.iter().find(|port| port.name == *name) {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            },
        };
        u16::try_from(number).ok().filter(|port| *port != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(containers: &str, init_containers: &str) -> Vec<u16> {
        let parse = |text: &str| serde_json::from_str::<Vec<Container>>(text).unwrap();
        ports(&parse(containers), &parse(init_containers))
    }

    #[test]
    fn every_kind_of_probe_counts() {
        let containers = r#"[
            {"livenessProbe": {"httpGet": {"port": 8080, "path": "/healthz"}},
             "readinessProbe": {"tcpSocket": {"port": 5432}},
             "startupProbe": {"grpc": {"port": 9000, "service": ""}}},
            {"livenessProbe": {"exec": {"command": ["true"]}},
             "lifecycle": {"postStart": {"httpGet": {"port": 7000}}, "preStop": {"sleep": {"seconds": 3}}}}
        ]"#;
        assert_eq!(of(containers, "[]"), [5432, 7000, 8080, 9000]);
        assert_eq!(of(r#"[{"lifecycle": {"preStop": {"tcpSocket": {"port": 7001}}}, "ports": null}]"#, "[]"), [7001]);
    }

    #[test]
    fn names_are_those_of_the_same_container() {
        let containers = r#"[
            {"ports": [{"name": "http", "containerPort": 80}], "livenessProbe": {"httpGet": {"port": "http"}}},
            {"ports": [{"name": "http", "containerPort": 81}], "livenessProbe": {"httpGet": {"port": "http"}}},
            {"livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"httpGet": {"port": "8443"}}}
        ]"#;
        assert_eq!(of(containers, "[]"), [80, 81, 8443]);
    }

    #[test]
    fn only_init_containers_that_stay_are_probed() {
        let init = r#"[
            {"restartPolicy": "Always", "startupProbe": {"httpGet": {"port": 15021}}},
            {"startupProbe": {"httpGet": {"port": 1}}}
        ]"#;
        assert_eq!(of("[]", init), [15021]);
    }

    #[test]
    fn probes_of_other_hosts_and_impossible_ports_do_not_count() {
        let containers = r#"[
            {"livenessProbe": {"httpGet": {"port": 80, "host": "example.com"}},
             "readinessProbe": {"httpGet": {"port": 0}}, "startupProbe": {"tcpSocket": {"port": 70000, "host": ""}}},
            {"livenessProbe": {"httpGet": {"port": 81, "host": ""}}}
        ]"#;
        assert_eq!(of(containers, "[]"), [81]);
    }
}
