//! The agent's source of pods against an API server that answers, fails, forgets and goes away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use weir_agent::{
    locate::{self, Locator},
    netns::Netns,
    sources::{
        Follower, Listing,
        kubernetes::{self, Admission, Handle, Rules, Settings, Timing},
    },
};
use weir_tests::{
    apiserver::{ApiServer, Fault, PodObject, Resource, Verb, namespace, node},
    cgroup,
    poll::wait_for,
};

const NODE: &str = "node-a";
const OWN_NAMESPACE: &str = "weir-system";
/// Whatever is to happen happens within this, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server, and a source that follows it.
struct Scene {
    // First: the runtime ends before the server does.
    source: Option<Source>,
    server: ApiServer,
    directory: TempDir,
    timing: Timing,
    first_list: Duration,
}

struct Source {
    follower: Follower,
    handle: Handle,
    runtime: Runtime,
}

impl Scene {
    /// A cluster with the namespaces `shop`, which is enrolled, and `plain`.
    fn new() -> Self {
        let server = ApiServer::start();
        server.put(node(NODE));
        server.put(node("node-b"));
        for (name, labels) in [("shop", &["weir.dev/mesh=enabled"][..]), ("plain", &[]), (OWN_NAMESPACE, &[])] {
            server.put(namespace(name, labels));
        }
        let timing = Timing {
            first_pause: Duration::from_millis(5),
            longest_pause: Duration::from_millis(100),
            ..Timing::default()
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { source: None, server, directory, timing, first_list: Duration::from_secs(60) }
    }

    fn settings(&self) -> Settings {
        Settings {
            node: NODE.to_owned(),
            rules: Rules { own_namespace: OWN_NAMESPACE.to_owned(), istio_labels: false },
            own_pod: Some("weir-x".to_owned()),
            record: self.directory.path().join("default.pods.json"),
            boot: "this".to_owned(),
            timing: self.timing,
            first_list: self.first_list,
        }
    }

    /// Starts a source, in place of the one that runs.
    fn follow(&mut self) {
        self.leave();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let node_netns = Netns::open("/proc/self/ns/net".as_ref()).expect("this namespace").identity();
        let locator = Locator::new(locate::Settings::new(cgroup::root(), "/proc".into(), node_netns));
        let kubeconfig = self.server.kubeconfig(self.directory.path());
        let (follower, handle) = runtime.block_on(async {
            let client = kubernetes::client(Some(&kubeconfig)).await.expect("a client");
            kubernetes::follow(client, self.settings(), Arc::new(locator))
        });
        self.source = Some(Source { follower, handle, runtime });
    }

    /// Ends the source, as if its process was killed.
    fn leave(&mut self) {
        if let Some(source) = self.source.take() {
            source.runtime.shutdown_timeout(PATIENCE);
        }
    }

    fn source(&self) -> &Source {
        self.source.as_ref().expect("a source was started")
    }

    fn listing(&self) -> Listing {
        self.source().follower.borrow().clone()
    }

    fn admit(&self, uid: &str, namespace: &str, name: &str) -> Admission {
        let Source { handle, runtime, .. } = self.source();
        runtime.block_on(handle.admit(uid, namespace, name))
    }

    fn pod(&self, namespace: &str, name: &str) -> PodObject {
        PodObject::new(namespace, name, NODE)
    }

    /// Waits until exactly these pods are wanted.
    #[track_caller]
    fn wait_wanted(&self, names: &[&str]) {
        let names: BTreeSet<&str> = names.iter().copied().collect();
        self.wait_listing(&format!("{names:?} are wanted"), |listing| {
            listing
                .pods
                .as_ref()
                .is_some_and(|pods| pods.iter().map(|pod| pod.name.as_str()).collect::<BTreeSet<_>>() == names)
        });
    }

    #[track_caller]
    fn wait_listing(&self, what: &str, wanted: impl Fn(&Listing) -> bool) -> Listing {
        wait_for(what, PATIENCE, || {
            let listing = self.listing();
            if wanted(&listing) { Ok(listing) } else { Err(shown(&listing)) }
        })
    }

    /// Waits until nothing is wrong.
    #[track_caller]
    fn wait_well(&self) {
        self.wait_listing("the source is well", |listing| listing.error.is_empty());
    }

    /// Waits until each kind of object is watched.
    #[track_caller]
    fn wait_watched(&self) {
        for resource in [Resource::Pods, Resource::Namespaces, Resource::Nodes] {
            wait_for(&format!("{resource:?} are watched"), PATIENCE, || match self.server.watches(resource) {
                1 => Ok(()),
                open => Err(open),
            });
        }
    }

    /// Waits until the record says so much of this.
    #[track_caller]
    fn wait_recorded(&self, text: &str, recorded: bool) {
        wait_for(&format!("{text} is in the record: {recorded}"), PATIENCE, || {
            let record = std::fs::read_to_string(self.settings().record).map_err(|error| error.to_string())?;
            if record.contains(text) == recorded { Ok(()) } else { Err(record) }
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.leave();
    }
}

fn shown(listing: &Listing) -> String {
    let names = |pods: &Vec<weir_agent::sources::PodSpec>| pods.iter().map(|pod| pod.name.clone()).take(20).collect();
    let wanted: Option<Vec<String>> = listing.pods.as_ref().map(names);
    format!("wanted {wanted:?}, {} passed over, error {:?}", listing.passed_over.len(), listing.error)
}

fn passed_over(listing: &Listing) -> BTreeMap<&str, &str> {
    listing.passed_over.iter().map(|pod| (pod.name.as_str(), pod.reason.as_str())).collect()
}

#[test]
fn the_pods_of_the_node_are_listed_once_and_then_watched() {
    let mut scene = Scene::new();
    scene
        .server
        .put(scene.pod("shop", "web").labels(&["app=web"]).probe(8080).annotations(&["weir.dev/fail-open=true"]));
    scene.server.put(scene.pod("shop", "host").host_network());
    scene.server.put(scene.pod("shop", "done").phase("Succeeded"));
    scene.server.put(scene.pod("shop", "out").labels(&["weir.dev/mesh=disabled"]));
    scene.server.put(scene.pod("plain", "other"));
    scene.server.put(scene.pod(OWN_NAMESPACE, "weir-x"));
    scene.server.put(PodObject::new("shop", "elsewhere", "node-b"));
    scene.follow();
    scene.wait_wanted(&["web"]);
    let listing = scene.listing();
    let web = &listing.pods.as_ref().expect("listed")[0];
    assert_eq!(
        (web.uid.as_str(), web.namespace.as_str(), web.probe_ports.as_slice()),
        ("uid-web", "shop", &[8080][..])
    );
    assert_eq!((web.labels["app"].as_str(), web.annotations["weir.dev/fail-open"].as_str()), ("web", "true"));
    let expected = BTreeMap::from([
        ("host", "it is on the host network (hostNetwork: true)"),
        ("done", "its containers have ended"),
        ("out", "its label weir.dev/mesh=disabled keeps it out"),
        ("other", "its namespace has no label weir.dev/mesh=enabled"),
        ("weir-x", "pods of weir's own namespace weir-system are never enrolled"),
    ]);
    assert_eq!(passed_over(&listing), expected);
    assert_eq!(listing.error, "");

    scene.wait_watched();
    for request in scene.server.requests() {
        let query = |name: &str| request.query.get(name).map(String::as_str);
        let (fields, metadata) = match request.resource {
            Resource::Pods => (Some("spec.nodeName=node-a"), false),
            Resource::Namespaces => (None, true),
            _ => (Some("metadata.name=node-a"), true),
        };
        assert_eq!(query("fieldSelector"), fields, "{request:?}");
        assert_eq!(request.accept.contains("as=PartialObjectMetadata"), metadata, "{request:?}");
        match request.verb {
            // With a limit the server would read the pods of all nodes from etcd.
            Verb::List if fields.is_some() => {
                let cached = (query("limit"), query("resourceVersion"), query("resourceVersionMatch"));
                assert_eq!(cached, (None, Some("0"), Some("NotOlderThan")), "{request:?}");
            }
            Verb::List => assert_eq!((query("limit"), query("resourceVersion")), (Some("500"), None), "{request:?}"),
            Verb::Watch => {
                assert_eq!(query("allowWatchBookmarks"), Some("true"), "{request:?}");
                let seconds: u64 = query("timeoutSeconds").expect("a timeout").parse().expect("seconds");
                assert!((240..=300).contains(&seconds) && query("resourceVersion").is_some(), "{request:?}");
            }
            other => panic!("{other:?} was not expected"),
        }
    }
    for resource in [Resource::Pods, Resource::Namespaces, Resource::Nodes] {
        let lists = scene.server.count(resource, Verb::List);
        assert_eq!((lists, scene.server.most_watches(resource)), (1, 1), "{resource:?}");
    }
}

#[test]
fn labels_and_pods_change_who_is_wanted() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("shop", "web"));
    scene.server.put(scene.pod("plain", "other"));
    scene.follow();
    scene.wait_wanted(&["web"]);
    scene.server.put(namespace("plain", &["weir.dev/mesh=enabled"]));
    scene.wait_wanted(&["web", "other"]);
    scene.server.put(namespace("shop", &[]));
    scene.wait_wanted(&["other"]);
    scene.server.put(scene.pod("shop", "web").labels(&["weir.dev/mesh=enabled"]));
    scene.wait_wanted(&["web", "other"]);
    scene.server.put(scene.pod("plain", "other").labels(&["weir.dev/mesh=disabled"]));
    scene.wait_wanted(&["web"]);
    scene.server.put(namespace("plain", &["weir.dev/mesh=yes"]));
    scene.server.put(scene.pod("plain", "other"));
    let reason = "its namespace's label weir.dev/mesh: invalid \"yes\", expected \"enabled\" or \"disabled\"";
    scene.wait_listing("the malformed label is named", |listing| passed_over(listing).get("other") == Some(&reason));

    // A pod that is being deleted is carried while its containers run; one whose containers have ended is not.
    scene.server.put(scene.pod("shop", "web").labels(&["weir.dev/mesh=enabled"]).deleting());
    scene.server.put(scene.pod("shop", "next").labels(&["weir.dev/mesh=enabled"]));
    scene.wait_wanted(&["web", "next"]);
    scene.server.put(scene.pod("shop", "web").labels(&["weir.dev/mesh=enabled"]).deleting().phase("Failed"));
    scene.wait_wanted(&["next"]);
    // Replaced under the same name, as a StatefulSet does.
    scene.server.put(scene.pod("shop", "next").labels(&["weir.dev/mesh=enabled"]).uid("uid-again"));
    scene.wait_listing("the pod that took the name is wanted", |listing| {
        listing.pods.as_ref().is_some_and(|pods| pods.len() == 1 && pods[0].uid == "uid-again")
    });
    scene.server.delete(Resource::Pods, "shop/next");
    scene.wait_wanted(&[]);
    assert_eq!(scene.server.count(Resource::Pods, Verb::List), 1);
}

#[test]
fn a_malformed_label_of_a_pod_in_an_enrolled_namespace_holds_it_back() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("shop", "web").labels(&["weir.dev/mesh=of"]));
    scene.follow();
    scene.wait_wanted(&["web"]);
    let pods = scene.listing().pods.expect("listed");
    let expected = "label weir.dev/mesh: invalid \"of\", expected \"enabled\" or \"disabled\"";
    assert_eq!(pods[0].problem.as_deref(), Some(expected), "{pods:?}");
}

