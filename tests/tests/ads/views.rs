//! Several nodes in one process: each view follows the server as a node of its own, and what it gets is its own. Only weir
//! has them.

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use prost_types::Any;
use serde_json::Value;
use weir_tests::{
    ads::{Ads, Listen, Seen},
    mesh::binary,
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get, wait_saved},
    resources::{bad_cluster, cluster, cluster_from, endpoints, listener_at, resources, routed},
    scenario::Who,
    status::weirctl,
    traffic::backend,
};

/// The views by name, the process's own first, and the nodes that they are.
pub const VIEWS: [(&str, &str); 3] = [("", "node"), ("shop", "shop-1"), ("bank", "bank-1")];

pub fn both(test: impl Fn(Protocol)) {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        eprintln!("{protocol:?}");
        test(protocol);
    }
}

/// A server that has for each node a cluster `a` that leads to a backend of the node's name, and a listener `l` to it.
fn three_nodes() -> Ads {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    for (_, node) in VIEWS {
        ads.put_of(node, [cluster("a"), endpoints("a", backend(node)), routed("l", "a", "")]);
    }
    ads
}

pub fn start(ads: &Ads, protocol: Protocol) -> Start {
    let start = Start::new(Who::Weir, ads, protocol).arguments(&["--drain-strategy", "immediate"]);
    VIEWS[1..].iter().fold(start, |start, (view, node)| start.view(view, node))
}

/// Waits until a view's listener `l` answers so.
pub fn until_answered(proxy: &Proxy, view: &str, text: &str) {
    wait_for(&format!("an answer of {text}"), PATIENCE, || {
        let got = get(proxy.listener_of(view, "l"), "/");
        if got == (200, text.into()) { Ok(()) } else { Err(got) }
    });
}

/// A statistic as a view has it.
pub fn stat(proxy: &Proxy, view: &str, name: &str) -> Option<u64> {
    match view {
        "" => proxy.stat(name),
        view => proxy.stat(&format!("view.{view}.{name}")),
    }
}

pub fn until_stat(proxy: &Proxy, view: &str, name: &str, wanted: u64) {
    wait_for(&format!("{view} {name} = {wanted}"), PATIENCE, || {
        let value = stat(proxy, view, name);
        if value == Some(wanted) { Ok(()) } else { Err(value) }
    });
}

/// A statistic of all views.
pub fn stats(proxy: &Proxy, name: &str) -> [Option<u64>; 3] {
    VIEWS.map(|(view, _)| stat(proxy, view, name))
}

/// Waits until something of a type is refused on a node's stream; gives the reason.
fn refused(ads: &Ads, node: &str, mark: usize, kind: &str) -> String {
    let streams = ads.streams_of(node);
    let event = ads.wait_after(mark, &format!("rejection of {kind} by {node}"), |event| {
        event.kind == kind && streams.contains(&event.stream) && matches!(event.seen, Seen::Nack { .. })
    });
    match event.seen {
        Seen::Nack { error, .. } => error,
        other => format!("{other:?}"),
    }
}

#[test]
fn each_view_is_a_node_whose_resources_are_its_own() {
    both(|protocol| {
        let ads = three_nodes();
        let proxy = start(&ads, protocol).start();
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
            assert_eq!(ads.streams_of(node).len(), 1, "{node}");
        }
        // One that refuses something leaves the others alone.
        let mark = ads.mark();
        ads.put_of("shop-1", [bad_cluster("bad")]);
        assert!(refused(&ads, "shop-1", mark, "cds").contains("EDS config"));
        assert_eq!(stats(&proxy, "cluster_manager.cds.update_rejected"), [Some(0), Some(1), Some(0)]);
        // So does one whose endpoints change, and one that loses its listener.
        ads.put_of("bank-1", [endpoints("a", backend("other"))]);
        until_answered(&proxy, "bank", "other");
        ads.change_of("shop-1", |world| world.remove("type.googleapis.com/envoy.config.listener.v3.Listener", "l"));
        until_stat(&proxy, "shop", "listener_manager.listener_removed", 1);
        assert_eq!(stats(&proxy, "listener_manager.listener_removed"), [Some(0), Some(1), Some(0)]);
        wait_for("no listener", PATIENCE, || {
            let text = proxy.admin("/listeners?view=shop");
            if text.is_empty() { Ok(()) } else { Err(text) }
        });
        until_answered(&proxy, "", "node");
        until_answered(&proxy, "bank", "other");
        assert_eq!(stats(&proxy, "listener_manager.total_listeners_active"), [Some(1), Some(0), Some(1)]);
        assert_eq!(stats(&proxy, "control_plane.connected_state"), [Some(1); 3]);
    });
}

