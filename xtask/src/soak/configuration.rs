//! What weir-proxy is soaked with: many features at once, over upstreams of which some behave and some do not.

use serde_json::{Value, json};
use std::path::Path;

use super::upstream::Upstreams;

/// Ports of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP.
    pub web: u16,
    /// The same under TLS.
    pub tls: u16,
    /// The same for clients with certificates: the proxy's own.
    pub mutual: u16,
    /// TCP, to a server that says everything again.
    pub tcp: u16,
    /// The admin server.
    pub admin: u16,
}

/// Ports of the nginx that serves `/small` and `/large`.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// HTTP/1.1.
    pub plain: u16,
    /// HTTP/2.
    pub http2: u16,
}

/// Where access logs are written, in the directory of certificates.
pub const LOG: &str = "logs/access.log";

const HTTP: &str = "envoy.extensions.filters.http";

/// The bootstrap.
pub fn bootstrap(directory: &Path, ports: &Ports, backend: &Backend, upstreams: &Upstreams) -> Value {
    let manager = manager(directory);
    let http = |transport: Option<Value>| {
        let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
        if let Some(transport) = transport {
            chain["transport_socket"] = transport;
        }
        chain
    };
    let certificates = certificates(directory);
    let server = |common: Value, requires: bool| {
        let context = json!({ "common_tls_context": common, "require_client_certificate": requires });
        json!({ "name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", context) })
    };
    let listener = |name: &str, port: u16, chain: Value| json!({ "name": name, "address": address(port), "filter_chains": [chain] });
    let mut tls = certificates.clone();
    tls["alpn_protocols"] = json!(["h2", "http/1.1"]);
    let tcp = json!({
        "stat_prefix": "tcp", "cluster": "bytes", "idle_timeout": "60s", "access_log": [log(directory, json!({}))],
    });
    let tcp = typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", tcp);
    json!({
        "admin": { "address": address(ports.admin) },
        "static_resources": {
            "listeners": [
                listener("web", ports.web, http(None)),
                listener("tls", ports.tls, http(Some(server(tls, false)))),
                listener("mutual", ports.mutual, http(Some(server(validated(directory), true)))),
                listener("tcp", ports.tcp, json!({ "filters": [{ "name": "tcp", "typed_config": tcp }] })),
            ],
            "clusters": clusters(directory, ports, backend, upstreams),
        },
    })
}

