//! Views that have things of the same names: each has its own, whatever becomes of the others'. Only weir has views.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use prost::Message;
use prost_types::Any;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weir_proto::envoy::config::{core::v3::Metadata, endpoint::v3::ClusterLoadAssignment};
use weir_tests::{
    ads::{Ads, Listen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get},
    resources::{cluster, endpoints, listener, managed, one, patient_cluster, routed, routes},
    scenario::Who,
    secrets::{LISTENER, connect, secret},
    through::{Authority, Certified},
    traffic::{answering, backend},
    views::{VIEWS, both, start, stat, stats, until_answered, until_stat},
};

/// A server in which every view has its own of what this gives for its node.
fn each(of: impl Fn(&'static str) -> Vec<Any>) -> Ads {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    VIEWS.into_iter().for_each(|(_, node)| ads.put_of(node, of(node)));
    ads
}

/// A listener `l` with routes to the cluster `a`, of which this is said besides; `filters` come before the router.
fn filtered(manager: &str, route: &str, filters: &str) -> Any {
    let hosts = format!(
        "{{ name: all, domains: [\"*\"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: a, {route} }} }} ] }}"
    );
    managed("l", &[manager, &format!("route_config: {{ name: inline, virtual_hosts: [ {hosts} ] }}")], filters)
}

/// Certificates of the views' nodes by one authority: `node.test` and so on.
fn certificates(authority: &Authority) -> [Certified; 3] {
    VIEWS.map(|(_, node)| authority.certify(&format!("{node}.test")))
}

#[test]
fn clients_see_the_certificate_of_the_view() {
    both(|protocol| {
        let authority = Authority::new();
        let ads = Ads::start(Listen::anywhere()).unwrap();
        for ((_, node), own) in VIEWS.iter().zip(certificates(&authority)) {
            ads.put_of(node, [one(LISTENER), secret(&own, &own)]);
        }
        let proxy = start(&ads, protocol).start();
        let shown = |view: &str, name: &str| {
            let address = proxy.listener_of(view, "l");
            let connected = || connect(address, &authority, name).map(drop).map_err(|error| error.to_string());
            wait_for(&format!("{name} of {view}"), PATIENCE, connected);
            for other in ["node.test", "shop-1.test", "bank-1.test", "new.test"] {
                assert_eq!(connect(address, &authority, other).is_ok(), other == name, "{view}: {other}");
            }
        };
        VIEWS.iter().for_each(|(view, node)| shown(view, &format!("{node}.test")));
        let new = authority.certify("new.test");
        ads.put_of("shop-1", [secret(&new, &new)]);
        for (view, name) in [("shop", "new.test"), ("", "node.test"), ("bank", "bank-1.test")] {
            shown(view, name);
        }
    });
}

/// A server that takes clients of an authority and answers each one's request with the name that its certificate has here.
fn who_is_there(config: Arc<ServerConfig>, names: Vec<(Vec<u8>, String)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, names) = (config.clone(), names.clone());
            thread::spawn(move || tell_who(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &names));
        }
    });
    port
}

fn tell_who(tls: StreamOwned<ServerConnection, TcpStream>, names: &[(Vec<u8>, String)]) {
    let mut lines = BufReader::new(tls);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            continue;
        }
        return;
    }
    let mut tls = lines.into_inner();
    let shown = tls.conn.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
    let known = names.iter().find(|(der, _)| Some(der) == shown.as_ref());
    let name = known.map_or("nobody", |(_, name)| name);
    let length = name.len();
    // The next request is another connection's, which may have another certificate.
    let _ = write!(tls, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}");
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// The cluster `a`, which shows servers the secret `s`.
fn by_certificate(port: u16) -> Any {
    one(&format!(
        r#"- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: a
  type: STATIC
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      common_tls_context:
        tls_certificate_sds_secret_configs: [ {{ name: s, sds_config: {{ ads: {{}}, resource_api_version: V3 }} }} ]
  load_assignment:
    cluster_name: a
    endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ]
"#
    ))
}

#[test]
fn servers_see_the_certificate_of_the_view() {
    both(|protocol| {
        let authority = Authority::new();
        let (own, new) = (certificates(&authority), authority.certify("new.test"));
        let mut config = (*authority.server(&authority.certify("server.test"))).clone();
        config.alpn_protocols.clear();
        let nodes = VIEWS.iter().map(|(_, node)| (*node).to_owned()).chain(["new".to_owned()]);
        let names = own.iter().chain([&new]).map(|one| one.der.to_vec()).zip(nodes).collect();
        let port = who_is_there(Arc::new(config), names);
        let ads = Ads::start(Listen::anywhere()).unwrap();
        for ((_, node), own) in VIEWS.iter().zip(&own) {
            ads.put_of(node, [by_certificate(port), secret(own, own), routed("l", "a", "")]);
        }
        let proxy = start(&ads, protocol).start();
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
        }
        ads.put_of("shop-1", [secret(&new, &new)]);
        until_answered(&proxy, "shop", "new");
        for (view, node) in [("", "node"), ("bank", "bank-1"), ("shop", "new")] {
            assert_eq!(get(proxy.listener_of(view, "l"), "/"), (200, node.into()));
        }
    });
}