#[test]
fn a_watch_that_ends_is_resumed_where_it_was() {
    let mut scene = Scene::new();
    scene.follow();
    scene.wait_wanted(&[]);
    scene.wait_watched();
    scene.server.put(scene.pod("shop", "one"));
    scene.wait_wanted(&["one"]);
    scene.server.end_watches();
    scene.server.put(scene.pod("shop", "two"));
    scene.wait_wanted(&["one", "two"]);
    // A bookmark says that nothing happened up to its version.
    scene.wait_watched();
    for n in 0..10 {
        scene.server.put(namespace(&format!("ns-{n}"), &[]));
    }
    scene.server.bookmark();
    let version = scene.server.put(scene.pod("shop", "three"));
    scene.wait_wanted(&["one", "two", "three"]);
    scene.server.end_watches();
    let resumed = wait_for("pods are watched from after the bookmark", PATIENCE, || {
        let requests = scene.server.requests();
        let watches = requests.iter().filter(|r| (r.resource, r.verb) == (Resource::Pods, Verb::Watch));
        let from: Vec<u64> =
            watches.map(|request| request.query["resourceVersion"].parse().expect("a number")).collect();
        if from.last().is_some_and(|from| *from >= version) { Ok(from) } else { Err(from) }
    });
    assert!(resumed.is_sorted(), "{resumed:?}");
    scene.wait_well();
    assert_eq!(scene.server.count(Resource::Pods, Verb::List), 1, "nothing was listed again");
    assert_eq!(scene.server.most_watches(Resource::Pods), 1);
}

