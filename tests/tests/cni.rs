//! The CNI plugin as the container runtime runs it: environment, standard input, exit codes and JSON.

use std::{fs, net::TcpStream, os::linux::fs::MetadataExt, path::Path, sync::Arc, thread, time::Duration};

use serde_json::{Value, json};
use weir_tests::{
    apiserver::{self, ApiServer, PodObject, Resource, namespace},
    cni::{Call, PREVIOUS, Script, Step, listener},
    mesh::{Agent, Place, binary},
    net::{Net, Node, Pod},
    poll::wait_for,
};

/// Whatever is to happen happens within this, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The list of enrolled namespaces that an agent left.
fn list(directory: &Path, text: &str) {
    fs::write(directory.join("namespaces.json"), text).expect("a file of this test");
}

#[test]
fn pods_that_are_none_of_weir_s_start_at_once_whatever_state_weir_is_in() {
    let directory = directory();
    let at = directory.path();
    let foreign = || Call::new("ADD", at).pod("other", "web", "u");
    // No agent, no list.
    Call::new("ADD", at).run().passed();
    list(at, "{\"enrolled\":[\"demo\",\"weir-system\"]}");
    foreign().run().passed();
    // weir's own, and what Kubernetes has not made.
    Call::new("ADD", at).pod("weir-system", "weir-abcde", "u").run().passed();
    Call::new("ADD", at).without("CNI_ARGS").run().passed();
    Call::new("ADD", at).env("CNI_ARGS", "IgnoreUnknown=1;nonsense;;=").run().passed();
    // A list that is not one, or cannot be read.
    for text in ["", "[]", "{\"enrolled\":\"demo\"}"] {
        list(at, text);
        let answer = Call::new("ADD", at).run();
        answer.passed();
        assert!(answer.stderr.contains("namespaces.json: "), "{answer:?}");
    }
    fs::remove_file(at.join("namespaces.json")).unwrap();
    fs::create_dir(at.join("namespaces.json")).unwrap();
    Call::new("ADD", at).run().passed();
    // A socket that nobody serves, and something else in its place.
    drop(listener(&at.join("cni.sock"), 1));
    foreign().run().passed();
    fs::remove_file(at.join("cni.sock")).unwrap();
    fs::write(at.join("cni.sock"), "").unwrap();
    foreign().run().passed();
    fs::remove_file(at.join("cni.sock")).unwrap();
    // A network namespace that cannot be opened is not weir's to complain of.
    foreign().env("CNI_NETNS", "/nonexistent").run().passed();
    // An agent that hangs.
    let _hanging = Script::start(at, &[Step::Hang]);
    foreign().run().passed();
}

#[test]
fn an_agent_that_accepts_nobody_holds_up_nobody_else() {
    let directory = directory();
    let at = directory.path();
    list(at, "{\"enrolled\":[\"demo\"]}");
    let _listening = listener(&at.join("cni.sock"), 0);
    // The second finds no room in the backlog.
    for _ in 0..2 {
        Call::new("ADD", at).pod("other", "web", "u").run().passed();
        Call::new("DEL", at).run().is_silent();
    }
    let held = Call::new("ADD", at).key("wait", "1s").run().error(11);
    assert_eq!(
        held,
        "weir holds the pod demo/web: its namespace is enrolled, and for 1s the agent does not answer; it is tried \
         again"
    );
}

