//! Hosts counted by their health, as panic and the shares of priorities go by.

use super::{
    endpoint::{AssignmentPolicy, Priority},
    host::Health,
};

/// Hosts of a priority, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// All of them.
    pub all: u64,
    /// Those that do not count.
    pub excluded: u64,
    /// Number of healthy ones.
    pub healthy: u64,
    /// Number of degraded ones.
    pub degraded: u64,
    /// Weight of those that count.
    pub weight: u64,
    /// Weight of the healthy ones.
    pub healthy_weight: u64,
    /// Weight of the degraded ones.
    pub degraded_weight: u64,
    /// Percent of the load that the healthy and the degraded ones can take.
    pub able: (u32, u32),
}

impl Tally {
    /// Of the hosts of a priority as they are now.
    pub fn of(priority: &Priority, policy: &AssignmentPolicy) -> Self {
        let mut tally = Self::default();
        for endpoint in &priority.endpoints {
            let flags = endpoint.host.flags();
            let weight = u64::from(endpoint.template.weight);
            tally.all += 1;
            if flags.excluded() {
                tally.excluded += 1;
            } else {
                tally.weight += weight;
            }
            match flags.health() {
                Health::Healthy => {
                    tally.healthy += 1;
                    tally.healthy_weight += weight;
                }
                Health::Degraded => {
                    tally.degraded += 1;
                    tally.degraded_weight += weight;
                }
                Health::Unhealthy => {}
            }
        }
        tally.rated(policy)
    }

    /// With what its hosts can take.
    #[must_use]
    pub fn rated(self, policy: &AssignmentPolicy) -> Self {
        let (healthy, degraded, all) = if policy.weighted_health {
            (self.healthy_weight, self.degraded_weight, self.weight)
        } else {
            (self.healthy, self.degraded, self.all - self.excluded)
        };
        let able = |part: u64| {
            let percent = u64::from(policy.overprovisioning).saturating_mul(part).checked_div(all).unwrap_or(0);
            u32::try_from(percent).unwrap_or(u32::MAX).min(100)
        };
        Self { able: (able(healthy), able(degraded)), ..self }
    }

    /// Whether fewer than `threshold` percent can be used.
    pub fn in_panic(&self, threshold: u32) -> bool {
        let all = self.all - self.excluded;
        let usable = if all == 0 { 0.0 } else { 100.0 * (self.healthy + self.degraded) as f64 / all as f64 };
        usable < f64::from(threshold)
    }
}
