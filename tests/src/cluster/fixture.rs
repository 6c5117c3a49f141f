//! Pods of the suite.

use serde_json::{Value, json};

/// Where a pod's scratch files lie.
pub const WORK: &str = "/work";

/// What a pod's first process does: it connects at once, and looks at its own socket table for where the connection
/// really went. 3A99 is 15001, the port that redirected connections go to. Then it asks for a page.
const FIRST: &str = r#"
if exec 3<>/dev/tcp/$TO/$PORT; then
  if cat /proc/net/tcp /proc/net/tcp6 | awk '$3 ~ /:3A99$/ { found = 1 } END { exit !found }'
  then echo first=redirected; else echo first=passed; fi
else echo first=refused; fi
echo page=$(curl -s -m 20 -o /dev/null -w '%{http_code}' http://$TO:$PORT/)
trap 'exit 0' TERM
while :; do sleep 1 & wait; done
"#;

/// A pod about to be described.
#[derive(Clone, Debug)]
pub struct Pod {
    manifest: Value,
}

impl Pod {
    /// A pod that runs the image's own server.
    pub fn server(namespace: &str, name: &str, node: &str, image: &str) -> Self {
        Self {
            manifest: json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 1,
                    "enableServiceLinks": false,
                    "containers": [{
                        "name": "main",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "volumeMounts": [{"name": "work", "mountPath": WORK}],
                    }],
                    "volumes": [{"name": "work", "emptyDir": {}}],
                },
            }),
        }
    }

    /// A pod that does nothing by itself.
    pub fn idle(namespace: &str, name: &str, node: &str, image: &str) -> Self {
        Self::server(namespace, name, node, image).command(&[
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 1 & wait; done",
        ])
    }

    /// A pod whose first process connects at once, says in its log what became of that, and stays.
    pub fn first(namespace: &str, name: &str, node: &str, image: &str, to: &str, port: u16) -> Self {
        let pod = Self::server(namespace, name, node, image).command(&["bash", "-c", FIRST]);
        pod.container("env", json!([{"name": "TO", "value": to}, {"name": "PORT", "value": port.to_string()}]))
    }

    /// A pod that runs `weir-load serve`, once that has been copied into it.
    pub fn load_server(namespace: &str, name: &str, node: &str, image: &str) -> Self {
        let wait = format!("until [ -x {WORK}/weir-load ]; do sleep 0.1; done; exec {WORK}/weir-load serve");
        Self::server(namespace, name, node, image).command(&["sh", "-c", &wait])
    }

    /// With this command.
    pub fn command(self, words: &[&str]) -> Self {
        self.container("command", json!(words))
    }

    /// With a field of its container.
    pub fn container(mut self, field: &str, value: Value) -> Self {
        self.manifest["spec"]["containers"][0][field] = value;
        self
    }

    /// With a field of its specification.
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.manifest["spec"][field] = value;
        self
    }

    /// With a label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.manifest["metadata"]["labels"][name] = value.into();
        self
    }

    /// With an annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.manifest["metadata"]["annotations"][name] = value.into();
        self
    }

    /// On the node's own network.
    pub fn host_network(self) -> Self {
        self.spec("hostNetwork", true.into()).spec("dnsPolicy", "ClusterFirstWithHostNet".into())
    }

    /// As a manifest.
    pub fn manifest(self) -> Value {
        self.manifest
    }

    /// As a Deployment of so many.
    pub fn deployment(self, replicas: u32) -> Value {
        let Value::Object(mut pod) = self.manifest else { return Value::Null };
        let metadata = pod.remove("metadata").unwrap_or_default();
        let app = metadata["labels"]["app"].clone();
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": metadata["namespace"], "name": metadata["name"]},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": app}},
                "template": {"metadata": {"labels": metadata["labels"]}, "spec": pod.remove("spec")},
            },
        })
    }
}

/// A service for the pods labelled `app`, from one port to another.
pub fn service(namespace: &str, name: &str, app: &str, from: u16, to: u16, more: Value) -> Value {
    let mut spec = json!({"selector": {"app": app}, "ports": [{"name": "http", "port": from, "targetPort": to}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}