#[test]
fn a_pod_of_an_enrolled_namespace_is_held_while_no_agent_answers() {
    let directory = directory();
    let at = directory.path();
    list(at, "{\"enrolled\":[\"demo\"]}");
    // Also in a version of the specification that came after the plugin.
    for version in ["1.0.0", "1.2.0"] {
        let held = Call::new("ADD", at).key("wait", "1s").key("cniVersion", version).run().error(11);
        assert_eq!(
            held,
            "weir holds the pod demo/web: its namespace is enrolled, and for 1s no agent answers (No such file or \
             directory); it is tried again"
        );
    }
    // One that comes in time.
    let late = {
        let at = at.to_owned();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            Script::start(&at, &[Step::verdict("enrolled", "")])
        })
    };
    Call::new("ADD", at).run().passed();
    drop(late.join().unwrap());
    // Each of these is no answer.
    for (steps, problem) in [
        (vec![Step::Hang], "the agent does not answer"),
        (vec![], "the agent ended the connection"),
        (
            vec![Step::Say("garbage".to_owned())],
            "the agent's answer is not understood: expected value at line 1 column 1",
        ),
        (
            vec![Step::Say(json!({"version": 7, "verdict": "later", "when": 1}).to_string())],
            "the agent's answer is not understood: it speaks version 7 of the protocol",
        ),
        (vec![Step::verdict("unsure", "the API server is away")], "the API server is away"),
    ] {
        let _script = Script::start(at, &steps);
        let held = Call::new("ADD", at).key("wait", "1s").run().error(11);
        assert_eq!(
            held,
            format!("weir holds the pod demo/web: its namespace is enrolled, and for 1s {problem}; it is tried again")
        );
        // A pod of another namespace does not care.
        Call::new("ADD", at).pod("other", "web", "u").run().passed();
    }
}

#[test]
fn an_agent_that_cannot_tell_yet_holds_a_pod_whatever_is_listed() {
    let directory = directory();
    let at = directory.path();
    list(at, "{\"enrolled\":[]}");
    let _script = Script::start(at, &[Step::verdict("wait", ""), Step::verdict("unsure", "the API server is away")]);
    let held = Call::new("ADD", at).key("wait", "1s").run().error(11);
    assert_eq!(held, "weir holds the pod demo/web: for 1s the API server is away; it is tried again");
}

#[test]
fn the_agent_decides_when_it_answers() {
    let directory = directory();
    let at = directory.path();
    list(at, "{\"enrolled\":[\"demo\"]}");
    {
        let script = Script::start(at, &[Step::verdict("pass", "it says disabled")]);
        let answer = Call::new("ADD", at).run();
        answer.passed();
        assert!(answer.stderr.contains("passed: it says disabled"), "{answer:?}");
        // All that the agent needs, and the namespace itself.
        let mut heard = script.heard().remove(0);
        let expected = json!({
            "version": 1, "command": "add", "container_id": "0123456789abcdef", "netns": "/proc/self/ns/net",
            "uid": "uid-web", "namespace": "demo", "name": "web",
        });
        let left = heard.request.as_object_mut().unwrap().remove("wait_ms").unwrap();
        assert_eq!(heard.request, expected);
        assert!((60_000..=120_000).contains(&left.as_u64().unwrap()), "{left}");
        let own = fs::metadata("/proc/self/ns/net").unwrap();
        assert_eq!(heard.file, Some((own.st_dev(), own.st_ino())));
    }
    let wait = || Step::verdict("wait", "");
    {
        // A pod whose namespace is not listed: once the agent has said that it is to be enrolled, it is waited for.
        let longer_than_for_others = Step::Pause(Duration::from_millis(2500));
        let _script = Script::start(at, &[wait(), longer_than_for_others, Step::verdict("enrolled", "")]);
        Call::new("ADD", at).pod("new", "web", "u").run().passed();
    }
    for namespace in ["demo", "new"] {
        let refused = [wait(), Step::verdict("refused", "annotation weir.dev/fail-open: invalid \"x\"")];
        let _script = Script::start(at, &refused);
        let message = Call::new("ADD", at).pod(namespace, "web", "u").run().error(11);
        assert_eq!(
            message,
            format!(
                "weir holds the pod {namespace}/web: annotation weir.dev/fail-open: invalid \"x\"; it is tried again"
            )
        );
    }
    {
        let _script = Script::start(at, &[wait(), Step::Hang]);
        let message = Call::new("ADD", at).pod("new", "web", "u").key("wait", "1s").run().error(11);
        assert!(message.contains("for 1s the agent does not answer"), "{message}");
    }
}

