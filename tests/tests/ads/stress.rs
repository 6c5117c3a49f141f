//! What the long tests share: how long they go on, chance, and a load of which nothing may be lost.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weir_tests::load::{Connections, Load, Request};

/// Seconds that each of the long tests goes on.
const VARIABLE: &str = "WEIR_STRESS_SECONDS";
/// What they are if nothing else is said.
const SECONDS: u64 = 12;

/// Requests that may be under way.
const UNDER_WAY: usize = 32;

/// How long to go on.
pub fn duration() -> Duration {
    let seconds = std::env::var(VARIABLE).ok().map(|text| text.parse().expect("WEIR_STRESS_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// Whether somebody has asked for another duration: what is measured is judged then.
pub fn is_long() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Chance, the same whenever the same seed is given: it is told, so that a failure can be had again.
pub fn chance() -> fastrand::Rng {
    let seed = std::env::var("WEIR_STRESS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WEIR_STRESS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Requests at a steady rate, over connections that are used again as clients do.
pub fn load(to: SocketAddr, rate: u32) -> Load {
    Load::start_here(to, rate, Connections::Pooled, UNDER_WAY)
}

/// Every request was answered with 200; what became of the others, by what it was, and how many there were.
pub fn judged(load: Load) -> usize {
    let requests = load.stop();
    let mut failures: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    let began = requests.iter().map(|request| request.started).min().unwrap_or_else(Instant::now);
    for request in requests.iter().filter(|request| !request.succeeded()) {
        let Request { answer, reused, .. } = request;
        failures.entry(format!("{answer:?}, reused {reused}")).or_default().push(request.started - began);
    }
    assert!(failures.is_empty(), "of {} requests: {failures:?}", requests.len());
    requests.len()
}
