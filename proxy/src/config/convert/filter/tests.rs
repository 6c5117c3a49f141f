//! What is refused of filters, and how it is said.

use crate::config::convert::tests::build;

/// A filter before the router.
fn filter(kind: &str, with: &str) -> String {
    format!(
        "{{ name: f, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}, {with} }} }},"
    )
}

#[test]
fn what_is_refused_of_filters_names_the_field() {
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    for (kind, with, at, message) in [
        (
            "gcp_authn.v3.GcpAuthnFilterConfig",
            "cluster: c, timeout: 1s",
            "",
            "HTTP filter envoy.extensions.filters.http.gcp_authn.v3.GcpAuthnFilterConfig is not supported yet",
        ),
        (
            "fault.v3.HTTPFault",
            "abort: { http_status: 200, percentage: {} }, headers: [{ name: \"a b\" }]",
            ".typed_config.headers[0].name",
            "\"a b\" is not a header name",
        ),
        (
            "rbac.v3.RBAC",
            "rules: { policies: { p: { permissions: [{ any: true }], principals: [{ filter_state: { key: k, address_match: { ranges: [{ address_prefix: 10.0.0.0 }] } } }] } } }",
            ".typed_config.rules.policies[\"p\"].principals[0].filter_state.address_match",
            "not supported yet",
        ),
        (
            "rbac.v3.RBAC",
            "rules: { policies: { p: { permissions: [{ any: true }], principals: [{ any: true }], condition: {} } } }",
            ".typed_config.rules.policies[\"p\"].condition",
            "an empty expression is not supported",
        ),
        (
            "rbac.v3.RBAC",
            "matcher: { on_no_match: { action: { name: a, typed_config: { '@type': type.googleapis.com/google.protobuf.StringValue, value: a } } } }",
            ".typed_config.matcher.on_no_match.action.typed_config",
            "expected envoy.config.rbac.v3.Action, not google.protobuf.StringValue",
        ),
        (
            "rbac.v3.RBAC",
            "matcher: { matcher_tree: { input: { name: i, typed_config: { '@type': type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput } }, exact_match_map: { map: { tls: { action: { name: a, typed_config: { '@type': type.googleapis.com/envoy.config.rbac.v3.Action, name: x } } } } } } }",
            ".typed_config.matcher.matcher_tree.input.typed_config",
            "input envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput is not supported here",
        ),
        (
            "on_demand.v3.OnDemand",
            "odcds: { source: { ads: {} } }",
            ".typed_config.odcds.source.ads",
            "ADS must be configured to support an ADS config source",
        ),
        (
            "on_demand.v3.OnDemand",
            "odcds: { source: { api_config_source: { api_type: GRPC, grpc_services: [{ envoy_grpc: { cluster_name: c } }] } } }",
            ".typed_config.odcds.source",
            "clusters are asked for one by one by deltas only: expected DELTA_GRPC, here or of ads_config",
        ),
        (
            "on_demand.v3.OnDemand",
            "odcds: { resources_locator: 'xdstp://a/b' }",
            ".typed_config.odcds.resources_locator",
            "not supported yet",
        ),
        (
            "local_ratelimit.v3.LocalRateLimit",
            "stat_prefix: x, token_bucket: { max_tokens: 1, fill_interval: 0.01s }",
            ".typed_config.token_bucket.fill_interval",
            "local rate limit token bucket fill timer must be >= 50ms",
        ),
        (
            "jwt_authn.v3.JwtAuthentication",
            "rules: [{ match: { prefix: / }, requires: { provider_name: p } }]",
            ".typed_config.rules[0].requires",
            "Required provider ['p'] is not configured.",
        ),
        (
            "jwt_authn.v3.JwtAuthentication",
            "providers: { p: { local_jwks: { inline_string: '{\"keys\":[]}' } } }",
            ".typed_config.providers[\"p\"].local_jwks",
            "Provider 'p' in jwt_authn config has invalid local jwks: Jwks doesn't have any valid public key",
        ),
        (
            "jwt_authn.v3.JwtAuthentication",
            "providers: { p: { remote_jwks: { http_uri: { uri: nowhere, cluster: c, timeout: 1s } } } }",
            ".typed_config.providers[\"p\"].remote_jwks.http_uri.uri",
            "Provider 'p' has an invalid URI: 'nowhere'",
        ),
        (
            "jwt_authn.v3.JwtAuthentication",
            "filter_state_rules: { name: state, requires: { v: { provider_name: p } } }",
            ".typed_config.filter_state_rules.requires[\"v\"]",
            "Required provider ['p'] is not configured.",
        ),
        (
            "set_filter_state.v3.Config",
            "on_request_headers: [{ object_key: k, format_string: { text_format_source: { inline_string: v } } }]",
            ".typed_config.on_request_headers[0].object_key",
            "\"k\" is not an object factory that is supported yet",
        ),
        (
            "ext_authz.v3.ExtAuthz",
            "failure_mode_allow: true",
            ".typed_config",
            "expected one of grpc_service, http_service",
        ),
        (
            "ext_authz.v3.ExtAuthz",
            "grpc_service: { google_grpc: { target_uri: a, stat_prefix: b } }",
            ".typed_config.grpc_service.google_grpc",
            "not supported: use envoy_grpc",
        ),
        (
            "ext_authz.v3.ExtAuthz",
            "shadow_mode: true, grpc_service: { envoy_grpc: { cluster_name: c } }",
            ".typed_config.shadow_mode",
            "not supported yet",
        ),
        (
            "ext_authz.v3.ExtAuthz",
            "http_service: { server_uri: { uri: 'http://a/', cluster: c, timeout: 1s }, path_prefix: p }",
            ".typed_config.http_service.path_prefix",
            "expected a path that begins with a slash",
        ),
        (
            "health_check.v3.HealthCheck",
            "pass_through_mode: false, cache_time: 1s",
            ".typed_config.cache_time",
            "only with pass_through_mode: true",
        ),
    ] {
        let error = build("filters", &filter(kind, with)).expect_err(with);
        assert_eq!((error.path, error.message.as_str()), (format!("{manager}.http_filters[0]{at}"), message), "{with}");
    }
}

