//! `agent.toml`: every key, its default, and what is wrong with it.

use std::{
    env, fmt,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
};
use weir_abi::map::MAX_LISTENERS;

use crate::document;

/// Names longer than this make no directory worth reading.
const MAX_INSTANCE_BYTES: usize = 64;
/// Port of the health server.
const HEALTH_PORT: u16 = 15021;

/// What the agent is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the directory of the pins.
    #[serde(default = "default_instance", deserialize_with = "instance")]
    pub instance: String,
    /// Node name; `$NODE_NAME` by default, else the host's name.
    #[serde(default = "node_name")]
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
    /// Directory for what an agent leaves to its successor; that of `paths.handoff` by default.
    state: Option<PathBuf>,
    /// The CNI plugin that holds pods until they are enrolled; none: nobody holds them.
    pub cni: Option<Cni>,
    /// The process that keeps listening sockets while neither agent nor proxy is there; none: nobody does.
    pub keeper: Option<Keeper>,
    /// Where the kubelet asks how the agent is; none: nowhere.
    pub health: Option<Health>,
    /// The proxy's seccomp profile; none: it is not written.
    pub seccomp: Option<Seccomp>,
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
    pub pods_cgroup: Option<PodsCgroup>,
}

/// Which cgroup2 directory holds all pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodsCgroup {
    /// The kubelet's, looked for below `paths.cgroup2`.
    Auto,
    /// This one.
    At(PathBuf),
}

impl<'de> Deserialize<'de> for PodsCgroup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if Path::new(&text).is_absolute() {
            return Ok(Self::At(text.into()));
        }
        Err(D::Error::custom(format!("invalid value {text:?}, expected \"auto\" or an absolute path")))
    }
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
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, watched for changes.
    File(FileSource),
    /// The API server.
    Kubernetes(KubernetesSource),
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tables {
            file: Option<FileSource>,
            kubernetes: Option<KubernetesSource>,
        }
        // Optional only so that its absence gets a line that says what to write.
        let tables = Option::<Tables>::deserialize(deserializer)?.unwrap_or_default();
        let problem = match (tables.file, tables.kubernetes) {
            (Some(file), None) => return Ok(Self::File(file)),
            (None, Some(kubernetes)) => return Ok(Self::Kubernetes(kubernetes)),
            (None, None) => "no source of pods, expected [source.file] or [source.kubernetes]",
            (Some(_), Some(_)) => "two sources of pods, expected [source.file] or [source.kubernetes], not both",
        };
        Err(D::Error::custom(problem))
    }
}

/// A file of pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file; its name ends in `.toml`, `.yaml` or `.yml`.
    pub path: PathBuf,
}

/// The pods of this node, from the API server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesSource {
    /// How to reach the API server; by default the service account of the agent's pod, else `$KUBECONFIG` or
    /// `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// weir's own namespace, none of whose pods are enrolled; `$POD_NAMESPACE` by default.
    pub namespace: String,
    /// The agent's own pod; `$POD_NAME` by default.
    pub pod: Option<String>,
    /// Whether `istio.io/dataplane-mode` is honoured.
    pub istio_labels: bool,
    /// The node's procfs.
    pub proc: PathBuf,
}

impl Default for KubernetesSource {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            namespace: variable("POD_NAMESPACE").unwrap_or_else(|| "weir-system".to_owned()),
            pod: variable("POD_NAME"),
            istio_labels: false,
            proc: "/proc".into(),
        }
    }
}

/// The CNI plugin that holds pods until they are enrolled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cni {
    /// Whether it is put in place; else what an earlier agent put there is taken out.
    pub enabled: bool,
    /// The runtime's directory of CNI configurations, as the agent sees it.
    pub conf_dir: PathBuf,
    /// The runtime's directory of CNI plugins, as the agent sees it.
    pub bin_dir: PathBuf,
    /// The program that is installed there as `weir-cni`.
    pub binary: PathBuf,
    /// The socket that the plugin dials; the same path for the agent and on the host.
    pub socket: PathBuf,
    /// Directory of what the plugin goes by while no agent answers, as the agent sees it.
    pub state_dir: PathBuf,
    /// The same as the host sees it.
    pub host_state_dir: PathBuf,
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            enabled: true,
            conf_dir: "/host/etc/cni/net.d".into(),
            bin_dir: "/host/opt/cni/bin".into(),
            binary: "/usr/bin/weir-cni".into(),
            socket: "/run/weir/cni.sock".into(),
            state_dir: "/host/var/lib/weir".into(),
            host_state_dir: "/var/lib/weir".into(),
        }
    }
}

