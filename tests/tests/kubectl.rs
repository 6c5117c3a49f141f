//! `kubectl weir` against an API server that does what a test wants: the real program, under the name that kubectl
//! finds it by.

#[path = "kubectl/server.rs"]
mod server;

use std::{os::unix::fs::symlink, path::PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::{
    mesh::binary,
    poll::wait_for,
    process::{Launch, Outcome, Process},
};

use server::{Exec, PATIENCE, Server};

/// A cluster of nodes n1 and n2 with weir on both.
struct Scene {
    server: Server,
    directory: TempDir,
    program: PathBuf,
}

/// A pod of weir's DaemonSet, created at a minute past the hour.
fn weir_pod(name: &str, node: &str, minute: u32, ready: bool) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "weir-system", "uid": format!("uid-{name}"),
            "labels": { "app.kubernetes.io/name": "weir" },
            "creationTimestamp": format!("2026-11-21T07:{minute:02}:00Z"),
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "weir", "uid": "ds" }],
        },
        "spec": { "nodeName": node, "containers": [] },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            "initContainerStatuses": [{
                "name": "agent", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                "state": { "running": {} },
            }],
        },
    })
}

fn pod(namespace: &str, name: &str, node: Option<&str>) -> Value {
    json!({
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "phase": "Pending" },
    })
}

/// A pod as a node's weirctl tells it.
fn told(namespace: &str, name: &str) -> Value {
    json!({ "uid": name, "namespace": namespace, "name": name, "state": "enrolled", "ips": ["10.244.0.9"], "slot": 0 })
}

fn status(node: &str, version: &str, pending: &[&str]) -> Value {
    let pending: Vec<Value> = pending
        .iter()
        .map(|name| json!({ "namespace": "demo", "name": name, "state": "pending", "reason": "no netns yet" }))
        .collect();
    json!({
        "node": node, "version": version, "healthy": pending.is_empty(), "pods_enrolled": 3,
        "pods_pending": pending.len(), "pending": pending,
        "proxies": [{ "version": version, "state": "ready" }], "faults": { "event-dropped": 7 },
    })
}

impl Scene {
    fn new() -> Self {
        let server = Server::start();
        for node in ["n1", "n2"] {
            server.object(&format!("nodes/{node}"), json!({ "metadata": { "name": node } }));
            server.pod(weir_pod(&format!("weir-{node}"), node, 1, true));
            server.pod(pod("demo", &format!("client-{node}"), Some(node)));
            let pods = json!([told("demo", &format!("client-{node}")), told("prod", &format!("db-{node}"))]);
            server.exec(&format!("weir-{node}"), Exec::answers(&pods));
        }
        let set = json!({
            "metadata": { "name": "weir", "uid": "ds" }, "spec": { "selector": {}, "template": {} },
            "status": { "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2 },
        });
        server.object("namespaces/weir-system/daemonsets/weir", set);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let program = directory.path().join("kubectl-weir");
        symlink(binary("weirctl"), &program).expect("a link in a temporary directory");
        server.kubeconfig(directory.path());
        Self { server, directory, program }
    }

    fn launch(&self, arguments: &str) -> Launch<'static> {
        let directory = self.directory.path();
        let kubeconfig = directory.join("kubeconfig");
        Launch::new(&self.program, directory)
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", &kubeconfig.display().to_string())
            .env("TZ", "UTC")
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> Outcome {
        self.launch(arguments).output(PATIENCE)
    }

    /// Standard output of what has to succeed.
    #[track_caller]
    fn text(&self, arguments: &str) -> String {
        let outcome = self.run(arguments);
        assert!(outcome.status.success(), "{arguments}: {outcome:?}");
        outcome.stdout
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        let text = self.text(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments}: {error} in {text}"))
    }

    /// Standard error of what has to fail with this exit code.
    #[track_caller]
    fn refused(&self, arguments: &str, code: i32) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.status.code(), Some(code), "{arguments}: {outcome:?}");
        outcome.stderr
    }

    fn follow(&self, arguments: &str) -> Process {
        self.launch(arguments).start()
    }
}

