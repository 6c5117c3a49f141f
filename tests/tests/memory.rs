//! What the agent holds while pods come and go: it grows with the pods that there are, not with those that there were.
//!
//! Pods are namespaces with an address, announced by the CNI plugin as the runtime runs it, and with a process in a
//! cgroup named as the kubelet names it. Their objects are as large as a real server's, and change as often.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use weir_tests::{
    apiserver::{ApiServer, PodObject, Resource, namespace, node},
    cgroup,
    cni::Call,
    figure,
    mesh::{Agent, Place, Proxy, binary},
    net::{Net, Node},
    netns::Netns,
    poll::wait_for,
    process::Process,
    weirctl::text,
};

const PATIENCE: Duration = Duration::from_secs(300);
/// Pods that stay.
const STANDING: usize = 100;
/// Pods that are replaced at a time, by as many threads.
const BATCH: usize = 20;
const THREADS: usize = 4;
/// How many are replaced in all, unless `WEIR_REPLACEMENTS` says otherwise.
const REPLACEMENTS: usize = 200;
/// Growth of anonymous memory that is an allocator's habit, in kB. With a heap for each thread it is 50 MB and more.
const HABIT: u64 = 12 << 10;

struct Scene {
    _proxy: Proxy,
    agent: Agent,
    server: ApiServer,
    node: Arc<Node>,
    count: AtomicU32,
    _net: Net,
}

struct Running {
    name: String,
    uid: String,
    netns: Netns,
    sandbox: Process,
    cgroup: PathBuf,
}

/// The node's processes, as the agent sees them.
fn proc(node: &Node) -> PathBuf {
    node.directory().join("proc")
}

fn configuration(place: &Place, server: &ApiServer) -> String {
    let proc = proc(place.node());
    for directory in [&proc, &place.file("net.d"), &place.file("bin")] {
        fs::create_dir(directory).expect("a directory of this test");
    }
    // Whoever looks is its own init.
    symlink("/proc/self", proc.join("1")).expect("a link of this test");
    let configured = place.configuration("drain = \"100ms\"");
    let (before, _) = configured.split_once("[source.file]").expect("the usual source");
    format!(
        "{before}[source.kubernetes]\nkubeconfig = {:?}\nnamespace = \"weir-system\"\npod = \"weir-x\"\nproc = {proc:?}\n\
         [cni]\nconf_dir = {:?}\nbin_dir = {:?}\nbinary = {:?}\nsocket = {:?}\nstate_dir = {:?}\nhost_state_dir = {:?}\n",
        server.kubeconfig(place.node().directory()),
        place.file("net.d"),
        place.file("bin"),
        binary("weir-cni"),
        place.file("cni.sock"),
        place.file("state"),
        place.file("state"),
    )
}

impl Scene {
    fn new() -> Self {
        let mut net = Net::alone();
        let on = net.node("a");
        let server = ApiServer::start();
        server.put(node(on.name()));
        for (name, labels) in [("shop", &["weir.dev/mesh=enabled"][..]), ("weir-system", &[])] {
            server.put(namespace(name, labels));
        }
        let place = Place::new(&on);
        let configuration = configuration(&place, &server);
        let agent = Agent::start_configured(place, &[], &configuration);
        let proxy = Proxy::start(&agent);
        Self { _proxy: proxy, agent, server, node: on, count: AtomicU32::new(0), _net: net }
    }

    fn put(&self, name: &str, uid: &str, phases: &[&str]) {
        let long = format!("filler={}", "x".repeat(6000));
        for phase in phases {
            let pod = PodObject::new("shop", name, self.node.name()).uid(uid).phase(phase);
            self.server.put(pod.annotations(&[&long]));
        }
    }

