//! weir's client follows the scripted server.

use std::{
    io::Read,
    net::TcpListener,
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tonic::Code;
use weir_proxy::xds::{
    client::Settings,
    dial::Address,
    kind::Kind,
    rate::Bucket,
    saved::Directory,
    store::Status,
    transport::Service,
    update::{Consumer, Origin, Refused, Update},
    wishes::{Handle, Options, Subscription},
};
use weir_tests::{
    ads::{Ads, Event, Listen, Seen, directory::recorded},
    poll::wait_for,
};

use crate::{
    Protocol,
    follower::{PATIENCE, Running, in_turn, settings},
    resources::{bad_cluster, cluster, endpoints, listener, resources, routes},
    scenario::{BAD, Scenario, Who},
};

fn follows(protocol: Protocol) {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    let scenario = Scenario::begin(&ads, protocol);
    let running = Running::following(&ads, protocol);
    scenario.initial();
    scenario.changes();
    scenario.rejection(BAD);
    // It was never in force, is not there any more, and nobody asked for it by name.
    assert_eq!(running.status(Kind::Cluster, "bad"), None);
    scenario.coming_and_going();
    assert_eq!(running.status(Kind::LoadAssignment, "b"), None);
    scenario.reconnection();
    assert_eq!(running.status(Kind::Routes, "r"), Some(Status::Acked));
    scenario.nothing_left(Who::Weir);
}

#[test]
fn weir_follows_the_state_of_the_world_as_envoy_does() {
    follows(Protocol::Sotw);
}

#[test]
fn weir_follows_deltas_as_envoy_does() {
    follows(Protocol::Delta);
}

/// A server with one cluster.
fn small(listen: Listen) -> Ads {
    let ads = Ads::start(listen).unwrap();
    ads.put([cluster("a"), endpoints("a", 1), routes("r", "one")]);
    ads
}

#[test]
fn a_stream_says_who_it_is_and_what_it_was_told_to() {
    let ads = small(Listen::anywhere());
    let _running = Running::following(&ads, Protocol::Delta);
    let opened = ads.wait("a stream", |event| matches!(event.seen, Seen::Opened { .. }));
    let Seen::Opened { method, metadata } = opened.seen else { return };
    assert_eq!(method, "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
    assert_eq!(metadata, [("authorization".to_owned(), "Bearer token".to_owned())].into());
}

#[test]
fn a_server_that_goes_and_comes_back_with_other_versions_is_followed_again() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let mut ads = small(Listen::anywhere());
        let running = Running::following(&ads, protocol);
        running.until("eds +a -");
        ads.stop();
        ads.change(|world| world.remove("type.googleapis.com/envoy.config.cluster.v3.Cluster", "a"));
        ads.put([cluster("b"), endpoints("b", 1)]);
        ads.restart("later-").unwrap();
        running.until("cds +b -a");
        running.until("eds +b -");
        // Both, or one after the other.
        wait_for("the new version", PATIENCE, || {
            let version = running.store.accepted(Kind::Cluster, "b").map(|accepted| accepted.version);
            version.clone().filter(|version| version.starts_with("later-")).ok_or(version)
        });
    }
}

#[test]
fn streams_that_are_refused_are_opened_again() {
    let ads = small(Listen::anywhere());
    ads.refuse(Some((Code::PermissionDenied, "not you")));
    let running = Running::following(&ads, Protocol::Sotw);
    assert!(running.seen.recv_timeout(Duration::from_millis(100)).is_err());
    ads.refuse(None);
    running.until("cds +a -");
}

#[test]
fn the_next_address_is_tried_where_one_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds");
    let ads = small(Listen::Pipe(path.clone()));
    // It refuses connections.
    let mut gone = Ads::start(Listen::anywhere()).unwrap();
    gone.stop();
    let addresses = [Address::Socket(gone.address()), Address::Pipe(path)];
    let running = Running::start(move || settings(Protocol::Delta, in_turn(addresses)));
    running.until("eds +a -");
    ads.wait_ack("eds");
}

#[test]
fn a_server_that_hangs_is_passed_over() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let ads = small(Listen::anywhere());
    let addresses = [Address::Socket(hangs.local_addr().unwrap()), Address::Socket(ads.address())];
    let running = Running::start(move || settings(Protocol::Sotw, in_turn(addresses)));
    running.until("eds +a -");
    // Its connection was accepted by the kernel, and is over.
    let (mut connection, _) = hangs.accept().unwrap();
    let mut heard = Vec::new();
    connection.read_to_end(&mut heard).unwrap();
    assert!(heard.starts_with(b"PRI * HTTP/2.0"));
}

#[test]
fn a_server_that_sends_nonsense_loses_its_stream_and_nothing_else() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let ads = small(Listen::anywhere());
        let running = Running::following(&ads, protocol);
        running.until("eds +a -");
        for nonsense in [vec![0xff; 100], vec![0; 70 << 20]] {
            let mark = ads.mark();
            ads.send_raw(nonsense);
            ads.wait_after(mark, "another stream", |event| matches!(event.seen, Seen::Opened { .. }));
        }
        assert_eq!(running.status(Kind::Cluster, "a"), Some(Status::Acked));
        ads.put([cluster("b")]);
        running.until("cds +b -");
    }
}

