//! What the agent keeps of Pods, Namespaces and Nodes. The rest of an object (managedFields, status, volumes) is skipped
//! while it is read and costs no memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use super::{labels, probes, wire};

/// The annotation that names the DaemonSet that is being uninstalled, on weir's own namespace.
pub const UNINSTALL: &str = "weir.dev/uninstall";
/// The annotation by which the kubelet's own pods (static ones) tell the UID that the node knows them by.
const MIRROR_UID: &str = "kubernetes.io/config.hash";
/// The annotation that only their copies in the API server have.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotations that somebody reads.
const READ_ANNOTATIONS: [&str; 2] = [labels::OWN, "traffic.sidecar.istio.io/"];

/// An object of the API server that can be followed.
pub trait Object: for<'de> Deserialize<'de> + Send + 'static {
    /// Its `metadata.resourceVersion`.
    fn version(&self) -> &str;
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// The UID that the node knows it by: in its cgroup's name and in CNI calls.
    pub uid: String,
    /// The UID of its object; another one for a static pod.
    pub object_uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Node that it is bound to; empty before.
    pub node: String,
    /// Service account.
    pub service_account: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Those annotations that weir reads.
    pub annotations: BTreeMap<String, String>,
    /// UID of its controller, such as a DaemonSet.
    pub controller: Option<String>,
    /// Whether it is in the node's network namespace.
    pub host_network: bool,
    /// Whether it has, or had, a sandbox and an address.
    pub begun: bool,
    /// Whether its containers have ended for good.
    pub finished: bool,
    /// Ports that the kubelet connects to.
    pub probe_ports: Vec<u16>,
}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels that say whether its pods are enrolled, or may have been meant to.
    pub labels: BTreeMap<String, String>,
    /// Names of annotations that begin as weir's do; not known of one that is only remembered.
    #[serde(skip)]
    pub annotations: BTreeSet<String>,
    /// UID of the DaemonSet that is being uninstalled.
    pub uninstall: Option<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
}

/// What is kept of an object, and the version that it was sent in.
#[derive(Clone, Debug, Default)]
pub struct Versioned<T> {
    pub object: T,
    pub version: String,
}

/// A Pod as the API server sends it.
pub type PodObject = Versioned<Pod>;
/// A Namespace as the API server sends it.
pub type NamespaceObject = Versioned<Namespace>;
/// A Node as the API server sends it.
pub type NodeObject = Versioned<Node>;

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Pod::deserialize(deserializer).map(Self::from)
    }
}

impl<'de> Deserialize<'de> for NamespaceObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Partial::deserialize(deserializer).map(Self::from)
    }
}

impl<'de> Deserialize<'de> for NodeObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Partial::deserialize(deserializer).map(Self::from)
    }
}

impl From<wire::Pod> for PodObject {
    fn from(pod: wire::Pod) -> Self {
        let wire::Pod { metadata, spec, status } = pod;
        let probe_ports = probes::ports(&spec.containers, &spec.init_containers);
        let mirrored = metadata.annotations.contains_key(MIRROR);
        let known_by = metadata.annotations.get(MIRROR_UID).filter(|_| mirrored).unwrap_or(&metadata.uid).clone();
        let read = |name: &str| READ_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix));
        let account = spec.service_account_name;
        let object = Pod {
            uid: known_by,
            object_uid: metadata.uid,
            name: metadata.name,
            namespace: metadata.namespace,
            node: spec.node_name,
            service_account: if account.is_empty() { "default".to_owned() } else { account },
            labels: metadata.labels,
            annotations: metadata.annotations.into_iter().filter(|(name, _)| read(name)).collect(),
            controller: metadata.owner_references.into_iter().find(|owner| owner.controller).map(|owner| owner.uid),
            host_network: spec.host_network,
            begun: !status.pod_ip.is_empty(),
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            probe_ports,
        };
        Self { object, version: metadata.resource_version }
    }
}

