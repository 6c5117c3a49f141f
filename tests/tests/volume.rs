//! Ten thousand connections each way: every one reaches the proxy, with its true addresses at both ends.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_abi::Rule;
use weir_tests::{
    echo::{Bind, Dialled, Echo, dial, volume},
    figure,
    mesh::{Mesh, PodSpec},
    net::{Net, Node, Pod},
    poll::wait_for,
    weirctl::{Counters, text},
};

const CONNECTIONS: usize = 10_000;
const THREADS: usize = 64;
const PORTS: Range<u16> = 20_000..20_500;

/// Two nodes: a client on one, a server on the other. Each test says which of them it enrolls.
fn client_and_server(net: &mut Net) -> (Arc<Node>, Pod, Arc<Node>, Pod) {
    let (a, b) = (net.node("a"), net.node("b"));
    let (client, server) = (a.pod("client"), b.pod("server"));
    (a, client, b, server)
}

fn run(netns: &weir_tests::netns::Netns, what: &str, to: &[SocketAddr]) -> Vec<Dialled> {
    let started = Instant::now();
    let results = volume(netns, CONNECTIONS, THREADS, to);
    let took = started.elapsed();
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    figure!(
        "{what}: {} of {CONNECTIONS} connections, {THREADS} threads, {} destinations, {:.1} s, {:.0}/s",
        done.len(),
        to.len(),
        took.as_secs_f64(),
        CONNECTIONS as f64 / took.as_secs_f64()
    );
    assert!(failed.is_empty(), "{} lost, the first: {:?}", failed.len(), failed.first());
    done.into_iter().flatten().collect()
}

fn outbound(address: fn(&Pod, u16) -> SocketAddr) {
    let mut net = Net::alone();
    let (a, client, _b, server) = client_and_server(&mut net);
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&a, &[&spec]);
    let echo = Echo::start(&server.netns, PORTS, Bind::Separate);
    let to: Vec<SocketAddr> = PORTS.map(|port| address(&server, port)).collect();
    // Once before, so that the network has found its neighbours.
    dial(&client.netns, to[0]).expect("the way is there");
    let (before, accepted) = (mesh.ctl.counters(&spec.full_name()), echo.accepted());

    let dialled = run(&client.netns, "outbound", &to);

    let untrue: Vec<_> = dialled.iter().filter(|one| !one.destination_is_true()).collect();
    assert!(untrue.is_empty(), "{} with another destination, the first: {:?}", untrue.len(), untrue.first());
    // Each was redirected, each was dialled on by the proxy, and no other connection reached the server.
    let count = CONNECTIONS as u64;
    let decided = mesh.ctl.counters(&spec.full_name()).since(&before);
    assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::ProxySocket)), (count, count), "{decided:?}");
    assert_eq!(echo.accepted() - accepted, count);
    // By destination too: the proxy's own dials are listed under another rule.
    let redirects = mesh.ctl.json(&["redirect", "list"]);
    let rows: Vec<_> = redirects
        .as_array()
        .expect("a list")
        .iter()
        .filter(|row| text(row, "rule") == Rule::Redirected.name())
        .collect();
    assert_eq!(rows.len(), to.len());
    for row in rows {
        let destination: SocketAddr = text(row, "original_destination").parse().expect("an address");
        assert!(to.contains(&destination), "{row}");
        let expected = count / to.len() as u64 + u64::from(destination == to[0]);
        assert_eq!(weir_tests::weirctl::number(&row["count"]), expected, "{row}");
    }
    // A direct connection has the same port at both ends; over the proxy that is chance.
    let same = dialled.iter().filter(|one| one.server.peer == one.local).count();
    assert!(same < CONNECTIONS / 500, "{same} clients have the port that the server saw");
    assert!(dialled.iter().all(|one| one.server.peer.ip() == one.local.ip()), "the pod's own address");
}

