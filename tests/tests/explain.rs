//! weirctl says what the kernel does: every verdict it explains is then put to the test by a connection.

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use weir_abi::{Rule, map::name};
use weir_tests::{
    echo::{Bind, Dialled, Echo, dial},
    mesh::{Mesh, PodSpec, binary},
    net::{Net, Node, Pod},
    netns::Netns,
    poll::wait_for,
    web::{Nginx, WHOAMI, get},
    weirctl::{number, text},
};

const PORTS: std::ops::Range<u16> = 20_000..20_010;
const PORT: u16 = 20_000;
const EXCLUDED_OUT: u16 = 20_001;
const EXCLUDED_IN: u16 = 20_002;
const PROBED: u16 = 20_003;

/// A node with a pod that has exclusions and probes, and servers elsewhere, one of them in an excluded range.
struct Scene {
    mesh: Mesh,
    _servers: [Echo; 3],
    web: Pod,
    pending: Pod,
    plain: Pod,
    server: Pod,
    excluded: Pod,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let (node, far) = (net.node("a"), net.node("b"));
        let (web, pending, plain) = (node.pod("web"), node.pod("pending"), node.pod("plain"));
        let (server, excluded) = (far.pod("server"), far.pod("excluded"));
        let servers = [&web, &server, &excluded].map(|pod| Echo::start(&pod.netns, PORTS, Bind::Separate));
        let ranges = format!("{}/32,{}/128", excluded.ipv4, excluded.ipv6);
        let web_spec = PodSpec::of(&web)
            .probe_ports([PROBED])
            .annotation("traffic.sidecar.istio.io/excludeOutboundIPRanges", &ranges)
            .annotation("traffic.sidecar.istio.io/excludeOutboundPorts", &EXCLUDED_OUT.to_string())
            .annotation("traffic.sidecar.istio.io/excludeInboundPorts", &EXCLUDED_IN.to_string());
        let mesh = Mesh::start(&node, &[&web_spec]);
        let pending_spec = PodSpec::of(&pending).annotation("traffic.sidecar.istio.io/excludeOutboundPorts", "none");
        mesh.agent.set_pods(&[web_spec, pending_spec.clone()]);
        mesh.agent.wait_pending(&pending_spec, "excludeOutboundPorts");
        Self { mesh, _servers: servers, web, pending, plain, server, excluded, node, _net: net }
    }

    fn show(&self, pod: &str, to: SocketAddr, options: &[&str]) -> Value {
        let to = to.to_string();
        self.mesh.ctl.json(&[&["redirect", "show", pod, "--to", &to], options].concat())
    }
}

/// How to connect.
#[derive(Clone, Copy)]
enum By {
    Tcp,
    Mptcp,
    Udp,
}

fn connect(netns: &Netns, by: By, to: SocketAddr) {
    netns.run(|| match by {
        By::Tcp => {
            let dialled = dial_here(TcpStream::connect(to).expect("connected"), to);
            assert!(dialled.destination_is_true(), "{dialled:?}");
        }
        By::Mptcp => {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)).expect("MPTCP");
            socket.connect(&to.into()).expect("connected");
            assert_eq!(dial_here(socket.into(), to).server.local, to);
        }
        By::Udp => {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).and_then(|socket| socket.connect(to)).expect("connected");
        }
    });
}

fn dial_here(stream: TcpStream, to: SocketAddr) -> Dialled {
    Dialled::verify(stream, to).unwrap_or_else(|error| panic!("{to}: {error}"))
}

