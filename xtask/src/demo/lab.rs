//! The demo's two nodes: namespaces, files and processes, made and removed.
//!
//! ```text
//!   node-a 10.88.1.1 ──────── 10.88.0.0/30 ──────── node-b 10.88.2.1
//!     ├ client    10.88.1.10                          ├ reviews-v1  10.88.2.10
//!     └ outsider  10.88.1.11  (not enrolled)          └ reviews-v2  10.88.2.11
//! ```
//!
//! All addresses exist inside the namespaces only. State lies in one directory, so that a later run (or `--down`) finds
//! what an earlier one left.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use super::process;
use crate::machine::{self, Machine};

/// Everything that is a file.
const DIRECTORY: &str = "/run/weir-demo";
/// Is there while a demo is kept.
const KEPT: &str = "kept";
/// What the names of namespaces, cgroups and instances start with.
const PREFIX: &str = "weir-demo-";
/// The port that pods of reviews serve on.
pub const PORT: u16 = 8080;
/// The port that their probes name.
pub const PROBE_PORT: u16 = 8081;
/// How long agents, proxies and enrolment may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// A command that takes longer hangs.
const COMMAND_PATIENCE: Duration = Duration::from_secs(180);
/// Lines of each log that an error shows.
const TAIL: usize = 15;

/// A node: its instance, its files, its pods.
pub struct Node {
    /// Name, also of its directory.
    pub name: &'static str,
    /// Third part of its pods' addresses.
    number: u8,
}

/// A pod.
pub struct Pod {
    /// Name.
    pub name: &'static str,
    /// Address.
    pub ip: &'static str,
    node: &'static Node,
    /// Whether it is in the node's pods file.
    enrolled: bool,
    /// nginx's configuration, if it serves.
    nginx: Option<&'static str>,
}

/// The client's node.
pub const NODE_A: Node = Node { name: "node-a", number: 1 };
/// The servers' node.
pub const NODE_B: Node = Node { name: "node-b", number: 2 };
static NODES: [&Node; 2] = [&NODE_A, &NODE_B];

/// Sends the requests.
pub const CLIENT: Pod = Pod { name: "client", ip: "10.88.1.10", node: &NODE_A, enrolled: true, nginx: None };
/// Knows nothing of the mesh.
pub const OUTSIDER: Pod = Pod { name: "outsider", ip: "10.88.1.11", node: &NODE_A, enrolled: false, nginx: None };
/// The version that always answers.
pub const V1: Pod = Pod {
    name: "reviews-v1",
    ip: "10.88.2.10",
    node: &NODE_B,
    enrolled: true,
    nginx: Some(include_str!("reviews-v1.conf")),
};
/// The version that fails half the time.
pub const V2: Pod = Pod {
    name: "reviews-v2",
    ip: "10.88.2.11",
    node: &NODE_B,
    enrolled: true,
    nginx: Some(include_str!("reviews-v2.conf")),
};
static PODS: [&Pod; 4] = [&CLIENT, &OUTSIDER, &V1, &V2];

/// What node A's proxy is told; node B's only passes on.
pub const BOOTSTRAP: &str = include_str!("bootstrap.yaml");

impl Node {
    /// Its network namespace.
    pub fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// The directory of its files.
    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(self.name)
    }

    /// `weirctl` for its agent, as one types it.
    pub fn weirctl(&self, arguments: &str) -> String {
        format!("weirctl -s {}/agent.sock {arguments}", self.directory().display())
    }

    fn pods(&self) -> impl Iterator<Item = &'static Pod> {
        PODS.into_iter().filter(|pod| pod.node.number == self.number)
    }

    fn agent_toml(&self, cgroup2: &Path) -> String {
        let directory = self.directory();
        let directory = directory.display();
        format!(
            "instance = \"{PREFIX}{name}\"\n\
             node = \"{name}\"\n\
             workers = 2\n\
             log = \"info\"\n\
             [paths]\n\
             cgroup2 = \"{cgroup2}\"\n\
             handoff = \"{directory}/handoff.sock\"\n\
             api = \"{directory}/agent.sock\"\n\
             [node_processes]\n\
             netns = \"/run/netns/{namespace}\"\n\
             pods_cgroup = \"{pods}\"\n\
             [redirect]\n\
             drain = \"1s\"\n\
             [source.file]\n\
             path = \"{directory}/pods.toml\"\n",
            name = self.name,
            cgroup2 = cgroup2.display(),
            namespace = self.namespace(),
            pods = pods_cgroup(cgroup2, self).display(),
        )
    }

    fn pods_toml(&self) -> String {
        self.pods()
            .filter(|pod| pod.enrolled)
            .map(|pod| {
                let probes = if pod.nginx.is_some() { format!("probe_ports = [{PROBE_PORT}]\n") } else { String::new() };
                format!(
                    "[[pods]]\nuid = \"{name}\"\nname = \"{name}\"\nnamespace = \"demo\"\nservice_account = \"{name}\"\n\
                     netns = \"/run/netns/{namespace}\"\n{probes}",
                    name = pod.name,
                    namespace = pod.namespace(),
                )
            })
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Pod {
    /// Its network namespace.
    pub fn namespace(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// A command inside it, as one types it.
    pub fn run(&self, command: &str) -> String {
        format!("ip netns exec {} {command}", self.namespace())
    }

    fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(self.name)
    }

    /// What its nginx logged on its service port: address of the client, status.
    pub fn accesses(&self) -> Result<Vec<(String, String)>> {
        let file = self.directory().join("access.log");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(ip, status)| (ip.to_owned(), status.to_owned()))
            .collect())
    }

    /// Where that log is, as one types it.
    pub fn access_log(&self) -> String {
        self.directory().join("access.log").display().to_string()
    }
}

