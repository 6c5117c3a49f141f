//! How much memory what management servers send may take: all of them together, as none of them is to be trusted with more.

use std::{
    ops::{AddAssign, SubAssign},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The most that resources may take with what is made of them, in bytes, if nothing else is said.
pub const MOST: usize = 2 << 30;

/// What resources may take. Clones are the same.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    taken: AtomicUsize,
}

impl Budget {
    /// So many bytes.
    pub fn of(most: usize) -> Self {
        Self(Arc::new(Inner { most, taken: AtomicUsize::new(0) }))
    }

    /// All of it, in bytes.
    pub(super) fn most(&self) -> usize {
        self.0.most
    }

    /// Whether so many bytes more would be too many.
    pub(super) fn is_exceeded_by(&self, more: usize) -> bool {
        self.0.taken.load(Relaxed).saturating_add(more) > self.0.most
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(MOST)
    }
}

/// What one takes of a budget; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Nothing of it yet.
    pub(super) fn of(budget: Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// In bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl AddAssign<usize> for Share {
    fn add_assign(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.0.taken.fetch_add(bytes, Relaxed);
    }
}

impl SubAssign<usize> for Share {
    fn sub_assign(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.0.taken.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_takes_others_have_not() {
        let budget = Budget::of(10);
        let [mut one, mut other] = [(); 2].map(|()| Share::of(budget.clone()));
        one += 6;
        other += 4;
        other -= 1;
        assert!(!budget.is_exceeded_by(1) && budget.is_exceeded_by(2) && budget.is_exceeded_by(usize::MAX));
        drop(one);
        assert!(!budget.is_exceeded_by(7) && budget.is_exceeded_by(8));
    }
}