#[test]
fn outbound_verdicts_are_what_the_kernel_does() {
    let scene = Scene::new();
    let Scene { web, server, excluded, .. } = &scene;
    let redirected = |listener: SocketAddr| Some(listener.to_string());
    let (v4, v6) = (redirected(web.v4(15_001)), redirected(web.v6(15_001)));
    let local = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let cases = [
        (By::Tcp, server.v4(PORT), Rule::Redirected, v4.clone()),
        (By::Tcp, server.v6(PORT), Rule::Redirected, v6.clone()),
        (By::Mptcp, server.v4(PORT), Rule::Redirected, v4.clone()),
        (By::Tcp, server.v4(EXCLUDED_OUT), Rule::ExcludedPort, None),
        (By::Tcp, server.v6(EXCLUDED_OUT), Rule::ExcludedPort, None),
        (By::Tcp, excluded.v4(PORT), Rule::ExcludedCidr, None),
        (By::Tcp, excluded.v6(PORT), Rule::ExcludedCidr, None),
        (By::Tcp, local("127.0.0.1:20000"), Rule::Loopback, None),
        (By::Tcp, local("[::1]:20000"), Rule::Loopback, None),
        (By::Tcp, web.v4(PORT), Rule::OwnAddress, None),
        (By::Tcp, web.v6(PORT), Rule::OwnAddress, None),
        (By::Udp, server.v4(PORT), Rule::NotTcp, None),
    ];
    for (by, to, rule, listener) in cases {
        let protocol = match by {
            By::Tcp => "tcp",
            By::Mptcp => "mptcp",
            By::Udp => "udp",
        };
        let said = scene.show("default/web", to, &["--protocol", protocol]);
        assert_eq!((text(&said, "rule"), text(&said, "action")), (rule.name(), rule.action().name()), "{to}: {said}");
        assert_eq!(text(&said, "direction"), "outbound", "{said}");
        assert_eq!(text(&said, "listener"), listener.unwrap_or_default(), "{said}");
        let before = scene.mesh.ctl.counters("default/web");
        connect(&web.netns, by, to);
        let decided = scene.mesh.ctl.counters("default/web").since(&before);
        assert_eq!(decided.of(rule), 1, "{protocol} {to} was to be {}: {decided:?}", rule.name());
        let proxied = u64::from(rule == Rule::Redirected);
        assert_eq!(decided.of(Rule::ProxySocket), proxied, "{protocol} {to}: {decided:?}");
        // In words too, with the verdict and the rule.
        let shown = scene.mesh.ctl.text(&["redirect", "show", "web", "--to", &to.to_string(), "--protocol", protocol]);
        assert!(shown.contains(rule.name()) && shown.contains(rule.hint()), "{shown}");
    }
}

#[test]
fn inbound_verdicts_are_what_the_kernel_does() {
    let scene = Scene::new();
    let Scene { web, plain, .. } = &scene;
    let (plain_v4, plain_v6) = (plain.ipv4.to_string(), plain.ipv6.to_string());
    let (own_v4, loopback) = (web.ipv4.to_string(), "127.0.0.1".to_owned());
    let cases: [(&str, SocketAddr, Rule); 14] = [
        (&plain_v4, web.v4(PORT), Rule::Steered),
        (&plain_v6, web.v6(PORT), Rule::Steered),
        (&plain_v4, web.v4(PROBED), Rule::Steered),
        (&plain_v4, web.v4(EXCLUDED_IN), Rule::ExcludedInboundPort),
        (&plain_v6, web.v6(EXCLUDED_IN), Rule::ExcludedInboundPort),
        ("node", web.v4(PROBED), Rule::NodeProbe),
        ("node", web.v6(PROBED), Rule::NodeProbe),
        ("node", web.v4(PORT), Rule::Steered),
        ("node", web.v4(EXCLUDED_IN), Rule::ExcludedInboundPort),
        ("host-pod", web.v4(PROBED), Rule::Steered),
        ("host-pod", web.v6(PROBED), Rule::Steered),
        (&own_v4, web.v4(PORT), Rule::InboundOwnAddress),
        // sk_lookup sees the same address at both ends.
        (&loopback, SocketAddr::from(([127, 0, 0, 1], PORT)), Rule::InboundOwnAddress),
        (&loopback, web.v4(PORT), Rule::InboundLoopback),
    ];
    for (from, to, rule) in cases {
        let said = scene.show("default/web", to, &["--from", from]);
        assert_eq!((text(&said, "rule"), text(&said, "action")), (rule.name(), rule.action().name()), "{from} {said}");
        assert_eq!(text(&said, "direction"), "inbound", "{said}");
        let before = scene.mesh.ctl.counters("default/web");
        match from {
            "node" => connect(&scene.node.netns, By::Tcp, to),
            "host-pod" => {
                let outcome = scene
                    .node
                    .launch(binary("weir-peer"))
                    .cgroup(&scene.node.cgroups().pod("host-network"))
                    .args([to.to_string()])
                    .output(Duration::from_secs(20));
                assert!(outcome.status.success(), "{}", outcome.stderr);
            }
            "127.0.0.1" => web.netns.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.bind(&SocketAddr::new(from.parse().expect("an IP"), 0).into()).expect("the loopback");
                socket.connect(&to.into()).expect("connected");
                dial_here(socket.into(), to);
            }),
            from if from == own_v4 => connect(&web.netns, By::Tcp, to),
            _ => connect(&plain.netns, By::Tcp, to),
        }
        let decided = scene.mesh.ctl.counters("default/web").since(&before);
        // The loopback is left alone before anything is looked up for it, and the proxy's own dials count as the pod's.
        assert!(decided.of(rule) >= 1, "{from} {to} was to be {}: {decided:?}", rule.name());
        let proxied = u64::from(rule == Rule::Steered);
        assert_eq!(
            (decided.of(Rule::Steered), decided.of(Rule::ProxySocket)),
            (proxied, proxied),
            "{from} {to}: {decided:?}"
        );
    }
}

