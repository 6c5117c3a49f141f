//! Bad input: one clear line each, and the pods that are enrolled go on.

use std::{fs, os::fd::AsRawFd, sync::Arc, time::Duration};

use weir_abi::Rule;
use weir_tests::{
    cgroup,
    mesh::{Mesh, Place, PodSpec, binary, pods_toml},
    net::{Net, Node, Pod},
    poll::wait_for,
    process::{Launch, Outcome},
    web::{Nginx, get},
    weirctl::text,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A mesh that serves a client while bad input is given to it, to a second agent or to a second proxy.
struct Scene {
    mesh: Mesh,
    _nginx: Nginx,
    client: Pod,
    server: Pod,
    spec: PodSpec,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let node = net.node("a");
        let (client, server) = (node.pod("client"), node.pod("server"));
        let nginx = Nginx::start(&server, 80, r#"location / { return 200 "ok\n"; }"#);
        let spec = PodSpec::of(&client);
        let mesh = Mesh::start(&node, &[&spec]);
        let scene = Self { mesh, _nginx: nginx, client, server, spec, node, _net: net };
        scene.is_well();
        scene
    }

    /// The enrolled pod is served through the proxy.
    #[track_caller]
    fn is_well(&self) {
        let before = self.mesh.ctl.counters(&self.spec.full_name());
        get(&self.client, &format!("http://{}/", self.server.v4(80)));
        let decided = self.mesh.ctl.counters(&self.spec.full_name()).since(&before);
        assert_eq!(decided.of(Rule::Redirected), 1, "{decided:?}");
    }

    fn launch(&self, program: &str) -> Launch<'static> {
        Launch::new(binary(program), self.node.directory())
    }

    /// A second agent on a place of its own with this agent.toml and one pod.
    fn agent(&self, configuration: impl FnOnce(&Place) -> String) -> Outcome {
        let place = Place::new(&self.node);
        place.write_pods(&[]);
        let file = place.write("agent.toml", &configuration(&place));
        let outcome = self.launch("weir-agent").args(["run", "--config"]).args([&file]).output(PATIENCE);
        let _ = self.launch("weir-agent").args(["uninstall", "--instance", &place.instance]).output(PATIENCE);
        outcome
    }
}

/// Fails unless the program ended with an error of one line that contains all of `words`.
#[track_caller]
fn assert_one_clear_line(what: &str, outcome: &Outcome, words: &[&str]) {
    let lines = error_lines(what, outcome);
    assert_eq!(lines.len(), 1, "{what}: not one line:\n{}", outcome.stderr);
    for word in words {
        assert!(lines[0].contains(word), "{what}: no {word:?} in: {}", lines[0]);
    }
}

/// What a program that failed had to say.
#[track_caller]
fn error_lines<'a>(what: &str, outcome: &'a Outcome) -> Vec<&'a str> {
    assert!(!outcome.status.success(), "{what}: succeeded: {outcome:?}");
    assert!(outcome.status.code().is_some(), "{what}: killed by a signal: {outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    println!("{what}:\n    {}", lines.join("\n    "));
    lines
}

/// A bootstrap with one listener of one tcp_proxy, with parts replaced.
fn bootstrap(port: u16) -> String {
    format!(
        "static_resources:
  listeners:
  - name: in
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: out
  clusters:
  - name: out
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: out
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9 }} }} }}
"
    )
}

