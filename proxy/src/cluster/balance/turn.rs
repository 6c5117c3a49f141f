//! Choosing among the hosts of one group: in turn, by weight, by requests under way, at random.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::edf::Edf;
use crate::{
    cluster::clock,
    config::cluster::{
        Endpoint,
        balancing::{LeastRequest, Policy, SlowStart},
    },
};

/// Hosts of a priority or locality that may be chosen, as indices into the priority's endpoints; and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: Vec<usize>,
    turn: Turn,
    /// Until when some host's weight grows, by [`clock`]; 0: none does.
    slow_until: u64,
}

#[derive(Debug, Default)]
enum Turn {
    /// Nobody's yet.
    #[default]
    Unknown,
    /// All weigh the same; where the next turn is.
    Even(usize),
    Weighted(Edf),
}

impl Group {
    pub fn new(members: Vec<usize>) -> Self {
        Self { members, turn: Turn::Unknown, slow_until: 0 }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whose turn it is.
    pub fn next(&mut self, endpoints: &[Arc<Endpoint>], policy: &Policy) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        match policy {
            Policy::RoundRobin(slow_start) => {
                self.prepare(endpoints, slow_start.as_ref(), |_| 1.0);
                match &mut self.turn {
                    Turn::Weighted(edf) => edf.next(|index| weight(&endpoints[index], slow_start.as_ref())),
                    Turn::Even(next) => {
                        let index = self.members[*next % self.members.len()];
                        *next = (*next + 1) % self.members.len();
                        Some(index)
                    }
                    Turn::Unknown => None,
                }
            }
            Policy::LeastRequest(config) => {
                let slow_start = config.slow_start.as_ref();
                let idle = |endpoint: &Endpoint| {
                    let active = endpoint.host.stats.rq_active.load(Relaxed);
                    if config.bias == 0.0 { 1.0 } else { ((active + 1) as f64).powf(-config.bias) }
                };
                self.prepare(endpoints, slow_start, idle);
                match &mut self.turn {
                    Turn::Weighted(edf) => {
                        edf.next(|index| weight(&endpoints[index], slow_start) * idle(&endpoints[index]))
                    }
                    _ => self.least_busy(endpoints, config),
                }
            }
            _ => Some(self.members[fastrand::usize(0..self.members.len())]),
        }
    }

    /// Decides how turns are taken, at first and when slow start has ended.
    fn prepare(
        &mut self,
        endpoints: &[Arc<Endpoint>],
        slow_start: Option<&SlowStart>,
        factor: impl Fn(&Endpoint) -> f64,
    ) {
        match &self.turn {
            Turn::Unknown => {}
            _ if self.slow_until == 0 || clock::now() < self.slow_until => return,
            _ => {}
        }
        let now = clock::now();
        self.slow_until = slow_start.map_or(0, |slow_start| {
            let window = u64::try_from(slow_start.window.as_millis()).unwrap_or(u64::MAX);
            let ends = |index: &usize| endpoints[*index].host.healthy_since.load(Relaxed).saturating_add(window);
            self.members.iter().map(ends).max().filter(|end| *end > now).unwrap_or(0)
        });
        let first = endpoints[self.members[0]].template.weight;
        let even = self.members.iter().all(|index| endpoints[*index].template.weight == first);
        // Workers start at different places, so that few requests still spread.
        let start = fastrand::usize(0..self.members.len());
        self.turn = if even && self.slow_until == 0 {
            Turn::Even(start)
        } else {
            let weights = self.members.iter().map(|index| {
                let endpoint = &endpoints[*index];
                (*index, weight(endpoint, slow_start) * factor(endpoint))
            });
            Turn::Weighted(Edf::new(weights, start))
        };
    }

    fn least_busy(&self, endpoints: &[Arc<Endpoint>], config: &LeastRequest) -> Option<usize> {
        let busy = |index: usize| endpoints[index].host.stats.rq_active.load(Relaxed);
        let count = self.members.len();
        if config.full_scan {
            // From a random place, so that equals share.
            let start = fastrand::usize(0..count);
            let in_order = self.members[start..].iter().chain(&self.members[..start]);
            return in_order.copied().min_by_key(|index| busy(*index));
        }
        let mut best = self.members[fastrand::usize(0..count)];
        for _ in 1..config.choices {
            let other = self.members[fastrand::usize(0..count)];
            if busy(other) < busy(best) {
                best = other;
            }
        }
        Some(best)
    }
}

fn weight(endpoint: &Endpoint, slow_start: Option<&SlowStart>) -> f64 {
    let weight = f64::from(endpoint.template.weight);
    match slow_start {
        None => weight,
        Some(slow_start) => {
            let since = clock::now().saturating_sub(endpoint.host.healthy_since.load(Relaxed));
            weight * slow_start.factor(Duration::from_millis(since))
        }
    }
}