#[test]
fn pods_that_are_not_enrolled_are_explained_and_left_alone() {
    let scene = Scene::new();
    let said = scene.show("default/pending", scene.server.v4(PORT), &[]);
    assert_eq!((text(&said, "rule"), text(&said, "action")), ("not-enrolled", "pass"), "{said}");
    assert!(!said["enrolled"].as_bool().unwrap_or_default(), "{said}");
    let direct = dial(&scene.pending.netns, scene.server.v4(PORT)).expect("left alone");
    assert!(direct.client_is_true(), "{direct:?}");
    // A pod that the agent does not know.
    let outcome = scene.mesh.ctl.run(&["redirect", "show", "default/plain", "--to", "192.0.2.1:80"]);
    assert!(!outcome.status.success() && outcome.stderr.contains("default/plain"), "{outcome:?}");
    let direct = dial(&scene.plain.netns, scene.server.v4(PORT)).expect("left alone");
    assert!(direct.client_is_true(), "{direct:?}");
}

#[test]
fn questions_that_make_no_sense_are_answered_with_one_line() {
    let scene = Scene::new();
    // 2: the command line is wrong; 1: the agent has no answer.
    for (arguments, code, words) in [
        (["redirect", "show", "web", "--to", "10.0.0.1"].as_slice(), 2, ["10.0.0.1", "IP:PORT"].as_slice()),
        (&["redirect", "show", "web", "--to", "10.0.0.1:80", "--from", "kubelet"], 2, &["kubelet", "host-pod"]),
        (&["redirect", "show", "web", "--to", "10.0.0.1:80", "--protocol", "sctp"], 2, &["sctp", "mptcp"]),
        (&["event", "trace", "--verdict", "maybe"], 2, &["maybe"]),
        (&["pod", "frobnicate"], 2, &["frobnicate"]),
        (&["pdo", "list"], 2, &["pdo"]),
        (
            &["redirect", "show", "web", "--to", "192.0.2.1:80", "--from", "node"],
            1,
            &["192.0.2.1:80", "address of the pod"],
        ),
        (&["redirect", "show", "nobody"], 1, &["nobody"]),
        (&["map", "dump", "NOTHING"], 1, &["NOTHING"]),
    ] {
        let outcome = scene.mesh.ctl.run(arguments);
        assert_eq!(outcome.status.code(), Some(code), "{arguments:?}: {outcome:?}");
        assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{arguments:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked") && outcome.stdout.is_empty(), "{outcome:?}");
    }
    let nowhere = weir_tests::weirctl::Weirctl::new(&scene.mesh.agent.place.file("no.sock"), scene.node.directory());
    let outcome = nowhere.run(&["status"]);
    assert!(outcome.status.code() == Some(1) && outcome.stderr.contains("no.sock"), "{outcome:?}");
    assert_eq!(outcome.stderr.trim().lines().count(), 1, "{}", outcome.stderr);
}

#[test]
fn a_checked_status_has_an_exit_code() {
    let mut scene = Scene::new();
    let check = |scene: &Scene| scene.mesh.ctl.run(&["status", "--check"]);
    // A pod is pending, for what it says itself.
    let outcome = scene.mesh.ctl.run(&["event", "trace", "pending", "--for", "100ms"]);
    let why =
        "is pending, so that there are no events of it yet: annotation traffic.sidecar.istio.io/excludeOutboundPorts";
    assert!(outcome.status.success() && outcome.stderr.contains(why), "{outcome:?}");
    wait_for("all is well", Duration::from_secs(10), || {
        let outcome = check(&scene);
        if outcome.status.success() { Ok(()) } else { Err(outcome) }
    });
    scene.mesh.proxy.process.terminate();
    wait_for("no proxy is there", Duration::from_secs(10), || {
        let outcome = check(&scene);
        if outcome.status.code() == Some(3) { Ok(()) } else { Err(outcome) }
    });
}

#[test]
fn every_object_speaks_json_and_help() {
    let scene = Scene::new();
    let ctl = &scene.mesh.ctl;
    dial(&scene.web.netns, scene.server.v4(PORT)).expect("redirected");
    for arguments in [
        ["pod", "list"].as_slice(),
        &["pod", "show", "web"],
        &["redirect", "list"],
        &["redirect", "show", "web"],
        &["prog", "list"],
        &["map", "list"],
        &["map", "dump", name::ENROLLED],
        &["map", "dump", name::COUNTERS],
        &["map", "dump", name::FLOWS],
        &["status"],
        &["version"],
    ] {
        let compact = ctl.json(arguments);
        let pretty = ctl.text(&[&["-p"], arguments].concat());
        assert!(pretty.lines().count() > 1, "{arguments:?}: {pretty}");
        let pretty: Value = serde_json::from_str(&pretty).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!(shape(&compact), shape(&pretty), "{arguments:?}");
        assert!(!ctl.text(arguments).trim().is_empty(), "{arguments:?}");
    }
    for object in ["pod", "redirect", "prog", "map", "event"] {
        let help = ctl.text(&[object, "help"]);
        assert!(help.contains("weirctl") && help.contains(object), "{help}");
    }
    let programs = ctl.json(&["prog", "list"]);
    let names: Vec<&str> = programs.as_array().expect("a list").iter().map(|program| text(program, "name")).collect();
    for program in
        ["weir_connect4", "weir_connect6", "weir_peername4", "weir_peername6", "weir_sockops", "weir_sklookup"]
    {
        // The kernel keeps 15 characters of a name.
        assert!(names.iter().any(|name| program.starts_with(name)), "no {program} in {names:?}");
    }
    for program in programs.as_array().expect("a list") {
        assert!(number(&program["id"]) > 0 && text(program, "tag").len() == 16, "{program}");
        assert!(!text(program, "attach").is_empty(), "{program}");
    }
}

/// The keys of JSON, without its values, which change between two questions.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect()),
        Value::Array(items) => Value::Array(items.iter().take(1).map(shape).collect()),
        _ => Value::Null,
    }
}

