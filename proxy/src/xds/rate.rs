//! `rate_limit_settings`: how many requests may go out.

use std::time::{Duration, Instant};

/// Tokens that there are at first and at most (Envoy's default).
pub const MOST: u32 = 100;
/// Tokens that come back per second (Envoy's default).
pub const PER_SECOND: f64 = 10.0;

/// A bucket of tokens: each request takes one.
#[derive(Clone, Debug)]
pub struct Bucket {
    most: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one: `max_tokens`, `fill_rate`.
    pub fn new(most: u32, per_second: f64, now: Instant) -> Self {
        let most = f64::from(most);
        Self { most, per_second, tokens: most, filled: now }
    }

    /// Takes a token; if there is none, when there will be.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = self.most.min(self.tokens + passed * self.per_second);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / self.per_second).unwrap_or(Duration::MAX);
        // A microsecond more than computed, so that rounding never makes it one wait too many.
        let wait = wait.saturating_add(Duration::from_micros(1));
        Err(now.checked_add(wait).unwrap_or(now + Duration::from_secs(86_400)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_and_come_back() {
        let now = Instant::now();
        let mut bucket = Bucket::new(2, 10.0, now);
        assert_eq!([bucket.take(now), bucket.take(now)], [Ok(()), Ok(())]);
        let next = bucket.take(now).unwrap_err();
        assert!(next > now + Duration::from_millis(99) && next < now + Duration::from_millis(101));
        assert_eq!(bucket.take(next), Ok(()));
        assert!(bucket.take(next).is_err());
        let later = now + Duration::from_secs(60);
        assert_eq!([bucket.take(later), bucket.take(later)], [Ok(()), Ok(())]);
        assert!(bucket.take(later).is_err());
        assert!(Bucket::new(0, 0.0, now).take(now).unwrap_err() > later);
    }
}