#[test]
fn a_list_is_that_of_all_nodes() {
    let scene = Scene::new();
    let text = scene.text("pod list -A");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        lines,
        [
            ["NODE", "POD", "STATE"],
            ["n1", "demo/client-n1", "enrolled"],
            ["n2", "demo/client-n2", "enrolled"],
            ["n1", "prod/db-n1", "enrolled"],
            ["n2", "prod/db-n2", "enrolled"],
        ]
    );
    let command = |node: &str| {
        let words = ["weirctl", "--json", "--notes", "--timeout=5000ms", "pod", "list"];
        (format!("weir-{node}"), words.map(str::to_owned).to_vec())
    };
    assert_eq!(scene.server.commands(), [command("n1"), command("n2")]);
}

#[test]
fn pods_are_those_of_the_namespace_that_is_meant() {
    let scene = Scene::new();
    scene.server.object("namespaces/empty", json!({ "metadata": { "name": "empty" } }));
    let pods = |arguments: &str| {
        let rows = scene.json(arguments);
        let rows = rows.as_array().expect("a list");
        rows.iter().map(|row| format!("{}/{}", row["node"], row["name"]).replace('"', "")).collect::<Vec<_>>()
    };
    assert_eq!(pods("-j pod list"), ["n1/client-n1", "n2/client-n2"], "the context's");
    assert_eq!(pods("-p pod list -n prod"), ["n1/db-n1", "n2/db-n2"]);
    assert_eq!(pods("-j pod list -A --node n2"), ["n2/client-n2", "n2/db-n2"]);
    assert_eq!(pods("-j pod list -n empty"), [""; 0]);
}

#[test]
fn a_pod_is_asked_about_on_its_node() {
    let scene = Scene::new();
    let told = json!({ "namespace": "demo", "name": "client-n2", "state": "passed-over", "reason": "it opted out" });
    scene.server.exec("weir-n2", Exec::answers(&told));
    for name in ["demo/client-n2", "client-n2", "client-n2 -n demo"] {
        let text = scene.text(&format!("pod show {name}"));
        assert!(text.contains("node             n2\n") && text.contains("reason           it opted out\n"), "{text}");
    }
    let verdict = json!({ "pod": "demo/client-n2", "from": "pod", "to": "10.96.0.10:53", "rule": "redirected" });
    scene.server.exec("weir-n2", Exec::answers(&verdict));
    let text = scene.text("redirect show client-n2 --to 10.96.0.10:53");
    assert!(text.contains("rule       redirected\n"), "{text}");
    let commands = scene.server.commands();
    assert!(commands.iter().all(|(pod, _)| pod == "weir-n2"), "{commands:?}");
    assert!(commands.iter().all(|(_, command)| command.ends_with(&["--".to_owned(), "demo/client-n2".to_owned()])));
}

#[test]
fn of_several_pods_of_weir_the_newest_ready_one_answers() {
    let scene = Scene::new();
    scene.server.pod(weir_pod("weir-n1-next", "n1", 5, true));
    scene.server.pod(weir_pod("weir-n1-starting", "n1", 9, false));
    scene.server.exec("weir-n1-next", Exec::answers(&json!([])));
    scene.text("map list --node n1");
    assert_eq!(scene.server.commands()[0].0, "weir-n1-next");
}