#[test]
fn routes_are_those_of_the_view() {
    both(|protocol| {
        let ads = each(|node| vec![listener("l", "r"), routes("r", node)]);
        let proxy = start(&ads, protocol).start();
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
        }
        ads.put_of("shop-1", [routes("r", "changed")]);
        until_answered(&proxy, "shop", "changed");
        for (view, text) in [("", "node"), ("bank", "bank-1")] {
            assert_eq!(get(proxy.listener_of(view, "l"), "/"), (200, text.into()));
        }
    });
}

#[test]
fn a_view_asks_its_own_for_leave() {
    const ASKING: &str = r#"- name: ext_authz
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
            http_service: { server_uri: { uri: "http://authz", cluster: authz, timeout: 60s } }"#;
    let (leave, refusal) = (backend("go"), answering("401 Unauthorized", "stay"));
    let ads = each(|node| {
        let asked = if node == "bank-1" { refusal } else { leave };
        let authz = [cluster("authz"), endpoints("authz", asked)];
        let all = [cluster("a"), endpoints("a", backend(node)), filtered("", "", ASKING)];
        all.into_iter().chain(authz).collect()
    });
    let proxy = start(&ads, Protocol::Delta).start();
    let got = |view: &str| get(proxy.listener_of(view, "l"), "/");
    until_answered(&proxy, "", "node");
    until_answered(&proxy, "shop", "shop-1");
    assert_eq!(got("bank"), (401, "stay".into()));
    // Whom one asks says nothing of whom others do.
    ads.put_of("shop-1", [endpoints("authz", refusal)]);
    ads.put_of("bank-1", [endpoints("authz", leave)]);
    until_answered(&proxy, "bank", "bank-1");
    wait_for("a refusal", PATIENCE, || if got("shop") == (401, "stay".into()) { Ok(()) } else { Err(got("shop")) });
    assert_eq!(got(""), (200, "node".into()));
    assert_eq!(stats(&proxy, "cluster.a.ext_authz.denied").map(|denied| denied > Some(0)), [false, true, true]);
}

#[test]
fn a_view_has_tokens_of_its_own() {
    const LIMITED: &str = r#"- name: rate
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            stat_prefix: rate
            token_bucket: { max_tokens: 100, fill_interval: 3600s }
            filter_enabled: { default_value: { numerator: 100 } }
            filter_enforced: { default_value: { numerator: 100 } }
            descriptors: [ { entries: [ { key: who, value: all } ], token_bucket: { max_tokens: 1, fill_interval: 3600s } } ]"#;
    const WHO: &str =
        "rate_limits: [ { actions: [ { generic_key: { descriptor_key: who, descriptor_value: all } } ] } ]";
    const CONNECTIONS: &str = r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: connections
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
  filter_chains:
  - filters:
    - name: rate
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit
        stat_prefix: rate
        share_key: shared
        token_bucket: { max_tokens: 1, fill_interval: 3600s }
    - name: echo
      typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }
"#;
    let ads =
        each(|node| vec![cluster("a"), endpoints("a", backend(node)), filtered("", WHO, LIMITED), one(CONNECTIONS)]);
    let proxy = start(&ads, Protocol::Sotw).start();
    for (view, node) in VIEWS {
        let at = |name: &str| proxy.listener_of(view, name);
        assert_eq!(get(at("l"), "/"), (200, node.into()));
        assert_eq!(get(at("l"), "/").0, 429, "{view}");
        assert_eq!([echoes(at("connections")), echoes(at("connections"))], [true, false], "{view}");
    }
    assert_eq!(stats(&proxy, "rate.http_local_rate_limit.rate_limited"), [Some(1); 3]);
    assert_eq!(stats(&proxy, "local_rate_limit.rate.rate_limited"), [Some(1); 3]);
}

/// Whether a connection gives back what it is sent.
fn echoes(to: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)).is_ok()
}

#[test]
fn views_write_to_one_log_whole_lines() {
    const EACH: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    // The proxy's own user writes there.
    std::os::unix::fs::chown(directory.path(), Some(65532), Some(65532)).unwrap();
    let path = directory.path().join("log");
    let ads = each(|node| {
        let log = format!(
            "access_log: [ {{ name: file, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ \
             text_format_source: {{ inline_string: \"{node} %REQ(:PATH)%\\n\" }} }} }} }} ]",
            path.display()
        );
        vec![cluster("a"), endpoints("a", backend(node)), filtered(&log, "", "")]
    });
    let arguments = ["--file-flush-interval-msec", "10", "--user", "65532"];
    let proxy = start(&ads, Protocol::Sotw).arguments(&arguments).start();
    // All lines, sorted, once there are so many.
    let lines = |count: usize| {
        wait_for(&format!("{count} lines"), PATIENCE, || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            if lines.len() == count { Ok(lines) } else { Err(text) }
        })
    };
    let mut expected = Vec::new();
    for number in 0..EACH {
        for (view, node) in VIEWS {
            assert_eq!(get(proxy.listener_of(view, "l"), &format!("/{number}")).0, 200);
            expected.push(format!("{node} /{number}"));
        }
    }
    expected.sort();
    assert_eq!(lines(3 * EACH), expected);
    // Who gives it up leaves it to the others.
    ads.change_of("shop-1", |world| world.remove("type.googleapis.com/envoy.config.listener.v3.Listener", "l"));
    until_stat(&proxy, "shop", "listener_manager.listener_removed", 1);
    for (view, node) in [VIEWS[0], VIEWS[2]] {
        assert_eq!(get(proxy.listener_of(view, "l"), "/last").0, 200);
        expected.push(format!("{node} /last"));
    }
    expected.sort();
    assert_eq!(lines(3 * EACH + 2), expected);
}

