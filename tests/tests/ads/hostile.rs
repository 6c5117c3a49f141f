//! A server that does its worst: the proxy serves on, grows no further than it is to, and says once what was wrong.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use prost_types::Any;
use tonic::Code;
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use weir_tests::{
    ads::{Ads, Listen, Seen, world::type_url},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get},
    resources::{assignment, cluster, endpoints, internal, listener_at, one, routed},
    scenario::Who,
    stress,
    traffic::backend,
};

/// What resources may take here.
const MEMORY_MIB: u64 = 64;
/// How far a proxy may grow with them, whatever it is sent, in kilobytes: besides, responses are decoded whole.
const MOST: u64 = 512 << 10;
/// Requests a second.
const RATE: u32 = 100;

/// A proxy under load, and a server that is about to misbehave.
struct Siege {
    ads: Ads,
    proxy: Proxy,
    protocol: Protocol,
    ports: [u16; 2],
    turn: usize,
    address: SocketAddr,
}

impl Siege {
    fn begin(protocol: Protocol) -> Self {
        let ports = ["one", "two"].map(backend);
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([cluster("a"), endpoints("a", ports[0]), routed("l", "a", "")]);
        let proxy = Start::new(Who::Weir, &ads, protocol)
            .arguments(&["--discovery-memory-mib", &MEMORY_MIB.to_string()])
            .start();
        let address = proxy.listener("l");
        let siege = Self { ads, proxy, protocol, ports, turn: 0, address };
        siege.until("one");
        siege
    }

    fn until(&self, text: &str) {
        wait_for(&format!("an answer of {text}"), PATIENCE, || {
            let got = get(self.address, "/");
            if got == (200, text.into()) { Ok(()) } else { Err(got) }
        });
    }

    /// What the server says now that it is well is heard.
    fn goes_on(&mut self) {
        self.turn += 1;
        let at = self.turn % 2;
        self.ads.put([endpoints("a", self.ports[at])]);
        self.until(["one", "two"][at]);
    }

    /// Sends a response of a type, as the protocol has it.
    fn send(&self, kind: &str, version: &str, nonce: &str, resources: &[(&str, Any)]) {
        let (type_url, version, nonce) = (type_url(kind).to_owned(), version.to_owned(), nonce.to_owned());
        let sotw = DiscoveryResponse {
            version_info: version.clone(),
            resources: resources.iter().map(|(_, any)| any.clone()).collect(),
            type_url: type_url.clone(),
            nonce: nonce.clone(),
            ..DiscoveryResponse::default()
        };
        let each = resources.iter().map(|(name, any)| Resource {
            name: (*name).to_owned(),
            version: version.clone(),
            resource: Some(any.clone()),
            ..Resource::default()
        });
        let delta = DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources: each.collect(),
            type_url,
            nonce,
            ..DeltaDiscoveryResponse::default()
        };
        self.ads.send(&sotw, &delta);
    }

    /// Lines of the log with this text.
    fn said(&self, text: &str) -> usize {
        self.proxy.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Does something several times, and waits for each rejection.
    fn refused(&self, kind: &str, times: usize, what: impl Fn()) -> String {
        let mut why = String::new();
        for _ in 0..times {
            let mark = self.ads.mark();
            what();
            why = self.ads.wait_nack_after(mark, kind);
        }
        why
    }

    /// Ends the streams, so that the next ones begin with what the server really has.
    fn again(&self) {
        let mark = self.ads.mark();
        self.ads.drop_streams(Code::Unavailable, "again");
        self.ads.wait_after(mark, "a stream", |event| matches!(event.seen, Seen::Opened { .. }));
    }
}

fn each(test: impl Fn(&mut Siege)) {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        eprintln!("{protocol:?}");
        let mut siege = Siege::begin(protocol);
        let load = stress::load(siege.address, RATE);
        test(&mut siege);
        siege.goes_on();
        stress::judged(load);
        let most = siege.proxy.status("VmHWM");
        eprintln!("{} MiB at most", most >> 10);
        assert!(most < MOST, "{most} kB");
        assert_eq!(siege.proxy.stat("weir.panics"), Some(0));
    }
}

