//! Taking weir off a node: told through the API server, and by the command; the node is as it was before.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use weir_tests::{
    apiserver::{ApiServer, PodObject, namespace, node},
    echo::{Bind, Echo, dial},
    mesh::{Agent, Place, PodSpec, Proxy},
    net::{Net, Node, Pod},
    poll::wait_for,
    process::Process,
    sys::{BpfKind, bpf_ids},
    weirctl::text,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 20_000;
/// The configuration that a node's network came with.
const CONFLIST: &str =
    "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"lab\",\n  \"plugins\": [ {\"type\": \"bridge\"} ]\n}\n";

/// A node as somebody sees it who looks for traces.
type Picture = BTreeMap<String, String>;

/// What a pod's namespace shows: sockets that listen, sysctls that weir changes, addresses.
fn picture_of_pod(pod: &Pod) -> Picture {
    let shell = |command: &str| {
        let output = pod.netns.run(|| Command::new("sh").args(["-c", command]).output().expect("a shell"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let name = pod.name();
    [
        // Columns without counters that change by themselves.
        (
            "listening sockets",
            shell("awk '$4 == \"0A\" {print FILENAME, $2}' /proc/self/net/tcp /proc/self/net/tcp6 | sort"),
        ),
        ("sysctls", shell("cd /proc/sys/net/ipv4; grep '' ip_local_reserved_ports tcp_tw_reuse")),
        ("addresses", shell("ip -o address | sed 's/ valid_lft.*//'")),
    ]
    .map(|(what, shown)| (format!("{what} of {name}"), shown))
    .into()
}

/// Every file below a directory, with its content.
fn files(directory: &Path) -> Picture {
    let mut picture = Picture::new();
    let Ok(entries) = fs::read_dir(directory) else { return picture };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            picture.insert(path.display().to_string(), "directory".to_owned());
            picture.extend(files(&path));
        } else {
            let content = fs::read(&path).map_or_else(|error| error.to_string(), |bytes| format!("{bytes:?}"));
            picture.insert(path.display().to_string(), content);
        }
    }
    picture
}

/// A node of a cluster with two pods of an enrolled namespace, and everything that an agent can put onto it.
struct Scene {
    agent: Option<Agent>,
    proxy: Option<Proxy>,
    server: ApiServer,
    health: u16,
    state: PathBuf,
    _sandboxes: Vec<Process>,
    client: Pod,
    target: Pod,
    _echo: Echo,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let on = net.node("a");
        let (client, target) = (on.pod("client"), on.pod("target"));
        let echo = Echo::start(&target.netns, [PORT], Bind::Separate);
        let server = ApiServer::start();
        server.put(node(on.name()));
        server.put(namespace("shop", &["weir.dev/mesh=enabled"]));
        server.put(namespace("weir-system", &[]));
        server.put(PodObject::new("weir-system", "weir-x", on.name()).controller("d1"));
        // As the kubelet names it, and a process in it by which the agent finds the namespace.
        let proc = on.directory().join("proc");
        fs::create_dir_all(&proc).expect("a directory of this test");
        symlink("/proc/self", proc.join("1")).expect("a directory of this test");
        let mut sandboxes = Vec::new();
        for pod in [&client, &target] {
            let uid = format!("{}-{}", on.prefix(), pod.name());
            let cgroup = on.cgroups().pods().join(format!("pod{uid}/sandbox"));
            fs::create_dir_all(&cgroup).expect("a cgroup of this test");
            let sandbox = on.launch("sleep").netns(&pod.netns).cgroup(&cgroup).args(["3600"]).start();
            let pid = sandbox.pid().to_string();
            symlink(Path::new("/proc").join(&pid), proc.join(&pid)).expect("a new process has a new id");
            server.put(PodObject::new("shop", pod.name(), on.name()).uid(&uid));
            sandboxes.push(sandbox);
        }
        // Free a moment ago; nothing else here takes ports of the loopback interface.
        let health = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let state = on.directory().join("host");
        for directory in ["etc/cni/net.d", "opt/cni/bin", "var/lib", "seccomp"] {
            fs::create_dir_all(state.join(directory)).expect("a directory of this test");
        }
        fs::write(state.join("etc/cni/net.d/10-lab.conflist"), CONFLIST).expect("a file of this test");
        fs::write(state.join("opt/cni/bin/bridge"), "the main plugin").expect("a file of this test");
        let (agent, proxy, node) = (None, None, on);
        Self {
            agent,
            proxy,
            server,
            health,
            state,
            _sandboxes: sandboxes,
            client,
            target,
            _echo: echo,
            node,
            _net: net,
        }
    }

    /// Puts an agent and a proxy onto the node, and waits until both pods are enrolled and the CNI plugin is in place.
    #[track_caller]
    fn install(&mut self) {
        let place = Place::new(&self.node);
        let host = |path: &str| self.state.join(path);
        let run = host("run");
        let configured = place.configuration("drain = \"2s\"");
        let (before, _) = configured.split_once("[source.file]").expect("the usual source");
        let kubeconfig = self.server.kubeconfig(self.node.directory());
        let proc = self.node.directory().join("proc");
        let configuration = format!(
            "state = {run:?}\n{before}[source.kubernetes]\nnamespace = \"weir-system\"\npod = \"weir-x\"\n\
             kubeconfig = {kubeconfig:?}\nproc = {proc:?}\n\
             [cni]\nconf_dir = {:?}\nbin_dir = {:?}\nbinary = {:?}\nsocket = {:?}\nstate_dir = {:?}\n\
             host_state_dir = \"/var/lib/weir\"\n\
             [seccomp]\nprofile = {:?}\n[health]\naddress = \"127.0.0.1:{}\"\n{}",
            host("etc/cni/net.d"),
            host("opt/cni/bin"),
            host("opt/cni/bin/bridge"),
            run.join("cni.sock"),
            host("var/lib/weir"),
            host("seccomp/weir/proxy.json"),
            self.health,
            place.keeper("60s"),
        );
        let agent = Agent::start_configured(place, &[], &configuration);
        let proxy = Proxy::start(&agent);
        for pod in ["client", "target"] {
            wait_for(&format!("{pod} is enrolled"), PATIENCE, || {
                let row = agent.ctl.pods()?.remove(&format!("shop/{pod}")).ok_or("not listed")?;
                if text(&row, "state") == "enrolled" { Ok(()) } else { Err(row.to_string()) }
            });
        }
        wait_for("the CNI plugin is in place", PATIENCE, || {
            let text = fs::read_to_string(self.state.join("etc/cni/net.d/10-lab.conflist")).unwrap_or_default();
            if text.contains("weir-cni") { Ok(()) } else { Err(text) }
        });
        (self.agent, self.proxy) = (Some(agent), Some(proxy));
    }

    fn picture(&self) -> Picture {
        let mut picture = files(&self.state);
        picture.extend(picture_of_pod(&self.client));
        picture.extend(picture_of_pod(&self.target));
        let pins = Path::new("/sys/fs/bpf/weir");
        let ours = |name: &String| name.starts_with(self.node.prefix());
        let entries = fs::read_dir(pins).into_iter().flatten().flatten();
        let pinned: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(ours).collect();
        picture.insert("pins".to_owned(), format!("{pinned:?}"));
        let cgroups = fs::read_dir(self.node.cgroups().root()).expect("the cgroups of this test").flatten();
        let mut cgroups: Vec<_> =
            cgroups.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
        cgroups.sort();
        picture.insert("cgroups".to_owned(), format!("{cgroups:?}"));
        picture
    }

    /// What the kubelet or `weirctl uninstall` is answered.
    fn health(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}/healthz/{path}", self.health);
        let output = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output();
        String::from_utf8_lossy(&output.expect("curl").stdout).into_owned()
    }
}