#[test]
fn a_call_whose_agent_ends_is_taken_to_its_successor() {
    let directory = directory();
    let at = directory.path().to_owned();
    // It had said that the pod is to be enrolled: that holds, although the list does not say so.
    let first = Script::start(&at, &[Step::verdict("wait", "")]);
    let calling = {
        let at = at.clone();
        thread::spawn(move || Call::new("ADD", &at).run())
    };
    wait_for("the first agent is asked", PATIENCE, || if first.heard().is_empty() { Err("not yet") } else { Ok(()) });
    drop(first);
    let second = Script::start(&at, &[Step::verdict("wait", ""), Step::verdict("enrolled", "")]);
    calling.join().unwrap().passed();
    assert!(!second.heard().is_empty());
}

#[test]
fn a_del_never_fails() {
    let directory = directory();
    let at = directory.path();
    list(at, "{\"enrolled\":[\"demo\"]}");
    Call::new("DEL", at).run().is_silent();
    Call::new("DEL", at).without("CNI_NETNS").without("CNI_ARGS").run().is_silent();
    for input in ["", "nonsense", "{}", "{\"cniVersion\":\"9.0.0\"}", "{\"cniVersion\":\"1.0.0\",\"socket\":7}"] {
        let answer = Call::new("DEL", at).input(input).run();
        answer.is_silent();
        assert!(answer.stderr.contains("passed, although "), "{answer:?}");
    }
    for steps in [vec![Step::Hang], vec![], vec![Step::Say("?".to_owned())], vec![Step::verdict("refused", "no")]] {
        let script = Script::start(at, &steps);
        Call::new("DEL", at).run().is_silent();
        let heard = &script.heard()[0];
        assert_eq!(
            (&heard.request["command"], &heard.request["container_id"]),
            (&json!("del"), &json!("0123456789abcdef"))
        );
    }
}

#[test]
fn check_asks_the_agent_and_takes_none_for_yes() {
    let directory = directory();
    let at = directory.path();
    let check = || Call::new("CHECK", at);
    check().run().is_silent();
    for (verdict, well) in [("enrolled", true), ("pass", true), ("unsure", true), ("refused", false)] {
        let script = Script::start(at, &[Step::verdict(verdict, "no slot is free")]);
        let answer = check().run();
        if well {
            answer.is_silent();
        } else {
            assert_eq!(answer.error(100), "the pod demo/web is not redirected: no slot is free");
        }
        assert!(script.heard()[0].file.is_some());
    }
    let _hanging = Script::start(at, &[Step::Hang]);
    check().run().is_silent();
}

#[test]
fn the_rest_of_the_specification_is_served() {
    let directory = directory();
    let at = directory.path();
    // Without an agent the node is ready all the same: pods of others start.
    Call::new("STATUS", at).key("cniVersion", "1.1.0").run().is_silent();
    let attachments = json!([{"containerID": "c", "ifname": "eth0"}]);
    Call::new("GC", at).key("cniVersion", "1.1.0").key("cni.dev/valid-attachments", attachments).run().is_silent();
    let answer = Call::new("VERSION", at).input("{\"cniVersion\":\"1.0.0\"}").run();
    let versions: Value = serde_json::from_str(&answer.stdout).unwrap();
    let expected = json!({
        "cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    });
    assert_eq!(versions, expected);
    // A later runtime, of a list that names several versions, takes a later one.
    let answer = Call::new("VERSION", at).input("{\"cniVersion\":\"1.2.0\"}").run();
    let versions: Value = serde_json::from_str(&answer.stdout).unwrap();
    let expected = json!({
        "cniVersion": "1.2.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0"],
    });
    assert_eq!(versions, expected);
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0"] {
        Call::new("ADD", at).key("cniVersion", version).run().passed();
    }
    // Keys of others, and capabilities that a runtime fills in.
    Call::new("ADD", at).key("runtimeConfig", json!({"portMappings": []})).key("dns", json!({})).run().passed();
    let log = at.join("log");
    Call::new("ADD", at).key("log", log.to_str().unwrap()).run().passed();
    let line = fs::read_to_string(&log).unwrap();
    assert!(line.contains("Add demo/web 0123456789abcdef: passed: no agent answers"), "{line}");
    // A log that cannot be written.
    Call::new("ADD", at).key("log", "/nonexistent/log").run().passed();
}