impl From<wire::Partial> for NamespaceObject {
    fn from(object: wire::Partial) -> Self {
        let wire::Metadata { name, mut labels, mut annotations, resource_version, .. } = object.metadata;
        labels.retain(|name, _| labels::is_kept(name));
        let uninstall = annotations.remove(UNINSTALL);
        let annotations = annotations.into_keys().filter(|name| name.starts_with(labels::OWN)).collect();
        let object = Namespace { name, labels, annotations, uninstall };
        Self { object, version: resource_version }
    }
}

impl From<wire::Partial> for NodeObject {
    fn from(object: wire::Partial) -> Self {
        let wire::Metadata { name, resource_version, .. } = object.metadata;
        Self { object: Node { name }, version: resource_version }
    }
}

impl<T: Send + 'static> Object for Versioned<T>
where
    Self: for<'de> Deserialize<'de>,
{
    fn version(&self) -> &str {
        &self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Pod {
        serde_json::from_str::<PodObject>(text).unwrap().object
    }

    #[test]
    fn a_pod_keeps_what_is_read_and_nothing_else() {
        let pod = pod(r#"{
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "web"},
                "annotations": {"weir.dev/fail-open": "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "ownerReferences": [{"uid": "o1", "kind": "X", "name": "x"}, {"uid": "o2", "controller": true}],
                "managedFields": [{"manager": "kubelet"}]
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "buyer", "initContainers": null,
                "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}],
                                "readinessProbe": {"httpGet": {"port": "http"}}}]
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1"}
        }"#);
        let expected = Pod {
            uid: "u1".to_owned(),
            object_uid: "u1".to_owned(),
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            node: "n1".to_owned(),
            service_account: "buyer".to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            annotations: [("weir.dev/fail-open".to_owned(), "true".to_owned())].into(),
            controller: Some("o2".to_owned()),
            begun: true,
            probe_ports: vec![8080],
            ..Pod::default()
        };
        assert_eq!(pod, expected);
    }

    #[test]
    fn what_a_pod_does_not_say_has_its_default() {
        let bare = pod(r#"{"metadata": {"name": "a", "labels": null}}"#);
        assert_eq!((bare.service_account.as_str(), bare.host_network, bare.finished), ("default", false, false));
        for (phase, finished) in [("Pending", false), ("Running", false), ("Succeeded", true), ("Failed", true)] {
            let text = format!(r#"{{"metadata": {{"name": "a"}}, "status": {{"phase": "{phase}"}}}}"#);
            assert_eq!(pod(&text).finished, finished, "{phase}");
        }
    }

    #[test]
    fn a_static_pod_is_known_by_the_uid_that_the_kubelet_gave_it() {
        let mirror = r#"{"metadata": {"name": "etcd", "uid": "u", "annotations":
            {"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h"}}}"#;
        assert_eq!((pod(mirror).uid, pod(mirror).object_uid), ("h".to_owned(), "u".to_owned()));
        // Anybody may set the one annotation; the API server lets only kubelets set the other.
        let pretender = r#"{"metadata": {"name": "a", "uid": "u", "annotations": {"kubernetes.io/config.hash": "h"}}}"#;
        assert_eq!(pod(pretender).uid, "u");
    }

    #[test]
    fn a_namespace_keeps_the_labels_that_choose_its_pods() {
        let text = r#"{"metadata": {"name": "shop", "resourceVersion": "3",
            "labels": {"weir.dev/mesh": "enabled", "team": "a"},
            "annotations": {"weir.dev/uninstall": "d", "weir.dev/mesh": "enabled", "team": "a"}}}"#;
        let namespace = serde_json::from_str::<NamespaceObject>(text).unwrap().object;
        assert_eq!(
            namespace.labels.into_iter().collect::<Vec<_>>(),
            [("weir.dev/mesh".to_owned(), "enabled".to_owned())]
        );
        assert_eq!(namespace.uninstall.as_deref(), Some("d"));
        assert_eq!(namespace.annotations, ["weir.dev/mesh".to_owned()].into());
    }
}
