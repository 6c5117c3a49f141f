//! A hostile pod: root in its own namespace, it can neither get around the mesh nor disturb another pod.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use weir_abi::{
    Rule,
    map::{INBOUND_PORT, OUTBOUND_PORT, name},
};
use weir_tests::{
    echo::{Bind, Dialled, Echo, dial, volume},
    figure,
    mesh::{Mesh, PodSpec, Proxy, binary},
    net::{Net, Node, Pod},
    netns::Netns,
    poll::wait_for,
    sys::disconnect,
    weirctl::Counters,
};

const PORT: u16 = 20_000;

/// A hostile pod and a neighbour, both enrolled, on one node with a pod outside the mesh; a server beyond.
struct Scene {
    mesh: Mesh,
    _servers: [Echo; 3],
    hostile: Pod,
    neighbour: Pod,
    plain: Pod,
    server: Pod,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let (node, far) = (net.node("a"), net.node("b"));
        let (hostile, neighbour, plain) = (node.pod("hostile"), node.pod("neighbour"), node.pod("plain"));
        let server = far.pod("server");
        let servers =
            [&hostile, &neighbour, &server].map(|pod| Echo::start(&pod.netns, PORT..PORT + 20, Bind::Separate));
        let mesh = Mesh::start(&node, &[&PodSpec::of(&hostile), &PodSpec::of(&neighbour)]);
        Self { mesh, _servers: servers, hostile, neighbour, plain, server, node, _net: net }
    }

    fn counters(&self, pod: &Pod) -> Counters {
        self.mesh.ctl.counters(&PodSpec::of(pod).full_name())
    }

    /// What the hostile pod's counters gained by `act`.
    fn decided<T>(&self, act: impl FnOnce() -> T) -> (T, Counters) {
        let before = self.counters(&self.hostile);
        let result = act();
        (result, self.counters(&self.hostile).since(&before))
    }

    /// The neighbour is served, both ways.
    fn neighbour_is_well(&self) {
        let before = self.counters(&self.neighbour);
        for to in [self.server.v4(PORT), self.server.v6(PORT)] {
            let out = dial(&self.neighbour.netns, to).expect("the neighbour gets out");
            assert!(out.destination_is_true(), "{out:?}");
        }
        for to in [self.neighbour.v4(PORT), self.neighbour.v6(PORT)] {
            let into = dial(&self.plain.netns, to).expect("the neighbour is reached");
            assert!(into.client_is_true() && into.destination_is_true(), "{into:?}");
        }
        let decided = self.counters(&self.neighbour).since(&before);
        assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::Steered)), (2, 2), "{decided:?}");
    }
}

/// Connects, asks, and gives what came back until the end of the connection.
fn knock(netns: &Netns, to: SocketAddr) -> io::Result<Vec<u8>> {
    netns.run(|| knock_on(TcpStream::connect_timeout(&to, Duration::from_secs(5))?))
}

fn knock_on(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = Vec::new();
    // The other side may have closed already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Whether a knock found nobody: refused, reset, or closed without a byte.
#[track_caller]
fn assert_closed(what: &str, result: io::Result<Vec<u8>>) {
    match result {
        Ok(answer) => assert!(answer.is_empty(), "{what}: answered {:?}", String::from_utf8_lossy(&answer)),
        Err(error) => assert!(
            [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset].contains(&error.kind()),
            "{what}: neither closed nor refused: {error}"
        ),
    }
}

#[test]
fn the_proxys_ports_lead_nowhere() {
    let scene = Scene::new();
    let Scene { hostile, neighbour, plain, .. } = &scene;
    let loopback =
        |port| [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    for port in [OUTBOUND_PORT, INBOUND_PORT] {
        for to in [hostile.v4(port), hostile.v6(port)].into_iter().chain(loopback(port)) {
            assert_closed(&format!("own {to}"), knock(&hostile.netns, to));
        }
        for to in [neighbour.v4(port), neighbour.v6(port)] {
            assert_closed(&format!("a neighbour's {to}"), knock(&hostile.netns, to));
            assert_closed(&format!("{to} from a pod outside the mesh"), knock(&plain.netns, to));
            assert_closed(&format!("{to} from the node"), knock(&scene.node.netns, to));
        }
    }
    scene.neighbour_is_well();
    // Both families of its own outbound port: the connections came without an original destination.
    assert_eq!(scene.counters(hostile).of(Rule::NoOriginalDestination), 2, "{:?}", scene.counters(hostile));
}

#[test]
fn a_mark_opens_nothing() {
    let scene = Scene::new();
    for mark in [1, 0x1ee7, 0x539, 1337, 0xffff_ffff, 0x8000_0000] {
        let (dialled, decided) = scene.decided(|| {
            scene.hostile.netns.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_mark(mark).expect("root in the pod may");
                socket.connect(&scene.server.v4(PORT).into()).expect("connected");
                Dialled::verify(socket.into(), scene.server.v4(PORT)).expect("answered")
            })
        });
        assert!(dialled.destination_is_true(), "{dialled:?}");
        assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::ProxySocket)), (1, 1), "mark {mark}: {decided:?}");
    }
}