#[test]
fn expired_versions_are_listed_anew() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("shop", "stays"));
    scene.server.put(scene.pod("shop", "goes"));
    scene.follow();
    scene.wait_wanted(&["stays", "goes"]);
    scene.wait_watched();
    // Told by an event, as a real one does, and by a status.
    for (round, fault) in [None, Some(Fault::Status(410, None))].into_iter().enumerate() {
        scene.server.fail(Resource::Pods, Verb::Watch, fault);
        scene.server.stop();
        let _ = scene.server.put(scene.pod("shop", &format!("new-{round}")));
        if round == 0 {
            scene.server.delete(Resource::Pods, "shop/goes");
        }
        scene.server.expire();
        scene.server.resume();
        let wanted: &[&str] = if round == 0 { &["stays", "new-0"] } else { &["stays", "new-0", "new-1"] };
        scene.wait_wanted(wanted);
        scene.wait_watched();
        scene.wait_well();
    }
    assert_eq!(scene.server.faults_left(), 0);
    let lists = scene.server.count(Resource::Pods, Verb::List);
    assert!((3..=4).contains(&lists), "listed {lists} times");
    assert_eq!(scene.server.most_watches(Resource::Pods), 1);
}

#[test]
fn long_lists_come_in_pages() {
    let mut scene = Scene::new();
    for n in 0..1200 {
        scene.server.put(namespace(&format!("namespace-{n}"), &["weir.dev/mesh=enabled"]));
    }
    for n in 0..1200 {
        scene.server.put(scene.pod(&format!("namespace-{n}"), &format!("pod-{n}")));
    }
    // The third page is asked for with a token that is expired by then: the list begins again.
    let wanted = |listing: &Listing| listing.pods.as_ref().map_or(0, Vec::len);
    scene.follow();
    scene.wait_listing("the pods of all namespaces are listed", |listing| wanted(listing) == 1200);
    let pages = |scene: &Scene| -> Vec<Option<String>> {
        let requests = scene.server.requests();
        let lists = requests.iter().filter(|r| (r.resource, r.verb) == (Resource::Namespaces, Verb::List));
        lists.map(|request| request.query.get("continue").cloned()).collect()
    };
    let seen = pages(&scene);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen[0].is_none() && seen[1].is_some() && seen[2].is_some() && seen[1] != seen[2], "{seen:?}");
    scene.wait_watched();

    scene.server.fail(Resource::Namespaces, Verb::Watch, [Fault::ErrorEvent(410)]);
    scene.server.fail(Resource::Namespaces, Verb::List, [Fault::Slow(Duration::ZERO), Fault::Status(410, None)]);
    scene.server.end_watches();
    wait_for("the list was begun again", PATIENCE, || {
        let seen = pages(&scene);
        if seen.len() == 3 + 2 + 3 { Ok(()) } else { Err(seen) }
    });
    scene.wait_well();
    assert_eq!(wanted(&scene.listing()), 1200, "nothing was withdrawn meanwhile");
}

