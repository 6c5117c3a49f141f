//! Killed and restarted processes, and pods that come and go: nothing is lost, nothing leaks.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use weir_abi::Rule;
use weir_tests::{
    echo::{Bind, Echo, dial},
    figure,
    leaks::Holdings,
    load::{Connections, Load, Request},
    mesh::{Agent, Mesh, Place, PodSpec, Proxy},
    net::{Net, Node, Pod},
    poll::wait_for,
    web::{Nginx, WHOAMI, curl, get},
};

/// Requests a second.
const RATE: u32 = 500;
/// How long the load runs before and after what is done to it.
const AROUND: Duration = Duration::from_millis(1500);
/// A proxy's successor starts within this.
const SUCCESSION: Duration = Duration::from_secs(2);
/// A request whose proxy is killed breaks within this, on however busy a machine.
const TOLD: Duration = Duration::from_secs(10);
/// How long a superseded proxy may drain.
const DRAIN: Duration = Duration::from_secs(30);
/// More bytes than all buffers on the way hold.
const BULK: u64 = 32 << 20;
/// Enrolments and withdrawals.
const CYCLES: usize = 200;

const OK: &str = r#"location / { return 200 "ok\n"; }"#;

/// A node with a client and a server, both enrolled: each request passes the proxy twice.
struct Scene {
    mesh: Mesh,
    _nginx: Nginx,
    client: Pod,
    server: Pod,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::alone();
        let node = net.node("a");
        let (client, server) = (node.pod("client"), node.pod("server"));
        let nginx = Nginx::start(&server, 80, OK);
        let specs = [&client, &server].map(PodSpec::of);
        let agent = Agent::start_with(Place::new(&node), &specs, &format!("drain = \"{}s\"", DRAIN.as_secs()));
        let proxy = Proxy::start(&agent);
        agent.wait_enrolled(&specs.each_ref());
        let mesh = Mesh { proxy, ctl: agent.ctl.clone(), agent };
        Self { mesh, _nginx: nginx, client, server, node, _net: net }
    }

    fn to(&self) -> SocketAddr {
        self.server.v4(80)
    }

    /// `RATE` in all, half of it over connections that are used again.
    fn mixed_load(&self) -> [Load; 2] {
        [Connections::New, Connections::KeepAlive]
            .map(|connections| Load::start(&self.client.netns, self.to(), RATE / 2, connections))
    }
}

fn slowest(requests: &[Request]) -> Duration {
    requests.iter().map(|request| request.ended - request.started).max().unwrap_or_default()
}

fn assert_none_lost(what: &str, requests: &[Request]) {
    let lost: Vec<_> = requests.iter().filter(|request| !request.succeeded()).collect();
    figure!("{what}: {} requests, {} lost, slowest {:?}", requests.len(), lost.len(), slowest(requests));
    assert!(lost.is_empty(), "{what}: {} lost, the first: {:?}", lost.len(), lost.first());
    let expected = (RATE / 2) as f64 * 2.0 * AROUND.as_secs_f64();
    assert!(requests.len() as f64 > expected * 0.9, "{what}: the load did not keep its rate: {}", requests.len());
}

#[test]
fn killing_the_agent_loses_no_request() {
    let mut scene = Scene::new();
    let loads = scene.mixed_load();
    sleep(AROUND);
    scene.mesh.agent.process.kill9();
    sleep(AROUND);
    scene.mesh.agent.restart();
    scene.mesh.proxy.wait_until_ready(&scene.mesh.agent);
    let status = scene.mesh.ctl.json(&["status"]);
    assert_eq!(status["adopted"], true, "the new agent goes on with the pins of the old one: {status}");
    scene.mesh.agent.wait_enrolled(&[&PodSpec::of(&scene.client), &PodSpec::of(&scene.server)]);
    sleep(AROUND);
    for (what, load) in ["new connections", "kept connections"].into_iter().zip(loads) {
        assert_none_lost(what, &load.stop());
    }

    // The new agent enrolls and withdraws as the old one did.
    let late = scene.node.pod("late");
    let specs = [&scene.client, &scene.server, &late].map(PodSpec::of);
    scene.mesh.agent.set_pods(&specs);
    scene.mesh.agent.wait_enrolled(&specs.each_ref());
    get(&late, &format!("http://{}/", scene.to()));
    assert_eq!(scene.mesh.ctl.counters("default/late").of(Rule::Redirected), 1);
    scene.mesh.agent.set_pods(&specs[1..]);
    scene.mesh.agent.wait_withdrawn(&[&specs[0]]);
    get(&scene.client, &format!("http://{}/", scene.to()));
}