#[test]
fn its_own_address_leads_to_itself_only() {
    let scene = Scene::new();
    for to in [scene.hostile.v4(PORT), scene.hostile.v6(PORT)] {
        let (dialled, decided) = scene.decided(|| dial(&scene.hostile.netns, to).expect("its own server"));
        assert!(dialled.client_is_true() && dialled.destination_is_true(), "{dialled:?}");
        assert_eq!((decided.of(Rule::OwnAddress), decided.of(Rule::Redirected)), (1, 0), "{decided:?}");
    }
    scene.neighbour_is_well();
}

#[test]
fn a_socket_connected_again_is_decided_again() {
    let scene = Scene::new();
    let Scene { hostile, server, neighbour, .. } = &scene;
    let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
    let again = |steps: &[SocketAddr]| {
        hostile.netns.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let (last, first) = steps.split_last().expect("a step");
            for to in first {
                socket.connect(&(*to).into()).unwrap_or_else(|error| panic!("{to}: {error}"));
                disconnect(&socket).expect("connect(AF_UNSPEC)");
            }
            socket.connect(&(*last).into()).unwrap_or_else(|error| panic!("{last}: {error}"));
            TcpStream::from(socket)
        })
    };
    // From what is left alone to what is not.
    for first in [loopback, hostile.v4(PORT)] {
        let (dialled, decided) =
            scene.decided(|| Dialled::verify(again(&[first, server.v4(PORT)]), server.v4(PORT)).expect("answered"));
        assert!(dialled.destination_is_true(), "{first}: {dialled:?}");
        assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::ProxySocket)), (1, 1), "{first}: {decided:?}");
    }
    // From one destination to another.
    let (dialled, decided) = scene.decided(|| {
        Dialled::verify(again(&[server.v4(PORT), neighbour.v4(PORT + 1)]), neighbour.v4(PORT + 1)).expect("answered")
    });
    assert!(dialled.destination_is_true(), "{dialled:?}");
    assert_eq!(decided.of(Rule::Redirected), 2, "{decided:?}");
    // From a redirected destination to what is left alone: no stale peer.
    for last in [loopback, hostile.v4(PORT)] {
        let dialled = Dialled::verify(again(&[server.v4(PORT), last]), last).expect("its own server");
        assert!(dialled.destination_is_true() && dialled.client_is_true(), "{dialled:?}");
    }
    // And the old destination does not come along to the proxy's port.
    for port in [OUTBOUND_PORT, INBOUND_PORT] {
        assert_closed("the proxy's port, connected again", knock_on(again(&[server.v4(PORT), hostile.v4(port)])));
    }
    scene.neighbour_is_well();
}

