//! The agent with pods from an API server: labels, absence of the server, restarts, sandboxes that are replaced, events.
//!
//! Pods are namespaces with a process in a cgroup named as the kubelet names it, by which the agent finds them. The
//! agent's view of the node's processes is a directory of this test: a machine's own init may not be looked at in it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use weir_abi::Rule;
use weir_tests::{
    apiserver::{ApiServer, Fault, PodObject, Resource, Verb, namespace, node},
    echo::{Bind, Echo, dial},
    leaks::{self, Holdings},
    mesh::{Agent, Place, Proxy, binary},
    net::{Net, Node, Pod},
    poll::wait_for,
    process::{Launch, Process},
    weirctl::{number, text},
};

const PORT: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Label flips and replacements between two countings: more than what may come and go by itself.
const CYCLES: usize = 8;

/// A cluster with one node, and on it an echo server outside the mesh.
struct Scene {
    // The agent goes before what it follows.
    proxy: Option<Proxy>,
    agent: Agent,
    server: ApiServer,
    _echo: Echo,
    outside: Pod,
    node: Arc<Node>,
    _net: Net,
}

/// A pod that runs: a process that holds its namespace, and its cgroup.
struct Running {
    pod: Pod,
    sandbox: Process,
    uid: String,
}

/// The node's processes, as the agent sees them.
fn proc(node: &Node) -> PathBuf {
    node.directory().join("proc")
}

