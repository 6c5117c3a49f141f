//! What the log has been told of a server: each cause once in a while, however often it comes, and whatever comes between.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A cause is told again after.
const AGAIN: Duration = Duration::from_secs(60);
/// Causes that are told within that time; of a server that has more, the rest are not.
const MOST: usize = 64;
/// As much of a cause as tells it from others.
const LONGEST: usize = 512;

/// Causes, with when they were told.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<String, Instant>);

impl Told {
    /// Whether to tell a cause.
    pub(super) fn is_news(&mut self, cause: &str, now: Instant) -> bool {
        let end = (0..=LONGEST.min(cause.len())).rev().find(|end| cause.is_char_boundary(*end)).unwrap_or_default();
        let recent = |told: Instant| now.saturating_duration_since(told) < AGAIN;
        if self.0.get(&cause[..end]).is_some_and(|told| recent(*told)) {
            return false;
        }
        if self.0.len() == MOST {
            self.0.retain(|_, told| recent(*told));
        }
        if self.0.len() == MOST {
            return false;
        }
        self.0.insert(cause[..end].to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_in_a_while_and_many_are_not() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_news("a", now) && !told.is_news("a", now + AGAIN / 2) && told.is_news("b", now));
        assert!(told.is_news("a", now + AGAIN));
        let long = "ä".repeat(LONGEST);
        assert!(told.is_news(&long, now) && !told.is_news(&format!("{long} and more"), now));
        let several = (0..2 * MOST).filter(|number| told.is_news(&number.to_string(), now + AGAIN)).count();
        assert!(several < MOST, "{several}");
        assert!(told.is_news("later", now + 3 * AGAIN));
    }
}