    fn call(&self, command: &str, name: &str, uid: &str, netns: &Netns) -> Call {
        let place = &self.agent.place;
        Call::new(command, place.node().directory())
            .key("socket", place.file("cni.sock").display().to_string())
            .key("namespaces", place.file("state/namespaces.json").display().to_string())
            .env("CNI_CONTAINERID", &format!("c-{name}"))
            .env("CNI_NETNS", &netns.path().display().to_string())
            .pod("shop", name, uid)
    }

    fn start(&self) -> Running {
        let name = format!("p{}", self.count.fetch_add(1, Ordering::Relaxed));
        let uid = format!("{}-{name}", self.node.prefix());
        let netns = Netns::create(&format!("{}-a-{name}", self.node.prefix()));
        netns.ip("link add eth0 type bridge\naddr add 10.78.0.2/24 dev eth0\nlink set eth0 up");
        self.put(&name, &uid, &["Pending", "Pending"]);
        self.call("ADD", &name, &uid, &netns).run().passed();
        let cgroup = self.node.cgroups().pods().join(format!("pod{uid}"));
        let container = cgroup.join("sandbox");
        fs::create_dir_all(&container).expect("a cgroup of this test");
        let sandbox = self.node.launch("sleep").netns(&netns).cgroup(&container).args(["3600"]).start();
        let pid = sandbox.pid().to_string();
        symlink(Path::new("/proc").join(&pid), proc(&self.node).join(&pid)).expect("a new process has a new id");
        self.put(&name, &uid, &["Pending", "Running", "Running"]);
        Running { name, uid, netns, sandbox, cgroup }
    }

    fn end(&self, mut running: Running) {
        let Running { name, uid, netns, sandbox, cgroup } = &mut running;
        self.put(name, uid, &["Running"]);
        sandbox.kill9();
        fs::remove_file(proc(&self.node).join(sandbox.pid().to_string())).expect("a link of this test");
        self.call("DEL", name, uid, netns).run().is_silent();
        cgroup::remove(cgroup);
        self.put(name, uid, &["Succeeded"]);
        self.server.delete(Resource::Pods, &format!("shop/{name}"));
    }

    /// Starts so many pods, some at a time.
    fn start_all(&self, count: usize) -> Vec<Running> {
        let some = || (0..count / THREADS).map(|_| self.start()).collect::<Vec<_>>();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("every pod starts")).collect()
        })
    }

    #[track_caller]
    fn wait_enrolled(&self, count: usize) {
        wait_for(&format!("{count} pods are enrolled, and no others are listed"), PATIENCE, || {
            let list = self.agent.ctl.try_json(&["pod", "list"])?;
            let rows = list.as_array().ok_or("not a list")?;
            let right = rows.len() == count && rows.iter().all(|row: &Value| text(row, "state") == "enrolled");
            if right { Ok(()) } else { Err(format!("{} rows", rows.len())) }
        });
    }

    /// Anonymous memory of the agent, in kB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agent.process.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("in every process's status");
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
    }
}

#[test]
fn pods_that_come_and_go_leave_no_memory_behind() {
    let scene = Scene::new();
    let _standing = scene.start_all(STANDING);
    scene.wait_enrolled(STANDING);
    let replacements =
        env::var("WEIR_REPLACEMENTS").map_or(REPLACEMENTS, |count| count.parse().expect("WEIR_REPLACEMENTS: a number"));
    let replace = || {
        let running = scene.start_all(BATCH);
        scene.wait_enrolled(STANDING + BATCH);
        running.into_iter().for_each(|one| scene.end(one));
        scene.wait_enrolled(STANDING);
    };
    // The most that is in use at once is in use from here on.
    replace();
    let before = scene.memory();
    let mut said = vec![before];
    for round in 1..=replacements / BATCH {
        replace();
        if round % 5 == 0 {
            said.push(scene.memory());
        }
    }
    let after = scene.memory();
    figure!("anonymous memory of the agent with {STANDING} pods, after each 100 replacements: {said:?} kB");
    assert!(after < before + HABIT, "{said:?} kB");
}