#[test]
fn bad_input_is_named_in_the_runtime_s_language() {
    let directory = directory();
    let at = directory.path();
    let add = || Call::new("ADD", at);
    for (call, code, message) in [
        (
            add().env("CNI_COMMAND", "PATCH"),
            4,
            "CNI_COMMAND: invalid \"PATCH\", expected one of ADD, DEL, CHECK, STATUS, VERSION, GC",
        ),
        (
            add().without("CNI_COMMAND"),
            4,
            "CNI_COMMAND: missing, expected one of ADD, DEL, CHECK, STATUS, VERSION, GC: weir-cni is run by container \
             runtimes",
        ),
        (add().without("CNI_CONTAINERID"), 4, "CNI_CONTAINERID: missing, ADD needs it"),
        (add().env("CNI_NETNS", ""), 4, "CNI_NETNS: missing, ADD needs it"),
        (Call::new("CHECK", at).without("CNI_IFNAME"), 4, "CNI_IFNAME: missing, CHECK needs it"),
        (
            add().input("{"),
            6,
            "the network configuration is no JSON object: EOF while parsing an object at line 1 column 1",
        ),
        (
            add().key("cniVersion", "0.2.0"),
            1,
            "cniVersion: \"0.2.0\" is not known, expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or a later 1.x.y",
        ),
        (add().key("socket", "cni.sock"), 7, "socket: invalid \"cni.sock\", expected an absolute path"),
        (add().key("wait", 10), 7, "wait: invalid 10, expected a time up to 2m such as \"10s\""),
        (Call::new("STATUS", at).key("ownNamespace", ""), 7, "ownNamespace: invalid \"\", expected a namespace"),
        (
            add().first(),
            7,
            "prevResult: missing, expected the result of the plugin that makes the pod's interface: weir-cni comes \
             after it",
        ),
    ] {
        assert_eq!(call.run().error(code), message);
    }
    assert!(PREVIOUS.contains("1.50"), "a number that would change if it were read and written");
}

/// A node with an agent whose pods come from an API server, and a container runtime's directories.
struct Scene {
    agent: Agent,
    server: ApiServer,
    node: Arc<Node>,
    _net: Net,
}

/// Where no host is: a connection to it is established only if it is redirected.
const ELSEWHERE: &str = "10.96.0.10:80";
const CONFLIST: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\n      \
                        \"type\": \"bridge\"\n    }\n  ]\n}\n";

impl Scene {
    /// The namespace `demo` is enrolled, `other` is not.
    fn new() -> Self {
        let mut net = Net::new();
        let node = net.node("a");
        let server = ApiServer::start();
        server.put(apiserver::node("a"));
        server.put(namespace("demo", &["weir.dev/mesh=enabled"]));
        server.put(namespace("other", &[]));
        let place = Place::new(&node);
        for directory in ["net.d", "bin", "proc", "proc/1"] {
            fs::create_dir(place.file(directory)).expect("a directory of this test");
        }
        // A machine's init may be hidden from its containers.
        std::os::unix::fs::symlink("/", place.file("proc/1/root")).expect("a link of this test");
        fs::write(place.file("net.d/10-net.conflist"), CONFLIST).expect("a file of this test");
        let file = |name| place.file(name).display().to_string();
        let file_source = format!("[source.file]\npath = {:?}\n", place.pods());
        let configuration = place.configuration("drain = \"1s\"").replace(
            &file_source,
            &format!(
                "[source.kubernetes]\nkubeconfig = {:?}\nnamespace = \"weir-system\"\nproc = {:?}\n[cni]\nconf_dir = {:?}\n\
                 bin_dir = {:?}\nbinary = {:?}\nsocket = {:?}\nstate_dir = {:?}\nhost_state_dir = {:?}\n",
                server.kubeconfig(node.directory()),
                file("proc"),
                file("net.d"),
                file("bin"),
                binary("weir-cni"),
                file("cni.sock"),
                file("state"),
                file("state"),
            ),
        );
        let agent = Agent::start_configured(place, &[], &configuration);
        Self { agent, server, node, _net: net }
    }

