//! Pods and agents that come, change and go: who is carried, and from when to when.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use weir_abi::Rule;
use weir_tests::{
    echo::{Bind, Dialled, Echo, dial},
    mesh::{Agent, Mesh, Place, PodSpec, Proxy},
    net::{Net, Node, Pod},
    poll::wait_for,
    process::Launch,
    weirctl::text,
};

const PORT: u16 = 20_000;

/// A node with an echo server outside the mesh.
struct Scene {
    _echo: Echo,
    server: Pod,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let node = net.node("a");
        let server = node.pod("server");
        let echo = Echo::start(&server.netns, PORT..PORT + 10, Bind::Separate);
        Self { _echo: echo, server, node, _net: net }
    }

    fn to(&self) -> SocketAddr {
        self.server.v4(PORT)
    }

    /// Whether a connection of this pod to the server is carried by the proxy.
    fn is_carried(&self, agent: &Agent, pod: &Pod) -> bool {
        let carried =
            || match agent.ctl.pods().unwrap_or_else(|error| panic!("{error}")).get(&PodSpec::of(pod).full_name()) {
                Some(row) => weir_tests::weirctl::number(&row["counters"][Rule::Redirected.name()]),
                None => 0,
            };
        let before = carried();
        let dialled = dial(&pod.netns, self.to()).expect("carried or not, it arrives");
        assert!(dialled.destination_is_true(), "{dialled:?}");
        let redirected = carried() > before;
        // What the server sees agrees: a direct connection comes from the client's own port.
        assert!(redirected || dialled.client_is_true(), "{dialled:?}");
        redirected
    }
}

/// An open connection that has been greeted.
fn open(pod: &Pod, to: SocketAddr) -> TcpStream {
    let mut stream = pod.netns.run(|| TcpStream::connect(to)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).expect("greeted");
    }
    stream
}

/// Whether an open connection still echoes.
fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"still").and_then(|()| stream.read_exact(&mut back)).is_ok() && back == *b"still"
}

#[test]
fn connections_made_before_the_first_proxy_wait_for_it() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let spec = PodSpec::of(&client);
    let agent = Agent::start(&scene.node, std::slice::from_ref(&spec));
    let reason = agent.wait_pending(&spec, "proxy");
    assert_eq!(reason.lines().count(), 1, "{reason}");
    let waiting = wait_for("the pod is redirected", Duration::from_secs(10), || {
        let mut stream = client.netns.run(|| TcpStream::connect(scene.to())).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        match stream.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(stream),
            other => Err(format!("{other:?}")),
        }
    });
    let _proxy = Proxy::start(&agent);
    let dialled = Dialled::verify(waiting, scene.to()).expect("answered by the first proxy");
    assert!(dialled.destination_is_true(), "{dialled:?}");
    agent.wait_enrolled(&[&spec]);
}

#[test]
fn connections_older_than_the_enrolment_stay_as_they_are() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let _in_client = Echo::start(&client.netns, [PORT], Bind::Separate);
    let mut outbound = open(&client, scene.to());
    let mut inbound = open(&scene.server, client.v4(PORT));
    let mesh = Mesh::start(&scene.node, &[&PodSpec::of(&client)]);
    assert!(echoes(&mut outbound) && echoes(&mut inbound));
    assert_eq!(outbound.peer_addr().expect("connected"), scene.to());
    assert_eq!(mesh.ctl.counters("default/client").of(Rule::Redirected), 0);
    assert!(scene.is_carried(&mesh.agent, &client), "but new ones are carried");
}

#[test]
fn a_withdrawn_pods_connections_drain_and_new_ones_are_left_alone() {
    for (drain, lasts) in [("30s", true), ("500ms", false)] {
        let scene = Scene::new();
        let client = scene.node.pod("client");
        let _in_client = Echo::start(&client.netns, [PORT], Bind::Separate);
        let spec = PodSpec::of(&client);
        let place = Place::new(&scene.node);
        let agent = Agent::start_with(place, std::slice::from_ref(&spec), &format!("drain = {drain:?}"));
        let _proxy = Proxy::start(&agent);
        agent.wait_enrolled(&[&spec]);
        let mut outbound = open(&client, scene.to());
        let mut inbound = open(&scene.server, client.v4(PORT));
        agent.set_pods(&[]);
        wait_for("new connections are left alone", Duration::from_secs(10), || {
            let out = dial(&client.netns, scene.to()).map_err(|error| error.to_string())?;
            let into = dial(&scene.server.netns, client.v4(PORT)).map_err(|error| error.to_string())?;
            if out.client_is_true() { Ok(()) } else { Err(format!("{out:?} {into:?}")) }
        });
        if lasts {
            assert!(echoes(&mut outbound) && echoes(&mut inbound), "drain {drain}: held connections go on");
            assert_eq!(outbound.peer_addr().expect("connected"), scene.to(), "as what they were");
        } else {
            for stream in [&mut outbound, &mut inbound] {
                wait_for("the held connection is cut", Duration::from_secs(5), || {
                    if echoes(stream) { Err("it still echoes") } else { Ok(()) }
                });
            }
        }
    }
}

