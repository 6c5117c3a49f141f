//! What the agent tells a Prometheus server, beside what pods really did.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use weir_abi::{Rule, map::OUTBOUND_PORT};
use weir_tests::{
    echo::{Bind, Echo, dial},
    mesh::{Agent, Place, PodSpec, Proxy},
    net::{Net, Node, Pod},
    netns::Netns,
    poll::wait_for,
};

/// A reading may be a second old, and the machine busy.
const PATIENCE: Duration = Duration::from_secs(60);
const PORTS: std::ops::Range<u16> = 20_000..20_002;
const CARRIED: u16 = 20_000;
const EXCLUDED: u16 = 20_001;

/// A node with an enrolled pod, a server elsewhere, and two pods of weir's own, of which the old one leads.
struct Scene {
    _proxy: Proxy,
    agent: Agent,
    old: Arc<Pod>,
    new: Arc<Pod>,
    client: Pod,
    server: Pod,
    _echo: Echo,
    _node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::alone();
        let (node, far) = (net.node("a"), net.node("b"));
        let (client, server) = (node.pod("client"), far.pod("server"));
        let [old, new] = ["weir-old", "weir-new"].map(|name| Arc::new(node.pod(name)));
        let echo = Echo::start(&server.netns, PORTS, Bind::Separate);
        let spec =
            PodSpec::of(&client).annotation("traffic.sidecar.istio.io/excludeOutboundPorts", &EXCLUDED.to_string());
        let place = Place::new(&node);
        let configuration = place.configuration("drain = \"1s\"");
        let agent = Agent::start_at_home(place, &old, std::slice::from_ref(&spec), &configuration);
        let mut proxy = Proxy::spawn_at_home(&agent.place, &old);
        proxy.wait_until_ready(&agent);
        agent.wait_enrolled(&[&spec]);
        Self { _proxy: proxy, agent, old, new, client, server, _echo: echo, _node: node, _net: net }
    }

    fn connect(&self, port: u16) {
        dial(&self.client.netns, self.server.v4(port)).expect("an answer");
    }

    /// Dials the proxy's port of its own, which is refused.
    fn knock(&self) {
        let to = self.client.v4(OUTBOUND_PORT);
        refused(&self.client.netns, to);
    }
}

fn refused(netns: &Netns, to: SocketAddr) {
    let read = netns.run(|| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0])
    });
    assert!(!matches!(read, Ok(1)), "{to} is answered: {read:?}");
}

/// What the kernel decided on connections that pods opened, but for those of which there is none.
fn outbound(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    let decision = |(sample, count): (&String, &f64)| {
        let labels = sample.strip_prefix("weir_redirect_decisions_total{")?;
        let (_, rule) = labels.split_once("direction=\"outbound\",rule=\"")?;
        (*count > 0.0).then(|| (rule.trim_end_matches("\"}").to_owned(), *count as u64))
    };
    metrics.iter().filter_map(decision).collect()
}

fn wait_for_decisions(home: &Pod, rules: &[(Rule, u64)]) {
    let expected: BTreeMap<String, u64> = rules.iter().map(|(rule, count)| (rule.name().to_owned(), *count)).collect();
    wait_for(&format!("{expected:?} is told"), PATIENCE, || {
        let told = outbound(&Agent::metrics(home));
        if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn counters_rise_by_what_pods_do() {
    let mut scene = Scene::new();
    wait_for_decisions(&scene.old, &[]);
    for _ in 0..3 {
        scene.connect(CARRIED);
    }
    for _ in 0..2 {
        scene.connect(EXCLUDED);
    }
    for _ in 0..4 {
        scene.knock();
    }
    let decided = [
        (Rule::Redirected, 3),
        (Rule::ProxySocket, 3),
        (Rule::ExcludedPort, 2),
        (Rule::OwnAddress, 4),
        (Rule::NoOriginalDestination, 4),
    ];
    wait_for_decisions(&scene.old, &decided);
    let told = Agent::metrics(&scene.old);
    for (sample, expected) in [
        ("weir_leader", 1.0),
        ("weir_pods{state=\"enrolled\"}", 1.0),
        ("weir_pods{state=\"pending\"}", 0.0),
        ("weir_proxies{state=\"ready\"}", 1.0),
        ("weir_source_connected", 1.0),
        ("weir_enrolments_total{outcome=\"done\"}", 1.0),
        ("weir_enrolments_total{outcome=\"failed\"}", 0.0),
        ("weir_enrolment_duration_seconds_count", 1.0),
        ("weir_handoff_pods_total", 1.0),
        ("weir_metrics_errors_total", 0.0),
    ] {
        assert_eq!(told.get(sample), Some(&expected), "{sample}: {told:#?}");
    }
    assert!(told["weir_upstream_sockets_total"] >= 3.0, "{told:#?}");
    let answer = Agent::ask(&scene.old, "/metrics", &["-H", "Accept: application/openmetrics-text; version=1.0.0"]);
    assert!(
        answer.text.contains("application/openmetrics-text") && answer.text.contains("\n# EOF\n"),
        "{}",
        answer.text
    );
    assert_eq!(Agent::ask(&scene.old, "/metrics", &["-X", "POST"]).status, 404);

    // Of two agents the one that leads speaks for the node, of what happened since.
    let _former = scene.agent.succeed_at_home(&scene.new);
    scene._proxy.wait_until_ready(&scene.agent);
    scene.agent.wait_enrolled(&[&PodSpec::of(&scene.client)]);
    wait_for("the old agent says nothing of the node", PATIENCE, || {
        let told = Agent::metrics(&scene.old);
        let silent = told["weir_leader"] == 0.0
            && !told.keys().any(|sample| sample.starts_with("weir_pods") || sample.starts_with("weir_redirect"));
        if silent { Ok(()) } else { Err(format!("{told:#?}")) }
    });
    wait_for_decisions(&scene.new, &[]);
    assert_eq!(Agent::metrics(&scene.new)["weir_leader"], 1.0);
    scene.connect(EXCLUDED);
    wait_for_decisions(&scene.new, &[(Rule::ExcludedPort, 1)]);
    // What was counted for a pod stays counted when it is gone.
    scene.agent.set_pods(&[]);
    scene.agent.wait_withdrawn(&[&PodSpec::of(&scene.client)]);
    wait_for("the pod is gone", PATIENCE, || match Agent::metrics(&scene.new)["weir_pods{state=\"enrolled\"}"] {
        0.0 => Ok(()),
        enrolled => Err(enrolled.to_string()),
    });
    wait_for_decisions(&scene.new, &[(Rule::ExcludedPort, 1)]);
}
