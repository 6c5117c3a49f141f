//! A management server that is gone and back at random, and proxies that are replaced meanwhile: no request fails, and what
//! the server has when it is back is soon in force.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use tonic::Code;
use weir_tests::{
    ads::{Ads, Listen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get, wait_saved},
    resources::{cluster, endpoints, listener_at, routed},
    scenario::Who,
    stress,
    traffic::backend,
};

/// Requests a second.
const RATE: u32 = 200;
/// A server that is back is to be followed within, of 99 in 100 times (judged where somebody has asked for a long run).
const RECOVERY: Duration = Duration::from_secs(2);

#[test]
fn a_server_that_comes_and_goes_costs_no_request() {
    come_and_go(Protocol::Sotw, false);
    come_and_go(Protocol::Delta, false);
}

#[test]
fn nor_do_proxies_that_are_replaced_while_it_is_away() {
    come_and_go(Protocol::Sotw, true);
    come_and_go(Protocol::Delta, true);
}

fn come_and_go(protocol: Protocol, replaced: bool) {
    let names = ["one", "two", "three"];
    let backends = names.map(backend);
    let mut chance = stress::chance();
    let mut ads = Ads::start(Listen::anywhere()).unwrap();
    let state = tempfile::tempdir().unwrap();
    // The proxy's own user writes there.
    std::os::unix::fs::chown(state.path(), Some(65532), Some(65532)).unwrap();
    let address = free();
    ads.put([cluster("a"), endpoints("a", backends[0]), listener_at("l", address, "a")]);
    let mut proxy = start(&ads, protocol, state.path());
    until_answered(address, names[0]);
    // Whoever comes next begins with it.
    wait_saved(state.path());
    let load = stress::load(address, RATE);
    let mut recoveries = Vec::new();
    let end = Instant::now() + stress::duration();
    let mut turn = 0;
    while Instant::now() < end {
        turn += 1;
        let next = turn % names.len();
        thread::sleep(Duration::from_millis(chance.u64(..500)));
        ads.stop();
        thread::sleep(Duration::from_millis(chance.u64(..1500)));
        if replaced {
            // As in a rolling update: both accept for a moment.
            let old = std::mem::replace(&mut proxy, start(&ads, protocol, state.path()));
            wait_for("a proxy that is ready", PATIENCE, || {
                let ready = proxy.admin("/ready");
                if ready == "LIVE\n" { Ok(()) } else { Err(ready) }
            });
            old.end();
        }
        ads.put([endpoints("a", backends[next])]);
        let began = Instant::now();
        ads.restart(&format!("turn{turn}-")).unwrap();
        until_answered(address, names[next]);
        recoveries.push(began.elapsed());
    }
    let requests = stress::judged(load);
    recoveries.sort();
    let most = recoveries[(recoveries.len() * 99).div_ceil(100) - 1];
    eprintln!(
        "{protocol:?}: {requests} requests, {turn} times away; followed again within {most:?} of 99 in 100 times"
    );
    if stress::is_long() {
        assert!(most < RECOVERY, "{recoveries:?}");
    }
}

#[test]
fn what_is_kept_of_what_is_gone_goes_once_its_server_has_answered() {
    let state = tempfile::tempdir().unwrap();
    let has = |path: &str| state.path().join(path).exists();
    let gone = ["views/bank", "sds-0123456789abcdef"];
    for path in ["views/bank/ads/cds.xds", "sds-0123456789abcdef/sds.xds", "mine/cds.xds"] {
        let path = state.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([cluster("a"), endpoints("a", 1), routed("l", "a", "")]);
    ads.mute(true);
    let impatient = "ads: {}, initial_fetch_timeout: 0.1s";
    let proxy = Start::new(Who::Weir, &ads, Protocol::Delta)
        .from(impatient, impatient)
        .view("shop", "shop")
        .arguments(&["--state-dir", state.path().to_str().unwrap(), "--user", "0"])
        .start();
    proxy.until_live();
    assert_eq!(gone.map(has), [true; 2]);
    ads.mute(false);
    ads.drop_streams(Code::Unavailable, "again");
    wait_for("what is gone to go", PATIENCE, || {
        let left = gone.map(has);
        if left == [false; 2] { Ok(()) } else { Err(left) }
    });
    assert!(has("mine/cds.xds") && has("ads") && has("views/shop/ads"));
}

fn start(ads: &Ads, protocol: Protocol, state: &std::path::Path) -> Proxy {
    let arguments = ["--state-dir", state.to_str().unwrap(), "--user", "65532", "--drain-time-s", "5"];
    Start::new(Who::Weir, ads, protocol).arguments(&arguments).arguments(&["--drain-strategy", "immediate"]).start()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn until_answered(address: SocketAddr, text: &str) {
    wait_for(&format!("an answer of {text}"), PATIENCE, || {
        let connected = std::net::TcpStream::connect(address).map_err(|error| error.to_string());
        connected.and_then(|_| {
            let got = get(address, "/");
            if got == (200, text.into()) { Ok(()) } else { Err(format!("{got:?}")) }
        })
    });
}