#[test]
fn a_node_without_an_answer_is_one_line_and_holds_nobody_up() {
    let scene = Scene::new();
    let broken = |exec: Exec| {
        scene.server.exec("weir-n2", exec);
        let outcome = scene.run("pod list -A --timeout 5s");
        assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
        assert!(outcome.stdout.contains("n1    demo/client-n1"), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        outcome.stderr.trim().to_owned()
    };
    assert_eq!(broken(Exec::Hangs), "kubectl weir: node n2: no answer within 5s");
    assert_eq!(
        broken(Exec::Refused(403, "pods \"weir-n2\" is forbidden: User \"u\" cannot create".to_owned())),
        "kubectl weir: node n2: exec into its weir pod weir-n2 is not allowed: pods \"weir-n2\" is forbidden: User \"u\" \
         cannot create; it takes the verbs create and get on pods/exec in namespace weir-system"
    );
    assert_eq!(
        broken(Exec::Refused(404, "pods \"weir-n2\" not found".to_owned())),
        "kubectl weir: node n2: its weir pod weir-n2 is gone, or none of its containers runs just now: pods \"weir-n2\" not \
         found"
    );
    assert_eq!(
        broken(Exec::Refused(500, "error dialing backend: dial tcp 172.30.0.12:10250: refused".to_owned())),
        "kubectl weir: node n2: exec into its weir pod weir-n2: error dialing backend: dial tcp 172.30.0.12:10250: refused"
    );
    assert_eq!(
        broken(Exec::fails("the agent does not answer within 2s 500ms", 1)),
        "kubectl weir: node n2: the agent does not answer within 2s 500ms"
    );
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(
        broken(Exec::fails("unknown option --timeout", 2)),
        format!(
            "kubectl weir: node n2: its weir is of another version than this weirctl, {own}: its weirctl refuses the \
             question: unknown option --timeout; use the weirctl of its version, or bring its weir to {own}"
        )
    );
    let cut = broken(Exec::Cut("[{\"name\":".to_owned()));
    assert!(cut.starts_with("kubectl weir: node n2: the connection broke off before its answer was there"), "{cut}");
    let other = broken(Exec::answers(&json!({ "pods": [] })));
    let unreadable = format!("{own}: its answer cannot be read: ");
    assert!(other.contains(&unreadable) && other.ends_with(&format!("or bring its weir to {own}")), "{other}");
}

#[test]
fn nodes_that_should_have_weir_and_have_not_are_named() {
    let scene = Scene::new();
    scene.server.object("nodes/n3", json!({ "metadata": { "name": "n3" } }));
    assert!(scene.text("pod list").contains("client-n2"), "n3 is not to have it: the DaemonSet wants two");
    let refused = scene.refused("pod list --node n3", 1);
    assert_eq!(refused, "kubectl weir: node n3: no weir pod there; there is one on n1, n2\n");
    let set = json!({
        "metadata": { "name": "weir", "uid": "ds" }, "spec": { "selector": {}, "template": {} },
        "status": { "desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 2 },
    });
    scene.server.object("namespaces/weir-system/daemonsets/weir", set);
    let refused = scene.refused("pod list", 1);
    assert_eq!(refused, "kubectl weir: node n3: no weir pod, though the DaemonSet wants more than it has\n");
}

#[test]
fn status_has_one_line_a_node() {
    let scene = Scene::new();
    scene.server.exec("weir-n1", Exec::answers(&status("n1", env!("CARGO_PKG_VERSION"), &[])));
    scene.server.exec("weir-n2", Exec::answers(&status("n2", "9.9.9", &["late"])));
    let outcome = scene.run("status");
    assert!(outcome.status.success(), "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:?}");
    assert!(lines[2].starts_with("n2    no       9.9.9  9.9.9") && lines[2].ends_with("demo/late: no netns yet"));
    assert!(
        outcome.stderr.contains("versions differ: ") && outcome.stderr.contains("9.9.9 (agent on n2, proxy on n2)")
    );
    assert_eq!(scene.run("status --check").status.code(), Some(3));
    assert!(scene.text("status --node n1").contains("source"), "one node's is told in full");
    let versions = scene.json("-j version");
    assert_eq!((&versions["nodes"][1]["node"], &versions["nodes"][1]["agent"]), (&"n2".into(), &"9.9.9".into()));
    scene.server.exec("weir-n2", Exec::Refused(404, "gone".to_owned()));
    let outcome = scene.run("-j status --check");
    let nodes: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(outcome.status.code(), Some(1));
    assert_eq!(
        (&nodes[0]["node"], &nodes[1]["error"]),
        (&"n1".into(), &"its weir pod weir-n2 is gone, or none of its containers runs just now: gone".into())
    );
}

#[test]
fn a_rollout_that_stalls_is_noted() {
    let scene = Scene::new();
    for node in ["n1", "n2"] {
        scene.server.exec(&format!("weir-{node}"), Exec::answers(&status(node, env!("CARGO_PKG_VERSION"), &[])));
    }
    assert_eq!(scene.run("status --check").status.code(), Some(0));
    let mut next = weir_pod("weir-next", "n2", 5, false);
    next["metadata"]["labels"]["controller-revision-hash"] = "b".into();
    next["status"]["phase"] = "Pending".into();
    next["status"]["initContainerStatuses"][0]["state"] = json!({ "waiting": { "reason": "ErrImagePull" } });
    scene.server.pod(next);
    let outcome = scene.run("status --check");
    assert_eq!(outcome.status.code(), Some(3), "{outcome:?}");
    let said = "weir-next of a newer revision does not start: agent: ErrImagePull";
    assert!(outcome.stdout.lines().nth(2).is_some_and(|line| line.ends_with(said)), "{outcome:?}");
    assert_eq!(scene.json("-j status")[1]["stalled"], said);
    let one = scene.run("status --check --node n2");
    assert_eq!(one.status.code(), Some(3), "{one:?}");
    assert!(one.stderr.contains(&format!("kubectl weir: node n2: {said}\n")), "{one:?}");
    assert_eq!(scene.run("status --check --node n1").status.code(), Some(0));
}

#[test]
fn what_cannot_be_asked_says_why() {
    let scene = Scene::new();
    scene.server.pod(pod("demo", "unscheduled", None));
    scene.server.pod(pod("prod", "db", Some("n1")));
    for (arguments, said) in [
        ("pod show client", "no pod demo/client; namespace demo has client-n1, client-n2, unscheduled"),
        ("pod show db", "no pod demo/db; there is prod/db"),
        ("pod show web -n empty", "no pod empty/web; namespace empty has no pods"),
        ("redirect show unscheduled", "pod demo/unscheduled is on no node yet: Pending"),
        ("pod show client-n1 --node n2", "pod demo/client-n1 is on node n1, not on n2"),
        (
            "status --weir-namespace elsewhere",
            "weir is not installed: no pods with the label app.kubernetes.io/name=weir in namespace elsewhere (another \
             one: --weir-namespace); if it was deleted without being uninstalled, nodes may still redirect: install it \
             again and `kubectl weir uninstall`, or see docs/operate.md, \"By hand\"",
        ),
    ] {
        assert_eq!(scene.refused(arguments, 1), format!("kubectl weir: {said}\n"), "{arguments}");
    }
    let outcome = scene.run("-j pod show db");
    assert_eq!(outcome.stdout, "{\"error\":\"no pod demo/db; there is prod/db\"}\n");
    scene.server.refuse("namespaces/demo/pods/db", 403, "pods \"db\" is forbidden: User \"u\" cannot get");
    let forbidden = scene.refused("pod show db", 1);
    assert_eq!(forbidden, "kubectl weir: not allowed: pods \"db\" is forbidden: User \"u\" cannot get\n");
    scene.server.refuse("namespaces/weir-system/pods", 401, "Unauthorized");
    assert!(
        scene.refused("status", 1).ends_with("does not accept the credentials of the kubeconfig (401 Unauthorized)\n")
    );
}

#[test]
fn a_cluster_that_cannot_be_found_says_where_it_was_looked_for() {
    let scene = Scene::new();
    let home = scene.directory.path().display().to_string();
    let without = || Launch::new(&scene.program, scene.directory.path()).args(["status"]).env("HOME", &home);
    let outcome = without().env("KUBECONFIG", "").output(PATIENCE);
    assert_eq!(
        outcome.stderr,
        "kubectl weir: no kubeconfig: no --kubeconfig, no $KUBECONFIG, no ~/.kube/config, and this is no pod with a \
         service account\n"
    );
    let missing = without().env("KUBECONFIG", "/nonexistent/config").output(PATIENCE);
    assert_eq!(
        missing.stderr,
        "kubectl weir: kubeconfig: /nonexistent/config: No such file or directory (os error 2)\n"
    );
    let kubeconfig = scene.server.kubeconfig(scene.directory.path());
    let text = std::fs::read_to_string(&kubeconfig).expect("it was written");
    let (before, rest) = text.split_once("http://").expect("a server");
    let (_, after) = rest.split_once('\'').expect("its end");
    std::fs::write(&kubeconfig, format!("{before}http://127.0.0.1:1'{after}")).expect("a file of this test");
    assert_eq!(
        scene.refused("status", 1),
        "kubectl weir: cannot reach the API server at http://127.0.0.1:1/: Connection refused (os error 111)\n"
    );
    assert!(scene.refused("status --context other", 1).ends_with("no context \"other\"; there is test\n"));
}

fn event(pod: &str, lost: u64) -> String {
    json!({
        "time": "2026-11-21T07:00:00.5Z", "kind": "decision", "pod": pod, "direction": "outbound", "action": "redirect",
        "rule": "redirected", "destination": "10.96.0.10:53", "lost": lost,
    })
    .to_string()
}

fn follows(pods: &[&str]) -> Exec {
    let lines = pods.iter().map(|pod| event(pod, 0)).collect();
    Exec::Follows { stderr: "weirctl: tracing all pods\n".to_owned(), lines }
}

#[test]
fn a_trace_follows_all_nodes_until_it_is_interrupted() {
    let scene = Scene::new();
    scene.server.exec("weir-n1", follows(&["demo/client-n1", "prod/db-n1"]));
    scene.server.exec("weir-n2", follows(&["demo/client-n2"]));
    let mut trace = scene.follow("event trace --follow");
    wait_for("both nodes' events", PATIENCE, || {
        let log = trace.log();
        let lines = log.lines().filter(|line| line.starts_with("07:00:00")).count();
        if lines == 2 && log.matches("tracing the pods of namespace demo").count() == 2 { Ok(()) } else { Err(log) }
    });
    let log = trace.log();
    assert!(log.contains("07:00:00.500000 n1 demo/client-n1 > 10.96.0.10:53: redirect [redirected]\n"), "{log}");
    let traced = "kubectl weir: node n2: tracing the pods of namespace demo; -A for all namespaces\n";
    assert!(log.contains(traced) && !log.contains("prod/db"), "{log}");
    assert_eq!(scene.server.open(), 2);
    trace.signal(Signal::SIGINT);
    let status = trace.wait(PATIENCE).expect("it ends");
    assert!(status.success() && trace.log().ends_with("kubectl weir: 2 events, 0 lost\n"), "{}", trace.log());
    wait_for("the traces on the nodes end", PATIENCE, || match scene.server.open() {
        0 => Ok(()),
        open => Err(open),
    });
    for (_, command) in scene.server.commands() {
        assert_eq!(command[4..], ["event", "trace", "--follow", "--stdin"]);
    }
}

#[test]
fn a_trace_counts_over_all_nodes_and_says_what_broke() {
    let scene = Scene::new();
    scene.server.exec("weir-n1", follows(&["demo/a", "demo/b", "demo/c"]));
    scene.server.exec("weir-n2", Exec::Hangs);
    let text = scene.text("-j event trace -A --count 2");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), 2);
    assert_eq!((&events[0]["node"], &events[1]["pod"]), (&"n1".into(), &"demo/b".into()));

    scene.server.exec("weir-n1", Exec::Cut(format!("{}\n", event("demo/a", 3))));
    scene.server.exec("weir-n2", Exec::fails("the agent went away", 1));
    let outcome = scene.run("event trace --follow");
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
    let said: Vec<&str> = outcome.stderr.lines().collect();
    assert!(said.iter().any(|line| line.starts_with("kubectl weir: node n1: the connection broke off")), "{said:?}");
    assert!(said.contains(&"kubectl weir: node n2: the agent went away"), "{said:?}");
    assert_eq!(said.last(), Some(&"kubectl weir: 1 events, 3 lost"));
    let outcome = scene.run("-j event trace --follow");
    let mut said: Vec<&str> = outcome.stderr.lines().collect();
    said.sort_unstable();
    assert!(said.len() == 2 && said[1] == "kubectl weir: node n2: the agent went away", "{said:?}");
}

