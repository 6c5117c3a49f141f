//! Agents and proxies that follow each other: taking over from a living one, and ending together.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_abi::Rule;
use weir_tests::{
    figure,
    load::{Connections, Load, Request},
    mesh::{Agent, CAPABILITIES, Mesh, Place, PodSpec, Proxy},
    net::{Net, Node, Pod},
    poll::wait_for,
    process::Process,
    web::{Nginx, curl, get},
    weirctl::number,
};

/// Requests a second.
const RATE: u32 = 200;
/// How long the load runs around what is done to it.
const AROUND: Duration = Duration::from_millis(1000);
/// How long nobody is there: a pod that is deleted is replaced within some seconds.
const AWAY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

const OK: &str = r#"location / { return 200 "ok\n"; }"#;

/// A node with a client and a server, both enrolled, an agent with a keeper, and a proxy.
struct Scene {
    mesh: Mesh,
    client: Pod,
    server: Pod,
    _nginx: Nginx,
    _node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::alone();
        let node = net.node("a");
        let (client, server) = (node.pod("client"), node.pod("server"));
        let nginx = Nginx::start(&server, 80, OK);
        let specs = [&client, &server].map(PodSpec::of);
        let place = Place::new(&node);
        let configuration = place.configuration("drain = \"30s\"") + &place.keeper("60s");
        let agent = Agent::start_configured(place, &specs, &configuration);
        let proxy = Proxy::start(&agent);
        agent.wait_enrolled(&specs.each_ref());
        let mesh = Mesh { proxy, ctl: agent.ctl.clone(), agent };
        let scene = Self { mesh, client, server, _nginx: nginx, _node: node, _net: net };
        scene.keeper();
        scene
    }

    fn to(&self) -> SocketAddr {
        self.server.v4(80)
    }

    fn load(&self) -> Load {
        Load::start(&self.client.netns, self.to(), RATE, Connections::New)
    }

    fn specs(&self) -> [PodSpec; 2] {
        [&self.client, &self.server].map(PodSpec::of)
    }

    /// The keeper's process, once it keeps the sockets of both pods.
    #[track_caller]
    fn keeper(&self) -> u32 {
        wait_for("the keeper keeps both pods' sockets", PATIENCE, || {
            let status = self.mesh.ctl.try_json(&["status"])?;
            let keeper = &status["keeper"];
            let pid = keeper["pid"].as_u64().unwrap_or_default() as u32;
            if pid != 0 && keeper["pods"] == 2 && number(&keeper["sockets"]) > 0 {
                Ok(pid)
            } else {
                Err(keeper.to_string())
            }
        })
    }

    /// Everything works as in the beginning.
    #[track_caller]
    fn settle(&mut self) {
        self.mesh.agent.wait_enrolled(&self.specs().each_ref());
        self.mesh.proxy.wait_until_ready(&self.mesh.agent);
        self.keeper();
    }

    /// The next agent and the next proxy, which take over from those that live. The former ones, still alive.
    #[track_caller]
    fn upgrade(&mut self) -> (Process, Proxy) {
        let agent = self.mesh.agent.succeed();
        let successor = Proxy::start(&self.mesh.agent);
        let proxy = std::mem::replace(&mut self.mesh.proxy, successor);
        self.settle();
        (agent, proxy)
    }

    #[track_caller]
    fn start_again(&mut self) {
        self.mesh.agent.restart();
        self.mesh.proxy = Proxy::start(&self.mesh.agent);
        self.settle();
    }
}

#[track_caller]
fn assert_none_lost(what: &str, requests: &[Request]) {
    let lost: Vec<_> = requests.iter().filter(|request| !request.succeeded()).collect();
    let slowest = requests.iter().map(|request| request.ended - request.started).max().unwrap_or_default();
    figure!("{what}: {} requests, {} lost, slowest {slowest:?}", requests.len(), lost.len());
    assert!(lost.is_empty(), "{what}: {} lost, the first: {:?}", lost.len(), lost.first());
    assert!(!requests.is_empty());
}