#[test]
fn an_agent_whose_sockets_are_removed_makes_others() {
    let mut scene = Scene::new();
    let loads = scene.mixed_load();
    sleep(AROUND);
    let place = scene.mesh.agent.place.file("");
    let sockets = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&place).expect("the agent's directory").flatten();
        let mut paths: Vec<_> =
            entries.map(|entry| entry.path()).filter(|path| path.extension() == Some("sock".as_ref())).collect();
        paths.sort();
        paths
    };
    let before = sockets();
    for name in ["agent.sock", "handoff.sock", "lead.sock"] {
        assert!(before.iter().any(|path| path.to_string_lossy().ends_with(name)), "{name}: {before:?}");
    }
    before.iter().for_each(|path| fs::remove_file(path).expect("a socket of this test"));
    // It is the same process.
    scene.mesh.agent.wait_until_ready();
    scene.mesh.proxy.wait_until_ready(&scene.mesh.agent);
    scene.mesh.agent.wait_enrolled(&[&PodSpec::of(&scene.client), &PodSpec::of(&scene.server)]);
    assert_eq!(sockets(), before);
    let log = scene.mesh.agent.process.log();
    assert_eq!(log.matches("a socket was removed or replaced").count(), 1, "{log}");
    sleep(AROUND);
    for (what, load) in ["new connections", "kept connections"].into_iter().zip(loads) {
        assert_none_lost(what, &load.stop());
    }
}

#[test]
fn killing_the_proxy_refuses_no_new_connection() {
    let mut scene = Scene::new();
    let load = Load::start(&scene.client.netns, scene.to(), RATE, Connections::New);
    sleep(AROUND);
    let killed = Instant::now();
    scene.mesh.proxy.process.kill9();
    let gone = Instant::now();
    sleep(SUCCESSION.saturating_sub(killed.elapsed() + Duration::from_millis(500)));
    scene.mesh.proxy = Proxy::start(&scene.mesh.agent);
    figure!("successor ready {:?} after the kill", killed.elapsed());
    sleep(AROUND);
    let requests = load.stop();

    let (mut broken, mut waited, mut failed) = (Vec::new(), 0, Vec::new());
    for request in &requests {
        // Held by the proxy when it was killed: those break.
        let was_held = request.started < gone && request.ended >= killed;
        if request.connected.is_none() {
            failed.push(request);
        } else if was_held {
            broken.extend(Some(request).filter(|request| !request.succeeded()));
        } else if !request.succeeded() {
            failed.push(request);
        } else if request.started >= gone && request.ended - request.started > Duration::from_millis(200) {
            waited += 1;
        }
    }
    figure!(
        "proxy killed: {} requests, {} of the held ones broke, {waited} waited, slowest {:?}",
        requests.len(),
        broken.len(),
        slowest(&requests)
    );
    assert!(failed.is_empty(), "{} failed, the first: {:?}", failed.len(), failed.first());
    assert!(waited as f64 > f64::from(RATE) * 0.5, "the new connections waited for the successor: {waited}");
    // How many were under way depends on the machine; each is told at once, and does not wait for its own timeout.
    let told = broken.iter().map(|request| request.ended.saturating_duration_since(gone)).max().unwrap_or_default();
    assert!(told < TOLD, "what was under way breaks at once, not after {told:?}");
}

#[test]
fn a_second_proxy_takes_over_without_a_loss() {
    let mut scene = Scene::new();
    let loads = scene.mixed_load();
    sleep(AROUND);
    let successor = Proxy::start(&scene.mesh.agent);
    let mut former = std::mem::replace(&mut scene.mesh.proxy, successor);
    scene.mesh.proxy.wait_until_ready(&scene.mesh.agent);
    // Its connections have ended or go on with the other: it goes by itself, long before its drain is over.
    let status = former.process.wait(DRAIN / 3).expect("a drained proxy ends");
    assert!(status.success(), "{status}");
    sleep(AROUND);
    let [new, kept] = loads.map(Load::stop);
    assert_none_lost("new connections over a takeover", &new);
    assert_none_lost("kept connections over a takeover", &kept);
}

/// A connection to an echo server from inside a namespace, which has read the server's banner.
fn connect(scene: &Scene, port: u16) -> BufReader<TcpStream> {
    let stream = scene.client.netns.run(|| TcpStream::connect(scene.server.v4(port))).expect("the server accepts");
    stream.set_read_timeout(Some(DRAIN)).expect("a timeout");
    let mut stream = BufReader::new(stream);
    stream.read_line(&mut String::new()).expect("a banner");
    stream
}