#[test]
fn messages_that_are_too_long_end_the_stream_and_are_not_kept() {
    each(|siege| {
        for _ in 0..3 {
            let mark = siege.ads.mark();
            siege.ads.send_raw(vec![0; 200 << 20]);
            siege.ads.wait_after(mark, "another stream", |event| matches!(event.seen, Seen::Opened { .. }));
            siege.goes_on();
        }
        assert_eq!(siege.said("decoded message length too large"), 1, "{}", siege.proxy.log());
    });
}

#[test]
fn what_cannot_be_read_is_rejected_and_told_once() {
    each(|siege| {
        let garbage = |kind: &str| Any { type_url: type_url(kind).to_owned(), value: vec![0xff; 64] };
        let why = siege.refused("cds", 3, || siege.send("cds", "1", "x", &[("g", garbage("cds"))]));
        assert!(why.contains("Cluster"), "{why}");
        let nowhere = Any { type_url: "type.googleapis.com/no.such.Message".into(), value: Vec::new() };
        let why = siege.refused("lds", 3, || siege.send("lds", "1", "x", &[("g", nowhere.clone())]));
        assert!(why.contains("no.such.Message"), "{why}");
        let other = endpoints("a", 1);
        let why = siege.refused("cds", 3, || siege.send("cds", "1", "x", &[("g", other.clone())]));
        assert!(why.contains("ClusterLoadAssignment"), "{why}");
        siege.goes_on();
        // Of a type that nobody asked for: no answer.
        for _ in 0..3 {
            siege.send("wds", "1", "x", &[("g", nowhere.clone())]);
            siege.send("no/such", "1", "x", &[]);
        }
        siege.goes_on();
        // No message at all ends the stream.
        for _ in 0..3 {
            let mark = siege.ads.mark();
            siege.ads.send_raw(vec![0xff; 1000]);
            siege.ads.wait_after(mark, "another stream", |event| matches!(event.seen, Seen::Opened { .. }));
            siege.goes_on();
        }
        let log = siege.proxy.log();
        for (text, times) in [
            ("responses that nobody asked for", 2),
            ("resources are refused", 3),
            ("management server is not followed", 1),
        ] {
            assert_eq!(siege.said(text), times, "{text}: {log}");
        }
    });
}

#[test]
fn a_server_without_end_is_stopped() {
    each(|siege| {
        let before = siege.proxy.status("VmHWM");
        let batch = 500;
        let mut sent = 0;
        let why = loop {
            let mark = siege.ads.mark();
            let more = (sent..sent + batch).map(|number| {
                let cluster = format!("- \"@type\": {}\n  name: endless{number}\n  type: STATIC\n", type_url("cds"));
                one(&cluster)
            });
            siege.ads.put(more);
            sent += batch;
            let answered = siege.ads.wait_after(mark, "an answer", |event| {
                event.kind == "cds" && matches!(event.seen, Seen::Ack { .. } | Seen::Nack { .. })
            });
            if let Seen::Nack { error, .. } = answered.seen {
                break error;
            }
            assert!(sent < 20_000, "{sent} clusters");
        };
        let grown = siege.proxy.status("VmHWM") - before;
        eprintln!("{sent} clusters, {} MiB", grown >> 10);
        assert!(grown < MEMORY_MIB << 10, "{sent} clusters take {grown} kB");
        assert!(why.contains("would take more than"), "{why}");
        // Those that are there are served, and there is room again once some go.
        siege.ads.change(|world| {
            let names: Vec<_> = world.of(type_url("cds")).map(|(name, _)| name.to_owned()).collect();
            names.iter().filter(|name| name.starts_with("endless")).for_each(|name| {
                world.remove(type_url("cds"), name);
            });
        });
        siege.goes_on();
    });
}

#[test]
fn names_and_versions_without_measure_are_borne() {
    each(|siege| {
        let long = "x".repeat(4 << 20);
        let a = [("a", cluster("a"))];
        for turn in 0..10 {
            let mark = siege.ads.mark();
            siege.send("cds", &format!("{turn}{long}"), &long, &a);
            siege.ads.wait_after(mark, "an answer", |event| event.kind == "cds");
        }
        siege.again();
        siege.goes_on();
        if siege.protocol == Protocol::Delta {
            let delta = DeltaDiscoveryResponse {
                type_url: type_url("eds").to_owned(),
                removed_resources: (0..200_000).map(|number| number.to_string()).collect(),
                ..DeltaDiscoveryResponse::default()
            };
            for _ in 0..3 {
                siege.ads.send(&DiscoveryResponse::default(), &delta);
            }
            siege.goes_on();
        }
        // The same again and again.
        siege.ads.flood("cds", 200);
        siege.ads.flood("lds", 200);
        siege.goes_on();
    });
}

