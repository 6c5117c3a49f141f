//! `agent.toml`: every key, its default, and what is wrong with it.

use std::{
    fmt,
    num::NonZeroU16,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use weir_abi::map::MAX_LISTENERS;

use crate::document;

/// Names longer than this make no directory worth reading.
const MAX_INSTANCE_BYTES: usize = 64;

/// What the agent is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the directory of the pins.
    #[serde(default = "default_instance", deserialize_with = "instance")]
    pub instance: String,
    /// Node name; the host's name by default.
    #[serde(default = "hostname")]
    pub node: String,
    /// Listening sockets per pod, direction and family; the number of cores by default.
    #[serde(default = "cores", deserialize_with = "workers")]
    pub workers: u32,
    /// Filter of log lines, in the syntax of `tracing_subscriber::EnvFilter`; `WEIR_LOG` overrides it.
    #[serde(default = "default_log")]
    pub log: String,
    /// Files and file systems.
    #[serde(default)]
    pub paths: Paths,
    /// How the node's own processes are recognised.
    #[serde(default)]
    pub node_processes: NodeProcesses,
    /// What holds for every pod.
    #[serde(default)]
    pub redirect: Redirect,
    /// Where pods come from.
    pub source: Source,
}

/// Files and file systems.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// Root of cgroup2; by default the mount that the kernel names.
    pub cgroup2: Option<PathBuf>,
    /// The kernel's BTF.
    pub btf: PathBuf,
    /// procfs, writable: sysctls of pods are set there.
    pub proc: PathBuf,
    /// The socket that proxies dial.
    pub handoff: PathBuf,
    /// The socket that weirctl dials.
    pub api: PathBuf,
    /// Group that owns the handoff socket.
    pub socket_group: u32,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf".into(),
            cgroup2: None,
            btf: "/sys/kernel/btf/vmlinux".into(),
            proc: "/proc".into(),
            handoff: "/run/weir/handoff.sock".into(),
            api: "/run/weir/agent.sock".into(),
            socket_group: 65532,
        }
    }
}

/// How the node's own processes (the kubelet, whose probes pass) are recognised.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeProcesses {
    /// The node's network namespace.
    pub netns: PathBuf,
    /// The cgroup2 directory that holds all pods; none: no process counts as the node's own.
    pub pods_cgroup: Option<PathBuf>,
}

impl Default for NodeProcesses {
    fn default() -> Self {
        Self { netns: "/proc/1/ns/net".into(), pods_cgroup: None }
    }
}

/// What holds for every pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// Destinations that are left alone.
    #[serde(deserialize_with = "cidrs")]
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Destination ports that are left alone.
    #[serde(deserialize_with = "ports")]
    pub exclude_outbound_ports: Vec<u16>,
    /// Ports of pods that are left alone.
    #[serde(deserialize_with = "ports")]
    pub exclude_inbound_ports: Vec<u16>,
    /// How long connections of a withdrawn pod, or of a superseded proxy, may drain.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            exclude_outbound_cidrs: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            drain: Duration::from_secs(30),
        }
    }
}

/// Where pods come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, watched for changes.
    pub file: FileSource,
}

/// A file of pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file; its name ends in `.toml`, `.yaml` or `.yml`.
    pub path: PathBuf,
}

impl Config {
    /// Reads `agent.toml`.
    pub fn read(path: &Path) -> Result<Self, document::Error> {
        document::read(path)
    }

    /// Directory of the pins of this instance.
    pub fn pins(&self) -> PathBuf {
        pins(&self.paths.bpffs, &self.instance)
    }
}

/// Directory of the pins of an instance.
pub fn pins(bpffs: &Path, instance: &str) -> PathBuf {
    bpffs.join("weir").join(instance)
}

/// Why a name cannot be an instance's.
#[derive(Debug)]
pub struct InvalidInstance(String);

impl fmt::Display for InvalidInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid instance name {:?}, expected 1 to {MAX_INSTANCE_BYTES} of a-z, A-Z, 0-9, - and _", self.0)
    }
}

impl std::error::Error for InvalidInstance {}

/// Checks the name of an instance: it becomes a directory of the BPF file system, which knows no dots.
pub fn check_instance(name: &str) -> Result<String, InvalidInstance> {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let valid = !name.is_empty() && name.len() <= MAX_INSTANCE_BYTES && name.chars().all(known);
    if valid { Ok(name.to_owned()) } else { Err(InvalidInstance(name.to_owned())) }
}