/// Has a few bytes echoed.
fn exchange(stream: &mut BufReader<TcpStream>) {
    stream.get_mut().write_all(b"still there?").expect("the connection takes bytes");
    let mut echoed = [0; 12];
    stream.read_exact(&mut echoed).expect("the connection gives bytes");
    assert_eq!(&echoed, b"still there?");
}

#[test]
fn connections_go_on_with_the_next_proxy_whatever_they_are_in_the_midst_of() {
    const PORT: u16 = 9000;
    let mut scene = Scene::new();
    let echo = Echo::start(&scene.server.netns, [PORT], Bind::Separate);
    let mut idle: Vec<_> = (0..100).map(|_| connect(&scene, PORT)).collect();
    idle.iter_mut().for_each(exchange);
    // One whose client has said its last and does not read yet: a proxy holds bytes that nobody takes.
    let mut half = connect(&scene, PORT);
    let mut sending = half.get_ref().try_clone().expect("a descriptor");
    let said = std::thread::spawn(move || {
        let pieces = (0..BULK / 8).map(u64::to_le_bytes).collect::<Vec<_>>().concat();
        sending.write_all(&pieces).expect("the connection takes bytes");
        sending.shutdown(Shutdown::Write).expect("the connection is open");
    });
    // One that never rests.
    let mut busy = connect(&scene, PORT);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let exchanges = std::thread::spawn(move || {
        let mut exchanges = 0;
        while !stopped.load(Relaxed) {
            exchange(&mut busy);
            exchanges += 1;
        }
        exchanges
    });
    sleep(AROUND);

    let successor = Proxy::start(&scene.mesh.agent);
    let mut former = std::mem::replace(&mut scene.mesh.proxy, successor);
    scene.mesh.proxy.wait_until_ready(&scene.mesh.agent);
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).expect("all of it, and its end");
    said.join().expect("all was said");
    assert_eq!(rest.len() as u64, BULK);
    let intact = rest.chunks(8).zip(0_u64..).all(|(piece, number)| piece == number.to_le_bytes());
    assert!(intact, "bytes were lost, doubled or swapped");

    let status = former.process.wait(DRAIN / 3).expect("nothing is left for the former proxy");
    assert!(status.success(), "{status}");
    sleep(AROUND);
    idle.iter_mut().for_each(exchange);
    stop.store(true, Relaxed);
    let exchanges = exchanges.join().expect("the busy connection has not ended");
    assert_eq!(echo.accepted(), 102, "no connection was made anew");
    // Each is two connections of the proxy: the client's pod's, and the server's.
    let passed = former.process.log().lines().find_map(|line| {
        let (_, passed) = line.split_once("cx_passed_on=")?;
        passed.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    });
    assert!(passed.is_some_and(|passed| (202..=204).contains(&passed)), "{passed:?}: {}", former.process.log());
    figure!("{exchanges} exchanges on one connection over a takeover");
}

#[test]
fn without_agent_and_proxy_enrolled_pods_are_refused_and_others_are_not() {
    let mut net = Net::alone();
    let node = net.node("a");
    let (client, server, plain, other) = (node.pod("client"), node.pod("server"), node.pod("plain"), node.pod("other"));
    let (_to_server, _to_other) = (Nginx::start(&server, 80, OK), Nginx::start(&other, 80, WHOAMI));
    let specs = [&client, &server].map(PodSpec::of);
    let mut mesh = Mesh::start(&node, &specs.each_ref());
    let urls = [server.v4(80), server.v6(80), other.v4(80), other.v6(80)].map(|to| format!("http://{to}/"));
    for url in &urls {
        get(&client, url);
        get(&plain, url);
    }
    mesh.agent.process.kill9();
    mesh.proxy.process.kill9();
    for url in &urls {
        assert_eq!(curl(&client, &[url]).exit, 7, "refused, not passed in the clear: {url}");
    }
    for url in &urls[..2] {
        assert_eq!(curl(&plain, &[url]).exit, 7, "refused, not passed in the clear: {url}");
    }
    for url in &urls[2..] {
        let answer = get(&plain, url);
        assert!([plain.ipv4.into(), std::net::IpAddr::from(plain.ipv6)].contains(&answer.address("client").ip()));
    }
    mesh.agent.restart();
    mesh.proxy = Proxy::start(&mesh.agent);
    mesh.agent.wait_enrolled(&specs.each_ref());
    for url in &urls {
        get(&client, url);
        get(&plain, url);
    }
    assert_eq!(mesh.ctl.json(&["status"])["adopted"], true);
}

