//! Waiting for a condition, with a deadline.

use std::{
    fmt::Debug,
    thread::sleep,
    time::{Duration, Instant},
};

/// How often a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives `Ok`, and panics with its last `Err` after `within`.
#[track_caller]
pub fn wait_for<T, E: Debug>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(last) if Instant::now() >= deadline => panic!("not within {within:?}: {what}; last seen: {last:?}"),
            Err(_) => sleep(INTERVAL),
        }
    }
}