#[test]
fn running_out_of_ports_hurts_only_itself() {
    let scene = Scene::new();
    scene.hostile.netns.sysctl("ipv4/ip_local_port_range", "40000 41999");
    let held: Vec<TcpStream> = scene.hostile.netns.run(|| {
        let mut held = Vec::new();
        for attempt in 0.. {
            assert!(attempt < 5_000, "2,000 ports are enough for {} connections", held.len());
            match TcpStream::connect(scene.server.v4(PORT + attempt % 20)) {
                Ok(stream) => held.push(stream),
                Err(error) => {
                    assert!(
                        [ErrorKind::AddrNotAvailable, ErrorKind::ConnectionRefused].contains(&error.kind()),
                        "{error}"
                    );
                    break;
                }
            }
        }
        held
    });
    figure!("{} connections held", held.len());
    assert!(held.len() > 100, "{}", held.len());
    scene.neighbour_is_well();
    let to: Vec<_> = (0..20).map(|port| scene.server.v4(PORT + port)).collect();
    for dialled in volume(&scene.neighbour.netns, 200, 8, &to) {
        assert!(dialled.expect("the neighbour has ports of its own").destination_is_true());
    }
    drop(held);
    wait_for("the hostile pod has ports again", Duration::from_secs(70), || {
        scene.hostile.netns.sysctl("ipv4/ip_local_port_range", "42000 43999");
        dial(&scene.hostile.netns, scene.server.v4(PORT)).map(drop)
    });
}

#[test]
fn a_flood_of_connections_meets_the_pods_ceiling() {
    // An eighth of the files that the proxy may open is one pod's share, in connections.
    const FILES: u32 = 8_192;
    const CEILING: usize = FILES as usize / 8;
    const FLOOD: u16 = 2_000;
    let mut scene = Scene::new();
    scene.mesh.proxy.process.terminate();
    scene.mesh.proxy = Proxy::start_with_files(&scene.mesh.agent, FILES);
    let held: Vec<TcpStream> = scene.hostile.netns.run(|| {
        (0..FLOOD).map(|n| TcpStream::connect(scene.server.v4(PORT + n % 20))).filter_map(Result::ok).collect()
    });
    scene.neighbour_is_well();
    let served = held
        .iter()
        .filter(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            matches!((&mut &**stream).read(&mut [0; 16]), Ok(1..))
        })
        .count();
    figure!("{served} of {} connections served, the ceiling is {CEILING}", held.len());
    assert_eq!(served, CEILING, "the others were refused");
    let said = scene.mesh.proxy.process.log();
    assert!(
        said.lines().any(|line| line.contains("[warning]") && line.contains("connections")),
        "the proxy said so: {said}"
    );
    scene.neighbour_is_well();
    drop(held);
    wait_for("the hostile pod is served again", Duration::from_secs(10), || {
        dial(&scene.hostile.netns, scene.server.v4(PORT)).map(drop)
    });
}

/// Time on the CPU that a process has used, in clock ticks of 10 ms (`proc(5)`).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn destroying_the_proxys_sockets_hurts_only_itself() {
    let scene = Scene::new();
    // Root in a pod may: SOCK_DESTROY, as `ss --kill` asks for it. The kernel looks each socket up as a connection
    // would find it, so it takes some rounds to get at several of a group.
    let mut destroyed = 0;
    for round in 0..20 {
        let port = [OUTBOUND_PORT, INBOUND_PORT][round % 2];
        let launch = scene.hostile.launch("ss").args(["--kill", "--tcp", "--listening", "--numeric"]);
        let outcome = launch.args([format!("sport = :{port}")]).output(Duration::from_secs(10));
        destroyed += outcome.stdout.lines().filter(|line| line.contains("LISTEN")).count();
    }
    // None where the kernel lacks CONFIG_INET_DIAG_DESTROY.
    figure!("{destroyed} sockets destroyed");
    scene.neighbour_is_well();
    // Neither the proxy nor the agent spins on what is left of them.
    let pids = [scene.mesh.proxy.process.pid(), scene.mesh.agent.process.pid()];
    let before = pids.map(ticks);
    std::thread::sleep(Duration::from_secs(1));
    let used: Vec<u64> = pids.iter().zip(before).map(|(pid, before)| ticks(*pid) - before).collect();
    figure!("clock ticks in a second: proxy {}, agent {}", used[0], used[1]);
    assert!(used.iter().all(|ticks| *ticks < 30), "of 100 in a second: {used:?}");
    // And the agent makes new ones.
    wait_for("the hostile pod is served again, both ways", Duration::from_secs(10), || {
        dial(&scene.hostile.netns, scene.server.v4(PORT))?;
        dial(&scene.plain.netns, scene.hostile.v4(PORT)).map(drop)
    });
    scene.neighbour_is_well();
}