#[test]
fn every_outbound_connection_keeps_its_destination_over_ipv4() {
    outbound(Pod::v4);
}

#[test]
fn every_outbound_connection_keeps_its_destination_over_ipv6() {
    outbound(Pod::v6);
}

fn inbound(address: fn(&Pod, u16) -> SocketAddr, bind: Bind) {
    let mut net = Net::alone();
    let (_a, client, b, server) = client_and_server(&mut net);
    let spec = PodSpec::of(&server);
    let mesh = Mesh::start(&b, &[&spec]);
    let echo = Echo::start(&server.netns, PORTS, bind);
    let to: Vec<SocketAddr> = PORTS.map(|port| address(&server, port)).collect();
    // Once before, so that the network has found its neighbours.
    dial(&client.netns, to[0]).expect("the way is there");
    let (before, accepted) = (mesh.ctl.counters(&spec.full_name()), echo.accepted());

    let dialled = run(&client.netns, "inbound", &to);

    let untrue: Vec<_> = dialled.iter().filter(|one| !one.destination_is_true() || !one.client_is_true()).collect();
    assert!(untrue.is_empty(), "{} with untrue addresses, the first: {:?}", untrue.len(), untrue.first());
    let count = CONNECTIONS as u64;
    let decided = mesh.ctl.counters(&spec.full_name()).since(&before);
    assert_eq!(decided.of(Rule::ProxySocket), count, "{decided:?}");
    // Packets are steered, not connections: one sent again is counted again.
    assert!((count..count + count / 100).contains(&decided.of(Rule::Steered)), "{decided:?}");
    for rule in [Rule::NodeProbe, Rule::ExcludedInboundPort, Rule::NoListener, Rule::InboundFailOpen] {
        assert_eq!(decided.of(rule), 0, "{decided:?}");
    }
    assert_eq!(echo.accepted() - accepted, count);
}

#[test]
fn every_inbound_connection_shows_its_client_over_ipv4() {
    inbound(Pod::v4, Bind::Separate);
}

#[test]
fn every_inbound_connection_shows_its_client_over_ipv6() {
    inbound(Pod::v6, Bind::Separate);
}

#[test]
fn an_inbound_connection_is_really_the_proxys() {
    let mut net = Net::new();
    let (_a, client, b, server) = client_and_server(&mut net);
    let spec = PodSpec::of(&server);
    let _mesh = Mesh::start(&b, &[&spec]);
    let _echo = Echo::start(&server.netns, [20_000], Bind::DualStack);
    let client_ip = client.ipv4;
    client.netns.run(|| {
        let stream = TcpStream::connect(server.v4(20_000)).expect("connected");
        let client = stream.local_addr().expect("connected");
        // The kernel's own table, which no hook changes: the application's connection comes from the pod's own address.
        wait_for("the application's connection", Duration::from_secs(5), || {
            let table = server.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp6")).expect("/proc");
            let remotes: Vec<String> = table
                .lines()
                .filter_map(|line| {
                    let mut words = line.split_whitespace().skip(1);
                    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
                    (local.ends_with(":4E20") && state == "01").then(|| remote.to_owned())
                })
                .collect();
            // The proxy's end of the client's connection is in the pod too.
            let is_from = |ip: std::net::Ipv4Addr| {
                let ip = u32::from_ne_bytes(ip.octets());
                remotes.iter().any(|remote| remote.contains(&format!("{ip:08X}:")))
            };
            let is_own = remotes.len() == 2 && is_from(server.ipv4) && is_from(client_ip);
            if is_own { Ok(()) } else { Err(table) }
        });
        let dialled = Dialled::verify(stream, server.v4(20_000)).expect("answered");
        assert_eq!(dialled.server.peer, client, "and yet it sees the client");
        assert!(dialled.client_is_true() && dialled.destination_is_true(), "{dialled:?}");
    });
}