#[test]
fn three_generations_take_over_from_each_other_without_a_loss() {
    let mut scene = Scene::new();
    let keeper = scene.keeper();
    let load = scene.load();
    for _ in 0..3 {
        sleep(AROUND);
        let (mut agent, mut proxy) = scene.upgrade();
        assert_eq!(scene.mesh.ctl.json(&["status"])["adopted"], true);
        assert!(agent.ended().is_none(), "the former agent waits until it is told to end: {}", agent.log());
        // The kubelet ends the old pod: its proxy first, then its agent.
        proxy.process.terminate();
        assert!(agent.terminate().success(), "{}", agent.log());
        assert_eq!(scene.keeper(), keeper, "the same keeper serves the next agent");
    }
    sleep(AROUND);
    assert_none_lost("three takeovers", &load.stop());
}

#[test]
fn agent_and_proxy_end_together_and_connections_wait_for_their_successors() {
    let mut scene = Scene::new();
    let keeper = scene.keeper();
    let load = scene.load();
    sleep(AROUND);
    scene.mesh.proxy.process.terminate();
    assert!(scene.mesh.agent.process.terminate().success());
    sleep(AWAY);
    scene.start_again();
    assert_eq!(scene.keeper(), keeper);
    sleep(AROUND);
    assert_none_lost("agent and proxy ended", &load.stop());
}

#[test]
fn agent_and_proxy_are_killed_and_new_connections_wait() {
    let mut scene = Scene::new();
    let load = scene.load();
    sleep(AROUND);
    let killed = std::time::Instant::now();
    scene.mesh.proxy.process.kill9();
    scene.mesh.agent.process.kill9();
    let gone = std::time::Instant::now();
    sleep(AWAY);
    scene.start_again();
    sleep(AROUND);
    // What the proxy held when it was killed breaks.
    let (held, others): (Vec<_>, Vec<_>) =
        load.stop().into_iter().partition(|request| request.started < gone && request.ended >= killed);
    assert!(held.iter().all(|request| request.connected.is_some()), "none was refused: {held:?}");
    assert_none_lost("agent and proxy killed", &others);
}

#[test]
fn an_agent_that_dies_after_taking_over_gives_the_lead_back() {
    let mut scene = Scene::new();
    let load = scene.load();
    sleep(AROUND);
    let former = scene.mesh.agent.succeed();
    let mut successor = std::mem::replace(&mut scene.mesh.agent.process, former);
    sleep(AROUND);
    successor.kill9();
    // The former answers again.
    scene.mesh.agent.wait_until_ready();
    scene.settle();
    sleep(AROUND);
    // And steps down for the next.
    let (mut agent, mut proxy) = scene.upgrade();
    proxy.process.terminate();
    agent.terminate();
    sleep(AROUND);
    assert_none_lost("a takeover that failed, and one that did not", &load.stop());
}

/// weir's own pods, an old one and a new one, each with an agent and a proxy, as in a rolling update.
struct Rollout {
    old_proxy: Proxy,
    new_proxy: Proxy,
    /// Whichever does not lead.
    old_agent: Process,
    agent: Agent,
    old: Arc<Pod>,
    new: Arc<Pod>,
    client: Pod,
    server: Pod,
    _nginx: Nginx,
    _node: Arc<Node>,
    _net: Net,
}

impl Rollout {
    /// The new pod is ready, the old one is about to be told to end.
    fn new() -> Self {
        let mut net = Net::alone();
        let node = net.node("a");
        let (client, server) = (node.pod("client"), node.pod("server"));
        let [old, new] = ["weir-old", "weir-new"].map(|name| Arc::new(node.pod(name)));
        let nginx = Nginx::start(&server, 80, OK);
        let specs = [&client, &server].map(PodSpec::of);
        let place = Place::new(&node);
        let configuration = place.configuration("drain = \"2s\"") + &place.keeper("60s");
        let mut agent = Agent::start_at_home(place, &old, &specs, &configuration);
        let mut old_proxy = Proxy::spawn_at_home(&agent.place, &old);
        old_proxy.wait_until_ready(&agent);
        agent.wait_enrolled(&specs.each_ref());
        wait_ready(&old);

        let old_agent = agent.succeed_at_home(&new);
        old_proxy.wait_until_ready(&agent);
        wait_not_ready(&new, "the proxy of this pod is not ready");
        // The old pod's proxy crashes: though it is started later than the new agent, it is not that one's.
        old_proxy.process.kill9();
        old_proxy = Proxy::spawn_at_home(&agent.place, &old);
        old_proxy.wait_until_ready(&agent);
        wait_not_ready(&new, "the proxy of this pod is not ready");
        let mut new_proxy = Proxy::spawn_at_home(&agent.place, &new);
        new_proxy.wait_until_ready(&agent);
        old_proxy.wait_until(&agent, "standby");
        wait_ready(&new);
        wait_ready(&old);
        let (_nginx, _node, _net) = (nginx, node, net);
        Self { old_proxy, new_proxy, old_agent, agent, old, new, client, server, _nginx, _node, _net }
    }