#[test]
fn a_malformed_bootstrap_is_refused_with_field_and_line() {
    let scene = Scene::new();
    let place = Place::new(&scene.node);
    let good = bootstrap(18_080);
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        ("unknown field", "stat_prefix: tcp", "stat_prefix: tcp\n          no_such: 1", &["no_such", ":11"]),
        ("wrong type", "port_value: 18080", "port_value: eighty", &["port_value", ":4"]),
        ("bad duration", "connect_timeout: 1s", "connect_timeout: soon", &["connect_timeout", ":15", "soon"]),
        ("failed validation", "stat_prefix: tcp", "stat_prefix: ''", &["stat_prefix"]),
        ("unknown type", "network.tcp_proxy.v3.TcpProxy", "network.tcp_proxy.v9.TcpProxy", &["tcp_proxy.v9.TcpProxy"]),
        ("not YAML", "static_resources:", "static_resources: [", &["bootstrap"]),
    ];
    for mode in ["validate", "serve"] {
        for (what, from, to, words) in cases {
            assert!(good.contains(from), "{what}: nothing to replace");
            let file = place.write("bootstrap.yaml", &good.replacen(from, to, 1));
            let outcome = scene.launch("weir-proxy").args(["--mode", mode, "-c"]).args([&file]).output(PATIENCE);
            assert_one_clear_line(&format!("{what}, {mode}"), &outcome, words);
        }
    }
    let missing = place.file("missing.yaml");
    let outcome = scene.launch("weir-proxy").arg_path("-c", &missing).output(PATIENCE);
    assert_one_clear_line("missing file", &outcome, &["missing.yaml", "No such file"]);
    let outcome = scene.launch("weir-proxy").output(PATIENCE);
    assert!(!outcome.status.success() && outcome.stderr.contains("--handoff"), "{outcome:?}");
    // On a node too: the proxy that serves is not touched by one that does not start.
    let file = place.write("bootstrap.yaml", &good.replacen("connect_timeout: 1s", "connect_timeout: soon", 1));
    let outcome = scene
        .launch("weir-proxy")
        .arg_path("-c", &file)
        .arg_path("--handoff", &scene.mesh.agent.place.handoff())
        .output(PATIENCE);
    assert_one_clear_line("bad duration on a node", &outcome, &["connect_timeout"]);
    let file = place.write("bootstrap.yaml", &good);
    let outcome = scene.launch("weir-proxy").args(["--mode", "validate", "-c"]).args([&file]).output(PATIENCE);
    assert!(outcome.status.success(), "{outcome:?}");
    scene.is_well();
}

#[test]
fn a_port_in_use_is_named() {
    let scene = Scene::new();
    let place = Place::new(&scene.node);
    let taken = scene.node.netns.run(|| std::net::TcpListener::bind("127.0.0.1:18081")).expect("a free port");
    let file = place.write("bootstrap.yaml", &bootstrap(18_081));
    let outcome = scene.node.launch(binary("weir-proxy")).arg_path("-c", &file).output(PATIENCE);
    assert_one_clear_line("port in use", &outcome, &["127.0.0.1:18081", "in use"]);
    drop(taken);
    scene.is_well();
}

#[test]
fn a_malformed_agent_configuration_is_refused() {
    let scene = Scene::new();
    let cases: [(&str, &str, &str, &[&str]); 7] = [
        ("unknown key", "workers = 2", "wrokers = 2", &["agent.toml:3", "wrokers"]),
        ("wrong type", "workers = 2", "workers = \"two\"", &["agent.toml:3", "workers"]),
        ("too many workers", "workers = 2", "workers = 99", &["workers", "16"]),
        ("bad duration", "drain = \"1s\"", "drain = \"soon\"", &["drain", "soon"]),
        (
            "bad CIDR",
            "drain = \"1s\"",
            "exclude_outbound_cidrs = [\"10.0.0.0/99\"]",
            &["exclude_outbound_cidrs", "10.0.0.0/99"],
        ),
        ("bad port", "drain = \"1s\"", "exclude_outbound_ports = [70000]", &["exclude_outbound_ports", "70000"]),
        ("not TOML", "workers = 2", "workers = = 2", &["agent.toml:3"]),
    ];
    for (what, from, to, words) in cases {
        let bad = |place: &Place| {
            let good = place.configuration("drain = \"1s\"");
            assert!(good.contains(from), "{what}: nothing to replace");
            good.replacen(from, to, 1)
        };
        assert_one_clear_line(what, &scene.agent(bad), words);
        let place = Place::new(&scene.node);
        let file = place.write("agent.toml", &bad(&place));
        let outcome = scene.launch("weir-agent").args(["check", "--config"]).args([&file]).output(PATIENCE);
        assert_one_clear_line(&format!("{what}, check"), &outcome, words);
    }
    let file = scene.mesh.agent.place.file("agent.toml");
    let outcome = scene.launch("weir-agent").args(["check", "--config"]).args([&file]).output(PATIENCE);
    assert!(
        outcome.status.success() && outcome.stdout.contains("with everything that weir needs"),
        "features are shown: {outcome:?}"
    );
    let place = Place::new(&scene.node);
    let file = place.write("agent.toml", &place.configuration("drain = \"1s\"").replace("pods.toml", "none.toml"));
    let outcome = scene.launch("weir-agent").args(["check", "--config"]).args([&file]).output(PATIENCE);
    assert_one_clear_line("missing pods", &outcome, &["source.file.path: ", "none.toml: No such file"]);
    let outcome = scene.launch("weir-agent").args(["run", "--config", "/nonexistent/agent.toml"]).output(PATIENCE);
    assert_one_clear_line("missing file", &outcome, &["/nonexistent/agent.toml", "No such file"]);
    scene.is_well();
}