#[test]
fn columns_do_not_shift_with_what_is_in_them() {
    let scene = Scene::new();
    let columns = || {
        let list = scene.mesh.ctl.text(&["redirect", "list"]);
        list.lines().next().unwrap_or_default().to_owned()
    };
    let headings = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let empty = columns();
    dial(&scene.web.netns, scene.server.v4(PORT)).expect("redirected");
    dial(&scene.web.netns, scene.server.v6(PORT)).expect("redirected");
    let full = columns();
    assert_eq!(headings(&empty), headings(&full), "the same columns, full or empty");
    // Each row's cells start where the headings do.
    for arguments in [["redirect", "list"], ["pod", "list"], ["prog", "list"]] {
        let list = scene.mesh.ctl.text(&arguments);
        let mut lines = list.lines();
        let heading = lines.next().unwrap_or_default();
        let starts: Vec<usize> = (0..heading.len())
            .filter(|&at| {
                let bytes = heading.as_bytes();
                bytes[at] != b' ' && (at == 0 || (at > 1 && bytes[at - 1] == b' ' && bytes[at - 2] == b' '))
            })
            .collect();
        assert!(starts.len() > 3, "{list}");
        for row in lines.filter(|row| !row.trim().is_empty()) {
            for &start in &starts[1..] {
                let before = row.as_bytes().get(start - 1).copied().unwrap_or(b' ');
                assert_eq!(before, b' ', "a cell runs into column {start} of {arguments:?}:\n{list}");
            }
        }
    }
}