#[test]
fn an_agent_that_was_away_catches_up() {
    let scene = Scene::new();
    let (stays, leaves, vanishes) = (scene.node.pod("stays"), scene.node.pod("leaves"), scene.node.pod("vanishes"));
    let specs = [&stays, &leaves, &vanishes].map(PodSpec::of);
    let mut mesh = Mesh::start(&scene.node, &specs.each_ref());
    let links = || std::fs::read_dir(mesh.agent.place.pins().join("links")).expect("pins").count();
    let with_three = links();
    mesh.agent.process.kill9();
    let comes = scene.node.pod("comes");
    let veth = vanishes.veth().to_owned();
    drop(vanishes);
    mesh.agent.set_pods(&[specs[0].clone(), specs[2].clone(), PodSpec::of(&comes)]);
    mesh.agent.restart();
    mesh.agent.wait_enrolled(&[&specs[0], &PodSpec::of(&comes)]);
    mesh.agent.wait_withdrawn(&[&specs[1]]);
    mesh.agent.wait_pending(&specs[2], "does not exist");
    assert!(scene.is_carried(&mesh.agent, &stays) && scene.is_carried(&mesh.agent, &comes));
    assert!(dial(&leaves.netns, scene.to()).expect("left alone").client_is_true());
    wait_for("the pins of the two that went are gone", Duration::from_secs(10), || {
        let now = std::fs::read_dir(mesh.agent.place.pins().join("links")).expect("pins").count();
        if now == with_three - 1 { Ok(()) } else { Err(now) }
    });
    scene.node.wait_until_gone(&veth);
}

#[test]
fn a_pod_with_another_namespace_is_enrolled_anew() {
    let scene = Scene::new();
    let (first, second) = (scene.node.pod("first"), scene.node.pod("second"));
    let spec = PodSpec::of(&first);
    let mesh = Mesh::start(&scene.node, &[&spec]);
    assert!(scene.is_carried(&mesh.agent, &first));
    // The same pod in a new sandbox.
    let moved = PodSpec { netns: second.netns.path(), ..spec.clone() };
    mesh.agent.set_pods(std::slice::from_ref(&moved));
    wait_for("the pod has its new address", Duration::from_secs(20), || {
        let row = mesh.ctl.pods()?.remove(&spec.full_name()).ok_or("not listed")?;
        let is_moved = text(&row, "state") == "enrolled" && row["ips"].to_string().contains(&second.ipv4.to_string());
        if is_moved { Ok(()) } else { Err(row.to_string()) }
    });
    let dialled = dial(&second.netns, scene.to()).expect("carried");
    assert!(dialled.destination_is_true(), "{dialled:?}");
    assert!(mesh.ctl.counters(&spec.full_name()).of(Rule::Redirected) >= 1);
    assert!(dial(&first.netns, scene.to()).expect("left alone").client_is_true());
    let veth = first.veth().to_owned();
    drop(first);
    scene.node.wait_until_gone(&veth);
}

#[test]
fn a_pod_that_takes_anothers_place_is_never_left_alone() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let before = PodSpec::of(&client);
    let after = PodSpec { uid: "uid-successor".to_owned(), name: "successor".to_owned(), ..before.clone() };
    let mesh = Mesh::start(&scene.node, &[&before]);
    let done = AtomicBool::new(false);
    let left_alone = thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut left_alone = 0;
            while !done.load(Ordering::SeqCst) {
                let dialled = dial(&client.netns, scene.to()).expect("carried");
                // A direct connection comes from the client's own port.
                left_alone += usize::from(dialled.client_is_true());
            }
            left_alone
        });
        for specs in [&after, &before, &after] {
            mesh.agent.set_pods(std::slice::from_ref(specs));
            mesh.agent.wait_enrolled(&[specs]);
        }
        mesh.agent.wait_withdrawn(&[&before]);
        done.store(true, Ordering::SeqCst);
        dialling.join().expect("it dials")
    });
    assert_eq!(left_alone, 0);
    assert!(mesh.ctl.counters(&after.full_name()).of(Rule::Redirected) > 0);
}