#[test]
fn a_pod_that_is_not_enrolled_shows_no_redirect() {
    let mut net = Net::new();
    let (a, client, _b, server) = client_and_server(&mut net);
    let plain = a.pod("plain");
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&a, &[&spec]);
    let echo = Echo::start(&server.netns, PORTS, Bind::Separate);
    let _echo_in_plain = Echo::start(&plain.netns, [20_000], Bind::Separate);
    let to: Vec<SocketAddr> = PORTS.flat_map(|port| [server.v4(port), server.v6(port)]).collect();
    for one in volume(&plain.netns, 1_000, 16, &to) {
        let one = one.expect("a pod outside the mesh is left alone");
        assert!(one.client_is_true() && one.destination_is_true(), "{one:?}");
    }
    let to_plain = dial(&server.netns, plain.v4(20_000)).expect("and so is what comes in");
    assert!(to_plain.client_is_true(), "{to_plain:?}");
    assert_eq!(echo.accepted(), 1_000);
    assert_eq!(mesh.ctl.redirects(|_| true), 0, "{}", mesh.ctl.json(&["redirect", "list"]));
    assert_eq!(mesh.ctl.counters(&spec.full_name()), Counters::default());
}

/// A way to connect that is not plain `connect`.
type Way = fn(&Pod, &Pod, u16) -> io::Result<TcpStream>;

fn socket(to: SocketAddr, protocol: Option<Protocol>) -> io::Result<Socket> {
    Socket::new(if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Type::STREAM, protocol)
}

fn connected(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn mapped(server: &Pod, port: u16) -> SocketAddr {
    SocketAddr::new(server.ipv4.to_ipv6_mapped().into(), port)
}

fn non_blocking(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => panic!("a non-blocking connect of a redirected socket is under way, not {other:?}"),
    }
    wait_for("connected", Duration::from_secs(5), || match (socket.take_error()?, socket.peer_addr()) {
        (Some(error), _) => Err(error),
        (None, peer) => peer.map(drop),
    });
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

fn bound(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to, None)?;
    socket.bind(&from.into())?;
    connected(socket, to)
}

fn fast_open(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to, None)?;
    socket.send_to_with_flags(b"early", &to.into(), libc::MSG_FASTOPEN)?;
    Ok(socket.into())
}

#[test]
fn connections_made_in_other_ways_are_redirected_too() {
    let mut net = Net::new();
    let (a, client, _b, server) = client_and_server(&mut net);
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&a, &[&spec]);
    let _echo = Echo::start(&server.netns, [20_000], Bind::DualStack);
    let ways: [(&str, Way); 12] = [
        ("IPv4 over an IPv6 socket", |_, server, port| TcpStream::connect(mapped(server, port))),
        ("MPTCP", |_, server, port| {
            let to = server.v4(port);
            connected(socket(to, Some(Protocol::MPTCP))?, to)
        }),
        ("MPTCP over IPv6", |_, server, port| {
            let to = server.v6(port);
            connected(socket(to, Some(Protocol::MPTCP))?, to)
        }),
        ("non-blocking", |_, server, port| non_blocking(server.v4(port))),
        ("non-blocking over IPv6", |_, server, port| non_blocking(server.v6(port))),
        ("bound to the pod's address", |client, server, port| bound(client.v4(0), server.v4(port))),
        ("bound to the pod's IPv6 address", |client, server, port| bound(client.v6(0), server.v6(port))),
        ("bound to the pod's address and a port", |client, server, port| bound(client.v4(40_404), server.v4(port))),
        ("bound to any address", |_, server, port| {
            bound(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0), server.v6(port))
        }),
        ("bound to a device", |_, server, port| {
            let socket = socket(server.v4(port), None)?;
            socket.bind_device(Some(b"eth0"))?;
            connected(socket, server.v4(port))
        }),
        ("fast open", |_, server, port| fast_open(server.v4(port))),
        ("fast open over IPv6", |_, server, port| fast_open(server.v6(port))),
    ];
    for (name, way) in ways {
        let before = mesh.ctl.counters(&spec.full_name());
        client.netns.run(|| {
            let stream = way(&client, &server, 20_000).unwrap_or_else(|error| panic!("{name}: {error}"));
            let local = stream.local_addr().expect("connected");
            let to = if local.is_ipv4() || name.starts_with("IPv4") { server.v4(20_000) } else { server.v6(20_000) };
            if name.starts_with("fast open") {
                let peer = stream.peer_addr().expect("connected");
                assert_eq!(peer, to, "{name}");
                let mut answer = String::new();
                stream.shutdown(std::net::Shutdown::Write).expect("connected");
                io::Read::read_to_string(&mut &stream, &mut answer).expect("answered");
                assert!(answer.starts_with(&format!("L={}", mapped(&server, 20_000).ip())) || answer.contains("L="));
                assert!(answer.ends_with("early"), "{name}: the early data comes back: {answer:?}");
            } else {
                let dialled = Dialled::verify(stream, to).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(dialled.server.local, to, "{name}");
                // An MPTCP socket asks its first subflow, which the hook does not see.
                assert!(name.starts_with("MPTCP") || dialled.peer == to, "{name}: {dialled:?}");
            }
        });
        let decided = mesh.ctl.counters(&spec.full_name()).since(&before);
        assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::ProxySocket)), (1, 1), "{name}: {decided:?}");
    }
}

