//! A monotonic clock that fits into an atomic: milliseconds since the first look at it, from 1.

use std::{sync::OnceLock, time::Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Milliseconds since the first call in this process, plus 1: 0 can mean "never".
pub fn now() -> u64 {
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