#[test]
fn an_address_that_changes_is_noticed() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&scene.node, &[&spec]);
    let second = Ipv4Addr::from_bits(client.ipv4.to_bits() + 100);
    // Or the second address would go with the first.
    client.netns.sysctl("ipv4/conf/eth0/promote_secondaries", "1");
    client.netns.ip(&format!("addr add {second}/24 dev eth0\naddr del {}/24 dev eth0", client.ipv4));
    wait_for("the pod has its new address", Duration::from_secs(20), || {
        let row = mesh.ctl.pods()?.remove(&spec.full_name()).ok_or("not listed")?;
        let ips = row["ips"].to_string();
        let listeners = row["outbound_listeners"].to_string();
        let is_known = ips.contains(&second.to_string()) && listeners.contains(&second.to_string());
        if is_known && text(&row, "state") == "enrolled" { Ok(()) } else { Err(row.to_string()) }
    });
    let dialled = dial(&client.netns, scene.to()).expect("carried");
    assert!(dialled.destination_is_true() && !dialled.client_is_true(), "{dialled:?}");
    assert_eq!(dialled.server.peer.ip(), IpAddr::from(second), "{dialled:?}");
}

#[test]
fn a_namespace_that_is_removed_under_an_enrolled_pod_is_let_go() {
    let scene = Scene::new();
    let (stays, goes) = (scene.node.pod("stays"), scene.node.pod("goes"));
    let specs = [&stays, &goes].map(PodSpec::of);
    let mesh = Mesh::start(&scene.node, &specs.each_ref());
    assert!(scene.is_carried(&mesh.agent, &goes));
    let veth = goes.veth().to_owned();
    drop(goes);
    // Only weir's own sockets keep the namespace now.
    mesh.agent.wait_pending(&specs[1], "does not exist");
    scene.node.wait_until_gone(&veth);
    assert!(scene.is_carried(&mesh.agent, &stays));
    // A namespace of the same path is another one.
    let again = scene.node.pod("goes");
    mesh.agent.wait_enrolled(&[&specs[1]]);
    assert!(scene.is_carried(&mesh.agent, &again));
}

#[test]
fn a_pods_exclusions_change_while_it_is_enrolled() {
    const PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&scene.node, &[&spec]);
    let mut held = open(&client, scene.to());
    let excluding = spec.clone().annotation(PORTS, &PORT.to_string());
    for (pods, rule) in [(&excluding, Rule::ExcludedPort), (&spec, Rule::Redirected)] {
        mesh.agent.set_pods(std::slice::from_ref(pods));
        wait_for(&format!("the rule is {}", rule.name()), Duration::from_secs(10), || {
            let said = mesh.ctl.try_json(&["redirect", "show", "client", "--to", &scene.to().to_string()])?;
            if text(&said, "rule") == rule.name() { Ok(()) } else { Err(said.to_string()) }
        });
        assert_eq!(scene.is_carried(&mesh.agent, &client), rule == Rule::Redirected);
        mesh.agent.wait_enrolled(&[pods]);
    }
    assert!(echoes(&mut held), "what was carried goes on");
}

#[test]
fn the_nodes_exclusions_hold_for_every_pod() {
    let scene = Scene::new();
    let (client, other) = (scene.node.pod("client"), scene.node.pod("other"));
    let _in_client = Echo::start(&client.netns, PORT..PORT + 2, Bind::Separate);
    let specs = [&client, &other].map(PodSpec::of);
    let redirect = format!(
        "exclude_outbound_cidrs = [\"{}/128\"]\nexclude_outbound_ports = [{}]\nexclude_inbound_ports = [{}]",
        scene.server.ipv6,
        PORT + 1,
        PORT + 1
    );
    let agent = Agent::start_with(Place::new(&scene.node), &specs, &redirect);
    let _proxy = Proxy::start(&agent);
    agent.wait_enrolled(&specs.each_ref());
    for pod in [&client, &other] {
        let before = agent.ctl.counters(&PodSpec::of(pod).full_name());
        for to in [scene.server.v6(PORT), scene.server.v4(PORT + 1), scene.server.v4(PORT)] {
            dial(&pod.netns, to).expect("connected");
        }
        let decided = agent.ctl.counters(&PodSpec::of(pod).full_name()).since(&before);
        let of = [Rule::ExcludedCidr, Rule::ExcludedPort, Rule::Redirected].map(|rule| decided.of(rule));
        assert_eq!(of, [1, 1, 1], "{decided:?}");
    }
    let before = agent.ctl.counters("default/client");
    for port in [PORT, PORT + 1] {
        assert!(dial(&scene.server.netns, client.v4(port)).expect("connected").client_is_true());
    }
    let decided = agent.ctl.counters("default/client").since(&before);
    assert_eq!((decided.of(Rule::Steered), decided.of(Rule::ExcludedInboundPort)), (1, 1), "{decided:?}");
}

