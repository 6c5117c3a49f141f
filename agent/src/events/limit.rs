//! How many events there may be: token buckets, one for each pod and one for all.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Events of all pods together: so many at once, and another every so often.
const ALL: Rate = Rate { burst: 300, every: Duration::from_millis(200) };
/// Events of one pod.
const ONE: Rate = Rate { burst: 5, every: Duration::from_secs(60) };

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// Tokens as the time at which the bucket will be full again (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + rate.every;
        let allowed = full_at <= now + rate.every * rate.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

/// The buckets.
#[derive(Debug)]
pub struct Limits {
    all: Bucket,
    pods: HashMap<String, Bucket>,
}

impl Limits {
    /// All buckets full.
    pub fn new(now: Instant) -> Self {
        Self { all: Bucket { full_at: now }, pods: HashMap::new() }
    }

    /// Whether an event about an object may be written now.
    pub fn take(&mut self, uid: &str, now: Instant) -> bool {
        self.pods.retain(|_, bucket| bucket.full_at > now);
        let pod = self.pods.entry(uid.to_owned()).or_insert(Bucket { full_at: now });
        pod.take(ONE, now) && self.all.take(ALL, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pod_is_limited_and_leaves_room_for_others() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let written = (0..100).filter(|_| limits.take("loud", start)).count();
        assert_eq!(written, 5);
        assert!(limits.take("quiet", start));
        assert!(!limits.take("loud", start + ONE.every / 2));
        assert!(limits.take("loud", start + ONE.every));
    }

    #[test]
    fn all_together_are_limited_and_nothing_is_kept_of_quiet_ones() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let written = (0..1000).filter(|n| limits.take(&format!("pod-{n}"), start)).count();
        assert_eq!(written, 300);
        let later = start + ONE.every * 10;
        assert!(limits.take("pod", later));
        assert_eq!(limits.pods.len(), 1);
    }
}