#[test]
fn what_was_accepted_is_served_before_the_server_is_there() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let directory = tempfile::tempdir().unwrap();
        let mut ads = small(Listen::anywhere());
        ads.put([cluster("b"), endpoints("b", 1), bad_cluster("bad"), listener("l", "r")]);
        let saving = |ads: &Ads| {
            let (address, path) = (Address::Socket(ads.address()), directory.path().to_owned());
            Running::start(move || Settings {
                saved: Some(Directory::open(&path).unwrap()),
                ..settings(protocol, in_turn([address]))
            })
        };
        let running = saving(&ads);
        running.until("rds +r -");
        ads.wait_nack_after(0, "cds");
        drop(running);
        ads.stop();
        ads.change(|world| world.remove("type.googleapis.com/envoy.config.cluster.v3.Cluster", "b"));
        ads.remove("cds", "bad");
        let running = saving(&ads);
        assert!(running.until("cds saved +a,b -").is_empty());
        // What they refer to follows, as it is subscribed to.
        assert!(running.until("eds saved +a,b -").is_empty());
        assert!(running.until("lds saved +l -").is_empty());
        assert!(running.until("rds saved +r -").is_empty());
        // What is gone meanwhile goes, what is there stays what it is.
        ads.listen().unwrap();
        running.until("cds + -b");
        wait_for("the server's word", PATIENCE, || {
            let origin = running.store.accepted(Kind::Cluster, "a").map(|accepted| accepted.origin);
            if origin == Some(Origin::Server) { Ok(()) } else { Err(origin) }
        });
        assert_eq!(running.status(Kind::LoadAssignment, "b"), None);
    }
}

/// Waits for one secret.
struct Waiting {
    _secret: Subscription,
    told: mpsc::Sender<String>,
}

impl Consumer for Waiting {
    fn update(&mut self, update: &Update) -> Result<(), Refused> {
        let _ = self.told.send(format!("{} came", update.kind.short()));
        Ok(())
    }

    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        let _ = self.told.send(format!("{} {} timed out", kind.short(), name.map_or("*", |name| name)));
    }
}

#[test]
fn who_waits_for_what_does_not_come_is_told_and_waits_on() {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.mute(true);
    let address = Address::Socket(ads.address());
    let running = Running::with(
        move || Settings { service: Service::Only(Kind::Secret), ..settings(Protocol::Sotw, in_turn([address])) },
        |handle, told| {
            let options = Options { timeout: Some(Duration::from_millis(50)), ..Options::default() };
            Waiting { _secret: handle.subscribe(Kind::Secret, Some("s".into()), options), told }
        },
    );
    assert!(running.until("sds s timed out").is_empty());
    assert_eq!(running.status(Kind::Secret, "s"), Some(Status::Timeout));
    let opened = ads.wait("a stream", |event| matches!(event.seen, Seen::Opened { .. }));
    let Seen::Opened { method, .. } = opened.seen else { return };
    assert_eq!(method, "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
    ads.wait("the subscription", |event| event.kind == "sds");
    ads.mute(false);
    ads.put(resources(
        "- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: s\n",
    ));
    running.until("sds came");
    ads.wait_ack("sds");
    assert_eq!(running.status(Kind::Secret, "s"), Some(Status::Acked));
}

/// Panics over clusters of one name, and over whatever does not come.
struct Faulty {
    _clusters: Subscription,
    told: mpsc::Sender<String>,
}

impl Faulty {
    fn new(handle: &Handle, timeout: Option<Duration>, told: mpsc::Sender<String>) -> Self {
        let options = Options { timeout, ..Options::default() };
        Self { _clusters: handle.subscribe(Kind::Cluster, None, options), told }
    }
}

impl Consumer for Faulty {
    fn update(&mut self, update: &Update) -> Result<(), Refused> {
        let names: Vec<_> = update.added.iter().map(|resource| &*resource.name).collect();
        let _ = self.told.send(format!("+{}", names.join(",")));
        assert!(!names.contains(&"fault"), "what a fault of the proxy would do");
        Ok(())
    }

    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        let name = name.map_or("*", |name| name);
        let _ = self.told.send(format!("{} {name} is given up", kind.short()));
        panic!("what a fault of the proxy would do");
    }
}

#[test]
fn what_is_panicked_over_is_refused_and_its_server_followed_on() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let ads = small(Listen::anywhere());
        let address = Address::Socket(ads.address());
        let running = Running::with(
            move || settings(protocol, in_turn([address])),
            |handle, told| Faulty::new(handle, None, told),
        );
        running.until("+a");
        ads.put([cluster("fault")]);
        let refused = ads.wait_nack_after(0, "cds");
        assert!(refused.contains("a fault of this proxy: it panicked; its log says where"), "{refused}");
        // Nobody waits for it any more.
        running.until("cds fault is given up");
        running.until("cds * is given up");
        assert!(running.store.is_followed());
        assert_eq!(running.status(Kind::Cluster, "a"), Some(Status::Acked));
        ads.remove("cds", "fault");
        ads.put([cluster("b")]);
        running.until("+b");
        ads.wait_ack("cds");
        assert!(!ads.has_seen(0, |event| matches!(event.seen, Seen::Opened { .. }) && event.stream > 1));
    }
}

