//! The kernel's clock against the wall's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Turns `CLOCK_MONOTONIC`, which eBPF programs stamp with, into Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Unix time at which the monotonic clock was 0, in nanoseconds.
    boot: u64,
}

impl Clock {
    /// Reads both clocks.
    pub fn now() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Self { boot: unix_ns(SystemTime::now()).saturating_sub(nanoseconds(monotonic)) }
    }

    /// Unix time in nanoseconds of a monotonic time in nanoseconds; 0 (never) stays 0.
    pub fn unix_ns(self, monotonic: u64) -> u64 {
        if monotonic == 0 { 0 } else { self.boot.saturating_add(monotonic) }
    }
}

/// Unix time in nanoseconds; 0 for times before 1970.
pub fn unix_ns(time: SystemTime) -> u64 {
    nanoseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in nanoseconds; those beyond 584 years end there.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monotonic_time_of_now_is_now() {
        let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        let difference = Clock::now().unix_ns(nanoseconds(monotonic)).abs_diff(unix_ns(SystemTime::now()));
        assert!(difference < 1_000_000_000, "{difference} ns");
        assert_eq!(Clock::now().unix_ns(0), 0);
    }
}