#[test]
fn whatever_fails_at_the_start_is_tried_again() {
    for fault in [
        Fault::Status(500, None),
        Fault::Status(401, None),
        Fault::Status(403, None),
        Fault::Status(429, Some(1)),
        Fault::Status(503, None),
        Fault::Status(410, None),
        Fault::Html,
        Fault::Cut,
        Fault::Slow(Duration::from_millis(300)),
        Fault::Silent,
    ] {
        let mut scene = Scene::new();
        scene.timing.answer = Duration::from_secs(1);
        scene.server.put(scene.pod("shop", "web"));
        for resource in [Resource::Pods, Resource::Namespaces, Resource::Nodes] {
            scene.server.fail(resource, Verb::List, [fault.clone()]);
        }
        scene.follow();
        scene.wait_wanted(&["web"]);
        scene.wait_well();
        scene.wait_watched();
        assert_eq!(scene.server.faults_left(), 0, "{fault:?}");
    }
}

#[test]
fn whatever_happens_to_a_watch_no_event_is_lost() {
    let mut scene = Scene::new();
    scene.timing.answer = Duration::from_secs(1);
    scene.follow();
    scene.wait_wanted(&[]);
    scene.wait_watched();
    let mut wanted = Vec::new();
    for (number, fault) in [
        Fault::Status(500, None),
        Fault::Status(401, None),
        Fault::Status(403, None),
        Fault::Status(429, Some(1)),
        Fault::Status(410, None),
        Fault::Html,
        Fault::Cut,
        Fault::Silent,
        Fault::Garbage,
        Fault::Ended,
        Fault::ErrorEvent(410),
        Fault::ErrorEvent(500),
    ]
    .into_iter()
    .enumerate()
    {
        scene.server.fail(Resource::Pods, Verb::Watch, [fault.clone(), fault.clone()]);
        scene.server.end_watches();
        wanted.push(format!("pod-{number}"));
        scene.server.put(scene.pod("shop", &wanted[number]));
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        scene.wait_wanted(&names);
        // It broke off within the event: only the next one meets the second.
        if matches!(fault, Fault::Cut) {
            scene.server.put(scene.pod("shop", "pod-0").labels(&["round=cut"]));
        }
        wait_for(&format!("both faults were met: {fault:?}"), PATIENCE, || match scene.server.faults_left() {
            0 => Ok(()),
            left => Err(left),
        });
        scene.wait_watched();
        scene.wait_well();
    }
    assert_eq!(scene.server.most_watches(Resource::Pods), 1);
}

