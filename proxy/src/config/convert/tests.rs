//! What is refused, and how it is said.

use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::{Built, from_bootstrap};
use crate::{
    config::{
        error::Error,
        listener::Terminal,
        route::{Action, ClusterName, Clusters},
    },
    telemetry::stats::Scope,
};

/// A bootstrap with one of everything; `${...}` places are where tests put more.
const WHOLE: &str = r#"
static_resources:
  listeners:
  - name: one
    address: { socket_address: { address: 127.0.0.1, port_value: 80 } }
    ${listener}
    filter_chains:
    - ${chain}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          ${hcm}
          http_filters: [${filters}{ name: envoy.filters.http.router }]
          route_config:
            ${table}
            virtual_hosts:
            - name: v
              domains: ["*"${domains}]
              ${host}
              routes:
              - match: { prefix: /${match} }
                ${route}
                route: { ${action} }
  ${listeners}
  clusters:
  - name: c
    ${cluster}
    load_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: ${address}, port_value: 1 } } } }] }] }
  ${clusters}
"#;

const PLACES: [&str; 15] = [
    "listener",
    "chain",
    "hcm",
    "filters",
    "table",
    "domains",
    "host",
    "match",
    "route",
    "action",
    "listeners",
    "cluster",
    "address",
    "clusters",
    "none",
];

fn text(place: &str, with: &str) -> String {
    let mut text = WHOLE.to_owned();
    for known in PLACES {
        let filled = match known {
            known if known == place => with,
            "action" => "cluster: c",
            "address" => "127.0.0.1",
            "chain" => "name: f",
            _ => "",
        };
        text = text.replace(&format!("${{{known}}}"), filled);
    }
    text
}

pub(super) fn build(place: &str, with: &str) -> Result<Built, Error> {
    let bootstrap: Bootstrap = weir_proto::from_yaml(&text(place, with)).unwrap();
    from_bootstrap(&bootstrap, &Scope::default())
}

#[test]
fn a_whole_bootstrap_becomes_a_snapshot() {
    let snapshot = build("none", "").unwrap().snapshot;
    let [listener] = snapshot.listeners() else { panic!("one listener") };
    assert_eq!(&*listener.name, "one");
    let Terminal::Http(manager) = &listener.filter_chains[0].terminal else { panic!("HTTP") };
    let none = http::HeaderMap::new();
    let routes = manager.routes.current(&none);
    let host = &routes.table().unwrap().virtual_hosts()[0];
    let Action::Forward(forward) = &host.routes[0].action else { panic!("forward") };
    assert!(matches!(&forward.clusters, Clusters::One(ClusterName::Fixed(name)) if &**name == "c"));
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(15)));
    assert_eq!(snapshot.cluster("c").unwrap().endpoints.load().iter().count(), 1);
}

