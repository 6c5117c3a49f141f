//! Resources in few words.

use std::net::SocketAddr;

use prost_types::Any;
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

/// Resources from YAML: a list of messages with their `"@type"`.
pub fn resources(list: &str) -> Vec<Any> {
    let text = format!("resources:\n{list}");
    let response: DiscoveryResponse =
        weir_proto::from_yaml_unvalidated(&text).unwrap_or_else(|error| panic!("{error}"));
    response.resources
}

/// A cluster whose endpoints come from the same server.
pub fn cluster(name: &str) -> Any {
    one(&cluster_yaml(name, 5))
}

/// A cluster whose endpoints come from there.
pub fn cluster_from(name: &str, source: &str) -> Any {
    one(&cluster_yaml(name, 5).replace("ads: {}", source))
}

fn cluster_yaml(name: &str, seconds: u32) -> String {
    format!(
        "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: EDS\n  \
         connect_timeout: {seconds}s\n  eds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}\n"
    )
}

/// A cluster that no proxy takes: it has no source of endpoints.
pub fn bad_cluster(name: &str) -> Any {
    one(&format!("- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: EDS\n"))
}

/// One endpoint of a cluster.
pub fn endpoints(cluster: &str, port: u16) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: {cluster}\n  \
         endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, \
         port_value: {port} }} }} }} }} ] }} ]\n"
    ))
}

/// A listener on any port, whose routes come from the same server.
pub fn listener(name: &str, routes: &str) -> Any {
    let source = "config_source: { ads: {}, resource_api_version: V3 }";
    managed(name, &[&format!("rds: {{ route_config_name: {routes}, {source} }}")], "")
}

/// Routes that answer by themselves, with a text.
pub fn routes(name: &str, text: &str) -> Any {
    one(&format!(
        r#"- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: {name}
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: "{text}" }} }} }} ]
"#
    ))
}

/// Routes to clusters, by weight.
pub fn weighted(name: &str, clusters: &[(String, u32)]) -> Any {
    let each = clusters.iter().map(|(name, weight)| format!("{{ name: {name}, weight: {weight} }}"));
    let clusters = each.collect::<Vec<_>>().join(", ");
    one(&format!(
        r#"- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: {name}
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes: [ {{ match: {{ prefix: / }}, route: {{ weighted_clusters: {{ clusters: [ {clusters} ] }} }} }} ]
"#
    ))
}

/// Several endpoints of a cluster.
pub fn assignment(cluster: &str, ports: &[u16]) -> Any {
    let each = ports.iter().map(|port| {
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}")
    });
    let endpoints = each.collect::<Vec<_>>().join(", ");
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: {cluster}\n  \
         endpoints: [ {{ lb_endpoints: [ {endpoints} ] }} ]\n"
    ))
}

/// The one resource of a list.
pub fn one(list: &str) -> Any {
    resources(list).remove(0)
}

/// The cluster `xds` of a bootstrap, one of HTTP/2 whose only endpoint is the server, as an entry of a list of YAML.
pub fn server(address: SocketAddr, connect_timeout: &str) -> String {
    servers(&[address], connect_timeout, "")
}

/// The same with several endpoints, and these options of HTTP/2.
pub fn servers(addresses: &[SocketAddr], connect_timeout: &str, http2: &str) -> String {
    let endpoint = |address: &SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }}")
    };
    let endpoints = addresses.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    format!(
        r#"name: xds
    type: STATIC
    connect_timeout: {connect_timeout}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{ {http2} }} }}
    load_assignment:
      cluster_name: xds
      endpoints: [ {{ lb_endpoints: [ {endpoints} ] }} ]"#
    )
}
/// A listener on any port with routes to a cluster; `chains`: further filter chains.
pub fn routed(name: &str, cluster: &str, chains: &str) -> Any {
    one(&routed_yaml(name, "127.0.0.1", 0, cluster, chains))
}

/// A listener at an address.
pub fn listener_at(name: &str, address: SocketAddr, cluster: &str) -> Any {
    one(&routed_yaml(name, &address.ip().to_string(), address.port(), cluster, ""))
}

fn routed_yaml(name: &str, ip: &str, port: u16, cluster: &str, chains: &str) -> String {
    format!(
        r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: {name}
        route_config:
          name: inline
          virtual_hosts: [ {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }} ] }} ]
        http_filters:
        - name: router
          typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
{chains}"#
    )
}

/// A cluster whose endpoints come from the same server, with another timeout.
pub fn patient_cluster(name: &str, seconds: u32) -> Any {
    one(&cluster_yaml(name, seconds))
}

/// A listener whose routes are by a regular expression that is none.
pub fn badly_routed(name: &str) -> Any {
    one(&routed_yaml(name, "127.0.0.1", 0, "a", "").replace("prefix: /", "safe_regex: { regex: \"a[\" }"))
}

/// A listener of whose virtual hosts two have the same domain.
pub fn twice_routed(name: &str) -> Any {
    let host = |name: &str| format!("{{ name: {name}, domains: [ twice.test ] }}");
    let hosts = format!("virtual_hosts: [ {}, {},", host("first"), host("second"));
    one(&routed_yaml(name, "127.0.0.1", 0, "a", "").replace("virtual_hosts: [", &hosts))
}

/// An internal listener that leads to a cluster.
pub fn internal(name: &str, cluster: &str) -> Any {
    let address = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";
    one(&routed_yaml(name, "127.0.0.1", 0, cluster, "").replace(address, "internal_listener: {}"))
}

/// A listener on any port: what its connection manager says besides, routes among it, and the filters before the router.
pub fn managed(name: &str, manager: &[&str], filters: &str) -> Any {
    let manager = manager.join("\n        ");
    one(&format!(
        r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: {name}
        {manager}
        http_filters:
        {filters}
        - name: router
          typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    ))
}