/// The name of an instance that nobody named.
pub fn default_instance() -> String {
    "default".to_owned()
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
}

fn cores() -> u32 {
    thread::available_parallelism().map_or(1, |cores| cores.get() as u32).min(MAX_LISTENERS)
}

fn default_log() -> String {
    "info".to_owned()
}

fn instance<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    check_instance(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let workers = u32::deserialize(deserializer)?;
    if (1..=MAX_LISTENERS).contains(&workers) {
        return Ok(workers);
    }
    Err(D::Error::custom(format!("invalid value {workers}, expected 1 to {MAX_LISTENERS}")))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|error| D::Error::custom(format!("invalid duration {text:?} ({error}), expected one such as \"30s\"")))
}

fn cidrs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse_cidr(text).map_err(D::Error::custom)).collect()
}

fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    Ok(Vec::<NonZeroU16>::deserialize(deserializer)?.into_iter().map(NonZeroU16::get).collect())
}

/// A CIDR; the bits beyond its prefix do not matter.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .map_err(|_| format!("invalid CIDR {text:?}, expected one such as 10.0.0.0/8 or fd00::/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        document::parse(Path::new("agent.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_path_of_the_pods_is_required() {
        let config = parse("[source.file]\npath = \"/etc/weir/pods.toml\"\n").unwrap();
        assert_eq!(config.instance, "default");
        assert_eq!(config.pins(), Path::new("/sys/fs/bpf/weir/default"));
        assert_eq!(config.paths.handoff, Path::new("/run/weir/handoff.sock"));
        assert_eq!(config.redirect.drain, Duration::from_secs(30));
        assert!((1..=16).contains(&config.workers) && !config.node.is_empty());
        assert!(config.node_processes.pods_cgroup.is_none());
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            instance = "blue"
            node = "node-a"
            workers = 2
            log = "debug"
            [paths]
            bpffs = "/b"
            cgroup2 = "/c"
            btf = "/t"
            proc = "/p"
            handoff = "/h"
            api = "/a"
            socket_group = 7
            [node_processes]
            netns = "/n"
            pods_cgroup = "/k"
            [redirect]
            exclude_outbound_cidrs = ["10.1.2.3/8", "fd00::/8"]
            exclude_outbound_ports = [25]
            exclude_inbound_ports = [22]
            drain = "1m 5s"
            [source.file]
            path = "pods.yaml"
            "#,
        )
        .unwrap();
        assert_eq!(config.pins(), Path::new("/b/weir/blue"));
        assert_eq!(config.redirect.exclude_outbound_cidrs[0].to_string(), "10.0.0.0/8");
        assert_eq!(config.redirect.drain, Duration::from_secs(65));
        assert_eq!((config.workers, config.paths.socket_group), (2, 7));
    }

    #[test]
    fn bad_input_is_named() {
        for (text, message) in [
            ("", "agent.toml:1:1: missing field `source`"),
            (
                "wrokers = 2\n",
                "agent.toml:1:1: unknown field `wrokers`, expected one of `instance`, `node`, `workers`, `log`, \
                 `paths`, `node_processes`, `redirect`, `source`",
            ),
            ("workers = 17\n", "agent.toml:1:11: workers: invalid value 17, expected 1 to 16"),
            (
                "instance = \"a.b\"\n",
                "agent.toml:1:12: instance: invalid instance name \"a.b\", expected 1 to 64 of a-z, A-Z, 0-9, - and _",
            ),
            (
                "[redirect]\ndrain = \"soon\"\n",
                "agent.toml:2:9: redirect.drain: invalid duration \"soon\" (expected number at 0), expected one such \
                 as \"30s\"",
            ),
            (
                "[redirect]\nexclude_outbound_cidrs = [\"10.0.0.0\"]\n",
                "agent.toml:2:26: redirect.exclude_outbound_cidrs: invalid CIDR \"10.0.0.0\", expected one such as \
                 10.0.0.0/8 or fd00::/8",
            ),
            (
                "[redirect]\nexclude_inbound_ports = [70000]\n",
                "agent.toml:2:26: redirect.exclude_inbound_ports: invalid value: integer `70000`, expected a nonzero \
                 u16",
            ),
            ("[paths]\nbpffs = 1\n", "agent.toml:2:9: paths.bpffs: invalid type: integer `1`, expected path string"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }
}
