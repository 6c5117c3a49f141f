//! Resources that are forgotten unless they come again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

/// When which resource of a type is over.
#[derive(Debug, Default)]
pub(super) struct Lives {
    ends: HashMap<Arc<str>, Instant>,
    order: BTreeSet<(Instant, Arc<str>)>,
}

impl Lives {
    /// A resource lives on for so long; none: for ever.
    pub(super) fn set(&mut self, name: &Arc<str>, ttl: Option<Duration>, now: Instant) {
        self.clear(name);
        if let Some(end) = ttl.and_then(|ttl| now.checked_add(ttl)) {
            self.ends.insert(name.clone(), end);
            self.order.insert((end, name.clone()));
        }
    }

    /// A resource is gone already.
    pub(super) fn clear(&mut self, name: &Arc<str>) {
        if let Some(end) = self.ends.remove(name) {
            self.order.remove(&(end, name.clone()));
        }
    }

    /// When the next is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(end, _)| *end)
    }

    /// Those that are over.
    pub(super) fn over(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        while let Some((end, name)) = self.order.pop_first() {
            if end > now {
                self.order.insert((end, name));
                break;
            }
            self.ends.remove(&name);
            over.push(name);
        }
        over
    }
}

/// A time to live as it came. Less than nothing is nothing.
pub(super) fn lifetime(ttl: &prost_types::Duration) -> Duration {
    Duration::try_from(*ttl).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_renewed_is_over_in_its_turn() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut lives = Lives::default();
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Into::into);
        lives.set(&a, Some(2 * second), now);
        lives.set(&b, Some(second), now);
        lives.set(&c, Some(second), now);
        lives.set(&c, None, now);
        assert_eq!(lives.next(), Some(now + second));
        assert!(lives.over(now).is_empty());
        lives.set(&b, Some(3 * second), now);
        assert_eq!(lives.over(now + 2 * second), [a]);
        lives.clear(&b);
        assert!(lives.next().is_none() && lives.over(now + 9 * second).is_empty());
    }
}
