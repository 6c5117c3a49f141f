//! What is wanted of a type: everything, or names, each as often as somebody subscribes to it.

use std::{collections::BTreeMap, sync::Arc};

/// Asks for everything there is.
pub(super) const EVERYTHING: &str = "*";

/// What is wanted of one type.
#[derive(Debug, Default)]
pub(super) struct Interest {
    everything: usize,
    names: BTreeMap<Arc<str>, usize>,
}

impl Interest {
    /// Adds a subscription to a name; none: to everything. Whether that is news.
    pub(super) fn add(&mut self, name: Option<&Arc<str>>) -> bool {
        let count = match name {
            Some(name) => self.names.entry(name.clone()).or_default(),
            None => &mut self.everything,
        };
        *count += 1;
        *count == 1
    }

    /// Takes one away again. Whether it was the last.
    pub(super) fn remove(&mut self, name: Option<&Arc<str>>) -> bool {
        let Some(name) = name else {
            let last = self.everything == 1;
            self.everything = self.everything.saturating_sub(1);
            return last;
        };
        let Some(count) = self.names.get_mut(name) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.names.remove(name);
        }
        last
    }

    /// Everything is wanted.
    pub(super) fn everything(&self) -> bool {
        self.everything > 0
    }

    /// The names that are wanted whatever else is.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// A name is wanted, by itself or with everything.
    pub(super) fn has(&self, name: &str) -> bool {
        self.everything() || self.names.contains_key(name)
    }

    /// A name is wanted by itself.
    pub(super) fn names_it(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        !self.everything() && self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_wanted_as_long_as_anybody_wants_it() {
        let mut interest = Interest::default();
        let name: Arc<str> = "a".into();
        assert!(interest.is_empty());
        assert!(interest.add(Some(&name)) && !interest.add(Some(&name)));
        assert!(interest.has("a") && !interest.has("b"));
        assert!(!interest.remove(Some(&name)) && interest.has("a"));
        assert!(interest.remove(Some(&name)) && !interest.has("a"));
        assert!(!interest.remove(Some(&name)));
        assert!(interest.add(None) && interest.has("b") && !interest.names_it("b"));
        assert!(interest.remove(None) && interest.is_empty() && !interest.remove(None));
    }
}
