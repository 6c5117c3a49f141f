//! A proxy that follows what was recorded, and pods at the recorded addresses around it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::Duration,
};

use prost_types::Any;
use serde_json::Value;
use weir_tests::{
    ads::{Ads, Listen, recorded},
    mesh::{Agent, Mesh, PodSpec, Proxy, binary},
    net::{Net, Node, Pod},
    netns::Netns,
    poll::wait_for,
    process::{Launch, Process},
};

use crate::identity::{Authority, Identity, one};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// Where the proxies' admin servers are, each in a namespace of its own.
const ADMIN: &str = "127.0.0.1:15000";
/// What hosts of the recording are in.
const NETWORKS: [&str; 5] = ["10.50.0.0/16", "10.60.0.0/16", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];

/// Both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Sotw,
    Delta,
}

/// The management server, and the one that has the secrets of the proxy's own identity.
pub struct Control {
    pub ads: Ads,
    _secrets: Ads,
    protocol: Protocol,
    directory: tempfile::TempDir,
}

impl Control {
    /// One that has `resources` and who the proxy is.
    pub fn start(
        protocol: Protocol,
        authority: &Authority,
        identity: &Identity,
        resources: impl IntoIterator<Item = (String, Any)>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let start = |name: &str| {
            let path = directory.path().join(name);
            let ads = Ads::start(Listen::Pipe(path.clone())).unwrap();
            // The proxy is nobody by then.
            fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
            ads
        };
        let (ads, secrets) = (start("xds"), start("sds"));
        secrets.put([
            identity.secret("default"),
            identity.secret("file-cert:/etc/certs/c.pem~/etc/certs/k.pem"),
            authority.secret("ROOTCA"),
            authority.secret("file-root:/etc/certs/ca.pem"),
            authority.secret("file-root:system"),
        ]);
        ads.put_named(resources);
        Self { ads, _secrets: secrets, protocol, directory }
    }

    /// What a proxy follows it by.
    pub fn bootstrap(&self) -> String {
        format!("{}{}", Self::of_process(), self.of_view())
    }

    /// What is the process's, whatever it follows.
    fn of_process() -> &'static str {
        "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 15000 } } }
layered_runtime: { layers: [{ name: admin, admin_layer: {} }] }
"
    }

    /// What is the node's that follows.
    fn of_view(&self) -> String {
        let api_type = match self.protocol {
            Protocol::Sotw => "GRPC",
            Protocol::Delta => "DELTA_GRPC",
        };
        let cluster = |name: &str, socket: &str| {
            format!(
                "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: {name}
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ pipe: {{ path: {:?} }} }} }} }}] }}]
",
                self.directory.path().join(socket)
            )
        };
        let (ads, secrets) = (cluster("xds", "xds"), cluster("sds-grpc", "sds"));
        format!(
            "node: {{ id: node, cluster: test, locality: {{ region: r1, zone: z1 }} }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}]
  cds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}
  lds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}
static_resources:
  clusters:
{ads}{secrets}"
        )
    }

    /// Starts a proxy in a namespace.
    pub fn proxy(&self, netns: &Netns) -> Process {
        let file = self.directory.path().join("bootstrap.yaml");
        fs::write(&file, self.bootstrap()).unwrap();
        Launch::new(binary("weir-proxy"), self.directory.path())
            .netns(netns)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .args([file])
            .start()
    }
}

/// What the recording of a node has without the Lua filter, and with what istio's agent puts in the place of a Wasm
/// filter that it cannot load and that is not to stop requests: an RBAC filter that says nothing.
pub fn usable(node: &str) -> Vec<(String, Any)> {
    let resources = recorded::of(node).into_iter();
    resources
        .map(|(name, any)| match any.type_url.ends_with("/envoy.config.core.v3.TypedExtensionConfig") {
            true => (name.clone(), without_effect(&name)),
            false => (name, recorded::without_http_filter(any, "envoy.filters.http.lua")),
        })
        .collect()
}

fn without_effect(name: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n  name: {name:?}\n  typed_config: \
         {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC }}"
    ))
}