#[test]
fn what_is_refused_names_the_field() {
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let table = format!("{manager}.route_config");
    let host = format!("{table}.virtual_hosts[0]");
    let route = format!("{host}.routes[0]");
    for (place, with, at, message) in [
        ("action", "cluster: d", format!("{route}.route.cluster"), "unknown cluster \"d\""),
        (
            "action",
            "weighted_clusters: { clusters: [{ name: c, weight: 0 }] }",
            format!("{route}.route.weighted_clusters"),
            "sum of weights in the weighted_cluster must be greater than 0",
        ),
        (
            "action",
            "weighted_clusters: { clusters: [{ name: c, weight: 1 }, { name: d, weight: 1 }] }",
            format!("{route}.route.weighted_clusters.clusters[1].name"),
            "unknown cluster \"d\"",
        ),
        (
            "action",
            "cluster: c, regex_rewrite: { pattern: { regex: \"(\" }, substitution: x }",
            format!("{route}.route.regex_rewrite.pattern.regex"),
            "bad regular expression \"(\": missing ): (",
        ),
        (
            "action",
            "cluster: c, retry_policy: { retry_back_off: { base_interval: 1s, max_interval: 0.5s } }",
            format!("{route}.route.retry_policy.retry_back_off.max_interval"),
            "must not be less than base_interval",
        ),
        (
            "domains",
            ", \"*\"",
            format!("{host}.domains[1]"),
            "only unique values for domains are permitted: \"*\"",
        ),
        (
            "route",
            "request_headers_to_add: [{ header: { key: x, value: \"%NOPE%\" } }]",
            format!("{route}.request_headers_to_add[0].header.value"),
            "Not supported field in StreamInfo: NOPE",
        ),
        (
            "host",
            "response_headers_to_add: [{ header: { key: \":status\", value: x } }]",
            format!("{host}.response_headers_to_add[0].header.key"),
            ":-prefixed or host headers may not be modified",
        ),
        (
            "table",
            "vhds: { config_source: { ads: {} } }",
            format!("{table}.vhds.config_source.ads"),
            "ADS must be configured to support an ADS config source",
        ),
        (
            "table",
            "vhds: { config_source: { api_config_source: { api_type: GRPC, grpc_services: [ { envoy_grpc: { cluster_name: c } } ] } } }",
            format!("{table}.vhds"),
            "only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source.",
        ),
        (
            "filters",
            "{ name: envoy.filters.http.router },",
            format!("{manager}.http_filters[1]"),
            "no filter may follow the router",
        ),
        (
            "hcm",
            "http3_protocol_options: {}\n          codec_type: HTTP3",
            format!("{manager}.codec_type"),
            "HTTP3 is not supported yet",
        ),
        (
            "listener",
            "socket_options: [{ level: 5000000000, name: 9, int_value: 1 }]",
            "static_resources.listeners[0].socket_options[0].level".into(),
            "expected a number of 32 bits",
        ),
        (
            "listener",
            "listener_filters: [{ name: envoy.filters.listener.tls_inspector }]",
            "static_resources.listeners[0].listener_filters[0].typed_config".into(),
            "a configuration is required",
        ),
        (
            "listener",
            "listener_filters: [{ name: l, typed_config: { \"@type\": type.googleapis.com/google.protobuf.StringValue, value: x } }]",
            "static_resources.listeners[0].listener_filters[0].typed_config".into(),
            "listener filter google.protobuf.StringValue is not supported yet",
        ),
        (
            "chain",
            "transport_socket: { name: envoy.transport_sockets.tls }",
            "static_resources.listeners[0].filter_chains[0].transport_socket.typed_config".into(),
            "a configuration is required",
        ),
        (
            "address",
            "a.test",
            "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address"
                .into(),
            "\"a.test\" is not an IP address; consider setting the cluster's type to STRICT_DNS or LOGICAL_DNS",
        ),
        ("clusters", "- name: c", "static_resources.clusters[1].name".into(), "there are several clusters \"c\""),
        (
            "listeners",
            "- { name: one, address: { socket_address: { address: 127.0.0.1, port_value: 81 } }, filter_chains: [{ filters: [{ name: t, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c } }] }] }",
            "static_resources.listeners[1].name".into(),
            "there are several listeners \"one\"",
        ),
        (
            "listeners",
            "- { name: two, address: { socket_address: { address: 127.0.0.1, port_value: 81 } } }",
            "static_resources.listeners[1]".into(),
            "no filter chains specified",
        ),
    ] {
        let error = build(place, with).expect_err(with);
        assert_eq!((error.path, error.message.as_str()), (at, message), "{with}");
    }
}

#[test]
fn harmless_fields_are_listed() {
    let built = build("listener", "reuse_port: true").unwrap();
    assert_eq!(built.ignored, ["static_resources.listeners[0].reuse_port"]);
}

#[test]
fn what_is_said_for_all_clusters() {
    let of = |manager: &str| {
        let text = format!("cluster_manager: {{ {manager} }}\n{}", text("none", ""));
        from_bootstrap(&weir_proto::from_yaml(&text).unwrap(), &Scope::default())
    };
    let built = of("load_stats_config: { api_type: GRPC }, outlier_detection: { event_service: { grpc_service: { envoy_grpc: { cluster_name: c } } } }").unwrap();
    assert_eq!(built.ignored, ["cluster_manager.load_stats_config", "cluster_manager.outlier_detection.event_service"]);
    let error = of("upstream_bind_config: { source_address: { address: here, port_value: 0 } }").unwrap_err();
    assert_eq!(error.path, "cluster_manager.upstream_bind_config.source_address.address");
}