fn configuration(place: &Place, server: &ApiServer) -> String {
    let kubeconfig = server.kubeconfig(place.node().directory());
    let configured = place.configuration("drain = \"1s\"");
    let (before, _) = configured.split_once("[source.file]").expect("the usual source");
    let proc = proc(place.node());
    fs::create_dir_all(&proc).expect("a directory of this test");
    // Whoever looks is its own init.
    let _ = symlink("/proc/self", proc.join("1"));
    let own = format!("namespace = \"weir-system\"\npod = \"weir-x\"\nkubeconfig = {kubeconfig:?}\nproc = {proc:?}\n");
    format!("{before}[source.kubernetes]\n{own}")
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::new();
        let on = net.node("a");
        let outside = on.pod("server");
        let echo = Echo::start(&outside.netns, PORT..PORT + 10, Bind::Separate);
        let server = ApiServer::start();
        server.put(node(on.name()));
        for (name, labels) in [("shop", &["weir.dev/mesh=enabled"][..]), ("plain", &[]), ("weir-system", &[])] {
            server.put(namespace(name, labels));
        }
        let place = Place::new(&on);
        let configuration = configuration(&place, &server);
        let agent = Agent::start_configured(place, &[], &configuration);
        let proxy = Some(Proxy::start(&agent));
        Self { proxy, agent, server, _echo: echo, outside, node: on, _net: net }
    }

    fn uid(&self, name: &str) -> String {
        // Tests of one machine have one cgroup tree.
        format!("{}-{name}", self.node.prefix())
    }

    /// Starts a pod's sandbox, as the kubelet and the container runtime do.
    fn sandbox(&self, pod: &Pod, uid: &str) -> Process {
        let container = self.node.cgroups().pods().join(format!("pod{uid}/sandbox"));
        fs::create_dir_all(&container).expect("a cgroup of this test");
        let process = self.node.launch("sleep").netns(&pod.netns).cgroup(&container).args(["3600"]).start();
        let pid = process.pid().to_string();
        symlink(Path::new("/proc").join(&pid), proc(&self.node).join(&pid)).expect("a new process has a new id");
        process
    }

    /// A pod that takes the name of another, which is gone with it.
    fn replace(&self, name: &str, again: usize) -> Running {
        let pod = self.node.pod(&format!("{name}-{again}"));
        let uid = self.uid(pod.name());
        self.server.put(PodObject::new("shop", name, self.node.name()).uid(&uid));
        let sandbox = self.sandbox(&pod, &uid);
        Running { pod, sandbox, uid }
    }

    /// Waits until this pod is enrolled, whoever else has its name still.
    #[track_caller]
    fn wait_enrolled(&self, running: &Running) {
        wait_for(&format!("{} is enrolled", running.uid), PATIENCE, || {
            let list = self.agent.ctl.try_json(&["pod", "list"])?;
            let is_it = |row: &Value| text(row, "uid") == running.uid && text(row, "state") == "enrolled";
            if list.as_array().is_some_and(|rows| rows.iter().any(is_it)) { Ok(()) } else { Err(list.to_string()) }
        });
    }

    /// Waits until so many pods are in the kernel.
    #[track_caller]
    fn wait_count(&self, pods: usize) {
        wait_for(&format!("{pods} pods are in the kernel"), PATIENCE, || {
            let entries = self.agent.ctl.map_entries("ENROLLED");
            if entries == pods { Ok(()) } else { Err(entries) }
        });
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("not taken")
    }

    /// Ends a pod's sandbox, and removes its cgroup as the kubelet does soon after.
    fn end(&self, running: &mut Running) {
        running.sandbox.kill9();
        let pod = self.node.cgroups().pods().join(format!("pod{}", running.uid));
        for cgroup in [pod.join("sandbox"), pod] {
            wait_for("the cgroup is removed", PATIENCE, || fs::remove_dir(&cgroup));
        }
    }

    /// Runs a pod that the API server knows by this object.
    fn run(&self, name: &str, object: impl Fn(PodObject) -> PodObject) -> Running {
        let pod = self.node.pod(name);
        let uid = self.uid(name);
        self.server.put(object(PodObject::new("shop", name, self.node.name()).uid(&uid)));
        let sandbox = self.sandbox(&pod, &uid);
        Running { pod, sandbox, uid }
    }

    /// The row of a pod, `namespace/name`, also of one that is passed over.
    fn row(&self, name: &str) -> Result<Value, String> {
        let list = self.agent.ctl.try_json(&["pod", "list", "--all"])?;
        let rows = list.as_array().ok_or_else(|| format!("not a list: {list}"))?;
        let of_name = |row: &&Value| format!("{}/{}", text(row, "namespace"), text(row, "name")) == name;
        rows.iter().find(of_name).cloned().ok_or_else(|| format!("{name} is not listed"))
    }

    #[track_caller]
    fn wait_state(&self, name: &str, state: &str, reason: &str) {
        wait_for(&format!("{name} is {state} {reason}"), PATIENCE, || {
            let row = self.row(name)?;
            let shown = text(&row, "state") == state && text(&row, "reason").contains(reason);
            if shown { Ok(()) } else { Err(row.to_string()) }
        });
    }

    #[track_caller]
    fn wait_gone(&self, name: &str) {
        wait_for(&format!("{name} is not listed"), PATIENCE, || match self.row(name) {
            Err(problem) if problem.ends_with("is not listed") => Ok(()),
            Err(problem) => Err(problem),
            Ok(row) => Err(row.to_string()),
        });
    }

    fn to(&self) -> SocketAddr {
        self.outside.v4(PORT)
    }

    /// Whether a new connection of the pod is carried.
    fn is_carried(&self, running: &Running) -> bool {
        let name = format!("shop/{}", running.pod.name());
        let carried = || self.row(&name).map_or(0, |row| number(&row["counters"][Rule::Redirected.name()]));
        let before = carried();
        let dialled = dial(&running.pod.netns, self.to()).expect("carried or not, it arrives");
        assert!(dialled.destination_is_true(), "{dialled:?}");
        carried() > before
    }

    #[track_caller]
    fn wait_error(&self, wanted: impl Fn(&str) -> bool) {
        wait_for("the source's error", PATIENCE, || {
            let status = self.agent.ctl.try_json(&["status"])?;
            if wanted(text(&status, "source_error")) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits for an event about a pod.
    #[track_caller]
    fn wait_event(&self, uid: &str, reason: &str) -> Value {
        wait_for(&format!("the event {reason} about {uid}"), PATIENCE, || {
            let events = self.server.events();
            let about = |event: &&Value| event["regarding"]["uid"] == uid && event["reason"] == reason;
            events.iter().find(about).cloned().ok_or_else(|| format!("{events:?}"))
        })
    }
}

#[test]
fn labels_decide_who_is_carried() {
    let scene = Scene::new();
    let web = scene.run("web", |pod| pod);
    let out = scene.run("out", |pod| pod.labels(&["weir.dev/mesh=disabled"]));
    scene.wait_state("shop/web", "enrolled", "");
    assert!(scene.is_carried(&web));
    scene.wait_state("shop/out", "passed-over", "its label weir.dev/mesh=disabled keeps it out");
    assert!(!scene.is_carried(&out));

    scene.server.put(namespace("shop", &[]));
    scene.wait_state("shop/web", "passed-over", "its namespace has no label weir.dev/mesh=enabled");
    assert!(!scene.is_carried(&web));
    scene.server.put(namespace("shop", &["weir.dev/mesh=enabled"]));
    scene.wait_state("shop/web", "enrolled", "");
    assert!(scene.is_carried(&web));
    for resource in [Resource::Pods, Resource::Namespaces, Resource::Nodes] {
        assert_eq!(scene.server.most_watches(resource), 1, "{resource:?}");
    }
}

#[test]
fn a_malformed_annotation_keeps_a_pod_pending_until_it_is_mended() {
    let scene = Scene::new();
    let annotated = |value: &'static str| move |pod: PodObject| pod.annotations(&[value]);
    let web = scene.run("web", annotated("weir.dev/exclude-outbound-ports=https"));
    let problem = "annotation weir.dev/exclude-outbound-ports: invalid \"https\", expected ports such as 25,587";
    scene.wait_state("shop/web", "pending", problem);
    assert!(!scene.is_carried(&web), "not half enrolled");
    let event = scene.wait_event(&web.uid, "EnrollFailed");
    assert_eq!((&event["type"], &event["regarding"]["name"]), (&"Warning".into(), &"web".into()));
    assert_eq!(event["note"], format!("This pod is not enrolled: {problem}"));
    let mended = annotated("weir.dev/exclude-outbound-ports=20001");
    let object = || PodObject::new("shop", "web", scene.node.name()).uid(&web.uid);
    scene.server.put(mended(object()));
    scene.wait_state("shop/web", "enrolled", "");
    assert!(scene.is_carried(&web));
    // A running pod stays what it was, and the reason is shown, for an annotation and for a label.
    let still = "what was said before still applies";
    scene.server.put(annotated("weir.dev/exclude-outbound-ports=https")(object()));
    scene.wait_state("shop/web", "pending", &format!("{problem}; {still}"));
    scene.server.put(object().labels(&["weir.dev/mesh=Enabled"]));
    let problem = "label weir.dev/mesh: invalid \"Enabled\", expected \"enabled\" or \"disabled\"";
    scene.wait_state("shop/web", "pending", &format!("{problem}; {still}"));
    assert!(scene.is_carried(&web));
    let event = scene.wait_event(&web.uid, "UpdateFailed");
    assert_eq!(event["note"], format!("This pod is enrolled, but not as it says now: {problem}; {still}"));
    scene.server.put(object());
    scene.wait_state("shop/web", "enrolled", "");
}

#[test]
fn a_mistake_that_is_put_right_in_time_is_not_told_and_one_that_is_made_again_is() {
    let scene = Scene::new();
    let (web, shop) = (scene.run("web", |pod| pod), scene.run("shop", |pod| pod));
    let object = |running: &Running, name: &str| PodObject::new("shop", name, scene.node.name()).uid(&running.uid);
    let mistake = |running: &Running, name: &str| {
        scene.server.put(object(running, name).labels(&["weir.dev/mesh=Enabled"]));
        let problem = "label weir.dev/mesh: invalid \"Enabled\", expected \"enabled\" or \"disabled\"";
        scene.wait_state(&format!("shop/{name}"), "pending", &format!("{problem}; what was said before still applies"));
    };
    let put_right = |running: &Running, name: &str| {
        scene.server.put(object(running, name));
        scene.wait_state(&format!("shop/{name}"), "enrolled", "");
    };
    let told = |running: &Running| {
        let events = scene.server.events();
        let about = |event: &&Value| event["regarding"]["uid"] == *running.uid && event["reason"] == "UpdateFailed";
        events.iter().find(about).map(|event| event["series"]["count"].as_u64().unwrap_or(1))
    };
    for name in ["shop/web", "shop/shop"] {
        scene.wait_state(name, "enrolled", "");
    }
    mistake(&web, "web");
    put_right(&web, "web");
    // Made later, so told later.
    mistake(&shop, "shop");
    scene.wait_event(&shop.uid, "UpdateFailed");
    assert_eq!(told(&web), None);
    put_right(&shop, "shop");
    mistake(&web, "web");
    mistake(&shop, "shop");
    wait_for("both are told, one for the second time", PATIENCE, || match (told(&web), told(&shop)) {
        (Some(1), Some(2)) => Ok(()),
        told => Err(told),
    });
}

#[test]
fn an_agent_that_restarts_without_the_api_server_leaves_nobody_behind() {
    let mut scene = Scene::new();
    let mut web = scene.run("web", |pod| pod);
    let stays = scene.run("stays", |pod| pod);
    for name in ["shop/web", "shop/stays"] {
        scene.wait_state(name, "enrolled", "");
    }
    let record = scene.agent.place.file(&format!("{}.pods.json", scene.agent.place.instance));
    wait_for("the namespaces are in the record", PATIENCE, || {
        let text = fs::read_to_string(&record).map_err(|error| error.to_string())?;
        if text.matches("\"cookie\"").count() == 2 { Ok(()) } else { Err(text) }
    });
    scene.server.stop();
    scene.wait_error(|error| error.starts_with("API server not reached since"));
    assert!(scene.is_carried(&stays));

    // Agent and proxy both go: the pods get new listening sockets from what was recorded.
    scene.agent.process.kill9();
    if let Some(mut proxy) = scene.proxy.take() {
        proxy.process.kill9();
    }
    scene.agent.restart();
    scene.proxy = Some(Proxy::start(&scene.agent));
    scene.wait_error(|error| error.ends_with("; the pods are those that an earlier agent knew"));
    for (name, running) in [("shop/web", &web), ("shop/stays", &stays)] {
        scene.wait_state(name, "enrolled", "");
        assert!(scene.is_carried(running), "{name}");
    }

    // Pods come and go meanwhile.
    web.sandbox.kill9();
    scene.server.delete(Resource::Pods, "shop/web");
    let comes = scene.run("comes", |pod| pod);
    scene.server.resume();
    scene.wait_error(str::is_empty);
    scene.wait_state("shop/comes", "enrolled", "");
    scene.wait_gone("shop/web");
    assert!(scene.is_carried(&comes) && scene.is_carried(&stays));
}

#[test]
fn a_sandbox_that_is_replaced_and_a_pod_that_takes_its_name_are_carried() {
    let scene = Scene::new();
    let mut web = scene.run("web", |pod| pod);
    scene.wait_state("shop/web", "enrolled", "");
    // The same pod in another sandbox, that is in another namespace.
    web.sandbox.kill9();
    let again = Running { pod: scene.node.pod("again"), sandbox: web.sandbox, uid: web.uid.clone() };
    let mut again = Running { sandbox: scene.sandbox(&again.pod, &again.uid), ..again };
    wait_for("connections of the new sandbox are carried", PATIENCE, || {
        let before = scene.row("shop/web").map(|row| number(&row["counters"][Rule::Redirected.name()]));
        dial(&again.pod.netns, scene.to()).map_err(|error| error.to_string())?;
        let after = scene.row("shop/web").map(|row| number(&row["counters"][Rule::Redirected.name()]));
        if before.is_ok() && after > before { Ok(()) } else { Err(format!("{before:?}, {after:?}")) }
    });
    // Another pod of its name, as a StatefulSet makes it.
    again.sandbox.kill9();
    let uid = scene.uid("next");
    scene.server.put(PodObject::new("shop", "web", scene.node.name()).uid(&uid));
    let next = scene.node.pod("next");
    let _sandbox = scene.sandbox(&next, &uid);
    wait_for("the next pod of the name is enrolled, the last one gone", PATIENCE, || {
        let list = scene.agent.ctl.try_json(&["pod", "list"])?;
        let rows = list.as_array().ok_or("not a list")?;
        let of_name: Vec<&Value> = rows.iter().filter(|row| row["name"] == "web").collect();
        let right = matches!(of_name.as_slice(), [row] if row["uid"] == *uid && text(row, "state") == "enrolled");
        if right { Ok(()) } else { Err(list.to_string()) }
    });
}

#[test]
fn a_deleted_pod_is_carried_until_its_last_process_is_gone() {
    let scene = Scene::new();
    let mut web = scene.run("web", |pod| pod);
    scene.wait_state("shop/web", "enrolled", "");
    // As `kubectl delete --force` does: the object is gone at once, the containers are not.
    scene.server.delete(Resource::Pods, "shop/web");
    let other = scene.run("other", |pod| pod);
    scene.wait_state("shop/other", "enrolled", "");
    assert!(scene.is_carried(&web) && scene.is_carried(&other));
    web.sandbox.kill9();
    scene.wait_gone("shop/web");
    // Nor does it matter that there is not even a cgroup.
    let mut web = scene.run("again", |pod| pod);
    scene.wait_state("shop/again", "enrolled", "");
    scene.server.delete(Resource::Pods, "shop/again");
    assert!(scene.is_carried(&web));
    scene.end(&mut web);
    scene.wait_gone("shop/again");
    assert_eq!(scene.agent.ctl.map_entries("ENROLLED"), 1);
}

#[test]
fn a_deleted_pod_is_carried_by_the_next_agent_too() {
    let mut scene = Scene::new();
    let mut pods = ["told", "untold"].map(|name| scene.run(name, |pod| pod));
    for name in ["shop/told", "shop/untold"] {
        scene.wait_state(name, "enrolled", "");
    }
    // One goes while an agent hears of it, one while none does; the containers of both run on.
    scene.server.delete(Resource::Pods, "shop/told");
    let record = scene.agent.place.file(&format!("{}.pods.json", scene.agent.place.instance));
    let mark = scene.run("mark", |pod| pod);
    scene.wait_state("shop/mark", "enrolled", "");
    wait_for("all of it is in the record", PATIENCE, || {
        let text = fs::read_to_string(&record).map_err(|error| error.to_string())?;
        if text.matches("\"cookie\"").count() == 3 && text.contains(&mark.uid) { Ok(()) } else { Err(text) }
    });
    scene.agent.process.kill9();
    scene.server.delete(Resource::Pods, "shop/untold");
    scene.agent.restart();
    scene.wait_state("shop/mark", "enrolled", "");
    for name in ["shop/told", "shop/untold"] {
        scene.wait_state(name, "enrolled", "");
    }
    assert!(pods.iter().all(|pod| scene.is_carried(pod)));
    assert_eq!(scene.agent.ctl.map_entries("ENROLLED"), 3);
    for pod in &mut pods {
        pod.sandbox.kill9();
    }
    scene.wait_count(1);
}

#[test]
fn pods_that_wait_for_ever_keep_nothing_of_those_that_went_while_no_agent_was_there() {
    let mut scene = Scene::new();
    let mut web = scene.run("web", |pod| pod);
    let odd = scene.run("odd", |pod| pod);
    for name in ["shop/web", "shop/odd"] {
        scene.wait_state(name, "enrolled", "");
    }
    scene.agent.process.kill9();
    scene.server.delete(Resource::Pods, "shop/web");
    scene.end(&mut web);
    // A label that nobody understands, on a pod that is enrolled and on one that is not; and a pod without a sandbox.
    let object = |name: &str| PodObject::new("shop", name, scene.node.name()).uid(&scene.uid(name));
    scene.server.put(object("odd").labels(&["weir.dev/mesh=of"]));
    scene.server.put(object("bad").labels(&["weir.dev/mesh=of"]));
    scene.server.put(object("waits"));
    scene.agent.restart();
    scene.wait_count(1);
    scene.wait_state(
        "shop/bad",
        "pending",
        "label weir.dev/mesh: invalid \"of\", expected \"enabled\" or \"disabled\"",
    );
    scene.wait_state("shop/waits", "pending", "the pod has no cgroup yet");
    scene.wait_state("shop/odd", "pending", "what was said before still applies");
    assert!(scene.is_carried(&odd), "it stays what it was");
}

#[test]
fn flips_and_replacements_leak_nothing_whether_an_agent_is_there_or_not() {
    let mut scene = Scene::new();
    let _stays = scene.run("stays", |pod| pod);
    let mut web = scene.replace("web", 0);
    let mut veths = Vec::new();
    let cycle = |scene: &Scene, web: &mut Running, veths: &mut Vec<String>| {
        scene.server.put(namespace("shop", &[]));
        scene.wait_state("shop/web", "passed-over", "");
        scene.server.put(namespace("shop", &["weir.dev/mesh=enabled"]));
        scene.wait_enrolled(web);
        dial(&web.pod.netns, scene.to()).expect("redirected");
        scene.end(web);
        veths.push(web.pod.veth().to_owned());
        *web = scene.replace("web", veths.len());
        scene.wait_enrolled(web);
    };
    // The same while no agent is there to see it; the next one finds what became of all.
    let restart = |scene: &mut Scene, web: &mut Running, veths: &mut Vec<String>| {
        scene.agent.process.kill9();
        scene.end(web);
        veths.push(web.pod.veth().to_owned());
        *web = scene.replace("web", veths.len());
        scene.agent.restart();
        scene.wait_enrolled(web);
        scene.wait_count(2);
    };
    // What is made once and kept is made by then, and each agent that is counted has started beside what there was.
    for _ in 0..3 {
        cycle(&scene, &mut web, &mut veths);
    }
    restart(&mut scene, &mut web, &mut veths);
    cycle(&scene, &mut web, &mut veths);
    scene.wait_count(2);
    let before = Holdings::of(&scene.agent, scene.proxy());
    for _ in 0..CYCLES {
        cycle(&scene, &mut web, &mut veths);
    }
    before.wait_no_more(&scene.agent, scene.proxy(), leaks::IDLE);
    restart(&mut scene, &mut web, &mut veths);
    for _ in 0..CYCLES {
        cycle(&scene, &mut web, &mut veths);
    }
    before.wait_no_more(&scene.agent, scene.proxy(), leaks::IDLE);
    // No reference to any of their namespaces is left, not in the agent, the proxy or the kernel.
    for veth in &veths {
        scene.node.wait_until_gone(veth);
    }
}

#[test]
fn events_tell_what_became_of_pods() {
    let scene = Scene::new();
    // Refused for a while: the agent goes on without.
    scene.server.fail(Resource::Events, Verb::Create, [Fault::Status(403, None)]);
    let first = scene.run("first", |pod| pod);
    scene.wait_state("shop/first", "enrolled", "");
    let web = scene.run("web", |pod| pod);
    let enrolled = scene.wait_event(&web.uid, "Enrolled");
    assert_eq!(enrolled["reportingController"], "weir-agent");
    assert_eq!((&enrolled["reportingInstance"], &enrolled["type"]), (&"weir-x".into(), &"Normal".into()));
    assert_eq!(enrolled["regarding"]["kind"], "Pod");
    assert_eq!(enrolled["metadata"]["namespace"], "shop");
    scene.server.put(namespace("shop", &[]));
    let withdrawn = scene.wait_event(&web.uid, "Withdrawn");
    let why = "its namespace has no label weir.dev/mesh=enabled";
    assert_eq!(withdrawn["note"], format!("Connections of this pod are not redirected to weir any more: {why}"));
    scene.wait_event(&first.uid, "Withdrawn");
    // What is told again within minutes is counted up.
    scene.server.put(namespace("shop", &["weir.dev/mesh=enabled"]));
    let series = wait_for("the event is counted up", PATIENCE, || {
        let event = scene.wait_event(&web.uid, "Enrolled");
        if event["series"]["count"] == 2 { Ok(event) } else { Err(event) }
    });
    assert_eq!(series["metadata"]["name"], enrolled["metadata"]["name"]);
    let mut by_reason: BTreeMap<String, usize> = BTreeMap::new();
    for event in scene.server.events() {
        *by_reason.entry(text(&event, "reason").to_owned()).or_default() += 1;
    }
    assert_eq!(by_reason["Withdrawn"], 2, "{by_reason:?}");
}

#[test]
fn an_agent_that_cannot_start_says_so_on_the_node() {
    let mut net = Net::new();
    let on = net.node("a");
    let server = ApiServer::start();
    let place = Place::new(&on);
    let configured = configuration(&place, &server).replace("bpffs = \"/sys/fs/bpf\"", "bpffs = \"/nonexistent\"");
    let path = place.write("agent.toml", &configured);
    let launch = || Launch::new(binary("weir-agent"), on.directory()).args(["run", "--config"]).args([&path]);
    let outcome = launch().output(PATIENCE);
    assert!(!outcome.status.success(), "{outcome:?}");
    let missing = "no BPF file system is mounted at /nonexistent (paths.bpffs)";
    assert!(outcome.stderr.contains(missing), "{outcome:?}");
    let events = server.events();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&event["reason"], &event["regarding"]["kind"]), (&"RedirectUnavailable".into(), &"Node".into()));
    assert_eq!((&event["regarding"]["name"], &event["type"]), (&on.name().into(), &"Warning".into()));
    assert!(text(event, "note").contains(missing), "{event}");
    // It does not wait for a server that does not answer.
    server.fail(Resource::Events, Verb::Create, [Fault::Silent]);
    let outcome = launch().output(PATIENCE);
    assert!(!outcome.status.success() && outcome.stderr.contains(missing), "{outcome:?}");
    assert!(outcome.stderr.contains("could not write an event that says so"), "{outcome:?}");
}