#[test]
fn a_pod_that_fails_open_is_passed_while_there_is_no_proxy() {
    let mut net = Net::alone();
    let node = net.node("a");
    let (open, closed, server) = (node.pod("open"), node.pod("closed"), node.pod("server"));
    let _nginx = Nginx::start(&server, 80, OK);
    let specs = [PodSpec::of(&open).annotation("weir.dev/fail-open", "true"), PodSpec::of(&closed)];
    let mut mesh = Mesh::start(&node, &specs.each_ref());
    let url = format!("http://{}/", server.v4(80));
    get(&open, &url);
    assert_eq!(mesh.ctl.counters("default/open").of(Rule::Redirected), 1);
    mesh.proxy.process.kill9();
    wait_for("the open pod is passed", Duration::from_secs(30), || {
        let answer = curl(&open, &["--max-time", "1", &url]);
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    });
    assert!(mesh.ctl.counters("default/open").of(Rule::OutboundFailOpen) > 0);
    assert_eq!(curl(&closed, &["--max-time", "1", &url]).exit, 28, "the other waits");
    mesh.proxy = Proxy::start(&mesh.agent);
    get(&closed, &url);
}

#[test]
fn enrolling_and_withdrawing_two_hundred_times_leaks_nothing() {
    let mut net = Net::alone();
    let node = net.node("a");
    let (server, stays, comes) = (node.pod("server"), node.pod("stays"), node.pod("comes"));
    let _echo = Echo::start(&server.netns, [80], Bind::Separate);
    let _in_pod = Echo::start(&comes.netns, [80], Bind::Separate);
    let stays_spec = PodSpec::of(&stays);
    // With an entry in every map that a pod can have entries in.
    let comes_spec = PodSpec::of(&comes)
        .probe_ports([8080, 8081])
        .annotation("traffic.sidecar.istio.io/excludeOutboundIPRanges", "192.0.2.0/24,198.51.100.0/24")
        .annotation("traffic.sidecar.istio.io/excludeOutboundPorts", "25,26")
        .annotation("traffic.sidecar.istio.io/excludeInboundPorts", "9090");
    let agent = Agent::start_with(Place::new(&node), std::slice::from_ref(&stays_spec), "drain = \"100ms\"");
    let proxy = Proxy::start(&agent);
    agent.wait_enrolled(&[&stays_spec]);
    let ctl = agent.ctl.clone();
    let mesh = Mesh { proxy, agent, ctl };
    let both = [stays_spec.clone(), comes_spec.clone()];
    let cycle = || {
        mesh.agent.set_pods(&both);
        mesh.agent.wait_enrolled(&[&comes_spec]);
        dial(&comes.netns, server.v4(80)).expect("redirected");
        dial(&server.netns, comes.v4(80)).expect("steered");
        mesh.agent.set_pods(&both[..1]);
        mesh.agent.wait_withdrawn(&[&comes_spec]);
    };
    // What is made once and kept (buffers, runtimes' own) is made by now.
    for _ in 0..5 {
        cycle();
    }
    let before = Holdings::of(&mesh.agent, &mesh.proxy);
    let started = Instant::now();
    for _ in 0..CYCLES {
        cycle();
    }
    figure!("{CYCLES} cycles in {:?}: {before:?}", started.elapsed());
    before.wait_no_more(&mesh.agent, &mesh.proxy, 0);
    // The other pod was not disturbed.
    assert!(dial(&stays.netns, server.v4(80)).expect("redirected").destination_is_true());

    // No reference to the pod's namespace is left, not in the agent, the proxy or the kernel.
    let veth = comes.veth().to_owned();
    drop((_in_pod, comes));
    node.wait_until_gone(&veth);
}

#[test]
fn uninstalling_removes_everything_and_may_be_repeated() {
    let mut net = Net::alone();
    let node = net.node("a");
    let (client, server) = (node.pod("client"), node.pod("server"));
    let _nginx = Nginx::start(&server, 80, OK);
    let spec = PodSpec::of(&client);
    let mut mesh = Mesh::start(&node, &[&spec]);
    let url = format!("http://{}/", server.v4(80));
    get(&client, &url);
    mesh.proxy.process.terminate();
    mesh.agent.process.terminate();
    assert!(mesh.agent.place.pins().exists(), "an agent that ends leaves its pins");
    assert_eq!(curl(&client, &[&url]).exit, 7, "and its pods closed");
    for round in ["first", "again"] {
        let outcome = mesh.agent.uninstall();
        assert!(outcome.status.success(), "{round}: {outcome:?}");
        assert!(!mesh.agent.place.pins().exists(), "{round}: {}", mesh.agent.place.pins().display());
    }
    get(&client, &url);
}