#[test]
fn a_flood_of_events_ends_in_the_right_state() {
    let mut scene = Scene::new();
    for n in 0..100 {
        scene.server.put(scene.pod("shop", &format!("pod-{n}")));
    }
    scene.follow();
    scene.wait_listing("all pods are listed", |listing| listing.pods.as_ref().is_some_and(|pods| pods.len() == 100));
    scene.wait_watched();
    for round in 0..100 {
        for n in 0..100 {
            let value = if (n + round) % 3 == 0 { "disabled" } else { "enabled" };
            let labels = [&*format!("weir.dev/mesh={value}"), &*format!("round={round}")];
            scene.server.put(scene.pod("shop", &format!("pod-{n}")).labels(&labels));
        }
    }
    let expected: BTreeSet<String> = (0..100).filter(|n| (n + 99) % 3 != 0).map(|n| format!("pod-{n}")).collect();
    scene.wait_listing("the last of 10,000 events is heard", |listing| {
        let pods = listing.pods.as_deref().unwrap_or_default();
        pods.iter().all(|pod| pod.labels.get("round").is_some_and(|round| round == "99"))
            && pods.iter().map(|pod| pod.name.clone()).collect::<BTreeSet<_>>() == expected
    });
    assert_eq!(scene.server.count(Resource::Pods, Verb::List), 1);
    assert_eq!(scene.server.most_watches(Resource::Pods), 1);
}