/// The numbers of the instance's links, programs and maps.
fn numbers(agent: &Agent) -> Vec<(BpfKind, u32)> {
    let kinds = [("prog", "id", BpfKind::Program), ("prog", "link_id", BpfKind::Link), ("map", "id", BpfKind::Map)];
    let mut all = Vec::new();
    for (object, field, kind) in kinds {
        let list = agent.ctl.json(&[object, "list"]);
        let rows = list.as_array().expect("a list");
        all.extend(rows.iter().map(|row| (kind, row[field].as_u64().expect("a number") as u32)));
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

#[track_caller]
fn wait_unloaded(numbers: &[(BpfKind, u32)]) {
    // The kernel lets go of them a moment after their last reference.
    wait_for("links, programs and maps are gone", PATIENCE, || {
        let mut left: Vec<&(BpfKind, u32)> = Vec::new();
        for kind in [BpfKind::Link, BpfKind::Program, BpfKind::Map] {
            let there = bpf_ids(kind).map_err(|error| error.to_string())?;
            left.extend(numbers.iter().filter(|(of, id)| *of == kind && there.contains(id)));
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[track_caller]
fn assert_same(before: &Picture, after: &Picture) {
    let names = before.keys().chain(after.keys());
    let different: Vec<String> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| format!("{name}: {:?} was {:?}", after.get(name), before.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn annotated(uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata":
        {"name": "weir-system", "annotations": {"weir.dev/uninstall": uid}}})
}

#[test]
fn an_agent_that_is_told_to_go_leaves_the_node_as_it_was() {
    let mut scene = Scene::new();
    // A pod that had one of the ports reserved before keeps it.
    scene.client.netns.sysctl("ipv4/ip_local_reserved_ports", "8080,15006");
    let before = scene.picture();
    scene.install();
    let mut agent = scene.agent.take().expect("installed");
    let during = scene.picture();
    let changed = before.iter().filter(|(name, shown)| during.get(*name) != Some(shown)).count();
    assert!(changed >= 5 && during.len() > before.len() + 5, "{during:?}");
    let to = scene.target.v4(PORT);
    assert!(dial(&scene.client.netns, to).expect("redirected").destination_is_true());
    assert_eq!((scene.health("uninstalled"), scene.health("ready")), ("503".to_owned(), "200".to_owned()));

    // Another DaemonSet's end is none of its business.
    scene.server.put(annotated("d2"));
    scene.server.put(namespace("other", &["weir.dev/mesh=enabled"]));
    let numbers = numbers(&agent);
    assert_eq!(scene.health("uninstalled"), "503");

    scene.server.put(annotated("d1"));
    wait_for("the agent says that it is off the node", PATIENCE, || match scene.health("uninstalled").as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    wait_unloaded(&numbers);
    assert!(dial(&scene.client.netns, to).expect("as without weir").destination_is_true());
    // The proxy goes with the pod; until then it holds nothing.
    assert_same(&before, &scene.picture());
    assert!(agent.process.ended().is_none(), "it waits until its pod ends");
    if let Some(mut proxy) = scene.proxy.take() {
        proxy.process.terminate();
    }
    assert!(agent.process.terminate().success());
    assert_same(&before, &scene.picture());
}

#[test]
fn an_uninstall_that_is_taken_back_puts_weir_onto_the_node_again() {
    let mut scene = Scene::new();
    scene.install();
    scene.server.put(annotated("d1"));
    let uninstalled = |wanted: &'static str| {
        wait_for(&format!("the agent answers {wanted}"), PATIENCE, || match scene.health("uninstalled").as_str() {
            code if code == wanted => Ok(()),
            other => Err(other.to_owned()),
        })
    };
    uninstalled("200");
    assert_eq!(scene.health("ready"), "503");
    scene.server.put(namespace("weir-system", &[]));
    uninstalled("503");
    let mut agent = scene.agent.take().expect("installed");
    agent.wait_until_ready();
    // It ended with the uninstall; the kubelet starts it again.
    scene.proxy = Some(Proxy::start(&agent));
    wait_for("the agent is ready", PATIENCE, || match scene.health("ready").as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    wait_for("the CNI plugin is in place", PATIENCE, || {
        let text = fs::read_to_string(scene.state.join("etc/cni/net.d/10-lab.conflist")).unwrap_or_default();
        if text.contains("weir-cni") { Ok(()) } else { Err(text) }
    });
    assert!(scene.state.join("seccomp/weir/proxy.json").exists());
    let rows = agent.ctl.json(&["pod", "list"]);
    let states: Vec<&str> = rows.as_array().expect("a list").iter().map(|row| text(row, "state")).collect();
    assert_eq!(states, ["enrolled", "enrolled"], "{rows}");
    assert!(dial(&scene.client.netns, scene.target.v4(PORT)).expect("redirected").destination_is_true());
    if let Some(mut proxy) = scene.proxy.take() {
        proxy.process.terminate();
    }
}

#[test]
fn the_agent_of_another_installation_follows_one_that_took_weir_off_the_node() {
    let mut scene = Scene::new();
    scene.install();
    // In a pod the directory of the state is a mount point, and stays.
    fs::write(scene.state.join("run/other"), "").expect("a file of this test");
    scene.server.put(annotated("d1"));
    wait_for("weir is off the node", PATIENCE, || match scene.health("uninstalled").as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
    let mut agent = scene.agent.take().expect("installed");
    // Their pods overlap, where the new one comes before the old one is gone.
    scene.server.put(PodObject::new("weir-system", "weir-y", scene.node.name()).controller("d2"));
    let configuration = agent.configuration();
    let (pod, address) = ("\"weir-x\"", format!("[health]\naddress = \"127.0.0.1:{}\"\n", scene.health));
    assert!(configuration.contains(pod) && configuration.contains(&address), "{configuration}");
    let mut former = agent.follow_with(&configuration.replace(pod, "\"weir-y\"").replace(&address, ""));
    let heard = "another agent takes weir off this node";
    wait_for("the new agent waits", PATIENCE, || match agent.process.log() {
        log if log.contains(heard) => Ok(()),
        log => Err(log),
    });
    // The proxy ended with the uninstall.
    drop(scene.proxy.take());
    assert!(former.terminate().success());
    agent.wait_until_ready();
    scene.proxy = Some(Proxy::start(&agent));
    wait_for("both pods are enrolled again", PATIENCE, || {
        let rows = agent.ctl.pods()?;
        let states: Vec<&str> = rows.values().map(|row| text(row, "state")).collect();
        if states == ["enrolled", "enrolled"] { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    assert!(dial(&scene.client.netns, scene.target.v4(PORT)).expect("redirected").destination_is_true());
    if let Some(mut proxy) = scene.proxy.take() {
        proxy.process.terminate();
    }
}

#[test]
fn the_command_does_the_same_where_no_agent_runs_and_names_the_one_that_does() {
    let mut scene = Scene::new();
    let before = scene.picture();
    scene.install();
    let mut agent = scene.agent.take().expect("installed");
    let refused = agent.uninstall();
    let expected = format!(
        "weir-agent: an agent runs with the pins in {} (pid {}): end it first\n",
        agent.place.pins().display(),
        agent.process.pid()
    );
    assert!(!refused.status.success());
    assert!(refused.stderr.ends_with(&expected), "{refused:?}");

    let numbers = numbers(&agent);
    if let Some(mut proxy) = scene.proxy.take() {
        proxy.process.terminate();
    }
    agent.process.terminate();
    for round in ["first", "again"] {
        let outcome = agent.uninstall();
        assert!(outcome.status.success(), "{round}: {outcome:?}");
        wait_unloaded(&numbers);
        assert_same(&before, &scene.picture());
    }
}

#[test]
fn a_pod_that_is_withdrawn_gets_its_sysctls_back() {
    sysctls_come_back(|agent, specs| {
        agent.set_pods(&[]);
        agent.wait_withdrawn(specs);
    });
}

#[test]
fn so_does_one_that_nobody_wants_any_more_when_the_next_agent_comes() {
    sysctls_come_back(|agent, _| {
        agent.process.kill9();
        agent.set_pods(&[]);
        agent.restart();
        wait_for("nobody is enrolled", PATIENCE, || match agent.ctl.map_entries("ENROLLED") {
            0 => Ok(()),
            entries => Err(entries),
        });
    });
}

fn sysctls_come_back(goes: impl Fn(&mut Agent, &[&PodSpec])) {
    let mut net = Net::new();
    let on = net.node("a");
    let pods = [on.pod("one"), on.pod("two")];
    pods[1].netns.sysctl("ipv4/ip_local_reserved_ports", "15000-15010");
    // The default, and switched off by somebody.
    pods[0].netns.sysctl("ipv4/tcp_tw_reuse", "2");
    pods[1].netns.sysctl("ipv4/tcp_tw_reuse", "0");
    let before = pods.each_ref().map(picture_of_pod);
    let specs = pods.each_ref().map(PodSpec::of);
    let mut agent = Agent::start_with(Place::new(&on), &specs, "drain = \"100ms\"");
    let mut proxy = Proxy::start(&agent);
    agent.wait_enrolled(&specs.each_ref());
    let reserved = |pod: &Pod| pod.netns.read_sysctl("ipv4/ip_local_reserved_ports").trim().to_owned();
    assert_eq!(pods.each_ref().map(reserved), ["15001,15006", "15000-15010"]);
    let reuse = |pod: &Pod| pod.netns.read_sysctl("ipv4/tcp_tw_reuse").trim().to_owned();
    assert_eq!(pods.each_ref().map(reuse), ["1", "0"]);
    // The next agent knows what of it was weir's.
    agent.process.kill9();
    agent.restart();
    proxy.wait_until_ready(&agent);
    agent.wait_enrolled(&specs.each_ref());
    goes(&mut agent, &specs.each_ref());
    for (pod, before) in pods.iter().zip(before) {
        wait_for("the namespace is as it was", PATIENCE, || {
            let now = picture_of_pod(pod);
            if now == before { Ok(()) } else { Err(format!("{now:?} was {before:?}")) }
        });
    }
}