#[test]
fn a_malformed_pods_file_leaves_the_pods_as_they_were() {
    let scene = Scene::new();
    let place = &scene.mesh.agent.place;
    let good = pods_toml(std::slice::from_ref(&scene.spec));
    let cases: [(&str, String, &[&str]); 5] = [
        ("unknown key", good.replacen("uid =", "nmae = \"x\"\nuid =", 1), &["pods.toml", "nmae"]),
        ("wrong type", good.replacen("probe_ports = []", "probe_ports = \"80\"", 1), &["pods.toml", "probe_ports"]),
        ("missing key", good.replacen("uid = \"uid-client\"", "", 1), &["pods.toml", "uid"]),
        ("the same uid twice", format!("{good}\n{good}"), &["pods.toml", "uid-client"]),
        ("not TOML", "[[pods]".to_owned(), &["pods.toml:1", "pods.toml"]),
    ];
    for (what, content, words) in cases {
        assert_ne!(content, good, "{what}");
        place.write("pods.toml", &content);
        wait_for(&format!("the status tells of {what}"), PATIENCE, || {
            let status = scene.mesh.ctl.try_json(&["status"])?;
            let error = text(&status, "source_error").to_owned();
            if words.iter().all(|word| error.contains(word)) { Ok(()) } else { Err(format!("source_error {error:?}")) }
        });
        let shown = scene.mesh.ctl.text(&["status"]);
        assert!(shown.contains(words[0]) && shown.contains(words[1]), "{what}: in plain text too: {shown}");
        scene.is_well();
        place.write("pods.toml", &good);
        wait_for("the error is gone", PATIENCE, || {
            let status = scene.mesh.ctl.try_json(&["status"])?;
            if text(&status, "source_error").is_empty() { Ok(()) } else { Err(status.to_string()) }
        });
    }
    fs::remove_file(place.pods()).expect("a file of this test");
    wait_for("the status tells that the file is missing", PATIENCE, || {
        let status = scene.mesh.ctl.try_json(&["status"])?;
        if text(&status, "source_error").contains("No such file") { Ok(()) } else { Err(status.to_string()) }
    });
    scene.is_well();
}

#[test]
fn a_pod_that_cannot_be_enrolled_says_why() {
    let scene = Scene::new();
    let agent = &scene.mesh.agent;
    let pods: Vec<Pod> = ["annotated", "late"].into_iter().map(|name| scene.node.pod(name)).collect();
    let vanished = PodSpec {
        uid: "uid-vanished".to_owned(),
        name: "vanished".to_owned(),
        netns: "/run/netns/weir-test-vanished".into(),
        ..PodSpec::of(&pods[0])
    };
    let not_a_netns = PodSpec {
        uid: "uid-file".to_owned(),
        name: "file".to_owned(),
        netns: "/etc/hostname".into(),
        ..vanished.clone()
    };
    let node = PodSpec {
        uid: "uid-node".to_owned(),
        name: "node".to_owned(),
        netns: scene.node.netns.path(),
        ..vanished.clone()
    };
    let twin = PodSpec { uid: "uid-twin".to_owned(), name: "twin".to_owned(), ..scene.spec.clone() };
    let annotation =
        |value: &str| PodSpec::of(&pods[0]).annotation("traffic.sidecar.istio.io/excludeOutboundIPRanges", value);
    let cases: [(&str, PodSpec, &[&str]); 5] = [
        ("a netns that vanished", vanished, &["/run/netns/weir-test-vanished", "does not exist"]),
        ("a file that is no netns", not_a_netns, &["/etc/hostname"]),
        ("the node's own netns", node, &["node"]),
        ("a netns that another pod has", twin, &["default/client"]),
        ("a malformed annotation", annotation("10.0.0.0/8,ten"), &["excludeOutboundIPRanges", "ten"]),
    ];
    for (what, spec, words) in cases {
        agent.set_pods(&[scene.spec.clone(), spec.clone()]);
        let reason = agent.wait_pending(&spec, words[0]);
        println!("{what}:\n    {reason}");
        assert!(words.iter().all(|word| reason.contains(word)), "{what}: {reason}");
        assert_eq!(reason.lines().count(), 1, "{what}: {reason}");
        let status = scene.mesh.ctl.json(&["status"]);
        assert_eq!(status["pods_pending"], 1, "{what}: {status}");
        for shown in [scene.mesh.ctl.text(&["pod", "list"]), scene.mesh.ctl.text(&["status"])] {
            assert!(shown.contains(words[0]), "{what}: {shown}");
        }
        scene.is_well();
    }
    // What was wrong is put right: the pod is enrolled.
    let right = annotation("10.0.0.0/8");
    agent.set_pods(&[scene.spec.clone(), right.clone()]);
    agent.wait_enrolled(&[&right]);
    // A netns that comes later is found.
    let late = PodSpec { netns: "/run/netns/weir-test-late".into(), ..PodSpec::of(&pods[1]) };
    let _ = fs::remove_file("/run/netns/weir-test-late");
    agent.set_pods(&[scene.spec.clone(), late.clone()]);
    agent.wait_pending(&late, "weir-test-late");
    std::os::unix::fs::symlink(pods[1].netns.path(), "/run/netns/weir-test-late").expect("a link");
    agent.wait_enrolled(&[&late]);
    fs::remove_file("/run/netns/weir-test-late").expect("a link");
    scene.is_well();
}

