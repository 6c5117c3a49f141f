//! What a user sees for each kind of mistake in a bootstrap.

use prost::Message;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;
use weir_proto::{ConfigError, Segment, from_json, from_yaml, from_yaml_known, locate};

const BOOTSTRAP: &str = include_str!("bootstrap.yaml");
const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
const ROUTES: &str = "route_config.virtual_hosts[0].routes";

/// The bootstrap with one change.
fn changed(from: &str, to: &str) -> String {
    assert!(BOOTSTRAP.contains(from), "{from}");
    BOOTSTRAP.replacen(from, to, 1)
}

fn refusal(text: &str) -> String {
    match from_yaml::<Bootstrap>(text) {
        Ok(_) => "accepted".into(),
        Err(error) => error.in_file("bootstrap.yaml"),
    }
}

#[track_caller]
fn refused(from: &str, to: &str, message: &str) {
    let message = message.replace("MANAGER", MANAGER).replace("ROUTES", ROUTES);
    assert_eq!(refusal(&changed(from, to)), format!("bootstrap.yaml:{message}"));
}

#[track_caller]
fn accepted(from: &str, to: &str) {
    assert_eq!(refusal(&changed(from, to)), "accepted");
}

#[test]
fn unknown_fields() {
    refused(
        "stat_prefix:",
        "stat_prefx:",
        "13: MANAGER.stat_prefx: unknown field of \
         envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    );
    refused(
        "  clusters:\n",
        "  clusterz:\n",
        "45: static_resources.clusterz: unknown field of envoy.config.bootstrap.v3.Bootstrap.StaticResources",
    );
    // Null hides nothing, and YAML's merge keys are not Envoy's.
    refused("admin:\n", "admn: null\nadmin:\n", "1: admn: unknown field of envoy.config.bootstrap.v3.Bootstrap");
    refused(
        "  - name: b\n",
        "  - <<: {name: b}\n",
        "62: static_resources.clusters[1].<<: unknown field of envoy.config.cluster.v3.Cluster",
    );
}

#[test]
fn unknown_fields_may_be_left_out_and_named() {
    let text = changed("stat_prefix:", "stat_prefx: [ { a: 1 } ]\n          stat_prefix:");
    let text = text.replacen("  clusters:\n", "  later: 1\n  clusters:\n", 1);
    let (message, unknown) = from_yaml_known::<Bootstrap>(&text).unwrap();
    // Maps come in any order: the rest is compared by its size.
    assert_eq!(message.encoded_len(), from_yaml::<Bootstrap>(BOOTSTRAP).unwrap().encoded_len());
    let unknown: Vec<_> = unknown.iter().map(|error| error.path().to_string()).collect();
    assert_eq!(unknown, [&format!("{MANAGER}.stat_prefx"), "static_resources.later"]);
    // What else is wrong is refused all the same.
    let wrong = text.replacen("  later: 1\n", "  later: 1\n  listeners: 5\n", 1);
    let error = from_yaml_known::<Bootstrap>(&wrong).unwrap_err().to_string();
    assert!(error.contains("static_resources.listeners"), "{error}");
}

#[test]
fn wrong_types() {
    refused(
        "name: local_route",
        "name: 15",
        "22: MANAGER.route_config.name: must be a string, not 15 (put it in quotes)",
    );
    refused(
        "domains: [\"*\"]",
        "domains: {a: b}",
        "25: MANAGER.route_config.virtual_hosts[0].domains[0]: must be a string, not a map",
    );
    refused(
        "{ prefix: \"/\" }",
        "x",
        "37: MANAGER.ROUTES[1].match: must be a map (envoy.config.route.v3.RouteMatch), not \"x\"",
    );
    refused(
        "num_retries: 3",
        "num_retries: some",
        "34: MANAGER.ROUTES[0].route.retry_policy.num_retries: must be a whole number from 0 to 4294967295, not \"some\"",
    );
    refused(
        "num_retries: 3",
        "num_retries: 1.5",
        "34: MANAGER.ROUTES[0].route.retry_policy.num_retries: must be a whole number from 0 to 4294967295, not \"1.5\"",
    );
    refused(
        "port_value: 1443",
        "port_value: -1",
        "57: static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: must be a whole number from 0 to 4294967295, not -1",
    );
    refused(
        "codec_type: AUTO",
        "codec_type: FOO",
        "14: MANAGER.codec_type: must be one of AUTO, HTTP1, HTTP2, HTTP3, not \"FOO\"",
    );
    refused(
        "{ value: 1.5 }",
        "{ value: .nan }",
        "52: static_resources.clusters[0].common_lb_config.healthy_panic_threshold.value: must be a number, not \".nan\"",
    );
    refused(
        "    address:\n",
        "    bind_to_port: 1\n    address:\n",
        "6: static_resources.listeners[0].bind_to_port: must be true or false, not 1",
    );
    refused(
        "{ filter_metadata: {",
        "{ filter_metadata: { x: 1 }, a: {",
        "28: MANAGER.ROUTES[0].metadata.filter_metadata[\"x\"]: must be a map, not 1",
    );
    refused(
        "                route:\n                  weighted_clusters:\n                    clusters: [{ name: service, weight: 90 }, { name: b, weight: \"10\" }]",
        "                direct_response: {status: 200, body: {inline_bytes: \"a*\"}}",
        "38: MANAGER.ROUTES[1].direct_response.body.inline_bytes: must be bytes in base64, not \"a*\"",
    );
}

#[test]
fn bad_durations() {
    let wrong = "must be a duration in seconds such as \"0.25s\", not";
    for (given, shown) in [
        ("1.5", "\"1.5\""),
        ("1", "1"),
        ("15ms", "\"15ms\""),
        (".5s", "\".5s\""),
        ("1.s", "\"1.s\""),
        ("+1s", "\"+1s\""),
        ("1e2s", "\"1e2s\""),
        ("'1 s'", "\"1 s\""),
        ("1.0123456789s", "\"1.0123456789s\""),
    ] {
        let message = format!("31: MANAGER.ROUTES[0].route.timeout: {wrong} {shown}");
        refused("timeout: 1.5s", &format!("timeout: {given}"), &message);
    }
    refused(
        "timeout: 1.5s",
        "timeout: 315576000001s",
        "31: MANAGER.ROUTES[0].route.timeout: must be at most 315576000000s, not \"315576000001s\"",
    );
    accepted("timeout: 1.5s", "timeout: 1.012345678s");
    accepted("timeout: 1.5s", "timeout: {seconds: 1}");
}

#[test]
fn given_twice() {
    refused(
        "    type: STATIC\n",
        "    type: STATIC\n    type: EDS\n",
        "64: static_resources.clusters[1].type: given twice",
    );
    refused(
        "    connect_timeout: 0.25s\n",
        "    connect_timeout: 0.25s\n    connectTimeout: 1s\n",
        "48: static_resources.clusters[0].connect_timeout: given twice",
    );
    refused(
        "cluster: service\n",
        "cluster: service\n                  cluster_header: x\n",
        "31: MANAGER.ROUTES[0].route.cluster_header: excludes cluster, which is set too",
    );
    refused(
        "{ weir: {",
        "{ weir: { }, weir: {",
        "28: MANAGER.ROUTES[0].metadata.filter_metadata[\"weir\"]: given twice",
    );
    accepted("cluster: service\n", "cluster: service\n                  cluster_header: null\n");
}

#[test]
fn any_types() {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let path = "MANAGER.http_filters[0].typed_config";
    refused(router, "type.googleapis.com/some.Router", &format!("44: {path}.@type: unknown type some.Router"));
    refused(
        router,
        "some.Router",
        &format!("44: {path}.@type: must look like \"type.googleapis.com/...\", not \"some.Router\""),
    );
    refused(
        &format!("\"@type\": {router}"),
        "suppress_envoy_headers: true",
        &format!("43: {path}: must have \"@type\""),
    );
    accepted(router, "other.host/envoy.extensions.filters.http.router.v3.Router");
}

#[test]
fn rules() {
    refused(
        "connect_timeout: 0.25s",
        "connect_timeout: 0s",
        "47: static_resources.clusters[0].connect_timeout: must be greater than 0s",
    );
    // Without a rule of its own: no duration may be negative.
    refused("timeout: 1.5s", "timeout: -1s", "31: MANAGER.ROUTES[0].route.timeout: must not be negative");
    refused(
        "port_value: 1443",
        "port_value: 70000",
        "57: static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: must be at most 65535",
    );
    refused("stat_prefix: ingress_http", "stat_prefix: ''", "13: MANAGER.stat_prefix: must not be empty");
    refused("codec_type: AUTO", "codec_type: 77", "14: MANAGER.codec_type: must be a defined value, not 77");
    refused("domains: [\"*\"]", "domains: []", "25: MANAGER.route_config.virtual_hosts[0].domains: must not be empty");
    refused(
        "{ value: 1.5 }",
        "{ value: 200 }",
        "52: static_resources.clusters[0].common_lb_config.healthy_panic_threshold.value: must be at most 100",
    );
    refused(
        "name: x-v,",
        "name: \"x\\nv\",",
        "27: MANAGER.ROUTES[0].match.headers[0].name: must not contain NUL, line feed or carriage return",
    );
    refused(
        "match: { prefix: \"/\" }",
        "match: {}",
        "37: MANAGER.ROUTES[1].match.path_specifier: one of prefix, path, safe_regex, connect_matcher, path_separated_prefix, path_match_policy must be set",
    );
    refused("- match: { prefix: \"/\" }", "- name: x", "37: MANAGER.ROUTES[1].match: must be set");
}

#[test]
fn broken_texts() {
    assert_eq!(refusal(""), "bootstrap.yaml: is empty");
    assert_eq!(
        refusal("hello"),
        "bootstrap.yaml:1: must be a map (envoy.config.bootstrap.v3.Bootstrap), not \"hello\""
    );
    assert!(refusal("admin: [\n").starts_with("bootstrap.yaml:1: not YAML: "), "{}", refusal("admin: [\n"));
    assert_eq!(
        refusal("admin: {}\n---\nadmin: {}\n"),
        "bootstrap.yaml:3: a second YAML document is not read; join them"
    );
    let deep = format!("node: {{ metadata: {}1{} }}", "{ a: ".repeat(2000), " }".repeat(2000));
    assert!(refusal(&deep).ends_with("nested deeper than 100 levels"), "{}", refusal(&deep));
    // Two messages a level: protobuf's limit comes first.
    let deep = format!("\nnode: {{ metadata: {}1{} }}", "{ a: ".repeat(60), " }".repeat(60));
    assert_eq!(refusal(&deep), "bootstrap.yaml:2: node.metadata: nested too deeply");
}

#[test]
fn json_has_lines_too() {
    let text = "{\n  \"static_resources\": {\n    \"clusters\": [{\"name\": \"a\",\n      \"connectTimeout\": \"0s\"}]\n  }\n}";
    let error = from_json::<Bootstrap>(text).unwrap_err();
    assert_eq!(
        error.in_file("b.json"),
        "b.json:4: static_resources.clusters[0].connect_timeout: must be greater than 0s"
    );
    let error = from_json::<Bootstrap>("{\n \"node\": {\"id\": nope}\n}").unwrap_err();
    assert_eq!(error.in_file("b.json"), "b.json:2: not JSON: expected a value, found 'n'");
}

/// Envoy's reader takes these too; published configurations have them.
#[test]
fn leniency() {
    accepted("domains: [\"*\"]", "domains: \"*\"");
    accepted("domains: [\"*\"]", "domains: [\"*\", null]");
    accepted("    address:\n", "    bind_to_port: \"true\"\n    address:\n");
    accepted("    address:\n", "    bind_to_port: yes\n    address:\n");
    accepted("codec_type: AUTO", "codec_type: \"1\"");
    accepted("codec_type: AUTO", "codec_type: auto");
    accepted("name: local_route", "name: 1.5");
    accepted("name: local_route", "name: ~");
    for port in ["\"1443\"", "1443.0", "1e3", "0x50", "0123", "+80"] {
        accepted("port_value: 1443", &format!("port_value: {port}"));
    }
    accepted("num_retries: 3", "num_retries: { value: 3 }");
    accepted("num_retries: 3", "num_retries: null");
    // Refused by Envoy as well:
    for port in ["0o123", "\" 1443\"", "5000000000"] {
        assert_ne!(refusal(&changed("port_value: 1443", &format!("port_value: {port}"))), "accepted", "{port}");
    }
}

#[test]
fn places_errors_of_others() {
    let error = ConfigError::new("unknown cluster \"x\"").in_field("cluster").in_field("route");
    let error =
        ["routes", "virtual_hosts"].iter().fold(error, |error, list| error.inside(Segment::Index(0)).in_field(list));
    let error = error.in_field("route_config").in_field("typed_config");
    let error = ["filters", "filter_chains", "listeners"]
        .iter()
        .fold(error, |error, list| error.inside(Segment::Index(0)).in_field(list));
    let error = locate(BOOTSTRAP, error.in_field("static_resources"));
    assert_eq!(
        error.in_file("b.yaml"),
        format!("b.yaml:30: {MANAGER}.{ROUTES}[0].route.cluster: unknown cluster \"x\"")
    );
}
