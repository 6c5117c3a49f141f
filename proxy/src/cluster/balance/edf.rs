//! Turns by weight: earliest deadline first.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// A queue of indices in which each comes up in proportion to its weight.
#[derive(Debug, Default)]
pub(super) struct Edf {
    queue: BinaryHeap<Reverse<Deadline>>,
    now: f64,
    order: u64,
}

#[derive(Debug, PartialEq)]
struct Deadline {
    at: f64,
    order: u64,
    index: usize,
}

impl Eq for Deadline {}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.order.cmp(&other.order))
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Edf {
    /// A queue of indices with weights above 0, `skip` turns into it, so that workers do not all begin with the same one.
    pub fn new(weights: impl IntoIterator<Item = (usize, f64)>, skip: usize) -> Self {
        let mut edf = Self::default();
        let mut known = Vec::new();
        for (index, weight) in weights {
            edf.push(index, weight);
            known.push((index, weight));
        }
        if !known.is_empty() {
            for _ in 0..skip {
                edf.next(|index| known.iter().find(|(known, _)| *known == index).map_or(1.0, |(_, weight)| *weight));
            }
        }
        edf
    }

    fn push(&mut self, index: usize, weight: f64) {
        self.queue.push(Reverse(Deadline { at: self.now + 1.0 / weight, order: self.order, index }));
        self.order += 1;
    }

    /// Whose turn it is; `weight` says what it weighs for its next one.
    pub fn next(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let Reverse(Deadline { at, index, .. }) = self.queue.pop()?;
        self.now = at;
        self.push(index, weight(index));
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_in_proportion() {
        let weights = [1.0, 4.0, 5.0];
        let mut edf = Edf::new(weights.into_iter().enumerate(), 3);
        let mut counts = [0; 3];
        for _ in 0..100 {
            counts[edf.next(|index| weights[index]).unwrap()] += 1;
        }
        assert_eq!(counts, [10, 40, 50]);
        assert_eq!(Edf::new([], 0).next(|_| 1.0), None);
    }
}
