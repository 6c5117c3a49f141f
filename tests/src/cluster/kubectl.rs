//! kubectl, as a user runs it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::command::CommandLine;

/// A call must answer within this.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(300);

/// kubectl against the cluster.
#[derive(Debug)]
pub struct Kubectl(pub CommandLine);

impl Kubectl {
    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.0.run(arguments, b"", PATIENCE)
    }

    /// `get ... -o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &[Value]) -> Result<(), String> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        self.0.run(&["apply", "-f", "-"], list.to_string().as_bytes(), PATIENCE).map(drop)
    }

    /// Runs a shell's script in a pod.
    pub fn sh(&self, pod: &str, script: &str) -> Result<String, String> {
        let (namespace, name) = pod.split_once('/').ok_or("expected NAMESPACE/POD")?;
        self.0.run(&["exec", "-n", namespace, name, "--", "sh", "-c", script], b"", PATIENCE)
    }

    /// Writes a program into a pod.
    pub fn copy(&self, pod: &str, program: &[u8], to: &str) -> Result<(), String> {
        let (namespace, name) = pod.split_once('/').ok_or("expected NAMESPACE/POD")?;
        let script = format!("cat > {to}.part && chmod 755 {to}.part && mv {to}.part {to}");
        self.0.run(&["exec", "-i", "-n", namespace, name, "--", "sh", "-c", &script], program, PATIENCE).map(drop)
    }

    /// Waits until all pods of a namespace are ready.
    pub fn ready(&self, namespace: &str, within: Duration) -> Result<(), String> {
        let limit = format!("--timeout={}s", within.as_secs());
        let arguments = ["-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", &limit];
        self.0.run(&arguments, b"", within + PATIENCE).map(drop)
    }

    /// Waits until weir's DaemonSet is rolled out.
    pub fn weir_ready(&self, within: Duration) -> Result<(), String> {
        let limit = format!("--timeout={}s", within.as_secs());
        let arguments = ["-n", super::WEIR_NAMESPACE, "rollout", "status", "daemonset/weir", &limit];
        self.0.run(&arguments, b"", within + PATIENCE).map(drop)
    }

    /// Makes a namespace, with weir's label if it is to be enrolled.
    pub fn namespace(&self, name: &str, enrolled: bool) -> Result<(), String> {
        let mut labels = serde_json::json!({"pod-security.kubernetes.io/enforce": "privileged"});
        if enrolled {
            labels[super::MESH_LABEL] = "enabled".into();
        }
        self.apply(&[serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        })])?;
        // Pods are refused until its service account is there.
        eventually("a default service account", PATIENCE, || {
            self.run(&["-n", name, "get", "serviceaccount", "default"]).map(drop)
        })
    }

    /// Removes a namespace and waits until it is gone.
    pub fn remove_namespace(&self, name: &str) -> Result<(), String> {
        let arguments = ["delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s"];
        self.0.run(&arguments, b"", Duration::from_secs(150)).map(drop)
    }

    /// A pod's field.
    pub fn pod(&self, pod: &str) -> Result<Value, String> {
        let (namespace, name) = pod.split_once('/').ok_or("expected NAMESPACE/POD")?;
        self.json(&["-n", namespace, "get", "pod", name])
    }

    /// A pod's address, once it has one.
    pub fn pod_ip(&self, pod: &str) -> Result<String, String> {
        eventually("a pod's address", PATIENCE, || {
            let found = self.pod(pod)?;
            found["status"]["podIP"].as_str().map(str::to_owned).ok_or_else(|| format!("{pod} has none"))
        })
    }

    /// weir's pods by node: `namespace/name`.
    pub fn weir_pods(&self) -> Result<Vec<(String, Value)>, String> {
        let pods = self.json(&["-n", super::WEIR_NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=weir"])?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| (pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(), pod))
            .collect())
    }
}

/// Names of a list's items.
pub fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect()
}

/// Asks until it gives `Ok`, and gives its last `Err` after `within`.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => return Err(format!("no {what} within {within:?}: {last}")),
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}
