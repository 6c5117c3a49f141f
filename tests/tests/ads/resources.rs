//! Resources in few words.

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
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: EDS\n  \
         connect_timeout: 5s\n  eds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}\n"
    ))
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
        rds: {{ route_config_name: {routes}, config_source: {{ ads: {{}}, resource_api_version: V3 }} }}
        http_filters:
        - name: router
          typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    ))
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

fn one(list: &str) -> Any {
    resources(list).remove(0)
}
