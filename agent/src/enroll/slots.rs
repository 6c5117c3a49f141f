//! Slots: the index of a pod in the maps.

use weir_abi::map::MAX_PODS;

/// Which slots are taken.
///
/// A freed slot is taken again as late as possible: events and counts of its last pod are read by then.
#[derive(Debug)]
pub(super) struct Slots {
    taken: Vec<bool>,
    next: usize,
}

impl Slots {
    /// With these taken already.
    pub(super) fn new(taken: impl IntoIterator<Item = u32>) -> Self {
        let mut slots = Self { taken: vec![false; MAX_PODS as usize], next: 0 };
        for slot in taken {
            if let Some(place) = slots.taken.get_mut(slot as usize) {
                *place = true;
                slots.next = slots.next.max(slot as usize + 1);
            }
        }
        slots
    }

    /// Takes one; none if all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        let count = self.taken.len();
        let free = (self.next..self.next + count).map(|slot| slot % count).find(|slot| !self.taken[*slot])?;
        self.taken[free] = true;
        self.next = free + 1;
        Some(free as u32)
    }

    /// Gives one back.
    pub(super) fn free(&mut self, slot: u32) {
        if let Some(place) = self.taken.get_mut(slot as usize) {
            *place = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_once_and_reused_late() {
        let mut slots = Slots::new([0, 3]);
        assert_eq!(slots.take(), Some(4));
        slots.free(4);
        assert_eq!(slots.take(), Some(5), "a freed slot is not the next one");
        let rest: Vec<u32> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(rest.len(), MAX_PODS as usize - 3);
        assert_eq!(rest[rest.len() - 3..], [1, 2, 4], "round it goes, past those that are taken");
        assert_eq!(slots.take(), None);
        slots.free(7);
        assert_eq!(slots.take(), Some(7));
    }
}