/// The process that keeps listening sockets while neither agent nor proxy is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keeper {
    /// Whether there is one; else one that an earlier agent left is ended.
    pub enabled: bool,
    /// Its socket.
    pub socket: PathBuf,
    /// Its cgroup2 directory below `paths.cgroup2`, in which it outlives the agent's container.
    pub cgroup: PathBuf,
    /// How long it stays without an agent.
    #[serde(deserialize_with = "some_time")]
    pub patience: Duration,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            enabled: true,
            socket: "/run/weir/keeper.sock".into(),
            cgroup: "weir".into(),
            patience: Duration::from_secs(5 * 60),
        }
    }
}

/// Where the kubelet asks how the agent is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Address of the HTTP server.
    #[serde(deserialize_with = "address")]
    pub address: SocketAddr,
}

impl Default for Health {
    fn default() -> Self {
        Self { address: SocketAddr::from(([0, 0, 0, 0], HEALTH_PORT)) }
    }
}

/// The proxy's seccomp profile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seccomp {
    /// The file, in a directory below the kubelet's `seccomp`; as the agent sees it.
    pub profile: PathBuf,
}

impl Default for Seccomp {
    fn default() -> Self {
        Self { profile: "/host/var/lib/kubelet/seccomp/weir/proxy.json".into() }
    }
}

/// Why `agent.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not parse.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The plugin asks about pods of the API server, and nobody could answer it.
    #[error("{}: cni: the plugin holds pods of Kubernetes, expected [source.kubernetes] beside it", .0.display())]
    CniWithoutKubernetes(PathBuf),
}

impl Config {
    /// Reads `agent.toml`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let config: Self = document::read(path)?;
        if config.cni.is_some() && !matches!(config.source, Source::Kubernetes(_)) {
            return Err(Error::CniWithoutKubernetes(path.to_owned()));
        }
        Ok(config)
    }

    /// Directory for what an agent leaves to its successor.
    pub fn state(&self) -> &Path {
        let beside = || self.paths.handoff.parent().unwrap_or(Path::new("/"));
        self.state.as_deref().unwrap_or_else(beside)
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

/// A variable of the environment; none if it is empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn node_name() -> String {
    variable("NODE_NAME").unwrap_or_else(hostname)
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
    /// Says by an example what is expected of what is no string.
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a duration such as \"30s\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text).map_err(|error| {
                E::custom(format!("invalid duration {text:?} ({error}), expected one such as \"30s\""))
            })
        }
    }

    deserializer.deserialize_str(Text)
}