#[test]
fn a_pod_whose_port_is_taken_says_so() {
    let scene = Scene::new();
    let squatter = scene.node.pod("squatter");
    let taken = squatter.netns.run(|| std::net::TcpListener::bind(("0.0.0.0", 15_001))).expect("bound first");
    let spec = PodSpec::of(&squatter);
    scene.mesh.agent.set_pods(&[scene.spec.clone(), spec.clone()]);
    let reason = scene.mesh.agent.wait_pending(&spec, "15001");
    println!("{reason}");
    assert!(reason.contains("taken"), "{reason}");
    scene.is_well();
    drop(taken);
    scene.mesh.agent.wait_enrolled(&[&spec]);
}

/// Runs a second agent with its mounts changed by a shell line.
fn agent_with_mounts(scene: &Scene, line: &str) -> Outcome {
    let place = Place::new(&scene.node);
    place.write_pods(&[]);
    let file = place.write("agent.toml", &place.configuration(""));
    let script = format!("{line} && exec {} run --config {}", binary("weir-agent").display(), file.display());
    Launch::new("unshare", scene.node.directory()).args(["--mount", "sh", "-c", &script]).output(PATIENCE)
}

#[test]
fn what_the_machine_lacks_is_named() {
    let scene = Scene::new();
    let outcome = agent_with_mounts(&scene, "mount -t tmpfs none /sys/kernel/btf");
    assert_one_clear_line("missing BTF", &outcome, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
    scene.is_well();

    let outcome = agent_with_mounts(&scene, "umount /sys/fs/bpf");
    assert_one_clear_line("bpffs not mounted", &outcome, &["/sys/fs/bpf", "bpffs", "mount -t bpf"]);
    scene.is_well();

    let plain = Place::new(&scene.node).file("plain");
    fs::create_dir(&plain).expect("a directory of this test");
    let outcome = scene.agent(|place| place.configuration("").replace("\"/sys/fs/bpf\"", &format!("{plain:?}")));
    assert_one_clear_line("a directory that is no bpffs", &outcome, &[&plain.display().to_string(), "bpffs"]);

    let below = scene.node.cgroups().root().to_owned();
    let root = format!("cgroup2 = {:?}", cgroup::root());
    let outcome = scene.agent(|place| place.configuration("").replace(&root, &format!("cgroup2 = {below:?}")));
    assert_one_clear_line("not the root of cgroup2", &outcome, &[&below.display().to_string(), "root"]);
    let outcome = scene.agent(|place| place.configuration("").replace(&root, "cgroup2 = \"/tmp\""));
    assert_one_clear_line("not a cgroup2", &outcome, &["/tmp", "cgroup2"]);

    scene.is_well();
}

#[test]
fn what_may_come_later_is_told_and_waited_for() {
    let scene = Scene::new();
    let place = Place::new(&scene.node);
    let pods = format!("pods_cgroup = {:?}", scene.node.cgroups().pods());
    let configuration = place.configuration("");
    assert!(configuration.contains(&pods));
    let configuration = configuration.replace(&pods, "pods_cgroup = \"/sys/fs/cgroup/no-such-kubepods\"");
    let file = place.write("agent.toml", &configuration);
    let mut agent = scene.launch("weir-agent").args(["run", "--config"]).args([&file]).start();
    for words in [["node_processes.pods_cgroup", "no-such-kubepods"], ["pods.toml", "No such file"]] {
        wait_for(&format!("the log tells of {words:?}"), PATIENCE, || {
            let log = agent.log();
            let told = log.lines().any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word)));
            if told { Ok(()) } else { Err(log) }
        });
    }
    wait_for("and the status too", PATIENCE, || {
        let status = place.weirctl().try_json(&["status"])?;
        if text(&status, "source_error").contains("No such file") { Ok(()) } else { Err(status.to_string()) }
    });
    agent.terminate();
    let outcome = scene.launch("weir-agent").args(["uninstall", "--instance", &place.instance]).output(PATIENCE);
    assert!(outcome.status.success() && !place.pins().exists(), "{outcome:?}");
    scene.is_well();
}

