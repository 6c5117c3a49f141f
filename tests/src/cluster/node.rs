//! What runs on a node, seen from there.

use std::time::Duration;

use serde_json::Value;

use super::command::CommandLine;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs scripts on nodes, where the cluster lets one.
#[derive(Debug)]
pub struct Nodes(pub Option<CommandLine>);

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time so far.
    pub cpu: Duration,
    /// Resident memory in kB.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Nodes {
    /// Runs a shell's script on a node.
    pub fn sh(&self, node: &str, script: &str) -> Result<String, String> {
        let command = self.0.as_ref().ok_or("needs --node-exec")?;
        command.on(node).run(&["sh", "-c", script], b"", PATIENCE)
    }

    /// Processes of a container, by its id in the pod's status: those whose cgroup has that name.
    pub fn processes(&self, node: &str, pod: &Value, container: &str) -> Result<Vec<u32>, String> {
        let status = |list: &str| pod["status"][list].as_array().cloned().unwrap_or_default();
        let statuses = [status("initContainerStatuses"), status("containerStatuses")].concat();
        let found = statuses.iter().find(|status| status["name"] == container);
        let id = found.and_then(|status| status["containerID"].as_str()).ok_or_else(|| format!("no {container}"))?;
        let id = id.rsplit('/').next().unwrap_or(id);
        self.in_cgroup(node, id)
    }

    /// Processes of all containers of a pod, the sandbox's too.
    pub fn pod_processes(&self, node: &str, pod: &Value) -> Result<Vec<u32>, String> {
        let uid = pod["metadata"]["uid"].as_str().ok_or("a pod without uid")?;
        // systemd's names have underscores.
        self.in_cgroup(node, &format!("pod{}", uid.replace('-', "[-_]")))
    }

    fn in_cgroup(&self, node: &str, name: &str) -> Result<Vec<u32>, String> {
        let script = format!("grep -lE '{name}' /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3; true");
        let listed = self.sh(node, &script)?;
        let found: Vec<u32> = listed.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if found.is_empty() { Err(format!("no process in a cgroup named {name}")) } else { Ok(found) }
    }

    /// Kills processes at once.
    pub fn kill(&self, node: &str, processes: &[u32]) -> Result<(), String> {
        let list: Vec<String> = processes.iter().map(u32::to_string).collect();
        self.sh(node, &format!("kill -9 {} 2>/dev/null; true", list.join(" "))).map(drop)
    }

    /// What a process holds.
    pub fn usage(&self, node: &str, process: u32) -> Result<Usage, String> {
        let script = format!(
            "sed 's/.*) //' /proc/{process}/stat; getconf CLK_TCK; grep VmRSS /proc/{process}/status; \
             ls /proc/{process}/fd | wc -l"
        );
        let text = self.sh(node, &script)?;
        let lines: Vec<&str> = text.lines().collect();
        let [stat, ticks, resident, descriptors] = lines.as_slice() else { return Err(format!("odd: {text}")) };
        let number = |text: &str| text.trim().parse::<u64>().map_err(|error| format!("{text}: {error}"));
        let stat: Vec<&str> = stat.split(' ').collect();
        // proc(5): utime and stime are fields 14 and 15; two went with the name.
        let spent = number(stat.get(11).ok_or("a short stat")?)? + number(stat.get(12).ok_or("a short stat")?)?;
        Ok(Usage {
            cpu: Duration::from_millis(spent * 1000 / number(ticks)?.max(1)),
            resident: number(resident.split_whitespace().nth(1).unwrap_or_default())?,
            descriptors: number(descriptors)?,
        })
    }
}
