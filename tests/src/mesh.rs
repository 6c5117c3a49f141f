//! weir on a node: the agent and the proxy as processes, configured by files.

use std::{
    collections::BTreeMap,
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    net::{Node, Pod},
    poll::wait_for,
    process::{Launch, Outcome, Process},
    sweep::BPFFS,
    web::{Answer, curl_with},
    weirctl::{Weirctl, text},
};

/// Starting, enrolling and withdrawing each take less than this, also with debug binaries on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The namespace of pods that say nothing else.
pub const NAMESPACE: &str = "default";

static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// One of weir's programs, beside this test in cargo's target directory; `WEIR_BINARIES` names another directory.
pub fn binary(name: &str) -> PathBuf {
    let directory = env::var_os("WEIR_BINARIES").map(PathBuf::from).unwrap_or_else(|| {
        let test = env::current_exe().expect("a test knows its own path");
        // target/debug/deps/<test>
        test.ancestors().nth(2).expect("a test lies in the target directory").to_owned()
    });
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first with `cargo build --workspace --bins` (or let `cargo xtask test` do it)",
        path.display()
    );
    path
}

/// A pod of the pods file.
#[derive(Clone, Debug, Serialize)]
pub struct PodSpec {
    /// Kubernetes pod UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Ports that its probes name.
    pub probe_ports: Vec<u16>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl PodSpec {
    /// A pod of [`NAMESPACE`].
    pub fn of(pod: &Pod) -> Self {
        Self {
            uid: format!("uid-{}", pod.name()),
            name: pod.name().to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: "default".to_owned(),
            netns: pod.netns.path(),
            probe_ports: Vec::new(),
            labels: BTreeMap::from([("app".to_owned(), pod.name().to_owned())]),
            annotations: BTreeMap::new(),
        }
    }

    /// In another namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With these probe ports.
    pub fn probe_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.probe_ports = ports.into_iter().collect();
        self
    }

    /// With this annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A pods file in TOML.
pub fn pods_toml(pods: &[PodSpec]) -> String {
    #[derive(Serialize)]
    struct File<'a> {
        pods: &'a [PodSpec],
    }
    toml::to_string(&File { pods }).expect("pods are plain tables")
}

/// Where one agent's files are, and what it is configured with.
#[derive(Debug)]
pub struct Place {
    node: Arc<Node>,
    /// Name of the directory of the pins.
    pub instance: String,
    directory: PathBuf,
}

impl Place {
    /// A place for an agent of this node, named apart from every other.
    pub fn new(node: &Arc<Node>) -> Self {
        let count = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{}-{}-{count}", node.prefix(), node.name());
        let directory = node.directory().join(format!("agent-{count}"));
        fs::create_dir_all(&directory).expect("a directory of this test");
        Self { node: node.clone(), instance, directory }
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// A file of this place.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The pods file.
    pub fn pods(&self) -> PathBuf {
        self.file("pods.toml")
    }

    /// The socket that proxies dial.
    pub fn handoff(&self) -> PathBuf {
        self.file("handoff.sock")
    }

    /// The socket that weirctl dials.
    pub fn api(&self) -> PathBuf {
        self.file("agent.sock")
    }

    /// The keeper's cgroup.
    pub fn keeper_cgroup(&self) -> PathBuf {
        self.node.cgroups().root().join(format!("keeper-{}", self.instance))
    }

    /// The tables of agent.toml that switch the keeper on.
    pub fn keeper(&self, patience: &str) -> String {
        let root = crate::cgroup::root();
        let cgroup = self.keeper_cgroup();
        let cgroup = cgroup.strip_prefix(root).expect("below the root of cgroup2");
        format!("[keeper]\nsocket = {:?}\ncgroup = {cgroup:?}\npatience = {patience:?}\n", self.file("keeper.sock"))
    }

    /// The directory of the pins.
    pub fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join("weir").join(&self.instance)
    }

    /// weirctl against the agent here.
    pub fn weirctl(&self) -> Weirctl {
        Weirctl::new(&self.api(), self.node.directory())
    }

    /// agent.toml, with `redirect` added to its `[redirect]` table.
    pub fn configuration(&self, redirect: &str) -> String {
        format!(
            "instance = {:?}\nnode = {:?}\nworkers = 2\nlog = \"info\"\n\
             [paths]\nbpffs = {BPFFS:?}\ncgroup2 = {:?}\nhandoff = {:?}\napi = {:?}\n\
             [node_processes]\nnetns = {:?}\npods_cgroup = {:?}\n\
             [redirect]\n{redirect}\n\
             [source.file]\npath = {:?}\n",
            self.instance,
            self.node.name(),
            crate::cgroup::root(),
            self.handoff(),
            self.api(),
            self.node.netns.path(),
            self.node.cgroups().pods(),
            self.pods(),
        )
    }

