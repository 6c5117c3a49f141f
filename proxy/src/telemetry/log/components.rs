//! Which parts of the proxy have a logger of their own. The names are Envoy's, all of them, so that what is given to
//! Envoy can be given here; those that stand for nothing here have a level without an effect.

/// Envoy's loggers, in its order.
pub const COMPONENTS: [&str; 73] = [
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "rocketmq",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "json_rpc",
    "kafka",
    "key_value_store",
    "lua",
    "local_rate_limit",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "pool",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "router",
    "runtime",
    "stats",
    "secret",
    "sse",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
    "stats_sinks",
    "dynamic_modules",
    "ip_tagging",
];

/// Modules and the components that they belong to; the first that a target begins with counts.
const MODULES: &[(&str, &str)] = &[
    ("weir_proxy::admin", "admin"),
    ("weir_proxy::cluster::health", "hc"),
    ("weir_proxy::cluster::dial", "connection"),
    ("weir_proxy::cluster::discovery", "dns"),
    ("weir_proxy::cluster::dns", "dns"),
    ("weir_proxy::cluster", "upstream"),
    ("weir_proxy::config", "config"),
    ("weir_proxy::http::filter::rbac", "rbac"),
    ("weir_proxy::http::filter::local_ratelimit", "local_rate_limit"),
    ("weir_proxy::http::filter", "filter"),
    ("weir_proxy::http::pool", "pool"),
    ("weir_proxy::http::router", "router"),
    ("weir_proxy::http", "http"),
    ("weir_proxy::intake", "conn_handler"),
    ("weir_proxy::listener", "conn_handler"),
    ("weir_proxy::pod", "conn_handler"),
    ("weir_proxy::tcp", "filter"),
    ("weir_proxy::telemetry::stats", "stats"),
    ("weir_proxy::telemetry::writer", "file"),
    ("weir_proxy::tls", "connection"),
    ("weir_proxy::wire", "connection"),
    ("weir_proxy::worker", "conn_handler"),
    ("weir_proxy::bootstrap::runtime", "runtime"),
    ("weir_proxy", "main"),
    ("h2", "http2"),
    ("hyper", "http"),
    ("hickory", "dns"),
    ("rustls", "connection"),
];

/// Libraries that warn of what peers do wrong, once for each of their frames: whoever connects could fill the log.
const OF_PEERS: &[&str] = &["h2", "hyper"];

/// Whether a target's warnings are about a peer, as Envoy's debug lines are.
pub(super) fn is_of_peers(target: &str) -> bool {
    OF_PEERS.iter().any(|library| target.split("::").next() == Some(library))
}

/// The index of the component of an event.
pub(super) fn of(target: &str) -> usize {
    let named = |name: &str| COMPONENTS.iter().position(|component| *component == name);
    let module = || {
        let (_, name) = MODULES.iter().find(|(module, _)| target.starts_with(module))?;
        named(name)
    };
    named(target).or_else(module).or_else(|| named("misc")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say_of_peers_is_known() {
        for (target, expected) in
            [("h2::proto::ping_pong", true), ("hyper::proto", true), ("h2x", false), ("weir_proxy::http", false)]
        {
            assert_eq!(is_of_peers(target), expected, "{target}");
        }
    }

    #[test]
    fn targets_have_components() {
        let of = |target| COMPONENTS[of(target)];
        for (target, expected) in [
            ("router", "router"),
            ("weir_proxy::http::pool::host", "pool"),
            ("weir_proxy::http::connection", "http"),
            ("weir_proxy::bootstrap::serve", "main"),
            ("hickory_resolver::name_server", "dns"),
            ("something", "misc"),
        ] {
            assert_eq!(of(target), expected, "{target}");
        }
        for (module, component) in MODULES {
            assert_eq!(of(component), *component, "{module}");
        }
    }
}