#[test]
fn a_missing_capability_is_named() {
    let scene = Scene::new();
    for (dropped, words) in [
        ("-net_admin", ["CAP_NET_ADMIN"].as_slice()),
        ("-sys_admin", &["CAP_SYS_ADMIN"]),
        ("-all", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]),
    ] {
        let place = Place::new(&scene.node);
        place.write_pods(&[]);
        let file = place.write("agent.toml", &place.configuration(""));
        let outcome = Launch::new("setpriv", scene.node.directory())
            .args(["--bounding-set", dropped, "--inh-caps", dropped])
            .args([&binary("weir-agent")])
            .args(["run", "--config"])
            .args([&file])
            .output(PATIENCE);
        // One line for each.
        let lines = error_lines(dropped, &outcome);
        assert_eq!(lines.len(), words.len(), "{dropped}: {}", outcome.stderr);
        assert!(lines.iter().zip(words).all(|(line, word)| line.contains(word)), "{dropped}: {}", outcome.stderr);
    }
    scene.is_well();
}

#[test]
fn a_second_agent_that_cannot_ask_the_first_to_step_down_is_refused() {
    let scene = Scene::new();
    let place = &scene.mesh.agent.place;
    let elsewhere = scene.node.directory().join("elsewhere");
    let configuration = format!("state = {elsewhere:?}\n{}", place.configuration(""))
        .replace("agent.sock", "other.sock")
        .replace("handoff.sock", "other-handoff");
    let file = place.write("second.toml", &configuration);
    let outcome = scene.launch("weir-agent").args(["run", "--config"]).args([&file]).output(PATIENCE);
    assert_one_clear_line("second agent", &outcome, &[&place.instance]);
    scene.is_well();
    let status = scene.mesh.ctl.json(&["status"]);
    assert_eq!(status["pid"], scene.mesh.agent.process.pid());
}

#[test]
fn a_stranger_on_the_handoff_socket_is_shown_the_door() {
    let scene = Scene::new();
    let handoff = scene.mesh.agent.place.handoff();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&handoff).expect("it is there").permissions());
    assert_eq!(mode & 0o777, 0o660, "only its group may dial it");
    // A proxy of another user is refused by the socket's mode.
    let mut stranger = scene.launch("weir-proxy").args(["--user", "12345"]).arg_path("--handoff", &handoff).start();
    wait_for("the stranger says why", PATIENCE, || {
        let log = stranger.log();
        if log.contains("Permission denied") { Ok(()) } else { Err(log) }
    });
    stranger.terminate();
    scene.is_well();
    // Garbage ends only its own connection.
    let garbage = || -> nix::Result<()> {
        use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&handoff)?)?;
        send(fd.as_raw_fd(), &[0xff; 99], MsgFlags::empty())?;
        let mut answer = [0; 64];
        let read = nix::sys::socket::recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        assert_eq!(read, 0, "the agent hangs up");
        Ok(())
    };
    match garbage() {
        Ok(()) | Err(nix::errno::Errno::ECONNRESET | nix::errno::Errno::EPIPE) => {}
        Err(error) => panic!("{error}"),
    }
    scene.is_well();
}