    /// What the runtime would run: the plugin and the entry that the agent has put into place.
    fn call(&self, command: &str, pod: &Pod, container: &str) -> Call {
        let place = &self.agent.place;
        let list = wait_for("the plugin is installed", PATIENCE, || {
            let text = fs::read_to_string(place.file("net.d/10-net.conflist")).expect("a file of this test");
            let list: Value = serde_json::from_str(&text).expect("a list that is whole at any time");
            match list["plugins"].get(1) {
                Some(entry) if place.file("state/namespaces.json").exists() => Ok(entry.clone()),
                _ => Err(text),
            }
        });
        Call::new(command, place.node().directory())
            .program(&place.file("bin/weir-cni"))
            .entry(&list)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", &pod.netns.path().display().to_string())
    }

    fn add(&self, pod: &Pod, namespace: &str, container: &str) -> Call {
        let name = pod.name();
        self.call("ADD", pod, container).pod(namespace, name, &format!("uid-{name}"))
    }

    fn object(&self, pod: &Pod, namespace: &str) -> PodObject {
        PodObject::new(namespace, pod.name(), "a").phase("Pending")
    }
}

/// Whether connections of the pod are redirected. Nothing of the pod's has run yet.
fn is_redirected(pod: &Pod) -> bool {
    let elsewhere = ELSEWHERE.parse().expect("an address");
    pod.netns.run(|| TcpStream::connect_timeout(&elsewhere, Duration::from_secs(10)).is_ok())
}

#[test]
fn a_pod_is_redirected_when_the_plugin_returns() {
    let scene = Scene::new();
    let (first, plain) = (scene.node.pod("first"), scene.node.pod("plain"));
    scene.server.put(scene.object(&first, "demo"));
    scene.server.put(scene.object(&plain, "other"));
    scene.add(&first, "demo", "c1").run().passed();
    assert!(is_redirected(&first));
    scene.call("CHECK", &first, "c1").pod("demo", "first", "uid-first").run().is_silent();
    scene.add(&plain, "other", "c2").run().passed();
    assert!(!is_redirected(&plain));

    // The sandbox is made anew, and the runtime tells of the end of the one before when it likes.
    let second = scene.node.pod("second");
    scene.add(&second, "demo", "c3").pod("demo", "first", "uid-first").run().passed();
    assert!(is_redirected(&second));
    scene.call("DEL", &first, "c1").pod("demo", "first", "uid-first").run().is_silent();
    assert!(is_redirected(&second));
    scene.call("DEL", &second, "c3").pod("demo", "first", "uid-first").run().is_silent();
    // Its pod may still get another sandbox; until then nothing of it runs.
    scene.server.delete(Resource::Pods, "demo/first");
    wait_for("the pod is withdrawn", PATIENCE, || if is_redirected(&second) { Err("redirected") } else { Ok(()) });
}

#[test]
fn the_namespace_of_a_sandbox_that_was_taken_down_is_let_go() {
    let scene = Scene::new();
    let pod = scene.node.pod("only");
    scene.server.put(scene.object(&pod, "demo"));
    scene.add(&pod, "demo", "c1").run().passed();
    scene.call("DEL", &pod, "c1").pod("demo", "only", "uid-only").run().is_silent();
    assert!(is_redirected(&pod), "while its namespace is there");
    // The runtime removes its file, after which only the agent could keep it.
    let veth = pod.veth().to_owned();
    drop(pod);
    scene.node.wait_until_gone(&veth);
    let next = scene.node.pod("next");
    let add = scene.add(&next, "demo", "c2").pod("demo", "only", "uid-only");
    add.run().passed();
    // A call that comes late, for the sandbox before.
    let ended = scene.call("DEL", &next, "c1").pod("demo", "only", "uid-only").env("CNI_NETNS", "");
    ended.run().is_silent();
    assert!(is_redirected(&next));
}

