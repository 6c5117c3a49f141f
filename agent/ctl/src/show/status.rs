//! `status`.

use serde_json::{Value, json};
use weir_proto::agent::v1::{Proxy, StatusResponse};

use super::{counts, counts_json, optional, pod, sorted};
use crate::{
    table::Facts,
    time::{age, rfc3339},
};

/// What an operator looks at first.
pub fn plain(status: &StatusResponse, now: u64) -> String {
    let mut facts = Facts::new();
    facts.line(
        "agent",
        format!(
            "{} pid {}, instance {}, node {}, up {}",
            status.version,
            status.pid,
            status.instance,
            status.node,
            age(now, status.started)
        ),
    );
    facts.line("kernel", &status.kernel);
    facts.line("cgroup2", &status.cgroup2);
    facts.line("pins", format!("{}{}", status.pin_path, if status.adopted { " (adopted)" } else { "" }));
    let ready = status.proxies.iter().filter(|proxy| is_ready(proxy)).count();
    facts.line("proxies", format!("{} connected, {ready} ready", status.proxies.len()));
    for proxy in &status.proxies {
        let mut line = format!(
            "{} {} pid {} uid {}, {} workers, connected {} ago",
            proxy.state,
            proxy.version,
            proxy.pid,
            proxy.uid,
            proxy.workers,
            age(now, proxy.connected)
        );
        if proxy.state == "draining" {
            line.push_str(&format!(", {} connections open", proxy.open));
        }
        facts.line("", line);
    }
    facts.line("pods", format!("{} enrolled, {} pending", status.pods_enrolled, status.pods_pending));
    for pending in &status.pending {
        facts.line("", format!("{}: {}", pod::full_name(pending), pending.reason));
    }
    facts.line("pod source", if status.source_error.is_empty() { "ok" } else { &status.source_error });
    facts.line("refused", counts(sorted(&status.refused)));
    facts.line("faults", counts(sorted(&status.faults).into_iter().filter(|(_, count)| *count > 0)));
    facts.line("watchers", status.watchers.to_string());
    facts.to_string()
}

fn is_ready(proxy: &Proxy) -> bool {
    proxy.state == "ready"
}

/// Whether nothing needs attention.
pub fn is_healthy(status: &StatusResponse) -> bool {
    status.proxies.iter().any(is_ready) && status.pods_pending == 0 && status.source_error.is_empty()
}

/// The same as JSON.
pub fn json(status: &StatusResponse) -> Value {
    json!({
        "version": status.version,
        "instance": status.instance,
        "node": status.node,
        "pid": status.pid,
        "started": optional(&rfc3339(status.started)),
        "kernel": status.kernel,
        "cgroup2": status.cgroup2,
        "pin_path": status.pin_path,
        "adopted": status.adopted,
        "healthy": is_healthy(status),
        "proxies": status.proxies.iter().map(proxy_json).collect::<Vec<_>>(),
        "pods_enrolled": status.pods_enrolled,
        "pods_pending": status.pods_pending,
        "pending": status.pending.iter().map(pod::json).collect::<Vec<_>>(),
        "source_error": optional(&status.source_error),
        "refused": counts_json(&status.refused),
        "faults": counts_json(&status.faults),
        "watchers": status.watchers,
    })
}

fn proxy_json(proxy: &Proxy) -> Value {
    json!({
        "version": proxy.version,
        // Nanoseconds since 1970 are more than a JSON number holds exactly.
        "generation": proxy.generation.to_string(),
        "pid": proxy.pid,
        "uid": proxy.uid,
        "workers": proxy.workers,
        "state": proxy.state,
        "connected": optional(&rfc3339(proxy.connected)),
        "open": proxy.open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_proto::agent::v1::Pod;

    fn status() -> StatusResponse {
        StatusResponse {
            version: "0.1.0".to_owned(),
            instance: "default".to_owned(),
            node: "node-a".to_owned(),
            pid: 12,
            started: 1_000_000_000,
            kernel: "6.18.44".to_owned(),
            cgroup2: "/sys/fs/cgroup".to_owned(),
            pin_path: "/sys/fs/bpf/weir/default".to_owned(),
            adopted: true,
            proxies: vec![Proxy {
                version: "0.1.0".to_owned(),
                pid: 40,
                uid: 65532,
                workers: 2,
                state: "ready".to_owned(),
                connected: 1_000_000_000,
                ..Default::default()
            }],
            pods_enrolled: 3,
            pods_pending: 1,
            pending: vec![Pod {
                namespace: "default".to_owned(),
                name: "late".to_owned(),
                reason: "no netns".to_owned(),
                state: "pending".to_owned(),
                ..Default::default()
            }],
            faults: [("pending-insert".to_owned(), 2), ("event-dropped".to_owned(), 0)].into(),
            refused: [("no-listener".to_owned(), 5)].into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_needs_attention_stands_out() {
        assert_eq!(
            plain(&status(), 61_000_000_000),
            "\
agent       0.1.0 pid 12, instance default, node node-a, up 60s
kernel      6.18.44
cgroup2     /sys/fs/cgroup
pins        /sys/fs/bpf/weir/default (adopted)
proxies     1 connected, 1 ready
            ready 0.1.0 pid 40 uid 65532, 2 workers, connected 60s ago
pods        3 enrolled, 1 pending
            default/late: no netns
pod source  ok
refused     no-listener 5
faults      pending-insert 2
watchers    0
"
        );
        let value = json(&status());
        assert_eq!((&value["faults"]["event-dropped"], &value["healthy"]), (&0.into(), &false.into()));
    }

    #[test]
    fn health_needs_a_ready_proxy_and_nothing_pending() {
        let mut status = status();
        assert!(!is_healthy(&status));
        status.pods_pending = 0;
        assert!(is_healthy(&status));
        status.source_error = "pods.toml: line 3".to_owned();
        assert!(!is_healthy(&status));
        status.source_error.clear();
        status.proxies[0].state = "draining".to_owned();
        assert!(!is_healthy(&status));
    }
}
