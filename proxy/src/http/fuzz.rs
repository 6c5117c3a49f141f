//! Request heads for fuzzing: read as HTTP/1, prepared, rewritten.

use std::sync::{Arc, LazyLock};

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

pub(crate) use super::codec::framing::fuzz::framing;
use super::{
    codec::framing::{Framing, Passed, Rules},
    dispatch::prepare,
    headers::{normal_path, rewrite},
};
use crate::config::{
    self,
    http::HttpConnectionManager,
    listener::Terminal,
    route::{PathMatch, PathRewrite},
};

/// More headers than this are refused before.
const HEADERS: usize = 100;

/// As a plain hop, and as an edge that normalises paths.
static MANAGERS: LazyLock<Vec<Arc<HttpConnectionManager>>> = LazyLock::new(|| {
    let edge = "use_remote_address: true, normalize_path: true, merge_slashes: true, strip_any_host_port: true, \
                via: edge, http_protocol_options: { accept_http_10: true, default_host_for_http_10: default.test },";
    ["", edge].into_iter().map(manager).collect()
});

fn manager(fields: &str) -> Arc<HttpConnectionManager> {
    let text = format!(
        r#"{{ static_resources: {{ listeners: [{{ name: l, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }},
        filter_chains: [{{ filters: [{{ name: h, typed_config: {{ {fields}
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: x, http_filters: [{{ name: envoy.filters.http.router }}],
        route_config: {{ virtual_hosts: [{{ name: v, domains: ["*"] }}] }} }} }}] }}] }}] }} }}"#
    );
    let bootstrap: Bootstrap = weir_proto::from_yaml(&text).expect("a bootstrap");
    let built = config::from_bootstrap(&bootstrap, &Default::default()).expect("a configuration");
    let chain = built.snapshot.listeners()[0].filter_chains[0].clone();
    match &chain.terminal {
        Terminal::Http(manager) => manager.clone(),
        _ => panic!("HTTP"),
    }
}

/// Reads a request's head as a client's connection does and prepares it in two configurations. What comes out is one host, a
/// relative target without spaces or controls, and no header that concerns one connection only.
pub fn request_head(input: &[u8]) {
    let Some(request) = parsed(input) else { return };
    for manager in MANAGERS.iter() {
        let (mut parts, ()) = request.clone().into_parts();
        let (peer, local) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 80).into());
        let Ok(prepared) = prepare::request(manager, &mut parts, peer, local, "http") else { continue };
        let target = parts.uri.to_string();
        if parts.method == Method::CONNECT {
            assert!(parts.uri.authority().is_some() && parts.uri.path().is_empty(), "target {target:?}");
            continue;
        }
        assert!(target.starts_with('/') || target == "*", "target {target:?}");
        assert!(!target.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "target {target:?}");
        assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1, "{:?}", parts.headers);
        assert!(!parts.headers.contains_key(header::TRANSFER_ENCODING), "{:?}", parts.headers);
        if prepared.upgrade.is_none() {
            assert!(!parts.headers.contains_key(header::CONNECTION), "{:?}", parts.headers);
            assert!(!parts.headers.contains_key(header::UPGRADE), "{:?}", parts.headers);
        }
        rewritten(&parts.uri);
    }
}

/// Rewrites give valid targets, whatever was asked for.
fn rewritten(uri: &Uri) {
    let matched = PathMatch::Prefix("/a".into());
    for prefix in ["", "/", "/b", "/b/", "b", "/ b#"] {
        let mut uri = uri.clone();
        if let Some(path) = rewrite::path(&PathRewrite::Prefix(prefix.into()), &matched, &uri)
            && rewrite::apply(path, &mut uri, None).is_ok()
            && let Some(path) = uri.path_and_query()
        {
            assert!(!path.as_str().bytes().any(|byte| byte <= b' '), "{path:?}");
        }
    }
    let merged = normal_path::merge_slashes(uri.path());
    assert_eq!(normal_path::merge_slashes(&merged), merged, "merging twice changes more than once");
    if let Some(once) = normal_path::canonical(uri.path()) {
        assert!(!once.split('/').any(|part| part == ".." || part == "."), "{once:?}");
        // As in Envoy, dots that are escaped, or come after a backslash, get parameters only now.
        if !once.contains(';') {
            assert_eq!(normal_path::canonical(&once).as_ref(), Some(&once), "normalising twice changes more than once");
        }
    }
}

/// The first request that framing lets pass, as the codec reads it.
fn parsed(input: &[u8]) -> Option<Request<()>> {
    let rules =
        Rules { max_head_bytes: 60 << 10, max_headers: HEADERS, any_method: false, http_10: true, trailers: false };
    let mut framing = Framing::new(rules);
    let passed = match framing.feed(input) {
        Passed::Unchanged => input.to_vec(),
        Passed::Edited(passed) => passed,
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(_)) = head.parse(&passed) else { return None };
    let version = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request =
        Request::builder().method(head.method?).uri(head.path?.parse::<Uri>().ok()?).version(version).body(()).ok()?;
    for header in head.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(request)
}