    /// Writes a file here, at once, as a Kubernetes volume or an editor does.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let (temporary, file) = (self.file(&format!(".{name}.new")), self.file(name));
        fs::write(&temporary, content).expect("a file of this test");
        fs::rename(&temporary, &file).expect("a file of this test");
        file
    }

    /// Writes the pods file.
    pub fn write_pods(&self, pods: &[PodSpec]) {
        self.write("pods.toml", &pods_toml(pods));
    }
}

/// What the chart gives the agent's container. tests/tests/manifests.rs says the same of the chart.
pub const CAPABILITIES: [&str; 4] = ["net_admin", "sys_admin", "bpf", "sys_ptrace"];
/// The supplementary group of the chart's pod.
const GROUP: u32 = 65532;

/// Name of the port of an agent's health, in the namespace of its pod.
const HEALTH: &str = "127.0.0.1:15021";

/// A running agent. Dropping it also uninstalls: the pins and links of its instance go.
#[derive(Debug)]
pub struct Agent {
    /// Where its files are.
    pub place: Place,
    /// The process.
    pub process: Process,
    configuration: PathBuf,
    /// The pod of weir's own that it runs in, if any.
    home: Option<Arc<Pod>>,
    /// weirctl against it.
    pub ctl: Weirctl,
}

impl Agent {
    /// Starts one in a pod of weir's own, with this agent.toml, and waits until it answers.
    #[track_caller]
    pub fn start_at_home(place: Place, home: &Arc<Pod>, pods: &[PodSpec], configuration: &str) -> Self {
        let configuration = format!("{configuration}[health]\naddress = {HEALTH:?}\n");
        Self::start_at(place, Some(home.clone()), pods, &configuration)
    }

    /// Starts one in another pod of weir's own, which takes the lead, and gives the former.
    #[track_caller]
    pub fn succeed_at_home(&mut self, home: &Arc<Pod>) -> Process {
        self.home = Some(home.clone());
        self.succeed()
    }

    /// Starts another process in the pod of weir's own `home`, as its container is started again, and waits for nothing.
    pub fn spawn_at_home(&self, home: &Arc<Pod>) -> Process {
        Self::launch(&self.place, Some(home), &self.configuration).start()
    }

    /// What the kubelet is told of the agent in a pod of weir's own: whether it is ready, else why not.
    pub fn readiness(home: &Pod) -> Result<(), String> {
        let answer = Self::ask(home, "/healthz/ready", &[]);
        if answer.status == 200 { Ok(()) } else { Err(answer.text) }
    }