/// The demo's place on this machine.
pub struct Lab {
    /// The machine.
    pub machine: Machine,
    cgroup2: PathBuf,
}

impl Lab {
    /// A demo that somebody plays with is not taken down for another one.
    pub fn refuse_kept() -> Result<()> {
        refuse_kept(Path::new(DIRECTORY))
    }

    /// What is up stays.
    pub fn keep(&self) -> Result<()> {
        let mark = Path::new(DIRECTORY).join(KEPT);
        fs::write(&mark, "").with_context(|| mark.display().to_string())
    }

    /// Makes directories and files; nothing runs yet.
    pub fn new(machine: Machine) -> Result<Self> {
        let lab = Self { machine, cgroup2: machine::cgroup2_mount()? };
        make_directory(Path::new(DIRECTORY))?;
        let programs = lab.machine.find("weirctl").context("weirctl is not built")?;
        symlink(programs.parent().context("weirctl lies in a directory")?, bin()).context("a link to the programs")?;
        for node in NODES {
            make_directory(&node.directory())?;
            fs::create_dir_all(pods_cgroup(&lab.cgroup2, node)).context("a cgroup for the demo's pods")?;
            fs::write(node.directory().join("agent.toml"), node.agent_toml(&lab.cgroup2))?;
            fs::write(node.directory().join("pods.toml"), node.pods_toml())?;
        }
        fs::write(NODE_A.directory().join("bootstrap.yaml"), BOOTSTRAP)?;
        for pod in PODS {
            if let Some(configuration) = pod.nginx {
                make_directory(&pod.directory())?;
                fs::write(pod.directory().join("nginx.conf"), configuration)?;
            }
        }
        Ok(lab)
    }

    /// Makes the namespaces and what joins them.
    pub async fn wire(&self) -> Result<()> {
        for node in NODES {
            let (namespace, number) = (node.namespace(), node.number);
            self.ip(&format!("netns add {namespace}")).await?;
            self.ip_in(&namespace, "link set lo up").await?;
            self.ip_in(&namespace, "link add br0 type bridge").await?;
            self.ip_in(&namespace, &format!("addr add 10.88.{number}.1/24 dev br0")).await?;
            self.ip_in(&namespace, "link set br0 up").await?;
            self.run(&format!("ip netns exec {namespace} sysctl -q -w net.ipv4.ip_forward=1")).await?;
        }
        let (a, b) = (NODE_A.namespace(), NODE_B.namespace());
        self.ip(&format!("-n {a} link add eth0 type veth peer name eth0 netns {b}")).await?;
        for (namespace, own, other, pods) in
            [(&a, "10.88.0.1", "10.88.0.2", "10.88.2.0/24"), (&b, "10.88.0.2", "10.88.0.1", "10.88.1.0/24")]
        {
            self.ip_in(namespace, &format!("addr add {own}/30 dev eth0")).await?;
            self.ip_in(namespace, "link set eth0 up").await?;
            self.ip_in(namespace, &format!("route add {pods} via {other}")).await?;
        }
        for pod in PODS {
            let (namespace, node) = (pod.namespace(), pod.node.namespace());
            self.ip(&format!("netns add {namespace}")).await?;
            self.ip_in(&namespace, "link set lo up").await?;
            let last = pod.ip.rsplit('.').next().unwrap_or_default();
            self.ip_in(&node, &format!("link add pod{last} type veth peer name eth0 netns {namespace}")).await?;
            self.ip_in(&node, &format!("link set pod{last} master br0 up")).await?;
            self.ip_in(&namespace, &format!("addr add {}/24 dev eth0", pod.ip)).await?;
            self.ip_in(&namespace, "link set eth0 up").await?;
            self.ip_in(&namespace, &format!("route add default via 10.88.{}.1", pod.node.number)).await?;
        }
        Ok(())
    }