/// A duration that is more than nothing.
fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = duration(deserializer)?;
    if duration.is_zero() {
        return Err(D::Error::custom("invalid duration of none, expected one such as \"5m\""));
    }
    Ok(duration)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("invalid address {text:?}, expected one such as 0.0.0.0:15021")))
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
        assert!(matches!(config.source, Source::File(file) if file.path == Path::new("/etc/weir/pods.toml")));
        assert!(config.cni.is_none() && config.keeper.is_none() && config.health.is_none() && config.seccomp.is_none());
    }

    #[test]
    fn what_runs_in_kubernetes_has_defaults_that_fit_the_chart() {
        let config = parse(
            "[source.kubernetes]\n[cni]\n[keeper]\n[health]\n[seccomp]\n[node_processes]\npods_cgroup = \"auto\"\n",
        )
        .unwrap();
        assert_eq!(config.state(), Path::new("/run/weir"));
        assert_eq!(config.node_processes.pods_cgroup, Some(PodsCgroup::Auto));
        let Source::Kubernetes(source) = &config.source else { panic!("{:?}", config.source) };
        assert_eq!((source.namespace.as_str(), source.proc.as_path()), ("weir-system", Path::new("/proc")));
        assert!(source.kubeconfig.is_none() && !source.istio_labels);
        let (cni, keeper) = (config.cni.unwrap(), config.keeper.unwrap());
        assert_eq!(cni.conf_dir, Path::new("/host/etc/cni/net.d"));
        assert_eq!(
            (cni.socket.as_path(), keeper.socket.as_path()),
            (Path::new("/run/weir/cni.sock"), Path::new("/run/weir/keeper.sock"))
        );
        assert_eq!((keeper.cgroup.as_path(), keeper.patience), (Path::new("weir"), Duration::from_secs(300)));
        assert!(cni.enabled && keeper.enabled);
        assert_eq!(config.health.unwrap().address.to_string(), "0.0.0.0:15021");
        assert_eq!(config.seccomp.unwrap().profile, Path::new("/host/var/lib/kubelet/seccomp/weir/proxy.json"));
    }

    #[test]
    fn every_key_of_kubernetes_is_read() {
        let config = parse(
            r#"
            state = "/s"
            [source.kubernetes]
            kubeconfig = "/k"
            namespace = "mesh"
            pod = "weir-1"
            istio_labels = true
            proc = "/host/proc"
            [cni]
            conf_dir = "/c"
            bin_dir = "/b"
            binary = "/w"
            socket = "/s"
            state_dir = "/d"
            host_state_dir = "/h"
            [keeper]
            socket = "/k"
            cgroup = "other"
            patience = "1m"
            [health]
            address = "[::1]:1"
            [seccomp]
            profile = "/p"
            "#,
        )
        .unwrap();
        assert_eq!(config.state(), Path::new("/s"));
        let Source::Kubernetes(source) = &config.source else { panic!("{:?}", config.source) };
        assert_eq!((source.namespace.as_str(), source.pod.as_deref()), ("mesh", Some("weir-1")));
        assert_eq!(config.health.unwrap().address.port(), 1);
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
    fn the_cni_plugin_goes_with_kubernetes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, "[source.file]\npath = \"pods.toml\"\n[cni]\n").unwrap();
        assert_eq!(
            Config::read(&path).unwrap_err().to_string(),
            format!(
                "{}: cni: the plugin holds pods of Kubernetes, expected [source.kubernetes] beside it",
                path.display()
            )
        );
        std::fs::write(&path, "[source.kubernetes]\n[cni]\n").unwrap();
        Config::read(&path).unwrap();
    }

    #[test]
    fn bad_input_is_named() {
        for (text, message) in [
            ("", "agent.toml:1:1: no source of pods, expected [source.file] or [source.kubernetes]"),
            (
                "instance = \"blue\"\n",
                "agent.toml:1:1: no source of pods, expected [source.file] or [source.kubernetes]",
            ),
            ("[source]\n", "agent.toml:1:1: source: no source of pods, expected [source.file] or [source.kubernetes]"),
            (
                "[source.file]\npath = \"pods.toml\"\n[source.kubernetes]\n",
                "agent.toml:1:2: source.file: two sources of pods, expected [source.file] or [source.kubernetes], not \
                 both",
            ),
            (
                "[node_processes]\npods_cgroup = \"kubepods\"\n",
                "agent.toml:2:15: node_processes.pods_cgroup: invalid value \"kubepods\", expected \"auto\" or an \
                 absolute path",
            ),
            (
                "[health]\naddress = \"15021\"\n",
                "agent.toml:2:11: health.address: invalid address \"15021\", expected one such as 0.0.0.0:15021",
            ),
            (
                "[keeper]\npatience = \"long\"\n",
                "agent.toml:2:12: keeper.patience: invalid duration \"long\" (expected number at 0), expected one such \
                 as \"30s\"",
            ),
            (
                "[keeper]\npatience = \"0s\"\n",
                "agent.toml:2:12: keeper.patience: invalid duration of none, expected one such as \"5m\"",
            ),
            (
                "[redirect]\ndrain = 30\n",
                "agent.toml:2:9: redirect.drain: invalid type: integer `30`, expected a duration such as \"30s\"",
            ),
            (
                "[cni]\nconf = \"/etc/cni\"\n",
                "agent.toml:2:1: cni.conf: unknown field `conf`, expected one of `enabled`, `conf_dir`, `bin_dir`, \
                 `binary`, `socket`, `state_dir`, `host_state_dir`",
            ),
            (
                "[source.kubernetes]\nistio_labels = \"yes\"\n",
                "agent.toml:2:16: source.kubernetes.istio_labels: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "[seccomp]\nprofile = 1\n",
                "agent.toml:2:11: seccomp.profile: invalid type: integer `1`, expected path string",
            ),
            (
                "wrokers = 2\n",
                "agent.toml:1:1: unknown field `wrokers`, expected one of `instance`, `node`, `workers`, `log`, \
                 `paths`, `node_processes`, `redirect`, `source`, `state`, `cni`, `keeper`, `health`, `seccomp`",
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