#[test]
fn an_uninstall_waits_for_every_node() {
    let scene = Scene::new();
    scene.server.proxied("weir-n1", &[(200, "ok\n")]);
    scene.server.proxied("weir-n2", &[(503, "2 pods drain\n"), (503, "1 pod drains\n"), (200, "ok\n")]);
    assert_eq!(scene.text("uninstall"), "node n1: uninstalled\nnode n2: uninstalled\n");
    let patch = json!({ "metadata": { "annotations": { "weir.dev/uninstall": "ds" } } });
    assert_eq!(scene.server.patches(), [("namespaces/weir-system".to_owned(), patch)]);

    scene.server.proxied("weir-n2", &[(503, "2 pods drain\n")]);
    let outcome = scene.run("-j uninstall --wait 1s");
    assert_eq!(outcome.status.code(), Some(1));
    assert_eq!(
        outcome.stderr,
        "kubectl weir: node n2: not done yet: 2 pods drain; it goes on by itself: uninstall again to wait on\n"
    );
    let nodes: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!((&nodes[0]["uninstalled"], &nodes[1]["reason"]), (&true.into(), &"2 pods drain".into()));
    scene.server.proxied("weir-n1", &[(403, "pods \"weir-n1\" is forbidden")]);
    let outcome = scene.run("uninstall --wait 1s");
    let forbidden = "node n1: not known to be uninstalled: pods \"weir-n1\" is forbidden; it takes the verb get on \
                     pods/proxy in namespace weir-system; why: kubectl get pods -n weir-system -l \
                     app.kubernetes.io/name=weir --field-selector spec.nodeName=n1, and kubectl logs of that pod; a node \
                     whose agent is gone for good: docs/operate.md, \"By hand\"\n";
    assert!(outcome.stderr.contains(forbidden), "{outcome:?}");
    let refused = scene.refused("uninstall --weir-namespace elsewhere", 1);
    assert!(refused.starts_with("kubectl weir: no DaemonSet weir in namespace elsewhere"), "{refused}");
}