#[test]
fn clusters_that_lead_to_themselves_lead_nowhere() {
    each(|siege| {
        let aggregate = |name: &str, members: &str| {
            one(&format!(
                "- \"@type\": {}\n  name: {name}\n  lb_policy: CLUSTER_PROVIDED\n  cluster_type: {{ name: \
                 envoy.clusters.aggregate, typed_config: {{ \"@type\": \
                 type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [ {members} ] }} }}\n",
                type_url("cds")
            ))
        };
        siege.ads.put([aggregate("loop", "pool, loop"), aggregate("pool", "loop")]);
        siege.ads.wait_ack("cds");
        siege.ads.put([routed("m", "loop", "")]);
        let address = siege.proxy.listener("m");
        assert_eq!(get(address, "/").0, 503);
        siege.goes_on();
    });
}

#[test]
fn routes_that_lead_in_a_circle_end() {
    each(|siege| {
        let http2 = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { \
             http2_protocol_options: {} } } }";
        // Thresholds that keep nothing back.
        let all = 4_000_000_000_u32;
        let ring = |name: &str, options: &str| {
            one(&format!(
                "- \"@type\": {}\n  name: {name}\n  type: STATIC\n  circuit_breakers: {{ thresholds: [ {{ max_connections: \
                 {all}, max_pending_requests: {all}, max_requests: {all} }} ] }}\n  {options}\n  load_assignment: {{ \
                 cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ \
                 envoy_internal_address: {{ server_listener_name: {name} }} }} }} }} ] }} ] }}\n",
                type_url("cds")
            ))
        };
        siege.ads.put([ring("ring1", ""), ring("ring2", http2)]);
        siege.ads.wait_ack("cds");
        siege.ads.put(["ring1", "ring2"].map(|name| internal(name, name)));
        siege.ads.put([routed("m", "ring1", ""), routed("k", "ring2", "")]);
        for (listener, cluster) in [("m", "ring1"), ("k", "ring2")] {
            let address = siege.proxy.listener(listener);
            assert_eq!(get(address, "/").0, 503);
            let made = siege.proxy.stat(&format!("cluster.{cluster}.upstream_cx_total"));
            assert!(made.is_some_and(|made| (8..100).contains(&made)), "{cluster}: {made:?}");
        }
        siege.goes_on();
    });
}

#[test]
fn versions_may_go_back() {
    each(|siege| {
        for prefix in ["9-", "1-", "", "9-"] {
            siege.ads.change(|world| prefix.clone_into(&mut world.prefix));
            siege.goes_on();
        }
        let events = siege.ads.events();
        assert!(!events.iter().any(|event| matches!(event.seen, Seen::Nack { .. })));
    });
}

#[test]
fn a_message_that_drips_is_waited_for_and_nothing_else_waits_for_it() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let [one, two] = ["one", "two"].map(backend);
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        ads.put([cluster("a"), assignment("a", &[one]), listener_at("l", address, "a")]);
        let proxy = Start::new(Who::Weir, &ads, protocol).by(dripping(ads.address())).start();
        assert_eq!(proxy.listener("l"), address);
        let load = stress::load(address, RATE);
        ads.put([endpoints("a", two)]);
        wait_for("an answer of two", PATIENCE, || {
            let got = get(address, "/");
            if got == (200, "two".into()) { Ok(()) } else { Err(got) }
        });
        stress::judged(load);
    }
}

/// Passes connections on to a server, whose side comes in drops.
fn dripping(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
            thread::spawn(move || pass(from, server, 1 << 16, Duration::ZERO));
            thread::spawn(move || pass(back, client, 16, Duration::from_millis(5)));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, drop: usize, pause: Duration) {
    let _ = to.set_nodelay(true);
    let mut bytes = vec![0; drop];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..length]).is_err() {
            return;
        }
        thread::sleep(pause);
    }
}