#[test]
fn a_pod_with_several_addresses_is_redirected_from_each() {
    let mut net = Net::new();
    let (a, client, _b, server) = client_and_server(&mut net);
    let [x, y, z, _] = client.ipv4.octets();
    let second: IpAddr = [x, y, z, 250].into();
    client.netns.ip(&format!("addr add {second}/24 dev eth0"));
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&a, &[&spec]);
    let _echo = Echo::start(&server.netns, [20_000], Bind::DualStack);
    let _own = Echo::start(&client.netns, [20_001], Bind::DualStack);
    let before = mesh.ctl.counters(&spec.full_name());
    client.netns.run(|| {
        for from in [second, client.ipv4.into()] {
            let to = server.v4(20_000);
            let dialled = Dialled::verify(bound(SocketAddr::new(from, 0), to).expect("connected"), to);
            assert_eq!(dialled.unwrap_or_else(|error| panic!("{from}: {error}")).server.local, to, "{from}");
        }
        // Between its own addresses a connection stays in the pod.
        let to = SocketAddr::new(second, 20_001);
        let dialled = Dialled::verify(bound(client.v4(0), to).expect("connected"), to).expect("answered");
        assert_eq!(dialled.server.peer.ip(), IpAddr::from(client.ipv4));
    });
    let decided = mesh.ctl.counters(&spec.full_name()).since(&before);
    assert_eq!((decided.of(Rule::Redirected), decided.of(Rule::OwnAddress), decided.of(Rule::Steered)), (2, 1, 0));
}

#[test]
fn udp_is_left_alone() {
    let mut net = Net::new();
    let (a, client, _b, server) = client_and_server(&mut net);
    let spec = PodSpec::of(&client);
    let _mesh = Mesh::start(&a, &[&spec]);
    for address in [Pod::v4, Pod::v6] {
        let to = address(&server, 5353);
        let socket = server.netns.run(|| UdpSocket::bind(to)).expect("bound");
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
            socket.send_to(&buffer[..length], from).expect("sent");
            from
        });
        client.netns.run(|| {
            let socket = UdpSocket::bind(address(&client, 0)).expect("bound");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            socket.connect(to).expect("connected");
            assert_eq!(socket.peer_addr().expect("connected"), to);
            socket.send(b"hello").expect("sent");
            let mut buffer = [0; 64];
            assert_eq!(socket.recv(&mut buffer).expect("answered"), 5);
            assert_eq!(answering.join().expect("answered"), socket.local_addr().expect("bound"));
        });
    }
}
