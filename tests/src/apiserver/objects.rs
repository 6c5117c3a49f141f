//! Objects as a cluster has them.

use serde_json::{Value, json};

/// A Node.
pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": format!("uid-{name}")}})
}

/// A Namespace with these labels, such as `weir.dev/mesh=enabled`.
pub fn namespace(name: &str, labels: &[&str]) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": pairs(labels)}})
}

/// A Pod in the making.
#[derive(Clone, Debug)]
pub struct PodObject(Value);

impl PodObject {
    /// A running pod on a node; its UID is `uid-<name>`.
    pub fn new(namespace: &str, name: &str, node: &str) -> Self {
        Self(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "uid": format!("uid-{name}"),
                "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}]
            },
            "spec": {
                "nodeName": node, "serviceAccountName": "default", "hostNetwork": false,
                "containers": [{"name": "app", "image": "app"}]
            },
            "status": {"phase": "Running"}
        }))
    }

    fn with(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a JSON pointer");
        self.0.pointer_mut(parent).expect("a part of a pod")[field] = value.into();
        self
    }

    /// Another UID: the pod that replaces one of the same name.
    pub fn uid(self, uid: &str) -> Self {
        self.with("/metadata/uid", uid)
    }

    /// With these labels.
    pub fn labels(self, labels: &[&str]) -> Self {
        self.with("/metadata/labels", pairs(labels))
    }

    /// With these annotations.
    pub fn annotations(self, annotations: &[&str]) -> Self {
        self.with("/metadata/annotations", pairs(annotations))
    }

    /// In this phase.
    pub fn phase(self, phase: &str) -> Self {
        self.with("/status/phase", phase)
    }

    /// On the node's network.
    pub fn host_network(self) -> Self {
        self.with("/spec/hostNetwork", true)
    }

    /// Controlled by the object with this UID.
    pub fn controller(self, uid: &str) -> Self {
        self.with("/metadata/ownerReferences", json!([{"kind": "DaemonSet", "uid": uid, "controller": true}]))
    }

    /// With an HTTP readiness probe of this port.
    pub fn probe(self, port: u16) -> Self {
        self.with("/spec/containers/0/readinessProbe", json!({"httpGet": {"port": port}}))
    }

    /// About to be deleted; its containers run.
    pub fn deleting(self) -> Self {
        self.with("/metadata/deletionTimestamp", "2026-11-21T00:00:00Z")
    }
}

impl From<PodObject> for Value {
    fn from(pod: PodObject) -> Self {
        pod.0
    }
}

fn pairs(texts: &[&str]) -> Value {
    texts.iter().map(|text| text.split_once('=').expect("name=value")).collect()
}