#[test]
fn what_is_known_stays_while_the_api_server_is_away() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("shop", "web"));
    scene.server.put(scene.pod("shop", "goes"));
    scene.follow();
    scene.wait_wanted(&["web", "goes"]);
    scene.wait_watched();
    scene.server.stop();
    let away = scene.wait_listing("that it is away is said", |listing| !listing.error.is_empty());
    assert!(away.error.starts_with("API server not reached since 20"), "{}", away.error);
    assert!(away.error.contains("Connection refused (os error 111)"), "{}", away.error);
    scene.wait_wanted(&["web", "goes"]);
    assert_eq!(scene.admit("uid-web", "shop", "web"), Admission::Enroll);
    assert_eq!(scene.admit("uid-new", "shop", "new"), Admission::Enroll, "its namespace is enrolled");
    for namespace in ["plain", "unheard-of"] {
        let expected = format!(
            "cannot ask the API server about pod {namespace}/new (UID uid-new): Connection refused (os error 111)"
        );
        assert_eq!(scene.admit("uid-new", namespace, "new"), Admission::Unreached(expected), "labelled since, perhaps");
    }
    assert!(matches!(scene.admit("uid-new", OWN_NAMESPACE, "new"), Admission::Pass(_)));

    scene.server.delete(Resource::Pods, "shop/goes");
    scene.server.put(scene.pod("shop", "comes"));
    scene.server.resume();
    scene.wait_wanted(&["web", "comes"]);
    scene.wait_well();
}

#[test]
fn a_label_set_while_the_api_server_was_away_counts_before_the_watches_are_back() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("plain", "old"));
    scene.follow();
    scene.wait_listing("the pod was heard of", |listing| passed_over(listing).contains_key("old"));
    scene.wait_watched();
    // The watches come back a minute after the server.
    for resource in [Resource::Pods, Resource::Namespaces] {
        scene.server.fail(resource, Verb::Watch, [Fault::Status(503, Some(3600))]);
    }
    scene.server.end_watches();
    wait_for("both watches are broken", PATIENCE, || match scene.server.faults_left() {
        0 => Ok(()),
        left => Err(left),
    });
    scene.wait_listing("it is said", |listing| listing.error.contains("refuses to give pods"));
    scene.server.stop();
    scene.server.put(namespace("plain", &["weir.dev/mesh=enabled"]));
    scene.server.put(scene.pod("plain", "new"));
    assert!(matches!(scene.admit("uid-new", "plain", "new"), Admission::Unreached(_)), "neither passed nor refused");
    assert!(
        matches!(scene.admit("uid-old", "plain", "old"), Admission::Unreached(_)),
        "its namespace may be another now"
    );
    scene.server.resume();
    assert_eq!(scene.admit("uid-new", "plain", "new"), Admission::Enroll);
    scene.wait_wanted(&["old", "new"]);
}

#[test]
fn an_agent_that_starts_without_the_api_server_knows_what_the_last_one_knew() {
    let mut scene = Scene::new();
    scene.first_list = Duration::from_millis(300);
    scene.server.put(scene.pod("shop", "web").labels(&["app=web"]).probe(8080));
    scene.server.put(scene.pod("shop", "out").labels(&["weir.dev/mesh=disabled"]));
    scene.follow();
    scene.wait_wanted(&["web"]);
    scene.wait_recorded("uid-web", true);
    let before = scene.listing().pods.expect("listed");
    scene.leave();
    scene.server.stop();

    scene.follow();
    assert!(scene.listing().pods.is_none(), "not before the API server had its chance");
    scene.wait_wanted(&["web"]);
    let listing = scene.wait_listing("it says so", |listing| listing.error.contains("API server not reached"));
    assert!(listing.error.ends_with("; the pods are those that an earlier agent knew"), "{}", listing.error);
    assert!(listing.pods.expect("listed")[0].described_like(&before[0]));
    assert_eq!(scene.admit("uid-web", "shop", "web"), Admission::Enroll);
    assert!(matches!(scene.admit("uid-out", "shop", "out"), Admission::Pass(_)));
    assert_eq!(scene.admit("uid-new", "shop", "new"), Admission::Enroll);
    assert!(matches!(scene.admit("uid-new", "plain", "new"), Admission::Unreached(_)));
    let namespaces = scene.source().handle.namespaces().borrow().clone().expect("known");
    assert_eq!((namespaces["shop"], namespaces["plain"]), (true, false));

    // The first real list takes its place.
    scene.server.delete(Resource::Pods, "shop/web");
    scene.server.put(scene.pod("shop", "new"));
    scene.server.resume();
    scene.wait_wanted(&["new"]);
    scene.wait_well();
    scene.wait_recorded("uid-web", false);
}