#[test]
fn what_routes_say_of_unknown_filters_is_refused_unless_it_is_optional() {
    let unknown = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.gcp_authn.v3.TokenHeader, name: a, value_prefix: b";
    let route = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]";
    let error = build("route", &format!("typed_per_filter_config: {{ f: {{ {unknown} }} }}")).expect_err("unknown");
    assert_eq!(
        error.to_string(),
        format!(
            "{route}.typed_per_filter_config[\"f\"]: envoy.extensions.filters.http.gcp_authn.v3.TokenHeader is not supported yet"
        )
    );
    let wrapped = format!(
        "typed_per_filter_config: {{ f: {{ \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, is_optional: true, config: {{ {unknown} }} }} }}"
    );
    assert_eq!(build("route", &wrapped).expect("optional").ignored.len(), 1);
}

#[test]
fn what_is_spelled_is_read_as_its_type() {
    let spelled = |kind: &str, value: &str| {
        let any = "\"@type\": type.googleapis.com/udpa.type.v1.TypedStruct";
        let filter =
            format!("{{ name: f, typed_config: {{ {any}, type_url: type.googleapis.com/{kind}, value: {value} }} }},");
        build("filters", &filter)
    };
    let buffer = "envoy.extensions.filters.http.buffer.v3.Buffer";
    let built = spelled(buffer, "{ max_request_bytes: 5 }").expect("a buffer");
    assert!(built.ignored.is_empty());
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0]";
    for (kind, value, at, message) in [
        ("io.nobody.Filter", "{}", "", "HTTP filter io.nobody.Filter is not supported yet"),
        (buffer, "{ max_request_bytes: 0 }", ".typed_config.value", "max_request_bytes: must be greater than 0"),
        (buffer, "{ max_request_bytes: 1.5 }", ".typed_config.value", "max_request_bytes: must be"),
        (
            "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
            "{ alpn_override: [{ alpn_override: [''] }] }",
            ".typed_config.alpn_override[0].alpn_override[0]",
            "expected 1 to 255 bytes",
        ),
    ] {
        let error = spelled(kind, value).expect_err(value);
        assert_eq!(error.path, format!("{manager}{at}"), "{value}");
        assert!(error.message.contains(message), "{value}: {}", error.message);
    }
}

#[test]
fn what_istio_tells_peers_is_taken_and_nobody_is_offered_its_protocol() {
    let peers = "downstream_discovery: [{ istio_headers: {} }, { workload_discovery: {} }], shared_with_upstream: true";
    let filter = |with: &str| format!("{{ name: f, typed_config: {{ \"@type\": type.googleapis.com/{with} }} }},");
    let built = build("filters", &filter(&format!("io.istio.http.peer_metadata.Config, {peers}"))).expect("peers");
    assert_eq!(built.ignored.len(), 1, "{:?}", built.ignored);
    let measures = "stats.PluginConfig, metrics: [{ name: requests_total, drop: true }], reporter: SERVER_GATEWAY";
    let built = build("filters", &filter(measures)).expect("measures");
    assert_eq!(built.ignored.len(), 2, "{:?}", built.ignored);
}