#[test]
fn uninstalled_nodes_say_so_and_how_to_take_it_back() {
    let scene = Scene::new();
    scene.server.proxied("weir-n1", &[(200, "ok\n")]);
    scene.server.proxied("weir-n2", &[(503, "2 pods drain\n")]);
    for node in ["weir-n1", "weir-n2"] {
        scene.server.exec(node, Exec::fails("cannot reach the agent", 1));
    }
    let said = || scene.run("status").stderr;
    let unreached = "kubectl weir: node n1: cannot reach the agent\nkubectl weir: node n2: cannot reach the agent\n";
    assert_eq!(said(), unreached);
    let namespace =
        |set: &str| json!({ "metadata": { "name": "weir-system", "annotations": { "weir.dev/uninstall": set } } });
    scene.server.object("namespaces/weir-system", namespace("earlier"));
    assert_eq!(said(), unreached, "another DaemonSet was meant");
    scene.server.object("namespaces/weir-system", namespace("ds"));
    assert_eq!(
        said(),
        "kubectl weir: node n1: uninstalled; to take that back: kubectl annotate namespace weir-system \
         weir.dev/uninstall-\nkubectl weir: node n2: cannot reach the agent\n"
    );
}

#[test]
fn a_namespace_that_there_is_not_is_said() {
    let scene = Scene::new();
    scene.server.object("namespaces/empty", json!({ "metadata": { "name": "empty" } }));
    let outcome = scene.run("pod list -n empty");
    assert_eq!((outcome.status.code(), outcome.stdout.lines().count()), (Some(0), 1), "the header");
    assert_eq!(
        outcome.stderr,
        "kubectl weir: no enrolled or pending pods in namespace empty; -A for all namespaces, --all for pods that are \
         passed over\n"
    );
    let outcome = scene.run("redirect show -n empty");
    assert_eq!(outcome.stderr, "kubectl weir: no redirects in namespace empty; -A for all namespaces\n");
    assert_eq!(scene.run("-j pod list -n empty").stderr, "");
    assert_eq!(scene.refused("pod list -n nope", 1), "kubectl weir: no namespace nope\n");
    assert_eq!(scene.refused("redirect list -n nope", 1), "kubectl weir: no namespace nope\n");
}

#[test]
fn weirctl_asks_a_cluster_if_it_is_told_to() {
    let scene = Scene::new();
    let kubeconfig = scene.server.kubeconfig(scene.directory.path()).display().to_string();
    let weirctl =
        |arguments: &[&str]| Launch::new(binary("weirctl"), scene.directory.path()).args(arguments).output(PATIENCE);
    let outcome = weirctl(&["--kubeconfig", &kubeconfig, "pod", "list", "-A"]);
    assert!(outcome.status.success() && outcome.stdout.starts_with("NODE"), "{outcome:?}");
    let outcome = weirctl(&["pod", "list", "-A"]);
    assert_eq!(outcome.status.code(), Some(2));
    assert!(outcome.stderr.starts_with("weirctl: --all-namespaces is for a whole cluster"), "{outcome:?}");
}
