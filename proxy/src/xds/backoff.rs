//! How long to wait before a stream is opened again.

use std::time::Duration;

/// The first wait is shorter than this.
pub const BASE: Duration = Duration::from_millis(10);
/// No wait is longer.
pub const LONGEST: Duration = Duration::from_secs(15);
/// No wait is longer, unless one is configured, for a server that can't be reached at all: to find that out costs nobody
/// much, and one that comes back is to be followed at once.
pub const LONGEST_UNREACHABLE: Duration = Duration::from_secs(1);
/// No wait is longer for a server that does answer, unless the first is: it may have been started anew.
pub const LONGEST_ANSWERED: Duration = Duration::from_secs(1);
/// A stream that has answered and lasted so long was of use: the next wait is short again.
pub const LASTING: Duration = Duration::from_secs(1);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection.
    Unreachable,
    /// There was a stream on which nothing came.
    Unanswered,
    /// There was one on which something came, for so long.
    Ended(Duration),
}

/// Exponential waits with full jitter, as Envoy's: each is a random part of an interval that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    longest: Duration,
    longest_unreachable: Duration,
    interval: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { longest_unreachable: LONGEST_UNREACHABLE, ..Self::new(BASE, LONGEST) }
    }
}

impl Backoff {
    /// `retry_back_off` of the configuration: `base_interval`, `max_interval`.
    pub fn new(base: Duration, longest: Duration) -> Self {
        let base = base.max(Duration::from_millis(1));
        let longest = longest.max(base);
        Self { base, longest, longest_unreachable: longest, interval: base }
    }

    /// The next wait. `random` is anything between 0 and 1.
    pub fn next(&mut self, failure: Failure, random: f64) -> Duration {
        let longest = match failure {
            Failure::Unreachable => self.longest_unreachable,
            Failure::Unanswered => self.longest,
            // One that ends each stream as soon as it has answered is not to be asked for everything all the time.
            Failure::Ended(lasted) => {
                if lasted >= LASTING {
                    self.interval = self.base;
                }
                LONGEST_ANSWERED.max(self.base)
            }
        };
        let interval = self.interval.min(longest);
        self.interval = (2 * self.interval).min(self.longest);
        interval.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next(Failure::Unanswered, 1.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000]);
        assert_eq!(backoff.next(Failure::Unanswered, 0.5), LONGEST / 2);
        assert_eq!(backoff.next(Failure::Unanswered, 0.0), Duration::ZERO);
        assert_eq!(backoff.next(Failure::Unreachable, 1.0), LONGEST_UNREACHABLE);
        assert_eq!(backoff.next(Failure::Ended(LASTING), 1.0), BASE);
        assert_eq!(backoff.next(Failure::Unreachable, 1.0), 2 * BASE);
    }

    #[test]
    fn streams_that_end_with_their_first_answer_are_opened_ever_less_often() {
        let mut backoff = Backoff::default();
        let short = Failure::Ended(LASTING / 2);
        let waits: Vec<_> = (0..9).map(|_| backoff.next(short, 1.0).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn what_is_configured_holds() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(5), seconds(8));
        assert_eq!(backoff.next(Failure::Unreachable, 1.0), seconds(5));
        assert_eq!(backoff.next(Failure::Unreachable, 1.0), seconds(8));
        assert_eq!(backoff.next(Failure::Unanswered, 1.0), seconds(8));
        // A server that answers is waited for no longer than in Envoy: the first wait is the longest there.
        assert_eq!(backoff.next(Failure::Ended(seconds(0)), 1.0), seconds(5));
        // The longest is not shorter than the first.
        assert_eq!(Backoff::new(seconds(5), seconds(1)).next(Failure::Unanswered, 1.0), seconds(5));
    }
}