#[test]
fn with_the_api_server_in_reach_the_record_is_not_used() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod("shop", "web"));
    scene.follow();
    scene.wait_wanted(&["web"]);
    scene.wait_recorded("uid-web", true);
    scene.leave();
    scene.server.delete(Resource::Pods, "shop/web");
    scene.server.put(scene.pod("shop", "new"));
    scene.server.fail(Resource::Pods, Verb::List, [Fault::Slow(Duration::from_millis(500))]);
    scene.follow();
    let first = scene.wait_listing("the first list", |listing| listing.pods.is_some());
    assert_eq!(shown(&first), "wanted Some([\"new\"]), 0 passed over, error \"\"");
    assert!(scene.source().handle.inherited().is_empty(), "its namespace was never found");
}

#[test]
fn a_damaged_record_is_set_aside_and_costs_nothing_else() {
    let mut scene = Scene::new();
    scene.first_list = Duration::ZERO;
    std::fs::write(scene.settings().record, "{\"version\": 1, \"pods\": [").expect("a file of this test");
    scene.server.stop();
    scene.follow();
    scene.wait_listing("the error is that the server is away", |listing| {
        listing.error.starts_with("API server not reached") && listing.pods.is_none()
    });
    assert!(scene.directory.path().join("default.pods.json.bad").exists());
    assert_eq!(*scene.source().handle.namespaces().borrow(), None, "nothing is known, rather than no namespace");
    assert!(matches!(scene.admit("u", "shop", "web"), Admission::Unknown(_)));
    scene.server.put(scene.pod("shop", "web"));
    scene.server.resume();
    scene.wait_wanted(&["web"]);
}

#[test]
fn a_connection_without_a_sign_of_life_counts_as_dead() {
    let mut scene = Scene::new();
    // This server never ends a watch, however long it was asked to let it last.
    scene.timing = Timing { watch: Duration::from_secs(1), overdue: Duration::from_millis(200), ..scene.timing };
    scene.follow();
    scene.wait_wanted(&[]);
    wait_for("pods are watched again", PATIENCE, || match scene.server.count(Resource::Pods, Verb::Watch) {
        watches if watches >= 3 => Ok(()),
        watches => Err(watches),
    });
    scene.server.put(scene.pod("shop", "web"));
    scene.wait_wanted(&["web"]);
    assert_eq!(scene.server.count(Resource::Pods, Verb::List), 1);
}

#[test]
fn refusals_are_said_with_the_servers_words() {
    let mut scene = Scene::new();
    scene.timing.longest_pause = Duration::from_secs(1);
    scene.server.fail(Resource::Namespaces, Verb::List, std::iter::repeat_n(Fault::Status(403, None), 20));
    scene.follow();
    let listing = scene.wait_listing("the refusal is said", |listing| !listing.error.is_empty());
    assert!(listing.error.starts_with("the API server refuses to give namespaces since 20"), "{}", listing.error);
    assert!(listing.error.ends_with(": 403: scripted"), "{}", listing.error);
    assert!(listing.pods.is_none(), "without the namespaces nobody knows who is enrolled");
    scene.wait_well();
    scene.wait_wanted(&[]);
}

#[test]
fn a_node_that_nobody_knows_is_named() {
    let mut scene = Scene::new();
    scene.server.delete(Resource::Nodes, NODE);
    scene.follow();
    let listing = scene.wait_listing("it is said", |listing| !listing.error.is_empty());
    assert_eq!(
        listing.error,
        "the API server knows no node \"node-a\": expected `node` of agent.toml (or $NODE_NAME) to be the name of this \
         machine's Node"
    );
    scene.server.put(node(NODE));
    scene.wait_well();
}

