//! Several servers, as the endpoints of one cluster: those that are dead, that hang or that are known to be unwell are passed
//! over, and one that stops is left.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use weir_proxy::xds::{dial::Dial, through::Through};
use weir_tests::{
    ads::{Ads, Listen, Seen},
    poll::wait_for,
};

use crate::{
    Protocol,
    follower::{PATIENCE, Running, settings},
    proxy::{Start, get},
    resources::{cluster, endpoints, routed, servers},
    scenario::Who,
    through::to_xds,
    traffic::backend,
};

/// A server with one cluster.
fn server(of: &str) -> Ads {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([cluster(of), endpoints(of, 1)]);
    ads
}

fn through(cluster: &str) -> Through {
    let bootstrap = weir_proto::from_yaml(&format!("static_resources:\n  clusters:\n  - {cluster}\n"));
    to_xds(&bootstrap.unwrap_or_else(|error| panic!("{error}")))
}

fn following(cluster: &str) -> Running {
    let through = through(cluster);
    Running::start(move || settings(Protocol::Sotw, Box::new(through)))
}

#[test]
fn endpoints_are_tried_in_turn_and_one_that_is_back_is_followed_again() {
    let (mut first, mut last) = (server("b"), server("a"));
    first.stop();
    // Its connections are accepted by the kernel and by nobody else.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [first.address(), hangs.local_addr().unwrap(), last.address()];
    let running = following(&servers(&addresses, "5s", ""));
    running.until("eds +a -");
    last.stop();
    first.listen().unwrap();
    running.until("cds +b -a");
}

#[test]
fn an_endpoint_that_is_known_to_be_unwell_is_tried_only_where_all_are() {
    let (unwell, well) = (server("b"), server("a"));
    let unhealthy = |cluster: String, how_many| {
        cluster.replacen("{ endpoint: {", "{ health_status: UNHEALTHY, endpoint: {", how_many)
    };
    let addresses = [unwell.address(), well.address()];
    let running = following(&unhealthy(servers(&addresses, "5s", ""), 1));
    running.until("eds +a -");
    assert!(unwell.events().is_empty());
    drop(running);
    let running = following(&unhealthy(servers(&addresses, "5s", ""), 2));
    running.until("eds +b -");
    assert!(unwell.has_seen(0, |event| matches!(event.seen, Seen::Opened { .. })));
}

#[test]
fn a_cluster_without_endpoints_leads_nowhere() {
    let through = through(&servers(&[], "5s", ""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(through.dial()).err().unwrap(), "cluster xds has no endpoints");
}

/// Passes connections on to a server until it stops: from then on nothing is read or written, and nothing ends.
struct Relay {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Relay {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stopped) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
        let stop = stopped.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let (Ok(from), Ok(back)) = (client.try_clone(), upstream.try_clone()) else { continue };
                let [one, other] = [stop.clone(), stop.clone()];
                thread::spawn(move || pass(from, upstream, &one));
                thread::spawn(move || pass(back, client, &other));
            }
        });
        Self { address, stopped }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, stopped: &AtomicBool) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while stopped.load(Ordering::Acquire) {
            thread::park();
        }
        if to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

#[test]
fn a_server_that_stops_is_noticed_by_pings_and_another_followed() {
    let servers = ["one", "two"].map(|name| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        // No version is the same.
        ads.change(|world| name.clone_into(&mut world.prefix));
        ads.put([cluster("a"), endpoints("a", backend(name)), routed("l", "a", "")]);
        ads
    });
    let [first, second] = &servers;
    let relay = Relay::to(first.address());
    let proxy = Start::new(Who::Weir, first, Protocol::Delta)
        .by_all(&[relay.address, second.address()], "connection_keepalive: { interval: 5s, timeout: 5s }")
        .start();
    let until = |text: &str| {
        wait_for(&format!("an answer of {text}"), PATIENCE, || {
            let got = get(proxy.listener("l"), "/");
            if got == (200, text.into()) { Ok(()) } else { Err(got) }
        });
    };
    proxy.until_live();
    until("one");
    assert!(second.events().is_empty());
    relay.stop();
    until("two");
}