/// A listening socket in the SO_REUSEPORT group of the proxy's, if the kernel lets it.
fn join_group(netns: &Netns, at: SocketAddr) -> io::Result<TcpListener> {
    netns.run(|| {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    })
}

#[test]
fn joining_the_proxys_reuseport_group_catches_nothing_from_outside() {
    let scene = Scene::new();
    let thieves: Vec<TcpListener> = [INBOUND_PORT, OUTBOUND_PORT]
        .into_iter()
        .flat_map(|port| {
            let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            [scene.hostile.v4(port), scene.hostile.v6(port)].into_iter().chain(any.map(|ip| SocketAddr::new(ip, port)))
        })
        .filter_map(|at| join_group(&scene.hostile.netns, at).ok())
        .collect();
    figure!("{} sockets in the proxy's groups", thieves.len());
    let to: Vec<_> = (0..20).flat_map(|port| [scene.hostile.v4(PORT + port), scene.hostile.v6(PORT + port)]).collect();
    let (results, decided) = scene.decided(|| volume(&scene.plain.netns, 1_000, 16, &to));
    for one in results {
        let one = one.expect("steered to the proxy");
        assert!(one.client_is_true() && one.destination_is_true(), "{one:?}");
    }
    assert_eq!(decided.of(Rule::Steered), 1_000, "{decided:?}");
    for thief in &thieves {
        let caught = thief.accept().map(|(_, from)| from);
        assert_eq!(caught.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "at {:?}", thief.local_addr());
    }
    scene.neighbour_is_well();
}

/// The ports that probes name, and another.
const PROBED: u16 = PORT;
const OTHER_PROBED: u16 = PORT + 1;
const UNDECLARED: u16 = PORT + 2;

/// A node with two enrolled pods that have probes.
struct Probed {
    mesh: Mesh,
    _servers: [Echo; 2],
    pods: [Pod; 2],
    node: Arc<Node>,
    _net: Net,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// A process in the node's namespace, outside the pods' cgroups: the kubelet.
    Node,
    /// A process in the node's namespace, inside the pods' cgroups: a host-network pod.
    HostPod,
}

impl Probed {
    fn new() -> Self {
        let mut net = Net::new();
        let node = net.node("a");
        let pods = [node.pod("web"), node.pod("db")];
        let servers = pods.each_ref().map(|pod| Echo::start(&pod.netns, PORT..PORT + 3, Bind::DualStack));
        let specs = pods.each_ref().map(|pod| PodSpec::of(pod).probe_ports([PROBED, OTHER_PROBED]));
        let mesh = Mesh::start(&node, &specs.each_ref());
        Self { mesh, _servers: servers, pods, node, _net: net }
    }

    /// Connects to a pod's port from the node's address and `port`, and gives the rule that decided.
    fn rule(&self, who: Who, port: u16, pod: &Pod, to: SocketAddr) -> Rule {
        let name = PodSpec::of(pod).full_name();
        let from: IpAddr = if to.is_ipv4() { self.node.ipv4().into() } else { self.node.ipv6().into() };
        let before = self.mesh.ctl.counters(&name);
        let launch = self.node.launch(binary("weir-peer"));
        let launch = match who {
            Who::Node => launch.cgroup(self.node.cgroups().root()),
            Who::HostPod => launch.cgroup(&self.node.cgroups().pod("host-network")),
        };
        let from = SocketAddr::new(from, port);
        let outcome = launch
            .args([to.to_string(), "--from".to_owned(), from.to_string(), "--reset".to_owned()])
            .output(Duration::from_secs(20));
        assert!(outcome.status.success(), "{who:?} to {to}: {}", outcome.stderr);
        // Whatever decided: the application sees the node's address.
        let (local, peer) = outcome.stdout.trim().split_once(' ').expect("two addresses");
        let peer: SocketAddr = peer.parse().expect("an address");
        assert_eq!((local.parse().ok(), peer.ip()), (Some(to), from.ip()), "{}", outcome.stdout);
        assert!(port == 0 || peer.port() == port, "{}", outcome.stdout);
        let decided = self.mesh.ctl.counters(&name).since(&before);
        match (decided.of(Rule::NodeProbe), decided.of(Rule::Steered)) {
            (1, 0) => Rule::NodeProbe,
            (0, 1) => Rule::Steered,
            _ => panic!("{who:?} to {to}: {decided:?}"),
        }
    }
}

