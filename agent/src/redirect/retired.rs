//! Decisions of pods that are not there any more: their slots are cleared for others, and who adds up the node's decisions
//! over time goes on from what they were.

use std::sync::atomic::{AtomicU64, Ordering};

use weir_abi::map::MAX_RULES;

/// Sums by the number of the rule.
#[derive(Debug, Default)]
pub struct Retired {
    sums: [AtomicU64; MAX_RULES as usize],
}

impl Retired {
    /// A slot had these and was cleared; in this order, for whoever reads first the sums and then the slots.
    pub(super) fn add(&self, counts: &[u64]) {
        for (sum, count) in self.sums.iter().zip(counts) {
            sum.fetch_add(*count, Ordering::Release);
        }
    }

    /// The sums.
    pub fn sums(&self) -> Vec<u64> {
        self.sums.iter().map(|sum| sum.load(Ordering::Acquire)).collect()
    }
}