    /// Starts nginx in the pods that serve.
    pub fn start_servers(&self) -> Result<()> {
        for pod in PODS.into_iter().filter(|pod| pod.nginx.is_some()) {
            let mut command = self.machine.command("nsenter");
            command.arg(format!("--net=/run/netns/{}", pod.namespace())).args(["nginx", "-e", "error.log", "-p"]);
            command.arg(format!("{}/", pod.directory().display())).args(["-c", "nginx.conf"]);
            process::start(command, &pod.directory(), "nginx")?;
        }
        Ok(())
    }

    /// The commands that start a node's agent and proxy, as one types them.
    pub fn start_commands(&self, node: &Node) -> [String; 2] {
        let directory = node.directory();
        let directory = directory.display();
        let bootstrap =
            if node.number == NODE_A.number { format!(" -c {directory}/bootstrap.yaml") } else { String::new() };
        [
            format!("weir-agent run --config {directory}/agent.toml"),
            format!("weir-proxy --handoff {directory}/handoff.sock{bootstrap}"),
        ]
    }

    /// Starts a node's agent and proxy.
    pub async fn start_weir(&self, node: &Node) -> Result<()> {
        let directory = node.directory();
        for (name, command) in ["agent", "proxy"].into_iter().zip(self.start_commands(node)) {
            // nsenter, not `ip netns exec`: that hides /sys/fs/bpf behind a /sys of its own.
            let mut inside = self.machine.command("nsenter");
            inside.arg(format!("--net=/run/netns/{}", node.namespace())).args(command.split(' '));
            process::start(inside, &directory, name)?;
            if name == "agent" {
                let sockets = || async { Ok(directory.join("handoff.sock").exists() || ended(node)?) };
                wait_for("the agent's sockets", sockets).await?;
            }
        }
        let enrolled = node.pods().filter(|pod| pod.enrolled).count();
        wait_for(&format!("{}: {enrolled} enrolled pods and a ready proxy", node.name), || async {
            ended(node)?;
            // Until the agent has bound its socket, weirctl finds nobody.
            let Ok(status) = self.json(node, "status").await else { return Ok(false) };
            let proxies = status["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ready = proxies.iter().any(|proxy| proxy["state"] == "ready");
            Ok(ready && number(&status["pods_enrolled"]) == enrolled as u64)
        })
        .await
    }

    /// `weirctl -j` on a node.
    pub async fn json(&self, node: &Node, arguments: &str) -> Result<Value> {
        let output = self.run(&node.weirctl(&format!("-j {arguments}"))).await?;
        serde_json::from_str(&output).with_context(|| format!("weirctl -j {arguments} wrote {output}"))
    }

    /// Runs a command as typed; gives its standard output, or an error with what it wrote.
    pub async fn run(&self, command: &str) -> Result<String> {
        let output = self.attempt(command).await?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{command}: {}: {}", output.status, stderr.trim().lines().last().unwrap_or("no message"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command as typed, whatever becomes of it.
    pub async fn attempt(&self, command: &str) -> Result<Output> {
        let running = self.spawn(command)?.wait_with_output();
        tokio::time::timeout(COMMAND_PATIENCE, running)
            .await
            .with_context(|| format!("{command}: hangs"))?
            .with_context(|| command.to_owned())
    }

    /// Starts a command as typed, its output piped; it is killed when dropped.
    pub fn spawn(&self, command: &str) -> Result<tokio::process::Child> {
        let mut shell = tokio::process::Command::from(self.machine.command("sh"));
        shell.args(["-c", &format!("exec {command}")]).kill_on_drop(true);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.spawn().with_context(|| command.to_owned())
    }

    async fn ip(&self, arguments: &str) -> Result<()> {
        self.run(&format!("ip {arguments}")).await.map(drop)
    }

    async fn ip_in(&self, namespace: &str, arguments: &str) -> Result<()> {
        self.ip(&format!("-n {namespace} {arguments}")).await
    }

    /// Ends of the logs of agents and proxies.
    pub fn log_tails(&self) -> String {
        let mut text = String::new();
        for node in NODES {
            for name in ["agent", "proxy"] {
                let log = fs::read_to_string(process::log_file(&node.directory(), name)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                text.push_str(&format!("\n--- {} of {}, end of its log\n", name, node.name));
                for line in &lines[lines.len().saturating_sub(TAIL)..] {
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
        text
    }

    /// What a user can do with a demo that was left up.
    pub fn how_to_play(&self) -> String {
        let lines = [
            CLIENT.run("curl -si http://10.96.0.10/"),
            NODE_A.weirctl("event trace --follow"),
            NODE_A.weirctl("redirect list"),
            NODE_B.weirctl("pod list"),
            format!("$EDITOR {DIRECTORY}/node-b/pods.toml        # pods come and go with this file"),
            "cargo xtask demo --down".to_owned(),
        ];
        let path = format!("export PATH={}:$PATH", bin().display());
        std::iter::once(path).chain(lines).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Removes everything of the demo, whoever left it; what is not there is no error.
    pub fn down(machine: &Machine) -> Result<()> {
        for node in NODES {
            for name in ["proxy", "agent"] {
                process::end(&node.directory(), name);
            }
            uninstall(machine, node)?;
        }
        for pod in PODS {
            process::end(&pod.directory(), "nginx");
        }
        let namespaces = NODES.iter().map(|node| node.namespace()).chain(PODS.iter().map(|pod| pod.namespace()));
        for namespace in namespaces.filter(|namespace| Path::new("/run/netns").join(namespace).exists()) {
            let pids = machine::output(machine.command("ip").args(["netns", "pids", &namespace]))?;
            pids.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(process::end_by_id);
            machine::run(machine.command("ip").args(["netns", "del", &namespace]))?;
        }
        let cgroup2 = machine::cgroup2_mount()?;
        for node in NODES {
            let pods = pods_cgroup(&cgroup2, node);
            if pods.exists() {
                fs::remove_dir(&pods).with_context(|| pods.display().to_string())?;
            }
        }
        if Path::new(DIRECTORY).exists() {
            fs::remove_dir_all(DIRECTORY).with_context(|| DIRECTORY.to_owned())?;
        }
        Ok(())
    }
}

fn refuse_kept(directory: &Path) -> Result<()> {
    ensure!(
        !directory.join(KEPT).exists(),
        "a demo is up that was left with --keep: cargo xtask demo --down takes it away, then run this again"
    );
    Ok(())
}

/// The programs of the demo that is up.
fn bin() -> PathBuf {
    Path::new(DIRECTORY).join("bin")
}

/// Takes a node's eBPF programs out of the kernel.
fn uninstall(machine: &Machine, node: &Node) -> Result<()> {
    let (agent, configuration) = (bin().join("weir-agent"), node.directory().join("agent.toml"));
    if agent.exists() && configuration.exists() {
        machine::run(machine.command(agent).args(["uninstall", "--config"]).arg(configuration))?;
    }
    // The program was removed since: its pins are all that holds the links.
    let pins = Path::new("/sys/fs/bpf/weir").join(format!("{PREFIX}{}", node.name));
    if pins.exists() {
        fs::remove_dir_all(&pins).with_context(|| pins.display().to_string())?;
    }
    Ok(())
}

/// An error if the node's agent or proxy has ended; false otherwise.
fn ended(node: &Node) -> Result<bool> {
    for name in ["agent", "proxy"] {
        ensure!(!process::has_ended(&node.directory(), name), "the {name} of {} ended", node.name);
    }
    Ok(false)
}

/// Counts in weirctl's JSON: numbers, or texts as proto3-JSON writes 64 bits.
pub fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// Where Kubernetes would put the node's pods.
fn pods_cgroup(cgroup2: &Path, node: &Node) -> PathBuf {
    cgroup2.join(format!("{PREFIX}{}-pods", node.name))
}

/// Makes a directory that an unprivileged proxy can look into.
fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| path.display().to_string())
}

/// Waits until something holds; an error with its name when it does not in time.
pub async fn wait_for<F: Future<Output = Result<bool>>>(what: &str, holds: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await? {
        if Instant::now() > deadline {
            bail!("{what}: not there after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_demo_is_not_taken_down_for_another() {
        let directory = tempfile::tempdir().unwrap();
        refuse_kept(directory.path()).unwrap();
        fs::write(directory.path().join(KEPT), "").unwrap();
        let refused = refuse_kept(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("cargo xtask demo --down"), "{refused}");
    }
}