    /// What the agent in a pod of weir's own tells a Prometheus server: values by name and labels.
    #[track_caller]
    pub fn metrics(home: &Pod) -> BTreeMap<String, f64> {
        let answer = Self::ask(home, "/metrics", &[]);
        assert_eq!(answer.status, 200, "{}", answer.text);
        let (_, body) = answer.text.split_once("\r\n\r\n").expect("a body");
        let samples = body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
        };
        samples.map(sample).collect()
    }

    /// Asks for a path of the health port of the agent in a pod of weir's own.
    #[track_caller]
    pub fn ask(home: &Pod, path: &str, options: &[&str]) -> Answer {
        let launch = Launch::new("curl", home.directory()).netns(&home.netns);
        curl_with(launch, &[options, &[&format!("http://{HEALTH}{path}")]].concat())
    }

    /// Starts one with these pods and waits until it answers. Pods are enrolled once a proxy is there.
    #[track_caller]
    pub fn start(node: &Arc<Node>, pods: &[PodSpec]) -> Self {
        Self::start_with(Place::new(node), pods, "drain = \"1s\"")
    }

    /// The same at a given place, with `redirect` in its `[redirect]` table.
    #[track_caller]
    pub fn start_with(place: Place, pods: &[PodSpec], redirect: &str) -> Self {
        let configuration = place.configuration(redirect);
        Self::start_configured(place, pods, &configuration)
    }

    /// The same with this agent.toml.
    #[track_caller]
    pub fn start_configured(place: Place, pods: &[PodSpec], configuration: &str) -> Self {
        Self::start_at(place, None, pods, configuration)
    }

    #[track_caller]
    fn start_at(place: Place, home: Option<Arc<Pod>>, pods: &[PodSpec], configuration: &str) -> Self {
        place.write_pods(pods);
        let configuration = place.write("agent.toml", configuration);
        let process = Self::launch(&place, home.as_deref(), &configuration).start();
        let ctl = place.weirctl();
        let mut agent = Self { place, process, configuration, home, ctl };
        agent.wait_until_ready();
        agent
    }

    fn launch<'a>(place: &'a Place, home: Option<&'a Pod>, configuration: &Path) -> Launch<'a> {
        // Like the DaemonSet's pod: with its capabilities, in a namespace that is not the one of a pod it serves, outside the
        // pods' cgroups.
        let launch =
            Launch::new(binary("weir-agent"), place.node.directory()).args(["run", "--config"]).args([configuration]);
        let launch = launch.confined(&CAPABILITIES, GROUP);
        match home {
            Some(home) => launch.netns(&home.netns).env("POD_UID", &format!("uid-{}", home.name())),
            None => launch,
        }
    }

    /// Waits until it answers weirctl.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        let (ctl, process) = (&self.ctl, &mut self.process);
        let pid = u64::from(process.pid());
        wait_for("the agent answers weirctl", PATIENCE, || {
            assert!(process.ended().is_none(), "the agent ended: {}", process.log());
            let status = ctl.try_json(&["status"])?;
            // Until the new agent has bound its socket, nobody answers, or an old one does.
            if status["pid"].as_u64() == Some(pid) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Starts it again after it ended.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "the agent still runs");
        self.process = Self::launch(&self.place, self.home.as_deref(), &self.configuration).start();
        self.wait_until_ready();
    }

    /// Starts another one at the same place, which takes the lead, and gives the former.
    #[track_caller]
    pub fn succeed(&mut self) -> Process {
        let successor = Self::launch(&self.place, self.home.as_deref(), &self.configuration).start();
        let former = std::mem::replace(&mut self.process, successor);
        self.wait_until_ready();
        former
    }

    /// Starts another one at the same place, with this agent.toml, and gives the former. It may have to wait for that one.
    #[track_caller]
    pub fn follow_with(&mut self, configuration: &str) -> Process {
        self.configuration = self.place.write("agent-next.toml", configuration);
        let next = Self::launch(&self.place, self.home.as_deref(), &self.configuration).start();
        std::mem::replace(&mut self.process, next)
    }

    /// Its agent.toml.
    #[track_caller]
    pub fn configuration(&self) -> String {
        fs::read_to_string(&self.configuration).expect("a file of this test")
    }

    /// Changes the pods.
    pub fn set_pods(&self, pods: &[PodSpec]) {
        self.place.write_pods(pods);
    }

    /// Waits until these pods are enrolled.
    #[track_caller]
    pub fn wait_enrolled(&self, pods: &[&PodSpec]) {
        for pod in pods {
            wait_for(&format!("{} is enrolled", pod.full_name()), PATIENCE, || {
                let pods = self.ctl.pods()?;
                let row = pods.get(&pod.full_name()).ok_or_else(|| "not listed".to_owned())?;
                if text(row, "state") == "enrolled" { Ok(()) } else { Err(row.to_string()) }
            });
        }
    }

    /// Waits until a pod is pending with a reason that contains `reason`, and gives the reason.
    #[track_caller]
    pub fn wait_pending(&self, pod: &PodSpec, reason: &str) -> String {
        wait_for(&format!("{} is pending because {reason}", pod.full_name()), PATIENCE, || {
            let pods = self.ctl.pods()?;
            let row = pods.get(&pod.full_name()).ok_or_else(|| "not listed".to_owned())?;
            let given = text(row, "reason");
            let shown = text(row, "state") == "pending" && given.contains(reason);
            if shown { Ok(given.to_owned()) } else { Err(row.to_string()) }
        })
    }

    /// Waits until these pods are no longer listed.
    #[track_caller]
    pub fn wait_withdrawn(&self, pods: &[&PodSpec]) {
        for pod in pods {
            wait_for(&format!("{} is withdrawn", pod.full_name()), PATIENCE, || {
                match self.ctl.pods()?.remove(&pod.full_name()) {
                    None => Ok(()),
                    Some(row) => Err(row.to_string()),
                }
            });
        }
    }

    /// `weir-agent uninstall`.
    pub fn uninstall(&self) -> Outcome {
        Launch::new(binary("weir-agent"), self.place.node.directory())
            .args(["uninstall", "--config"])
            .args([&self.configuration])
            .confined(&CAPABILITIES, GROUP)
            .output(PATIENCE)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.terminate();
        let outcome = self.uninstall();
        if !outcome.status.success() {
            eprintln!("weir-agent uninstall: {outcome:?}");
        }
        if self.place.pins().exists() {
            eprintln!("weir-agent uninstall left {}", self.place.pins().display());
            let _ = fs::remove_dir_all(self.place.pins());
        }
    }
}

/// A running proxy of an agent.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
}

impl Proxy {
    /// Starts one without a bootstrap (it passes everything on to its original destination), and waits until it is ready.
    #[track_caller]
    pub fn start(agent: &Agent) -> Self {
        Self::start_with(agent, None)
    }

