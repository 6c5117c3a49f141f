//! Views of namespaces on a node: connections of a namespace's pods go by its own configuration, those of others by the
//! process's.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;
use weir_tests::{
    ads::{Ads, Listen},
    mesh::{Agent, PodSpec, Proxy},
    net::{Net, Pod},
    poll::wait_for,
    web::{Nginx, get},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A service address that nothing but the mesh knows.
const SERVICE: &str = "10.96.0.10";

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// A listener for connections to `address:port` that come that way.
fn listener(direction: &str, address: &str, port: u16, route: &str) -> String {
    format!(
        r#"
  - name: {direction}_{address}_{port}
    address: {{ socket_address: {{ address: "{address}", port_value: {port} }} }}
    bind_to_port: false
    traffic_direction: {direction}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {HCM}
          stat_prefix: http
          http_filters: [ {{ name: router, typed_config: {{ "@type": {ROUTER} }} }} ]
          route_config: {{ virtual_hosts: [ {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, {route} }} ] }} ] }}"#
    )
}

fn says(text: &str) -> String {
    format!("direct_response: {{ status: 200, body: {{ inline_string: {text} }} }}")
}

/// A bootstrap with a cluster `web` that leads there.
fn bootstrap(listeners: &[String], web: SocketAddr) -> String {
    let (ip, port) = (web.ip(), web.port());
    format!(
        r#"static_resources:
  listeners:{}
  clusters:
  - name: web
    load_assignment: {{ cluster_name: web, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }} ] }} ] }}
"#,
        listeners.concat()
    )
}

#[test]
fn pods_of_a_namespace_are_served_by_its_view() {
    let mut net = Net::new();
    let node = net.node("a");
    let [shopper, teller, other] = ["shopper", "teller", "other"].map(|name| node.pod(name));
    let [one, two] = ["one", "two"].map(|name| {
        let pod = node.pod(name);
        let nginx = Nginx::start(&pod, 8080, &format!("location / {{ return 200 \"{name}\"; }}"));
        (pod, nginx)
    });
    let to_web = "route: { cluster: web }";
    // The clusters have the same name and lead elsewhere.
    let own = bootstrap(&[listener("OUTBOUND", SERVICE, 80, to_web)], one.0.v4(8080));
    let shop = [
        listener("OUTBOUND", SERVICE, 80, to_web),
        listener("OUTBOUND", &one.0.ipv4.to_string(), 8080, &says("shop")),
        listener("INBOUND", "0.0.0.0", 9000, &says("inbound")),
    ];
    let shop = bootstrap(&shop, two.0.v4(8080));
    let bank = bootstrap(&[listener("OUTBOUND", SERVICE, 80, &says("bank"))], one.0.v4(8080));
    let pods = [
        PodSpec::of(&shopper).namespace("shop"),
        PodSpec::of(&teller).namespace("bank"),
        PodSpec::of(&other).namespace("elsewhere"),
    ];
    let agent = Agent::start(&node, &pods);
    let mut proxy = Proxy::start_with_views(&agent, Some(&own), &[("shop", &shop), ("bank", &bank)]);
    agent.wait_enrolled(&pods.each_ref());

    let service = format!("http://{SERVICE}/");
    let address = format!("http://{}/", one.0.v4(8080));
    let go_to = |ways: [(&Pod, &str, &str); 3]| {
        for (pod, at_service, at_address) in ways {
            for (url, wanted) in [(&service, at_service), (&address, at_address)] {
                let answer = get(pod, url);
                let right = answer.status == 200 && answer.text.ends_with(&format!("\r\n\r\n{wanted}"));
                assert!(right, "{} to {url}: {}", pod.name(), answer.text);
            }
        }
    };
    go_to([(&shopper, "two", "shop"), (&teller, "bank", "one"), (&other, "one", "one")]);
    // What comes to a pod is its namespace's business as well.
    let _servers = [&shopper, &other].map(|pod| Nginx::start(pod, 9000, "location / { return 200 application; }"));
    for (pod, wanted) in [(&shopper, "inbound"), (&other, "application")] {
        let answer = get(&one.0, &format!("http://{}/", pod.v4(9000)));
        assert!(answer.text.ends_with(&format!("\r\n\r\n{wanted}")), "{}", answer.text);
    }

    // The next proxy has a view more, and one that it has not.
    let elsewhere = bootstrap(&[listener("OUTBOUND", SERVICE, 80, &says("elsewhere"))], one.0.v4(8080));
    let _next = Proxy::start_with_views(&agent, Some(&own), &[("elsewhere", &elsewhere), ("shop", &shop)]);
    wait_for("the end of the former proxy", PATIENCE, || proxy.process.ended().ok_or("it runs"));
    go_to([(&shopper, "two", "shop"), (&teller, "one", "one"), (&other, "elsewhere", "one")]);
}

/// A bootstrap that follows a server at this socket, and waits for its answers for a moment only.
fn follows(socket: &Path) -> String {
    let from = "{ ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.2s }";
    format!(
        r#"node: {{ id: bank-1, cluster: test }}
dynamic_resources:
  ads_config: {{ api_type: GRPC, transport_api_version: V3, grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ] }}
  cds_config: {from}
  lds_config: {from}
static_resources:
  clusters:
  - name: xds
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment: {{ cluster_name: xds, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ pipe: {{ path: {socket:?} }} }} }} }} ] }} ] }}
"#
    )
}

#[test]
fn connections_wait_for_a_view_that_has_never_heard_of_its_listeners() {
    let mut net = Net::new();
    let node = net.node("a");
    let [teller, other, web] = ["teller", "other", "web"].map(|name| node.pod(name));
    let _web = Nginx::start(&web, 8080, "location / { return 200 application; }");
    let directory = tempfile::tempdir().expect("a directory of this test");
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("a directory of this test");
    let socket = directory.path().join("ads");
    let pods = [PodSpec::of(&teller).namespace("bank"), PodSpec::of(&other).namespace("elsewhere")];
    let agent = Agent::start(&node, &pods);
    let own = bootstrap(&[], web.v4(8080));
    let _proxy = Proxy::start_with_views(&agent, Some(&own), &[("bank", &follows(&socket))]);
    agent.wait_enrolled(&pods.each_ref());
    let url = format!("http://{}/", web.v4(8080));
    let answered = |pod: &Pod, wanted: &str| {
        let answer = get(pod, &url);
        assert!(answer.text.ends_with(&format!("\r\n\r\n{wanted}")), "{} got: {}", pod.name(), answer.text);
    };
    // Nobody else is held up.
    answered(&other, "application");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| answered(&teller, "bank"));
        let inside = listener("OUTBOUND", &web.ipv4.to_string(), 8080, &says("bank"));
        let kind = "type.googleapis.com/envoy.config.listener.v3.Listener";
        let inside = inside.replacen("- name", &format!("- \"@type\": {kind}\n    name"), 1);
        let response: DiscoveryResponse =
            weir_proto::from_yaml_unvalidated(&format!("resources:{inside}\n")).expect("a listener");
        let ads = Ads::start(Listen::Pipe(socket.clone())).expect("a server");
        // The proxy is nobody by then.
        fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).expect("its socket");
        ads.put(response.resources);
        waiting.join().expect("the listener's answer");
        answered(&teller, "bank");
    });
}