/// Asks the admin server of the proxy in a namespace.
pub fn admin(netns: &Netns, method: &str, path: &str) -> Result<String, String> {
    netns.run(|| {
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(ADMIN).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        write!(stream, "{method} {path} HTTP/1.0\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .map_err(failed)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(failed)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        if head.contains(" 200 ") { Ok(body.to_owned()) } else { Err(text.clone()) }
    })
}

pub fn wait_until_ready(netns: &Netns) {
    wait_for("a proxy that has what it waits for", PATIENCE, || match admin(netns, "GET", "/ready") {
        Ok(ready) if ready == "LIVE\n" => Ok(()),
        other => Err(other),
    });
}

/// The `/config_dump` of a view.
pub fn dump(netns: &Netns, view: &str) -> Value {
    let text = admin(netns, "GET", &format!("/config_dump?include_eds&view={view}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A network whose pods have recorded addresses.
pub struct Place {
    pub node: Arc<Node>,
    _net: Net,
}

impl Place {
    pub fn new() -> Self {
        let mut net = Net::new();
        let node = net.node("a");
        Self { node, _net: net }
    }

    /// A pod at these addresses.
    pub fn pod(&self, name: &str, addresses: &[&str]) -> Pod {
        let pod = self.node.pod(name);
        let mut lines = String::new();
        for address in addresses {
            let bits = if address.starts_with("10.40.") { 16 } else { 32 };
            lines += &format!("addr add {address}/{bits} dev eth0\n");
        }
        if !addresses.iter().any(|address| address.starts_with("10.40.")) {
            lines += "route add 10.40.0.0/16 dev eth0\n";
        }
        for network in NETWORKS {
            lines += &format!("route add {network} dev eth0\n");
        }
        pod.netns.ip(lines.trim_end());
        pod
    }

    /// weir on the node, for a pod that is as the recording says.
    pub fn serve(&self, pod: &Pod, control: &Control) -> Mesh {
        let mesh = Mesh::start_with(&self.node, &[&PodSpec::of(pod)], Some(&control.bootstrap()));
        wait_until_ready(&self.node.netns);
        mesh
    }

    /// weir on the node with these views, and no pods. The process itself follows nothing.
    pub fn serve_views(&self, views: &[(&str, &Control)]) -> (Agent, Proxy) {
        let agent = Agent::start(&self.node, &[]);
        let views: Vec<_> = views.iter().map(|(name, control)| (*name, control.of_view())).collect();
        let views: Vec<_> = views.iter().map(|(name, view)| (*name, &**view)).collect();
        let proxy = Proxy::start_with_views(&agent, Some(Control::of_process()), &views);
        wait_until_ready(&self.node.netns);
        (agent, proxy)
    }

    /// weir on the node, for a pod that is as the recording says, by a view of its namespace.
    pub fn serve_by_view(&self, pod: &Pod, control: &Control) -> Mesh {
        let spec = PodSpec::of(pod);
        let agent = Agent::start(&self.node, std::slice::from_ref(&spec));
        let view = (&*spec.namespace, &*control.of_view());
        let proxy = Proxy::start_with_views(&agent, Some(Control::of_process()), &[view]);
        agent.wait_enrolled(&[&spec]);
        wait_until_ready(&self.node.netns);
        let ctl = agent.ctl.clone();
        Mesh { proxy, agent, ctl }
    }
}

/// Fails with all that is not as it should be, and not with the first of it.
#[derive(Default)]
pub struct Cases {
    count: usize,
    failed: Vec<String>,
}

impl Cases {
    /// One case: `line` of a manifest, and whether it held.
    pub fn check(&mut self, line: &str, held: bool, seen: impl std::fmt::Debug) {
        self.count += 1;
        if !held {
            self.failed.push(format!("{line}: {seen:?}"));
        }
    }

    /// There were so many, and all held.
    pub fn end(self, count: usize) {
        assert!(self.failed.is_empty(), "{} of {} cases:\n{}", self.failed.len(), self.count, self.failed.join("\n"));
        assert_eq!(self.count, count, "cases");
    }
}