/// What an `Any` holds.
fn typed(name: &str, mut value: Value) -> Value {
    value["@type"] = format!("type.googleapis.com/{name}").into();
    value
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

fn certificates(directory: &Path) -> Value {
    let file = |name: &str| json!({ "filename": directory.join(name) });
    json!({ "tls_certificates": [{ "certificate_chain": file("cert.pem"), "private_key": file("key.pem") }] })
}

/// A certificate, and the authority that the peer's must be of.
fn validated(directory: &Path) -> Value {
    let mut context = certificates(directory);
    context["validation_context"] = json!({ "trusted_ca": { "filename": directory.join("ca.pem") } });
    context
}

fn log(directory: &Path, mut settings: Value) -> Value {
    settings["path"] = json!(directory.join(LOG));
    json!({ "name": "file", "typed_config": typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", settings) })
}

fn manager(directory: &Path) -> Value {
    let line = json!({ "log_format": { "json_format": {
        "at": "%START_TIME%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "path": "%REQ(:PATH)%",
        "details": "%RESPONSE_CODE_DETAILS%", "agent": "%REQ(USER-AGENT)%", "upstream": "%UPSTREAM_HOST%",
        "took": "%DURATION%", "id": "%REQ(X-REQUEST-ID)%", "ended": "%CONNECTION_TERMINATION_DETAILS%",
    } } });
    let filter = |name: &str, kind: &str, settings: Value| json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": typed(&format!("{HTTP}.{name}.v3.{kind}"), settings) });
    let manager = json!({
        "stat_prefix": "soak",
        "use_remote_address": true,
        "normalize_path": true,
        "stream_idle_timeout": "60s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }, { "upgrade_type": "CONNECT" }],
        "http2_protocol_options": { "allow_connect": true },
        "access_log": [log(directory, line)],
        "http_filters": [
            filter("fault", "HTTPFault", json!({})),
            filter("local_ratelimit", "LocalRateLimit", json!({ "stat_prefix": "limited" })),
            filter("grpc_stats", "FilterConfig", json!({ "stats_for_all_methods": true })),
            filter("router", "Router", json!({})),
        ],
        "route_config": {
            "name": "soak",
            "response_headers_to_add": [{ "header": { "key": "x-cluster", "value": "%UPSTREAM_CLUSTER%" } }],
            "virtual_hosts": [{
                "name": "all", "domains": ["*"], "include_request_attempt_count": true, "routes": routes(),
            }],
        },
    });
    typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager)
}

/// A route to a cluster; what is not to time out does not on a machine that is busy with other things either.
fn forward(matches: Value, cluster: &str, more: Value) -> Value {
    let mut action = json!({ "cluster": cluster, "timeout": "60s" });
    if let (Value::Object(action), Value::Object(more)) = (&mut action, more) {
        action.extend(more);
    }
    json!({ "match": matches, "route": action })
}

fn filtered(mut route: Value, filter: &str, kind: &str, settings: Value) -> Value {
    let name = format!("envoy.filters.http.{filter}");
    route["typed_per_filter_config"] = json!({ name: typed(&format!("{HTTP}.{filter}.v3.{kind}"), settings) });
    route
}

fn routes() -> Value {
    let path = |path: &str| json!({ "path": path });
    let prefix = |prefix: &str| json!({ "prefix": prefix });
    let small = json!({ "prefix_rewrite": "/small" });
    let always = json!({ "default_value": { "numerator": 100 } });
    let limit = json!({
        "stat_prefix": "limited", "filter_enabled": always, "filter_enforced": always,
        "token_bucket": { "max_tokens": 5, "tokens_per_fill": 5, "fill_interval": "1s" },
    });
    let third = json!({ "numerator": 33 });
    let faults = json!({
        "abort": { "http_status": 418, "percentage": third }, "delay": { "fixed_delay": "0.02s", "percentage": third },
    });
    let other_hosts = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}));
    let elsewhere = json!({ "retry_policy": {
        "retry_on": "5xx", "num_retries": 5, "host_selection_retry_max_attempts": "5",
        "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": other_hosts }],
    } });
    let tunnel = json!({ "timeout": "0s", "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }] });
    json!([
        forward(json!({ "connect_matcher": {} }), "bytes", tunnel),
        { "match": path("/direct"), "direct_response": { "status": 200, "body": { "inline_string": "here" } } },
        { "match": path("/redirect"), "redirect": { "path_redirect": "/small" } },
        forward(prefix("/two/"), "two", json!({ "prefix_rewrite": "/" })),
        forward(prefix("/mutual/"), "mutual", json!({ "prefix_rewrite": "/" })),
        forward(prefix("/grpc/"), "grpc", json!({})),
        forward(path("/mirrored"), "backend", json!({ "prefix_rewrite": "/small", "request_mirror_policies": [{ "cluster": "odd" }] })),
        filtered(forward(path("/limited"), "backend", small.clone()), "local_ratelimit", "LocalRateLimit", limit),
        filtered(forward(path("/faulty"), "backend", small), "fault", "HTTPFault", faults),
        forward(path("/unsteady"), "shop", elsewhere),
        forward(path("/slow"), "odd", json!({
            "timeout": "0.5s", "retry_policy": { "retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.2s" },
        })),
        forward(prefix("/reset"), "odd", json!({ "retry_policy": { "retry_on": "reset,connect-failure", "num_retries": 2 } })),
        forward(json!({ "safe_regex": { "regex": "/(echo|drip|websocket)" } }), "odd", json!({ "timeout": "0s" })),
        forward(path("/small"), "backend", json!({})),
        forward(path("/large"), "backend", json!({})),
    ])
}

fn clusters(directory: &Path, ports: &Ports, backend: &Backend, upstreams: &Upstreams) -> Value {
    let cluster = |name: &str, ports: &[u16], http2: bool, more: Value| {
        let endpoints: Vec<_> = ports.iter().map(|port| json!({ "endpoint": { "address": address(*port) } })).collect();
        let http = if http2 { json!({ "http2_protocol_options": {} }) } else { json!({ "http_protocol_options": {} }) };
        // Idle connections end soon, so that what is still open at the end is what leaked.
        let options = json!({ "explicit_http_config": http, "common_http_protocol_options": { "idle_timeout": "5s" } });
        let most = json!({ "max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000, "max_retries": 20000 });
        let mut cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "60s", "circuit_breakers": { "thresholds": [most] },
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", options) },
        });
        if let (Value::Object(cluster), Value::Object(more)) = (&mut cluster, more) {
            cluster.extend(more);
        }
        cluster
    };
    let client = json!({ "sni": "bench.test", "common_tls_context": validated(directory) });
    let client = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", client);
    json!([
        cluster("backend", &[backend.plain], false, json!({})),
        cluster("two", &[backend.http2], true, json!({})),
        cluster("grpc", &[upstreams.grpc], true, json!({})),
        cluster("odd", &[upstreams.odd], false, json!({})),
        cluster("bytes", &[upstreams.bytes], false, json!({})),
        cluster(
            "mutual",
            &[ports.mutual],
            false,
            json!({ "transport_socket": { "name": "tls", "typed_config": client } })
        ),
        cluster(
            "shop",
            &upstreams.shop,
            false,
            json!({
                "lb_policy": "LEAST_REQUEST",
                "outlier_detection": { "consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "1s", "max_ejection_percent": 50 },
                "health_checks": [{
                    "interval": "1s", "timeout": "30s", "unhealthy_threshold": 3, "healthy_threshold": 1,
                    "http_health_check": { "path": "/health" },
                }],
            })
        ),
    ])
}