#[test]
fn a_pod_without_an_ipv6_address_is_carried_over_ipv4_and_refused_over_ipv6() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    client.netns.ip(&format!("addr del {}/64 dev eth0", client.ipv6));
    let mesh = Mesh::start(&scene.node, &[&PodSpec::of(&client)]);
    assert!(scene.is_carried(&mesh.agent, &client));
    let said = mesh.ctl.json(&["redirect", "show", "client", "--to", &scene.server.v6(PORT).to_string()]);
    assert_eq!((text(&said, "rule"), text(&said, "action")), ("no-pod-address", "refuse"), "{said}");
    let refused = client.netns.run(|| TcpStream::connect(scene.server.v6(PORT))).expect_err("refused");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    assert_eq!(mesh.ctl.counters("default/client").of(Rule::NoPodAddress), 1);
    let status = mesh.ctl.json(&["status"]);
    assert_eq!(status["refused"][Rule::NoPodAddress.name()], 1, "shown as a refusal: {status}");
}

#[test]
fn a_pods_file_may_be_yaml() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let place = Place::new(&scene.node);
    let yaml = format!(
        "pods:\n- uid: uid-client\n  name: client\n  namespace: default\n  service_account: default\n  netns: {}\n",
        client.netns.path().display()
    );
    let path = place.write("pods.yaml", &yaml);
    let configuration = place.configuration("").replace(&format!("{:?}", place.pods()), &format!("{path:?}"));
    let agent = Agent::start_configured(place, &[], &configuration);
    let _proxy = Proxy::start(&agent);
    agent.wait_enrolled(&[&PodSpec::of(&client)]);
    assert!(scene.is_carried(&agent, &client));
    agent.place.write("pods.yaml", "pods: []\n");
    agent.wait_withdrawn(&[&PodSpec::of(&client)]);
}

#[test]
fn two_agents_of_one_node_serve_each_its_own_pods() {
    let scene = Scene::new();
    let pods = [scene.node.pod("one"), scene.node.pod("two")];
    let meshes = pods.each_ref().map(|pod| Mesh::start(&scene.node, &[&PodSpec::of(pod)]));
    for (mesh, pod) in meshes.iter().zip(&pods) {
        assert!(scene.is_carried(&mesh.agent, pod));
    }
    let [first, second] = meshes;
    drop(first);
    assert!(dial(&pods[0].netns, scene.to()).expect("left alone").client_is_true(), "its agent was uninstalled");
    assert!(scene.is_carried(&second.agent, &pods[1]), "the other's was not");
}

#[test]
fn the_kernels_own_words_are_in_the_agents_log_at_debug_level() {
    let scene = Scene::new();
    let client = scene.node.pod("client");
    let spec = PodSpec::of(&client);
    let place = Place::new(&scene.node);
    let configuration = place.configuration("").replace("log = \"info\"", "log = \"debug\"");
    let agent = Agent::start_configured(place, std::slice::from_ref(&spec), &configuration);
    let _proxy = Proxy::start(&agent);
    agent.wait_enrolled(&[&spec]);
    dial(&client.netns, scene.to()).expect("carried");
    wait_for("the redirect is in the log", Duration::from_secs(5), || {
        let log = agent.process.log();
        let said = |line: &str| {
            line.contains("DEBUG")
                && line.contains("redirect")
                && line.contains(&format!("{} port {PORT}", scene.server.ipv4))
        };
        if log.lines().any(said) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn versions_are_told() {
    let mut net = Net::new();
    let node = net.node("a");
    for program in ["weir-agent", "weir-proxy", "weirctl"] {
        let binary = weir_tests::mesh::binary(program);
        let outcome = Launch::new(&binary, node.directory()).args(["--version"]).output(Duration::from_secs(10));
        assert!(
            outcome.status.success() && outcome.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{program}: {outcome:?}"
        );
    }
}