#[test]
fn the_nodes_own_processes_reach_the_ports_that_probes_name_and_no_other() {
    let scene = Probed::new();
    for pod in &scene.pods {
        for address in [Pod::v4, Pod::v6] {
            for (who, port, rule) in [
                (Who::Node, PROBED, Rule::NodeProbe),
                (Who::Node, OTHER_PROBED, Rule::NodeProbe),
                (Who::Node, UNDECLARED, Rule::Steered),
                (Who::HostPod, PROBED, Rule::Steered),
                (Who::HostPod, UNDECLARED, Rule::Steered),
            ] {
                let to = address(pod, port);
                assert_eq!(scene.rule(who, 0, pod, to), rule, "{who:?} to {to}");
            }
        }
    }
}

#[test]
fn the_kubelets_address_and_port_open_nothing_to_another_process() {
    let scene = Probed::new();
    let web = &scene.pods[0];
    for (address, port) in [(Pod::v4 as fn(&Pod, u16) -> SocketAddr, 25_000), (Pod::v6, 25_001)] {
        let to = address(web, PROBED);
        for round in 0..3 {
            assert_eq!(scene.rule(Who::Node, port, web, to), Rule::NodeProbe, "round {round}");
            assert_eq!(scene.rule(Who::HostPod, port, web, to), Rule::Steered, "round {round}: the same 4-tuple");
            assert_eq!(scene.rule(Who::Node, port, web, address(web, UNDECLARED)), Rule::Steered, "round {round}");
        }
    }
    // Nothing is remembered of a connection that has ended.
    wait_for("no connection of the node is left", Duration::from_secs(5), || {
        match scene.mesh.ctl.map_entries(name::NODE_CONNECTIONS) {
            0 => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn a_live_probe_opens_nothing_to_another_process() {
    let scene = Probed::new();
    let [web, db] = &scene.pods;
    let port = 25_100;
    let from = SocketAddr::new(scene.node.ipv4().into(), port);
    let probe = scene.node.netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&from.into()).expect("the node's address");
        let before = scene.mesh.ctl.counters("default/web");
        socket.connect(&web.v4(PROBED).into()).expect("connected");
        assert_eq!(scene.mesh.ctl.counters("default/web").since(&before).of(Rule::NodeProbe), 1);
        socket
    });
    assert_eq!(scene.rule(Who::HostPod, port, db, db.v4(PROBED)), Rule::Steered, "another pod");
    assert_eq!(scene.rule(Who::HostPod, port, web, web.v4(OTHER_PROBED)), Rule::Steered, "another port");
    // The probe itself goes on.
    let dialled = Dialled::verify(probe.into(), web.v4(PROBED)).expect("answered");
    assert_eq!(dialled.server.peer, from);
}

#[test]
fn a_socket_handed_on_loses_what_its_maker_was() {
    let scene = Probed::new();
    let web = &scene.pods[0];
    // A pod of the node, in a process outside the pods' cgroups but not in the node's namespace.
    let other = scene.node.pod("other");
    let before = scene.mesh.ctl.counters("default/web");
    let dialled = dial(&other.netns, web.v4(PROBED)).expect("steered");
    assert!(dialled.client_is_true(), "{dialled:?}");
    let decided = scene.mesh.ctl.counters("default/web").since(&before);
    assert_eq!((decided.of(Rule::NodeProbe), decided.of(Rule::Steered)), (0, 1), "{decided:?}");
    // A socket of another namespace connected by a process of the node's: its namespace counts.
    let before = scene.mesh.ctl.counters("default/web");
    let socket = other.netns.run(|| Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket"));
    let dialled = scene.node.netns.run(|| {
        socket.connect(&web.v4(PROBED).into()).expect("connected");
        Dialled::verify(socket.into(), web.v4(PROBED)).expect("answered")
    });
    assert_eq!(dialled.server.peer.ip(), other.ipv4);
    let decided = scene.mesh.ctl.counters("default/web").since(&before);
    assert_eq!((decided.of(Rule::NodeProbe), decided.of(Rule::Steered)), (0, 1), "{decided:?}");
}