#[test]
fn a_flood_in_one_view_does_not_hold_up_another() {
    both(|protocol| {
        let ads = each(|node| vec![cluster("a"), endpoints("a", backend(node)), routed("l", "a", "")]);
        let proxy = start(&ads, protocol).start();
        for (view, node) in VIEWS {
            until_answered(&proxy, view, node);
        }
        let updates = |view: &str| stat(&proxy, view, "cluster_manager.cds.update_success").unwrap();
        let quiet = updates("bank");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                for seconds in (1..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let all = (0..20).map(|number| patient_cluster(&format!("flood{number}"), seconds));
                    ads.put_of("shop-1", all);
                    // The server keeps what is not taken yet.
                    thread::sleep(Duration::from_millis(20));
                }
            });
            // Ends the flood however this ends.
            let ending = Ending(&stop);
            for text in ["one", "two", "three", "four"] {
                let before = updates("shop");
                ads.put_of("bank-1", [endpoints("a", backend(text))]);
                until_answered(&proxy, "bank", text);
                wait_for("more of the flood", PATIENCE, || {
                    let now = updates("shop");
                    if now > before { Ok(()) } else { Err(now) }
                });
            }
            drop(ending);
            flood.join().unwrap();
        });
        // Nothing of it has come to others, and its own goes on being served.
        assert_eq!(updates("bank"), quiet);
        assert_eq!(stats(&proxy, "cluster_manager.cds.update_rejected"), [Some(0); 3]);
        ads.put_of("shop-1", [endpoints("a", backend("end"))]);
        until_answered(&proxy, "shop", "end");
        until_answered(&proxy, "", "node");
    });
}

/// Says so when it goes.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Endpoints whose message is so long, of which next to nothing is made.
fn long_endpoints(name: &str, length: usize) -> Any {
    let mut any = endpoints(name, 1);
    let mut message = ClusterLoadAssignment::decode(&*any.value).unwrap();
    let text = Any {
        type_url: "type.googleapis.com/google.protobuf.StringValue".into(),
        value: "x".repeat(length).encode_to_vec(),
    };
    let metadata = Metadata { typed_filter_metadata: [("long".to_owned(), text)].into(), ..Metadata::default() };
    message.endpoints[0].metadata = Some(metadata);
    any.value = message.encode_to_vec();
    any
}

#[test]
fn what_views_are_sent_alike_is_kept_once() {
    const OTHERS: usize = 6;
    const CLUSTERS: usize = 8;
    const LENGTH: usize = 2 << 20;
    let ads = Ads::start(Listen::anywhere()).unwrap();
    let names: Vec<_> = (0..CLUSTERS).map(|number| format!("c{number}")).collect();
    ads.put(names.iter().flat_map(|name| [cluster(name), endpoints(name, 1)]));
    let views: Vec<_> = (0..OTHERS).map(|number| format!("view{number}")).collect();
    // What is made of them is told by their length, and each view makes its own.
    let start = Start::new(Who::Weir, &ads, Protocol::Delta).arguments(&["--discovery-memory-mib", "8192"]);
    let proxy = views.iter().fold(start, |start, view| start.view(view, view)).start();
    let all = |name: &str, updates: u64| {
        let name = format!("cluster.{name}.update_success");
        std::iter::once("")
            .chain(views.iter().map(|view| &**view))
            .for_each(|view| until_stat(&proxy, view, &name, updates));
    };
    names.iter().for_each(|name| all(name, 1));
    let resident = |proxy: &Proxy| (proxy.status("VmRSS") << 10) as usize;
    let before = resident(&proxy);
    for name in &names {
        ads.put([long_endpoints(name, LENGTH)]);
        all(name, 2);
    }
    // One copy, half of the copies: what was decoded meanwhile may be among it for a while.
    let (one, most) = (CLUSTERS * LENGTH, (OTHERS + 1) * CLUSTERS * LENGTH / 2);
    let mut updates = 1;
    wait_for("no more memory than copies that are shared take", PATIENCE, || {
        // The thread that follows gives memory back while it is at work.
        updates += 1;
        ads.put([patient_cluster("c0", updates)]);
        let more = resident(&proxy).saturating_sub(before);
        if more < most { Ok(more) } else { Err(format!("{more} bytes: one copy takes {one}")) }
    });
}
