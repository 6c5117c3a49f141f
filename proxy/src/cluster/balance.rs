//! Choosing among the endpoints of one set: a priority by health, then round robin or earliest deadline first by weight.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
};

use crate::config::cluster::{Endpoint, EndpointSet, Priority};

/// A priority is fully able when this share of its endpoints is healthy, in percent of 100: 1/1.4.
const OVERPROVISIONING: usize = 140;

/// The state of one worker for one endpoint set.
#[derive(Debug)]
pub(super) struct Balancer {
    endpoints: Arc<EndpointSet>,
    /// For each priority: its share of the load in percent, and its turn.
    turns: Vec<(usize, Turn)>,
}

/// Whose turn it is within a priority, over indices into its endpoints.
#[derive(Debug)]
enum Turn {
    Even { candidates: Vec<usize>, next: usize },
    Weighted { queue: BinaryHeap<Reverse<Deadline>>, now: f64, order: u64 },
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

impl Balancer {
    pub fn new(endpoints: Arc<EndpointSet>, panic_threshold: f64) -> Self {
        let shares = shares(endpoints.priorities());
        let panic_possible = shares.iter().map(|share| share.able).sum::<usize>() < 100;
        let turns = endpoints
            .priorities()
            .iter()
            .zip(&shares)
            .map(|(priority, share)| {
                let panic = panic_possible && below(priority, panic_threshold);
                let candidates = if panic { (0..priority.all.len()).collect() } else { priority.healthy.clone() };
                (share.load, Turn::new(priority, candidates))
            })
            .collect();
        Self { endpoints, turns }
    }

    pub fn is_for(&self, endpoints: &Arc<EndpointSet>) -> bool {
        Arc::ptr_eq(&self.endpoints, endpoints)
    }

    pub fn pick(&mut self, random: bool) -> Option<&Endpoint> {
        let mut point = if self.turns.len() > 1 { fastrand::usize(0..100) } else { 0 };
        let mut chosen = None;
        for (index, (load, _)) in self.turns.iter().enumerate() {
            if point < *load {
                chosen = Some(index);
                break;
            }
            point -= load;
        }
        let chosen = chosen?;
        let priority = &self.endpoints.priorities()[chosen];
        let index = self.turns[chosen].1.next(priority, random)?;
        priority.all.get(index)
    }
}

#[derive(Debug)]
struct Share {
    /// Percent of the whole load that it can take.
    able: usize,
    /// Percent of the whole load that it gets.
    load: usize,
}

/// Envoy's arithmetic: every priority takes what it is able to, in order; what none can take is spread.
fn shares(priorities: &[Priority]) -> Vec<Share> {
    let mut shares: Vec<Share> = priorities
        .iter()
        .map(|priority| {
            let able = match priority.all.len() {
                0 => 0,
                all => (OVERPROVISIONING * priority.healthy.len() / all).min(100),
            };
            Share { able, load: 0 }
        })
        .collect();
    let total = shares.iter().map(|share| share.able).sum::<usize>().min(100);
    if total == 0 {
        // Nothing is healthy: the load goes where there are endpoints at all, by their number.
        let all: usize = priorities.iter().map(|priority| priority.all.len()).sum();
        let mut left = 100;
        for (share, priority) in shares.iter_mut().zip(priorities) {
            share.load = (priority.all.len() * 100).checked_div(all).unwrap_or(0);
            left -= share.load;
        }
        if let Some((share, _)) = shares.iter_mut().zip(priorities).find(|(_, priority)| !priority.all.is_empty()) {
            share.load += left;
        }
        return shares;
    }
    let mut left: usize = 100;
    for share in &mut shares {
        share.load = left.min(share.able * 100 / total);
        left -= share.load;
    }
    if let Some(first) = shares.iter_mut().find(|share| share.load > 0) {
        first.load += left;
    }
    shares
}

fn below(priority: &Priority, threshold: f64) -> bool {
    let percent = |part: usize, all: usize| 100.0 * part as f64 / all as f64;
    !priority.all.is_empty() && percent(priority.healthy.len(), priority.all.len()) < threshold
}

impl Turn {
    fn new(priority: &Priority, candidates: Vec<usize>) -> Self {
        if !priority.weighted {
            // Workers start at different places, so that few requests still spread.
            let next = if candidates.is_empty() { 0 } else { fastrand::usize(0..candidates.len()) };
            return Self::Even { candidates, next };
        }
        let queue = candidates
            .into_iter()
            .enumerate()
            .map(|(order, index)| {
                let at = 1.0 / f64::from(priority.all[index].template.weight);
                Reverse(Deadline { at, order: order as u64, index })
            })
            .collect::<BinaryHeap<_>>();
        let order = queue.len() as u64;
        Self::Weighted { queue, now: 0.0, order }
    }

    fn next(&mut self, priority: &Priority, random: bool) -> Option<usize> {
        match self {
            Self::Even { candidates, .. } if candidates.is_empty() => None,
            Self::Even { candidates, .. } if random => Some(candidates[fastrand::usize(0..candidates.len())]),
            Self::Even { candidates, next } => {
                let index = candidates[*next % candidates.len()];
                *next = (*next + 1) % candidates.len();
                Some(index)
            }
            Self::Weighted { queue, now, order } => {
                let Reverse(Deadline { at, index, .. }) = queue.pop()?;
                *now = at;
                *order += 1;
                let at = *now + 1.0 / f64::from(priority.all[index].template.weight);
                queue.push(Reverse(Deadline { at, order: *order, index }));
                Some(index)
            }
        }
    }
}