#[test]
fn an_agent_that_cannot_go_on_with_what_is_pinned_says_so_on_the_node() {
    let mut scene = Scene::new();
    scene.proxy = None;
    assert!(scene.agent.process.terminate().success());
    assert_eq!(scene.server.events(), [Value::Null; 0]);
    let refused = |problem: &str| {
        let launch = Launch::new(binary("weir-agent"), scene.node.directory()).args(["run", "--config"]);
        let outcome = launch.args([scene.agent.place.file("agent.toml")]).output(PATIENCE);
        assert!(!outcome.status.success() && outcome.stderr.contains(problem), "{outcome:?}");
        let events = scene.server.events();
        let told = |event: &&Value| text(event, "reason") == "RedirectUnavailable";
        let notes: Vec<&str> = events.iter().filter(told).map(|event| text(event, "note")).collect();
        assert!(notes.last().is_some_and(|note| note.contains(problem)), "{events:?}");
        notes.len()
    };
    // Another version's maps: found when the eBPF programs are loaded.
    let maps = scene.agent.place.pins().join("maps");
    let swap = || {
        for (from, to) in [("ENROLLED", "OTHER"), ("CONFIG", "ENROLLED"), ("OTHER", "CONFIG")] {
            fs::rename(maps.join(from), maps.join(to)).expect("pins can be renamed");
        }
    };
    swap();
    assert_eq!(refused("are another version's (map "), 1);
    swap();
    // Another version's layout: found before anything is loaded.
    let layout = scene.agent.place.pins().join("layout-99");
    fs::create_dir(&layout).expect("a directory in the BPF file system");
    assert_eq!(refused("have layout 99, and this agent works with layout "), 2);
    fs::remove_dir(&layout).expect("it was made here");
}

#[test]
fn a_kubeconfig_that_is_of_no_use_is_named_at_the_start() {
    let mut net = Net::new();
    let on = net.node("a");
    let place = Place::new(&on);
    let server = ApiServer::start();
    let configured = configuration(&place, &server).replace("/kubeconfig\"", "/missing\"");
    let path = place.write("agent.toml", &configured);
    let outcome =
        Launch::new(binary("weir-agent"), on.directory()).args(["run", "--config"]).args([&path]).output(PATIENCE);
    assert!(!outcome.status.success(), "{outcome:?}");
    let line = outcome.stderr.lines().find(|line| line.contains("source.kubernetes.kubeconfig"));
    assert!(line.is_some_and(|line| line.contains("No such file or directory")), "{outcome:?}");
    assert!(!place.pins().exists(), "nothing was loaded");
}