#[test]
fn a_pod_that_the_watch_has_not_told_of_is_asked_for() {
    let mut scene = Scene::new();
    scene.server.fail(Resource::Pods, Verb::Watch, [Fault::Silent]);
    scene.follow();
    scene.wait_wanted(&[]);
    wait_for("the watch hangs", PATIENCE, || match scene.server.faults_left() {
        0 => Ok(()),
        left => Err(left),
    });
    // Its namespace is new as well.
    scene.server.put(namespace("new", &["weir.dev/mesh=enabled"]));
    scene.server.put(scene.pod("new", "web"));
    assert_eq!(scene.admit("uid-web", "new", "web"), Admission::Enroll);
    scene.wait_wanted(&["web"]);
    let other = scene.admit("uid-other", "new", "web");
    let expected = "pod new/web is another one now: its UID is uid-web, not uid-other";
    assert_eq!(other, Admission::Unknown(expected.to_owned()));
    scene.server.put(PodObject::new("new", "far", "node-b"));
    let far = scene.admit("uid-far", "new", "far");
    assert!(matches!(&far, Admission::Unknown(why) if why.contains("is bound to the node \"node-b\"")), "{far:?}");
    let missing = scene.admit("uid-x", "new", "missing");
    let expected = "the API server knows no pod new/missing (UID uid-x)";
    assert_eq!(missing, Admission::Unknown(expected.to_owned()));
    assert!(matches!(scene.admit("uid-x", "plain", "missing"), Admission::Pass(_)), "a static pod, perhaps");
    let own = scene.admit("uid-y", OWN_NAMESPACE, "weir-y");
    assert!(matches!(own, Admission::Pass(_)), "{own:?}");
    let crooked = scene.admit("u", "../../x", "web");
    let expected = "cannot ask the API server about pod ../../x/web (UID u): unreadable answer: \"../../x\" is not the \
                    name of a namespace";
    assert_eq!(crooked, Admission::Unknown(expected.to_owned()));
}

#[test]
fn an_answer_that_does_not_come_holds_nobody_for_long() {
    let mut scene = Scene::new();
    scene.follow();
    scene.wait_wanted(&[]);
    scene.server.fail(Resource::Pods, Verb::Get, [Fault::Silent]);
    assert_eq!(scene.admit("uid-web", "shop", "web"), Admission::Enroll, "its namespace says so");
}

#[test]
fn namespaces_and_the_uninstall_are_told_as_they_change() {
    let mut scene = Scene::new();
    scene.server.put(scene.pod(OWN_NAMESPACE, "weir-x").controller("daemonset-1"));
    scene.follow();
    scene.wait_wanted(&[]);
    let (mut namespaces, uninstall) = (scene.source().handle.namespaces(), scene.source().handle.uninstall());
    let first = namespaces.borrow_and_update().clone().expect("known with the first listing");
    let expected = BTreeMap::from([("plain", false), ("shop", true), (OWN_NAMESPACE, false)]);
    assert_eq!(*first, expected.into_iter().map(|(name, enrolled)| (name.to_owned(), enrolled)).collect());
    scene.server.put(namespace("plain", &["weir.dev/mesh=enabled"]));
    wait_for("the label is told", PATIENCE, || {
        let known = namespaces.borrow().clone();
        if known.as_ref().is_some_and(|known| known["plain"]) { Ok(()) } else { Err(known) }
    });
    assert!(!*uninstall.borrow());
    let annotated = |uid: &str| {
        let mut own = namespace(OWN_NAMESPACE, &[]);
        own["metadata"]["annotations"] = serde_json::json!({"weir.dev/uninstall": uid});
        own
    };
    scene.server.put(annotated("daemonset-2"));
    scene.server.put(scene.pod("shop", "after"));
    scene.wait_wanted(&["after"]);
    assert!(!*uninstall.borrow(), "another one is uninstalled");
    scene.server.put(annotated("daemonset-1"));
    wait_for("the uninstall is told", PATIENCE, || if *uninstall.borrow() { Ok(()) } else { Err(()) });
}