#[test]
fn a_panic_ends_a_stream_and_another_is_opened() {
    let ads = small(Listen::anywhere());
    ads.mute(true);
    let address = Address::Socket(ads.address());
    let running = Running::with(
        move || settings(Protocol::Delta, in_turn([address])),
        |handle, told| Faulty::new(handle, Some(Duration::from_millis(200)), told),
    );
    running.until("cds * is given up");
    ads.mute(false);
    running.until("+a");
    ads.wait_ack("cds");
    assert!(running.store.is_followed());
}

#[test]
fn a_server_that_ends_each_stream_it_has_answered_is_asked_ever_less_often() {
    let ads = small(Listen::anywhere());
    let _running = Running::following(&ads, Protocol::Sotw);
    let (mut last, mut began) = (0, None);
    for _ in 0..14 {
        let acked =
            |event: &Event| event.stream > last && event.kind == "cds" && matches!(event.seen, Seen::Ack { .. });
        last = ads.wait("an answer that is taken", acked).stream;
        began.get_or_insert_with(Instant::now);
        ads.drop_streams(Code::Unavailable, "again");
    }
    // Random parts of 10 ms, 20 ms, and so on up to a second: seven of these together are hardly ever less.
    let elapsed = began.unwrap().elapsed();
    assert!(elapsed > Duration::from_millis(300), "{elapsed:?}");
}

#[test]
fn requests_that_are_limited_go_out_later_and_none_is_lost() {
    let ads = small(Listen::anywhere());
    let address = Address::Socket(ads.address());
    let running = Running::start(move || Settings {
        rate: Some(Bucket::new(1, 20.0, Instant::now())),
        ..settings(Protocol::Delta, in_turn([address]))
    });
    running.until("rds +r -");
    for kind in ["cds", "eds", "lds", "rds"] {
        ads.wait_ack(kind);
    }
}

#[test]
fn a_flood_is_followed_to_its_end() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let ads = small(Listen::anywhere());
        let running = Running::following(&ads, protocol);
        running.until("eds +a -");
        for port in 1..=1000 {
            ads.put([endpoints("a", port)]);
        }
        ads.wait_ack("eds");
        let last = running.store.accepted(Kind::LoadAssignment, "a").unwrap();
        assert_eq!(last.body, endpoints("a", 1000).value);
    }
}

/// Takes whatever comes.
struct Taking {
    _subscriptions: Vec<Subscription>,
    told: mpsc::Sender<String>,
}

impl Consumer for Taking {
    fn update(&mut self, update: &Update) -> Result<(), Refused> {
        let _ = self.told.send(format!("{} {}", update.kind.short(), update.added.len()));
        Ok(())
    }

    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        let _ = self.told.send(format!("{} {} timed out", kind.short(), name.map_or("*", |name| name)));
    }
}

#[test]
fn what_a_real_istiod_sent_is_served_and_followed() {
    let nodes = [
        ("sidecar-httpbin", &["cds 48", "eds 32", "lds 29", "rds 11", "ecds 1"][..]),
        ("sidecar-sleep", &["cds 20", "eds 15", "lds 14", "rds 6"]),
        ("router", &["cds 80", "eds 68", "lds 6", "rds 4"]),
        ("waypoint", &["cds 19", "eds 12", "lds 5"]),
    ];
    for (node, counts) in nodes {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/istiod").join(node);
        let recorded = recorded(&path).unwrap();
        for protocol in [Protocol::Sotw, Protocol::Delta] {
            let ads = Ads::start(Listen::anywhere()).unwrap();
            ads.put_named(recorded.clone());
            let address = Address::Socket(ads.address());
            let wanted: Vec<_> = recorded
                .iter()
                .filter_map(|(name, resource)| Some((Kind::of(&resource.type_url)?, name.as_str().into())))
                .collect();
            let running = Running::with(
                move || settings(protocol, in_turn([address])),
                |handle, told| {
                    let subscribe = |(kind, name): (Kind, Arc<str>)| {
                        handle.subscribe(kind, (!kind.is_whole()).then_some(name), Options::default())
                    };
                    Taking { _subscriptions: wanted.into_iter().map(subscribe).collect(), told }
                },
            );
            let mut seen: Vec<_> = counts.iter().map(|_| running.seen.recv_timeout(PATIENCE).unwrap()).collect();
            let mut expected = counts.to_vec();
            seen.sort();
            expected.sort_unstable();
            assert_eq!(seen, expected, "{node} {protocol:?}");
            for count in counts {
                ads.wait_ack(count.split(' ').next().unwrap_or_default());
            }
        }
    }
}