    /// The same with a bootstrap.
    #[track_caller]
    pub fn start_with(agent: &Agent, bootstrap: Option<&str>) -> Self {
        let mut proxy = Self::spawn(&agent.place, bootstrap);
        proxy.wait_until_ready(agent);
        proxy
    }

    /// The same with views: names and bootstraps.
    #[track_caller]
    pub fn start_with_views(agent: &Agent, bootstrap: Option<&str>, views: &[(&str, &str)]) -> Self {
        let place = &agent.place;
        let mut launch = Launch::new(binary("weir-proxy"), place.node.directory());
        for (name, bootstrap) in views {
            let path = place.write(&format!("view-{name}.yaml"), bootstrap);
            launch = launch.args(["--view".to_owned(), format!("{name}={}", path.display())]);
        }
        let mut proxy = Self::launch(launch, place, bootstrap);
        proxy.wait_until_ready(agent);
        proxy
    }

    /// Starts one that may open only so many files.
    #[track_caller]
    pub fn start_with_files(agent: &Agent, files: u32) -> Self {
        let launch = Launch::new("prlimit", agent.place.node.directory())
            .args([format!("--nofile={files}:{files}")])
            .args([binary("weir-proxy")]);
        let mut proxy = Self::launch(launch, &agent.place, None);
        proxy.wait_until_ready(agent);
        proxy
    }

    /// Starts one and waits for nothing.
    pub fn spawn(place: &Place, bootstrap: Option<&str>) -> Self {
        Self::launch(Launch::new(binary("weir-proxy"), place.node.directory()), place, bootstrap)
    }

    /// Starts one in a pod of weir's own, as the chart does, and waits for nothing.
    pub fn spawn_at_home(place: &Place, home: &Pod) -> Self {
        let launch = Launch::new(binary("weir-proxy"), place.node.directory()).netns(&home.netns);
        Self::started(launch.args(["--when-superseded", "wait"]), place, None)
    }

    fn launch<'a>(launch: Launch<'a>, place: &'a Place, bootstrap: Option<&str>) -> Self {
        Self::started(launch.netns(&place.node.netns), place, bootstrap)
    }

    fn started(launch: Launch<'_>, place: &Place, bootstrap: Option<&str>) -> Self {
        let mut launch = launch.args([Path::new("--handoff"), &place.handoff()]).args([
            "--concurrency",
            "2",
            "-l",
            "info",
            "--file-flush-interval-msec",
            "50",
        ]);
        if let Some(bootstrap) = bootstrap {
            launch = launch.args([Path::new("-c"), &place.write("bootstrap.yaml", bootstrap)]);
        }
        Self { process: launch.start() }
    }

    /// Waits until the agent calls it ready.
    #[track_caller]
    pub fn wait_until_ready(&mut self, agent: &Agent) {
        self.wait_until(agent, "ready");
    }

    /// Waits until the agent says that it stands so.
    #[track_caller]
    pub fn wait_until(&mut self, agent: &Agent, state: &str) {
        let process = &mut self.process;
        let pid = u64::from(process.pid());
        wait_for(&format!("the agent calls the proxy {state}"), PATIENCE, || {
            assert!(process.ended().is_none(), "the proxy ended: {}", process.log());
            let status = agent.ctl.try_json(&["status"])?;
            let proxies = status["proxies"].as_array().ok_or_else(|| format!("no proxies in {status}"))?;
            let stands =
                |proxy: &&serde_json::Value| proxy["pid"].as_u64() == Some(pid) && text(proxy, "state") == state;
            proxies.iter().find(stands).map(drop).ok_or_else(|| status["proxies"].to_string())
        });
    }
}

/// An agent and a proxy on one node.
#[derive(Debug)]
pub struct Mesh {
    /// The proxy; dropped first, as it drains to the agent.
    pub proxy: Proxy,
    /// The agent.
    pub agent: Agent,
    /// weirctl against the agent.
    pub ctl: Weirctl,
}

impl Mesh {
    /// Starts both and waits until all pods are enrolled.
    #[track_caller]
    pub fn start(node: &Arc<Node>, pods: &[&PodSpec]) -> Self {
        Self::start_with(node, pods, None)
    }

    /// The same with a bootstrap for the proxy.
    #[track_caller]
    pub fn start_with(node: &Arc<Node>, pods: &[&PodSpec], bootstrap: Option<&str>) -> Self {
        let specs: Vec<PodSpec> = pods.iter().map(|pod| (*pod).clone()).collect();
        let agent = Agent::start(node, &specs);
        let proxy = Proxy::start_with(&agent, bootstrap);
        agent.wait_enrolled(pods);
        let ctl = agent.ctl.clone();
        Self { proxy, agent, ctl }
    }
}

/// `ip:port` as a URL's authority.
pub fn authority(ip: impl Into<IpAddr>, port: u16) -> String {
    std::net::SocketAddr::new(ip.into(), port).to_string()
}
