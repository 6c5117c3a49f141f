//! With real processes in real namespaces, and cgroup trees of files that name them.

use std::process::{Child, Command, Stdio};

use super::*;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

/// A cgroup tree of files, and the node's real procfs.
struct Scene {
    directory: tempfile::TempDir,
    locator: Locator,
}

/// A process in a network namespace of its own; killed when dropped.
struct Sandbox(Child);

impl Sandbox {
    fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces: run them as root");
        let sandbox = Self(
            Command::new("unshare").args(["-n", "sleep", "3600"]).stdin(Stdio::null()).spawn().expect("util-linux"),
        );
        // Until it has unshared it is where it came from.
        let own = Netns::identity_at(Path::new("/proc/self/ns/net"));
        while Netns::identity_at(&sandbox.path()) == own {
            std::thread::yield_now();
        }
        sandbox
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    fn netns(&self) -> Arc<Netns> {
        Arc::new(Netns::open(&self.path()).unwrap())
    }

    fn identity(&self) -> Identity {
        Netns::identity_at(&self.path()).unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("kubepods")).unwrap();
        let node_netns = Netns::identity_at(Path::new("/proc/self/ns/net")).unwrap();
        let names = directory.path().join("names");
        let settings = Settings { names, ..Settings::new(directory.path().to_owned(), "/proc".into(), node_netns) };
        Self { directory, locator: Locator::new(settings) }
    }

    /// The processes of the pod's containers.
    fn containers(&self, containers: &[(&str, &[u32])]) {
        let pod = self.directory.path().join(format!("kubepods/burstable/pod{UID}"));
        let _ = fs::remove_dir_all(&pod);
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("cgroup.procs"), "").unwrap();
        for (name, pids) in containers {
            fs::create_dir(pod.join(name)).unwrap();
            let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            fs::write(pod.join(name).join("cgroup.procs"), lines).unwrap();
        }
    }

    fn found(&self) -> Identity {
        self.locator.find(UID).unwrap().identity()
    }

    fn reason(&self) -> String {
        self.locator.find(UID).unwrap_err().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_found_by_its_process_and_held_from_then_on() {
    let scene = Scene::new();
    assert!(scene.reason().starts_with("the pod has no cgroup yet"), "{}", scene.reason());
    scene.containers(&[]);
    assert_eq!(scene.reason(), "the pod has no process yet");
    // The runtime's own process, in the node's namespace.
    let own = std::process::id();
    scene.containers(&[("pause", &[own])]);
    assert_eq!(
        scene.reason(),
        "the pod's only process is still in the node's network namespace: the container runtime is setting it up"
    );
    let pause = Sandbox::start();
    scene.containers(&[("pause", &[own, pause.pid()])]);
    assert_eq!(scene.found(), pause.identity());

    // A container's process in a namespace of its own does not count while the sandbox's is there.
    let other = Sandbox::start();
    scene.containers(&[("app", &[other.pid()]), ("pause", &[pause.pid()])]);
    assert_eq!(scene.found(), pause.identity());
    // Nor when it is found anew.
    let fresh = Locator::new(scene.locator.settings.clone());
    assert_eq!(fresh.find(UID).unwrap().identity(), pause.identity());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_sandbox_replaces_the_one_before_and_a_pod_that_ended_is_let_go() {
    let scene = Scene::new();
    let first = Sandbox::start();
    scene.containers(&[("pause", &[first.pid()])]);
    let before = scene.locator.find(UID).unwrap();
    drop(first);
    let second = Sandbox::start();
    scene.containers(&[("pause", &[second.pid()])]);
    assert_eq!(scene.found(), second.identity());
    assert_eq!(Arc::strong_count(&before), 1, "the locator holds a namespace that is over");

    drop(second);
    scene.containers(&[]);
    scene.found();
    tokio::time::advance(Duration::from_secs(1)).await;
    scene.found();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(scene.reason(), "the pod's sandbox was taken down, and there is no new one yet");
    assert!(scene.locator.pods.lock().held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cni_call_is_believed_until_one_takes_it_back() {
    let scene = Scene::new();
    let mut changed = scene.locator.changed();
    let (first, second) = (Sandbox::start(), Sandbox::start());
    scene.locator.from_cni(UID, "c1", first.netns());
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    // Before there is any cgroup.
    assert_eq!(scene.found(), first.identity());
    assert_eq!(scene.locator.container(UID).as_deref(), Some("c1"));
    scene.locator.from_cni(UID, "c1", first.netns());
    assert!(!changed.has_changed().unwrap(), "the same again is no change");

    // The sandbox is restarted: the runtime may say that the first is over only after it has announced the second.
    scene.containers(&[("pause", &[first.pid()])]);
    assert_eq!(scene.found(), first.identity());
    scene.locator.from_cni(UID, "c2", second.netns());
    scene.locator.release("c1");
    assert_eq!(scene.found(), second.identity());
    drop(first);
    scene.containers(&[("pause", &[second.pid()])]);
    assert_eq!(scene.found(), second.identity());

    // Its process is still there when the sandbox is over, and is not taken for a new one.
    changed.mark_unchanged();
    scene.locator.release("c2");
    assert!(changed.has_changed().unwrap());
    assert_eq!(scene.reason(), "the pod's sandbox was taken down, and there is no new one yet");
    let third = Sandbox::start();
    scene.containers(&[("pause", &[second.pid()]), ("next", &[third.pid()])]);
    assert_eq!(scene.found(), third.identity());
    scene.locator.release("no such container");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_nobody_asks_for_is_forgotten() {
    let scene = Scene::new();
    let pause = Sandbox::start();
    let netns = pause.netns();
    scene.locator.from_cni(UID, "c1", netns.clone());
    scene.locator.seed("seeded", netns.clone());
    let cgroup = scene.directory.path().join("kubepods/podseeded");
    fs::create_dir(&cgroup).unwrap();
    fs::write(cgroup.join("cgroup.procs"), format!("{}\n", pause.pid())).unwrap();
    scene.locator.seed(UID, Arc::new(Netns::open(Path::new("/proc/self/ns/net")).unwrap()));
    assert_eq!(scene.found(), pause.identity(), "what was known before is older than a CNI call");
    tokio::time::advance(FORGOTTEN / 2).await;
    scene.locator.find("seeded").unwrap();
    tokio::time::advance(FORGOTTEN / 2).await;
    scene.locator.find("seeded").unwrap();
    assert_eq!(Arc::strong_count(&netns), 2);
    assert!(scene.locator.container(UID).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_opened_is_not_gone() {
    let mut scene = Scene::new();
    let pause = Sandbox::start();
    scene.containers(&[("pause", &[pause.pid()])]);
    assert_eq!(scene.found(), pause.identity());
    // A procfs in which every process has a namespace that cannot be looked at: a link that leads to itself.
    let proc = scene.directory.path().join("proc");
    let of_process = proc.join(pause.pid().to_string()).join("ns");
    fs::create_dir_all(&of_process).unwrap();
    std::os::unix::fs::symlink("net", of_process.join("net")).unwrap();
    scene.locator.settings.proc = proc.clone();
    for _ in 0..3 {
        assert_eq!(scene.found(), pause.identity());
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    let fresh = Locator::new(scene.locator.settings.clone());
    assert_eq!(
        fresh.find(UID).unwrap_err().to_string(),
        format!(
            "cannot find the pod's network namespace: {}: Too many levels of symbolic links (os error 40)",
            of_process.join("net").display()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_is_called_by_the_runtime_s_file() {
    let scene = Scene::new();
    let pause = Sandbox::start();
    scene.containers(&[("pause", &[pause.pid()])]);
    let names = scene.locator.settings.names.clone();
    fs::create_dir(&names).unwrap();
    std::os::unix::fs::symlink(pause.path(), names.join("cni-1")).unwrap();
    assert_eq!(scene.locator.find(UID).unwrap().path(), names.join("cni-1"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_cgroup_was_removed_is_let_go() {
    let scene = Scene::new();
    let pause = Sandbox::start();
    let identity = pause.identity();
    scene.containers(&[("pause", &[pause.pid()])]);
    assert_eq!(scene.found(), identity);
    // The kubelet removes it soon after the last process, also of a pod that was deleted by force.
    drop(pause);
    fs::remove_dir_all(scene.directory.path().join("kubepods/burstable")).unwrap();
    assert_eq!(scene.found(), identity, "it may be about to be made anew");
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(matches!(scene.locator.find(UID), Err(NotYet::TakenDown { over: true })));
    assert!(scene.locator.pods.lock().held.is_empty());
    // Nothing can be told of a node whose trees are not where they are looked for.
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = Settings { cgroup2: elsewhere.path().to_owned(), ..scene.locator.settings.clone() };
    let lost = Locator::new(settings);
    lost.seed(UID, Sandbox::start().netns());
    for _ in 0..3 {
        lost.find(UID).unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_that_cni_announced_is_let_go_with_its_cgroup() {
    let scene = Scene::new();
    let pause = Sandbox::start();
    scene.containers(&[("pause", &[pause.pid()])]);
    scene.locator.from_cni(UID, "c1", pause.netns());
    assert_eq!(scene.locator.find_deleted(UID).unwrap().identity(), pause.identity());
    drop(pause);
    fs::remove_dir_all(scene.directory.path().join("kubepods/burstable")).unwrap();
    // While it was not deleted, the runtime says when the sandbox is over.
    for _ in 0..3 {
        scene.found();
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    scene.locator.find_deleted(UID).unwrap();
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(scene.locator.find_deleted(UID).is_err());
    assert!(scene.locator.pods.lock().held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_over_when_it_has_no_process_and_its_namespace_no_file() {
    let scene = Scene::new();
    let (first, second) = (Sandbox::start(), Sandbox::start());
    let names = scene.locator.settings.names.clone();
    fs::create_dir(&names).unwrap();
    std::os::unix::fs::symlink(first.path(), names.join("cni-1")).unwrap();
    scene.containers(&[("pause", &[first.pid()])]);
    scene.locator.from_cni(UID, "c1", first.netns());
    assert_eq!(scene.found(), first.identity());
    let over = || match scene.locator.find(UID) {
        Err(NotYet::TakenDown { over }) => over,
        other => panic!("{other:?}"),
    };
    scene.locator.release("c1");
    assert!(!over(), "its process is still there");
    scene.containers(&[]);
    assert!(!over(), "the runtime has yet to remove it");
    // However long it takes.
    for _ in 0..4 {
        tokio::time::advance(FORGOTTEN / 2).await;
        assert!(!over());
    }
    fs::remove_file(names.join("cni-1")).unwrap();
    let held = first.netns();
    drop(first);
    assert!(over());
    // From then on another may have its identity: whose process is in it has it.
    let reused = scene.locator.pods.lock().ended[UID].netns;
    assert_eq!(reused, held.identity());
    tokio::time::advance(FORGOTTEN / 2).await;
    assert!(over(), "and stays so");

    // The same call again, or for another sandbox, does nothing to the next one.
    scene.locator.from_cni(UID, "c2", second.netns());
    for container in ["c1", "c0"] {
        scene.locator.release(container);
        assert_eq!(scene.found(), second.identity());
    }
}