    fn load(&self) -> Load {
        Load::start(&self.client.netns, self.server.v4(80), RATE, Connections::New)
    }

    /// The new agent is gone: the old one answers.
    fn old_leads(&mut self) {
        std::mem::swap(&mut self.agent.process, &mut self.old_agent);
        self.agent.wait_until_ready();
    }
}

#[track_caller]
fn wait_ready(home: &Pod) {
    wait_for(&format!("{} is ready", home.name()), PATIENCE, || Agent::readiness(home));
}

#[track_caller]
fn wait_not_ready(home: &Pod, reason: &str) {
    wait_for(&format!("{} is not ready because {reason}", home.name()), PATIENCE, || match Agent::readiness(home) {
        Err(told) if told.contains(reason) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// All but those that were open while a proxy was killed.
fn spared(requests: Vec<Request>, killed: &[(Instant, Instant)]) -> Vec<Request> {
    let held = |request: &Request| killed.iter().any(|(from, to)| request.started < *to && request.ended >= *from);
    let (held, others): (Vec<_>, Vec<_>) = requests.into_iter().partition(held);
    assert!(held.iter().all(|request| request.connected.is_some()), "none was refused: {held:?}");
    others
}

fn kill9(proxy: &mut Proxy) -> (Instant, Instant) {
    let before = Instant::now();
    proxy.process.kill9();
    (before, Instant::now())
}

#[test]
fn whichever_proxy_of_a_rollout_crashes_the_other_accepts() {
    let mut rollout = Rollout::new();
    let load = rollout.load();
    sleep(AROUND);
    // That of the old pod is started again, later than all others: it stands by.
    rollout.old_proxy.process.kill9();
    rollout.old_proxy = Proxy::spawn_at_home(&rollout.agent.place, &rollout.old);
    rollout.old_proxy.wait_until(&rollout.agent, "standby");
    rollout.new_proxy.wait_until_ready(&rollout.agent);
    sleep(AROUND);
    // That of the new pod is gone for a while.
    let killed = kill9(&mut rollout.new_proxy);
    rollout.old_proxy.wait_until_ready(&rollout.agent);
    wait_not_ready(&rollout.new, "the proxy of this pod is not ready");
    wait_ready(&rollout.old);
    sleep(AROUND);
    rollout.new_proxy = Proxy::spawn_at_home(&rollout.agent.place, &rollout.new);
    rollout.new_proxy.wait_until_ready(&rollout.agent);
    rollout.old_proxy.wait_until(&rollout.agent, "standby");
    wait_ready(&rollout.new);
    sleep(AROUND);
    // The new agent is started again, and the old one too.
    rollout.agent.process.kill9();
    rollout.agent.restart();
    rollout.new_proxy.wait_until_ready(&rollout.agent);
    rollout.old_proxy.wait_until(&rollout.agent, "standby");
    rollout.old_agent.kill9();
    rollout.old_agent = rollout.agent.spawn_at_home(&rollout.old);
    wait_ready(&rollout.old);
    wait_ready(&rollout.new);
    // At last the old pod ends.
    rollout.old_proxy.process.terminate();
    rollout.old_agent.terminate();
    rollout.new_proxy.wait_until_ready(&rollout.agent);
    sleep(AROUND);
    assert_none_lost("proxies of two pods", &spared(load.stop(), &[killed]));
}

#[test]
fn a_rollout_that_is_undone_leaves_the_old_pod_serving() {
    let mut rollout = Rollout::new();
    let load = rollout.load();
    sleep(AROUND);
    // The new agent fails and fails, its proxy accepts: nothing changes for connections.
    rollout.agent.process.kill9();
    rollout.old_leads();
    rollout.new_proxy.wait_until_ready(&rollout.agent);
    rollout.old_proxy.wait_until(&rollout.agent, "standby");
    wait_ready(&rollout.old);
    sleep(AROUND);
    // The new pod is deleted.
    rollout.new_proxy.process.terminate();
    rollout.old_proxy.wait_until_ready(&rollout.agent);
    wait_ready(&rollout.old);
    sleep(AROUND);
    assert_none_lost("a rollout that was undone", &load.stop());
}

#[test]
fn a_new_pod_that_is_killed_whole_leaves_the_old_pod_serving() {
    let mut rollout = Rollout::new();
    let load = rollout.load();
    sleep(AROUND);
    let killed = kill9(&mut rollout.new_proxy);
    rollout.agent.process.kill9();
    rollout.old_leads();
    rollout.old_proxy.wait_until_ready(&rollout.agent);
    wait_ready(&rollout.old);
    sleep(AROUND);
    assert_none_lost("a new pod that was killed", &spared(load.stop(), &[killed]));
}

#[test]
fn a_proxy_that_hangs_is_named_and_its_pod_not_ready_until_it_answers_again() {
    let mut rollout = Rollout::new();
    let checked = |rollout: &Rollout, code: i32| {
        wait_for(&format!("status --check exits with {code}"), PATIENCE, || {
            let outcome = rollout.agent.ctl.run(&["status", "--check"]);
            if outcome.status.code() == Some(code) { Ok(outcome.stdout) } else { Err(outcome) }
        })
    };
    let url = format!("http://{}/", rollout.server.v4(80));
    checked(&rollout, 0);
    rollout.new_proxy.process.signal(Signal::SIGSTOP);
    let status = checked(&rollout, 3);
    let line = status.lines().find(|line| line.contains("has not answered for"));
    let pid = format!(" pid {} ", rollout.new_proxy.process.pid());
    assert!(line.is_some_and(|line| line.contains("ready") && line.contains(&pid)), "{pid}: {status}");
    wait_not_ready(&rollout.new, "has not answered for");
    // It keeps its place, and has the connections that it took: the one that stands by is not sent for.
    assert_eq!(curl(&rollout.client, &["--max-time", "1", &url]).exit, 28);
    rollout.old_proxy.wait_until(&rollout.agent, "standby");
    rollout.new_proxy.process.signal(Signal::SIGCONT);
    checked(&rollout, 0);
    wait_ready(&rollout.new);
    get(&rollout.client, &url);
    let log = rollout.agent.process.log();
    for (said, times) in [("a proxy does not answer", 1), ("the proxy answers again", 1)] {
        assert_eq!(log.matches(said).count(), times, "{said}: {log}");
    }
}

#[test]
fn a_keeper_that_is_killed_is_replaced_and_filled() {
    let mut scene = Scene::new();
    let keeper = scene.keeper();
    let load = scene.load();
    kill(Pid::from_raw(keeper as i32), Signal::SIGKILL).expect("the keeper runs");
    wait_for("there is another keeper", PATIENCE, || {
        let pid = scene.mesh.ctl.try_json(&["status"])?["keeper"]["pid"].as_u64().unwrap_or_default();
        if pid != 0 && pid != u64::from(keeper) { Ok(()) } else { Err(format!("pid {pid}")) }
    });
    scene.keeper();
    scene.mesh.proxy.process.terminate();
    scene.mesh.agent.process.terminate();
    sleep(AWAY);
    scene.start_again();
    sleep(AROUND);
    assert_none_lost("a restart after the keeper was killed", &load.stop());
}

#[test]
fn the_keeper_holds_nothing_but_sockets() {
    let scene = Scene::new();
    let pid = scene.keeper();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set} in {status}");
    }
    // An agent with the chart's capabilities can neither change the user nor clear this set: it may run no program.
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("a set");
    let bounding = u64::from_str_radix(bounding, 16).expect("a set in hexadecimal");
    assert_eq!(bounding.count_ones() as usize, CAPABILITIES.len(), "{status}");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let own = scene.mesh.agent.place.keeper_cgroup();
    let own = own.strip_prefix(weir_tests::cgroup::root()).expect("below the root").display().to_string();
    assert!(cgroup.lines().any(|line| line == format!("0::/{own}")), "{own} in {cgroup}");
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it runs").replace('\0', " ");
    assert!(title.starts_with("weir-agent keep --instance "), "{title}");
    let root = fs::read_dir(format!("/proc/{pid}/root")).expect("root may look").count();
    assert_eq!(root, 0, "it sees no file");
}

#[test]
fn a_keeper_that_is_not_to_be_any_more_ends_and_leaves_nothing() {
    let mut scene = Scene::new();
    let place = &scene.mesh.agent.place;
    let left = [place.file("keeper.sock"), place.file("keeper.sock.log"), place.keeper_cgroup()];
    for path in &left {
        assert!(path.exists(), "{}", path.display());
    }
    let configuration = fs::read_to_string(place.file("agent.toml")).expect("the agent's own");
    place.write("agent.toml", &configuration.replace("[keeper]\n", "[keeper]\nenabled = false\n"));
    // While nobody else is there the keeper alone has the sockets in which connections wait.
    let load = scene.load();
    sleep(AROUND);
    scene.mesh.proxy.process.terminate();
    assert!(scene.mesh.agent.process.terminate().success());
    scene.mesh.agent.restart();
    scene.mesh.proxy = Proxy::start(&scene.mesh.agent);
    scene.mesh.agent.wait_enrolled(&scene.specs().each_ref());
    sleep(AROUND);
    assert_none_lost("agent and proxy ended, and the keeper for good", &load.stop());
    for path in &left {
        wait_for("nothing of the keeper is left", PATIENCE, || {
            if path.exists() { Err(path.display().to_string()) } else { Ok(()) }
        });
    }
    assert!(scene.mesh.ctl.try_json(&["status"]).expect("an answer")["keeper"].is_null());
}

#[test]
fn a_pod_that_fails_open_is_passed_once_agent_and_proxy_are_gone() {
    let mut net = Net::new();
    let node = net.node("a");
    let (open, closed, server) = (node.pod("open"), node.pod("closed"), node.pod("server"));
    let (_outside, _inside) = (Nginx::start(&server, 80, OK), Nginx::start(&open, 80, OK));
    let specs = [PodSpec::of(&open).annotation("weir.dev/fail-open", "true"), PodSpec::of(&closed)];
    let place = Place::new(&node);
    let configuration = place.configuration("drain = \"1s\"") + &place.keeper("60s");
    let mut agent = Agent::start_configured(place, &specs, &configuration);
    let mut proxy = Proxy::start(&agent);
    agent.wait_enrolled(&specs.each_ref());
    wait_for("the keeper keeps the sockets of the pod that fails closed", PATIENCE, || {
        let keeper = agent.ctl.try_json(&["status"])?["keeper"].clone();
        if keeper["pods"] == 1 { Ok(()) } else { Err(keeper.to_string()) }
    });
    let (out, into) = (format!("http://{}/", server.v4(80)), format!("http://{}/", open.v4(80)));
    get(&open, &out);
    assert_eq!(agent.ctl.counters("default/open").of(Rule::Redirected), 1);
    agent.process.kill9();
    proxy.process.kill9();
    for (from, url) in [(&open, &out), (&server, &into)] {
        wait_for("the open pod is passed", PATIENCE, || {
            let answer = curl(from, &["--max-time", "1", url]);
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        });
    }
    assert_eq!(curl(&closed, &["--max-time", "1", &out]).exit, 28, "the other waits");
    agent.restart();
    proxy = Proxy::start(&agent);
    agent.wait_enrolled(&specs.each_ref());
    for pod in [&open, &closed] {
        get(pod, &out);
    }
    get(&server, &into);
    let counters = agent.ctl.counters("default/open");
    assert!(counters.of(Rule::OutboundFailOpen) > 0 && counters.of(Rule::InboundFailOpen) > 0);
    assert_eq!(counters.of(Rule::Redirected), 2);
    drop(proxy);
}
