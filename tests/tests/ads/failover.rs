//! Several servers, as the endpoints of one cluster: those that are dead or hang, or that are known to be unwell, are passed over.

use std::net::TcpListener;

use weir_proxy::xds::{dial::Dial, through::Through};
use weir_tests::ads::{Ads, Listen, Seen};

use crate::{
    Protocol,
    follower::{Running, settings},
    resources::{cluster, endpoints, servers},
    through::to_xds,
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