#[test]
fn a_trace_tells_what_happened() {
    let scene = Scene::new();
    let Scene { web, server, plain, .. } = &scene;
    let ctl = &scene.mesh.ctl;
    let all = ctl.start(&["event", "trace", "--follow"]);
    let json = ctl.start(&["-j", "event", "trace", "web", "--verdict", "redirect", "--follow"]);
    wait_for("two watch", Duration::from_secs(10), || {
        let status = ctl.try_json(&["status"])?;
        if number(&status["watchers"]) == 2 { Ok(()) } else { Err(status.to_string()) }
    });
    dial(&web.netns, server.v4(PORT)).expect("redirected");
    dial(&plain.netns, web.v4(PORT)).expect("steered");
    let _ = web.netns.run(|| TcpStream::connect(server.v4(EXCLUDED_OUT)));
    wait_for("the trace tells of all three", Duration::from_secs(10), || {
        let log = all.log();
        let told = |rule: Rule, destination: SocketAddr| {
            log.lines().any(|line| {
                line.contains(rule.name()) && line.contains("web") && line.contains(&destination.to_string())
            })
        };
        let three = told(Rule::Redirected, server.v4(PORT))
            && told(Rule::Steered, web.v4(PORT))
            && told(Rule::ExcludedPort, server.v4(EXCLUDED_OUT));
        if three { Ok(()) } else { Err(log) }
    });
    let events: Vec<Value> = wait_for("the other trace tells of the redirect", Duration::from_secs(10), || {
        let log = json.log();
        let events: Result<Vec<Value>, _> = log.lines().map(serde_json::from_str).collect();
        match events {
            Ok(events) if !events.is_empty() => Ok(events),
            other => Err(format!("{other:?} in {log}")),
        }
    });
    assert!(events.iter().all(|event| text(event, "action") == "redirect"), "nothing else: {events:?}");
    assert_eq!(text(&events[0], "destination"), server.v4(PORT).to_string());
    assert!(number(&events[0]["pid"]) > 0 && !text(&events[0], "comm").is_empty(), "{}", events[0]);
    let closes = ctl.start(&["-j", "event", "trace", "web", "--verdict", "close", "--follow"]);
    wait_for("three watch", Duration::from_secs(10), || {
        let status = ctl.try_json(&["status"])?;
        if number(&status["watchers"]) == 3 { Ok(()) } else { Err(status.to_string()) }
    });
    dial(&web.netns, server.v6(PORT)).expect("redirected");
    wait_for("a trace tells of the end", Duration::from_secs(10), || {
        let log = closes.log();
        let event: Value = serde_json::from_str(log.lines().next().unwrap_or_default()).map_err(|_| log)?;
        let is_whole = text(&event, "kind") == "close"
            && text(&event, "destination") == server.v6(PORT).to_string()
            && number(&event["bytes_sent"]) > 0
            && number(&event["bytes_received"]) > number(&event["bytes_sent"]);
        if is_whole { Ok(()) } else { Err(event.to_string()) }
    });
    drop((all, json, closes));
    wait_for("nobody watches", Duration::from_secs(10), || {
        let status = ctl.try_json(&["status"])?;
        if number(&status["watchers"]) == 0 { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn a_redirect_is_listed_with_where_it_went() {
    let scene = Scene::new();
    let nginx = Nginx::start(&scene.plain, 8088, WHOAMI);
    for _ in 0..3 {
        get(&scene.web, &format!("http://{}/", scene.plain.v4(8088)));
    }
    drop(nginx);
    let list = scene.mesh.ctl.json(&["redirect", "list"]);
    let destination = scene.plain.v4(8088).to_string();
    let row = list
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| text(row, "original_destination") == destination && text(row, "rule") == "redirected")
        .unwrap_or_else(|| panic!("no {destination} in {list}"));
    assert_eq!(text(row, "pod"), "default/web");
    assert_eq!((text(row, "direction"), text(row, "action")), ("outbound", "redirect"));
    assert_eq!(text(row, "listener"), scene.web.v4(15_001).to_string());
    assert_eq!(number(&row["count"]), 3);
    assert!(!row["last_seen"].is_null());
    let shown = scene.mesh.ctl.text(&["redirect", "list"]);
    let line = shown
        .lines()
        .find(|line| line.contains(&destination) && line.contains("redirected"))
        .unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("default/web") && line.contains(&scene.web.v4(15_001).to_string()), "{line}");
    let of_pod = scene.mesh.ctl.json(&["redirect", "list", "web"]);
    assert!(of_pod.as_array().is_some_and(|rows| !rows.is_empty()), "{of_pod}");
}