#[test]
fn what_a_view_is_shown_as_is_its_own() {
    let ads = three_nodes();
    ads.put_of("shop-1", [cluster("b"), endpoints("b", 1)]);
    let proxy = start(&ads, Protocol::Delta).start();
    for (view, node) in VIEWS {
        until_answered(&proxy, view, node);
    }
    let read = |path: &str| -> Value { serde_json::from_str(&proxy.admin(path)).unwrap() };
    let clusters = |view: &str| {
        let dump = read(&format!("/config_dump?resource=dynamic_active_clusters&view={view}"));
        dump["configs"].as_array().unwrap().iter().map(|one| one["cluster"]["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!([clusters(""), clusters("shop")], [vec!["\"a\""], vec!["\"a\"", "\"b\""]]);
    assert!(
        proxy.admin("/clusters?view=shop").contains("b::127.0.0.1:1::") && !proxy.admin("/clusters").contains("b::")
    );
    let (status, unknown) = get(proxy.address(), "/clusters?view=shed");
    assert_eq!((status, &*unknown), (400, "unknown view \"shed\": expected one of shop, bank\n"));

    let told = read("/v3/discovery:client_status");
    let of = |config: &Value| format!("{} {}", config["client_scope"].as_str().unwrap(), config["node"]["id"]);
    let mut told: Vec<_> = told["config"].as_array().unwrap().iter().map(of).collect();
    told.sort();
    assert_eq!(told, ["ads \"node\"", "view/bank/ads \"bank-1\"", "view/shop/ads \"shop-1\""]);

    let text = weirctl(&proxy, "xds status");
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().take(5).collect::<Vec<_>>().join(" "));
    let mut expected = Vec::new();
    for (view, clusters) in [("-", "1/1"), ("shop", "2/2"), ("bank", "1/1")] {
        expected.extend(["cds", "eds"].map(|kind| format!("{view} ads {kind} SYNCED {clusters}")));
        expected.push(format!("{view} ads lds SYNCED 1/1"));
    }
    assert_eq!(rows.collect::<Vec<_>>(), expected, "{text}");
    let shop = weirctl(&proxy, "proxy cluster --view shop");
    assert!(shop.lines().any(|line| line.starts_with("b ")), "{shop}");
    let bootstrap: Value = serde_json::from_str(&weirctl(&proxy, "proxy bootstrap --view bank")).unwrap();
    assert_eq!(bootstrap["node"]["id"], "bank-1");
    let admin = proxy.address().to_string();
    let line = ["proxy", "cluster", "--view", "shed", "--admin", &admin];
    let ran = Command::new(binary("weirctl")).args(line).output().unwrap();
    assert!(
        String::from_utf8_lossy(&ran.stderr).contains("unknown view \"shed\": expected one of shop, bank"),
        "{ran:?}"
    );

    let prometheus = proxy.admin("/stats/prometheus?filter=cluster.a.upstream_rq_total$");
    let line = |labels: &str| format!("envoy_cluster_upstream_rq_total{{envoy_cluster_name=\"a\"{labels}}} ");
    for labels in ["", ",weir_view=\"shop\"", ",weir_view=\"bank\""] {
        assert!(prometheus.contains(&line(labels)), "{labels}: {prometheus}");
    }
}

#[test]
fn views_of_one_backend_keep_their_connections_apart() {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    let port = backend("one");
    for (_, node) in VIEWS {
        ads.put_of(node, [cluster("a"), endpoints("a", port), routed("l", "a", "")]);
    }
    let proxy = start(&ads, Protocol::Sotw).start();
    for (view, _) in VIEWS {
        until_answered(&proxy, view, "one");
    }
    for (view, _) in [VIEWS, VIEWS].concat() {
        assert_eq!(get(proxy.listener_of(view, "l"), "/"), (200, "one".into()));
    }
    // Had they the same pool, each would have closed what another had made.
    assert_eq!(stats(&proxy, "cluster.a.upstream_cx_total"), [Some(1); 3]);
    assert_eq!(stats(&proxy, "cluster.a.upstream_rq_total"), [Some(3); 3]);
}

/// A cluster `a` that leads to the listener `inner` inside of the process, which answers with a text.
fn within(text: &str) -> Vec<Any> {
    let http = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    resources(&format!(
        r#"
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: a
  type: STATIC
  load_assignment:
    cluster_name: a
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ envoy_internal_address: {{ server_listener_name: inner }} }} }} }} ] }} ]
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: inner
  internal_listener: {{}}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": {http}
        stat_prefix: inner
        route_config:
          virtual_hosts: [ {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {text} }} }} }} ] }} ]
        http_filters:
        - name: router
          typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    ))
}