#[test]
fn a_pod_that_cannot_be_enrolled_is_held_with_the_reason() {
    let scene = Scene::new();
    let pod = scene.node.pod("odd");
    scene.server.put(scene.object(&pod, "demo").annotations(&["weir.dev/fail-open=perhaps"]));
    let message = scene.add(&pod, "demo", "c1").key("wait", "3s").run().error(11);
    assert!(message.contains("weir holds the pod demo/odd: annotation weir.dev/fail-open"), "{message}");
    // The kubelet tries again, and meanwhile the annotation was mended.
    scene.call("DEL", &pod, "c1").pod("demo", "odd", "uid-odd").run().is_silent();
    scene.server.put(scene.object(&pod, "demo"));
    scene.add(&pod, "demo", "c2").run().passed();
    assert!(is_redirected(&pod));
}

#[test]
fn a_pod_that_comes_while_no_agent_is_there_waits_for_the_next() {
    let mut scene = Scene::new();
    let (pod, plain) = (scene.node.pod("late"), scene.node.pod("plain"));
    let (add, add_plain) = (scene.add(&pod, "demo", "c1"), scene.add(&plain, "other", "c2"));
    scene.agent.process.kill9();
    scene.server.put(scene.object(&pod, "demo"));
    add_plain.run().passed();
    let held = add.clone().key("wait", "1s").run().error(11);
    assert!(held.contains("its namespace is enrolled, and for 1s no agent answers"), "{held}");
    let adding = thread::spawn(move || add.key("wait", "2m").run());
    scene.agent.restart();
    adding.join().unwrap().passed();
    assert!(is_redirected(&pod));
}

#[test]
fn many_pods_start_at_the_same_time() {
    let scene = Scene::new();
    let pods: Vec<Pod> = (0..20).map(|number| scene.node.pod(&format!("p{number}"))).collect();
    let calls: Vec<Call> = pods.iter().map(|pod| scene.add(pod, "demo", &format!("c-{}", pod.name()))).collect();
    for pod in &pods {
        scene.server.put(scene.object(pod, "demo"));
    }
    thread::scope(|scope| {
        let adding: Vec<_> = calls.iter().map(|call| scope.spawn(|| call.clone().key("wait", "2m").run())).collect();
        for adding in adding {
            adding.join().unwrap().passed();
        }
    });
    assert!(pods.iter().all(is_redirected));
}

#[test]
fn the_network_s_file_gets_the_entry_again_when_its_owner_writes_it_anew() {
    let scene = Scene::new();
    let pod = scene.node.pod("any");
    let _ = scene.call("ADD", &pod, "c1");
    let place = &scene.agent.place;
    fs::write(place.file("net.d/10-net.conflist"), CONFLIST.replace("bridge", "another")).unwrap();
    wait_for("the entry is there again", PATIENCE, || {
        let text = fs::read_to_string(place.file("net.d/10-net.conflist")).unwrap();
        if text.contains("another") && text.contains("weir-cni") { Ok(()) } else { Err(text) }
    });
}

#[test]
fn an_agent_with_the_plugin_switched_off_takes_out_what_the_one_before_it_put_in() {
    let mut scene = Scene::new();
    let pod = scene.node.pod("any");
    let _ = scene.call("ADD", &pod, "c1");
    let text = fs::read_to_string(scene.agent.place.file("agent.toml")).unwrap();
    scene.agent.place.write("agent.toml", &text.replace("[cni]\n", "[cni]\nenabled = false\n"));
    let _former = scene.agent.succeed();
    let place = &scene.agent.place;
    wait_for("the plugin is taken out", PATIENCE, || {
        let left = [place.file("bin/weir-cni"), place.file("state/namespaces.json")].map(|file| file.exists());
        let text = fs::read_to_string(place.file("net.d/10-net.conflist")).unwrap();
        if text == CONFLIST && left == [false, false] { Ok(()) } else { Err(format!("{left:?} {text}")) }
    });
}
