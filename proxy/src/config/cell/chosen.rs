//! Names that clients choose, of which there is an end.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Where there are so many, those that lead nowhere are forgotten. More that lead somewhere, or are waited for, are not asked
/// for, and what a server says of them is what it says unasked.
pub(super) const MOST: usize = 10_000;
/// Nor are longer ones: hosts have 253 bytes at most. All that are forgotten at once fit into a message of 4 MiB, which is as
/// much as servers of gRPC take.
pub(super) const LONGEST: usize = 384;
/// Between two looks for names to forget.
const LOOKS: Duration = Duration::from_secs(1);

/// What is known of each.
#[derive(Debug)]
pub(super) struct Chosen<T> {
    names: HashMap<Arc<str>, T>,
    /// When names to forget were looked for last, among very many.
    looked: Option<Instant>,
}

impl<T> Default for Chosen<T> {
    fn default() -> Self {
        Self { names: HashMap::new(), looked: None }
    }
}

impl<T> Chosen<T> {
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.names.get_mut(name)
    }

    /// Adds one that is not there yet. What nobody would miss makes room and is given. None: there is no room.
    pub(super) fn add(&mut self, name: &Arc<str>, new: T, is_idle: impl Fn(&T) -> bool) -> Option<Vec<Arc<str>>> {
        if name.len() > LONGEST {
            return None;
        }
        let mut forgotten = Vec::new();
        if self.names.len() >= MOST {
            let now = Instant::now();
            if self.looked.is_none_or(|last| now.duration_since(last) >= LOOKS) {
                self.looked = Some(now);
                forgotten.extend(self.names.extract_if(|_, known| is_idle(known)).map(|(name, _)| name));
            }
            if self.names.len() >= MOST {
                return None;
            }
        }
        self.names.insert(name.clone(), new);
        Some(forgotten)
    }

    /// Has the next to be added look for names to forget, however long ago that was.
    #[cfg(test)]
    pub(super) fn look(&mut self) {
        self.looked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_hosts_have_no_room_and_make_none() {
        let mut chosen = Chosen::default();
        for number in 0..MOST {
            assert!(chosen.add(&number.to_string().into(), (), |()| true).is_some());
        }
        assert!(chosen.add(&"x".repeat(LONGEST + 1).into(), (), |()| true).is_none());
        assert!(chosen.get_mut("0").is_some());
        let longest = "x".repeat(LONGEST).into();
        assert_eq!(chosen.add(&longest, (), |()| true).unwrap().len(), MOST);
        assert!(chosen.get_mut("0").is_none() && chosen.get_mut(&longest).is_some());
    }
}