#[test]
fn listeners_inside_of_the_process_are_those_of_the_view() {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    // One view has none: its connections are not to end at another's.
    for (_, node) in &VIEWS[..2] {
        ads.put_of(node, within(node));
    }
    ads.put_of("bank-1", within("bank-1").into_iter().filter(|one| one.type_url.ends_with("Cluster")));
    for (_, node) in VIEWS {
        ads.put_of(node, [routed("l", "a", "")]);
    }
    let proxy = start(&ads, Protocol::Delta).start();
    until_answered(&proxy, "", "node");
    until_answered(&proxy, "shop", "shop-1");
    assert_eq!(get(proxy.listener_of("bank", "l"), "/").0, 503);
}

#[test]
fn an_address_is_one_view_s() {
    both(|protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (_, node) in VIEWS {
            ads.put_of(node, [cluster("a"), endpoints("a", backend(node))]);
        }
        ads.put_of("node", [listener_at("l", free, "a")]);
        let proxy = start(&ads, protocol).start();
        until_answered(&proxy, "", "node");
        let mark = ads.mark();
        ads.put_of("shop-1", [listener_at("l", free, "a")]);
        let why = refused(&ads, "shop-1", mark, "lds");
        let expected = format!("'l' has duplicate address '{free}' as existing listener of another view");
        assert!(why.contains(&expected), "{why}");
        assert_eq!(get(free, "/"), (200, "node".into()));
        // What one leaves another may take.
        ads.change_of("node", |world| world.remove("type.googleapis.com/envoy.config.listener.v3.Listener", "l"));
        wait_for("refused connections", PATIENCE, || TcpStream::connect(free).err().ok_or("connected"));
        ads.change_of("shop-1", |world| {
            world.remove("type.googleapis.com/envoy.config.listener.v3.Listener", "l");
            world.put("m", listener_at("m", free, "a"));
        });
        assert_eq!(proxy.listener_of("shop", "m"), free);
        assert_eq!(get(free, "/"), (200, "shop-1".into()));
    });
}

#[test]
fn all_views_are_served_without_their_server() {
    both(|protocol| {
        let mut ads = three_nodes();
        let state = tempfile::tempdir().unwrap();
        // The proxy's own user writes there.
        std::os::unix::fs::chown(state.path(), Some(65532), Some(65532)).unwrap();
        let of = |path: &Path| {
            let arguments = ["--state-dir", path.to_str().unwrap(), "--user", "65532"];
            start(&ads, protocol).arguments(&arguments).start()
        };
        let proxy = of(state.path());
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
        }
        for place in ["", "views/shop", "views/bank"] {
            wait_saved(&state.path().join(place));
        }
        proxy.end();
        let start =
            start(&ads, protocol).arguments(&["--state-dir", state.path().to_str().unwrap(), "--user", "65532"]);
        ads.stop();
        let proxy = start.start();
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
        }
        let text = weirctl(&proxy, "xds status");
        for view in ["-", "shop", "bank"] {
            let rows = text.lines().filter(|line| line.starts_with(view));
            assert_eq!(rows.filter(|line| line.contains(" STALE ")).count(), 3, "{text}");
        }
    });
}

#[test]
fn the_process_is_ready_once_every_view_is() {
    let ads = three_nodes();
    // Waited for as long as it takes.
    let without = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    ads.change_of("bank-1", |world| world.remove(without, "a"));
    ads.put_of("bank-1", [cluster_from("a", "ads: {}, initial_fetch_timeout: 0s")]);
    let proxy = start(&ads, Protocol::Sotw).start();
    wait_for("what is waited for", PATIENCE, || {
        let text = proxy.admin("/ready");
        let expected = "INITIALIZING\nview bank: waits for eds a\n";
        if text == expected { Ok(()) } else { Err(text) }
    });
    // It does not hold the others up.
    until_answered(&proxy, "", "node");
    until_answered(&proxy, "shop", "shop-1");
    ads.put_of("bank-1", [endpoints("a", backend("bank-1"))]);
    for (view, node) in VIEWS {
        until_answered(&proxy, view, node);
    }
    wait_for("readiness", PATIENCE, || {
        let text = proxy.admin("/ready");
        if text == "LIVE\n" { Ok(()) } else { Err(text) }
    });
}
