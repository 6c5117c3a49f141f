//! How an endpoint is chosen.

use std::time::Duration;

/// A cluster's load balancing.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancing {
    /// Among the endpoints of one priority, or of one locality of it.
    pub policy: Policy,
    /// Among the localities of a priority.
    pub localities: Localities,
    /// Below this share of healthy endpoints, in percent, health does not count.
    pub panic_threshold: u32,
}

impl LoadBalancing {
    /// Envoy's default of `healthy_panic_threshold`, percent.
    pub const DEFAULT_PANIC_THRESHOLD: u32 = 50;
}

impl Default for LoadBalancing {
    fn default() -> Self {
        Self {
            policy: Policy::RoundRobin(None),
            localities: Localities::Together,
            panic_threshold: Self::DEFAULT_PANIC_THRESHOLD,
        }
    }
}

impl LoadBalancing {
    /// Whether it goes by a request's hash.
    pub fn hashes(&self) -> bool {
        matches!(self.policy, Policy::RingHash(_) | Policy::Maglev(_))
    }

    /// How it regards zones where the proxy knows its own.
    pub fn zone_aware(&self) -> ZoneAware {
        match self.localities {
            Localities::ZoneAware(zone_aware) => zone_aware,
            Localities::Weighted | Localities::Together => ZoneAware::default(),
        }
    }
}

/// The kinds of load balancing.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin(Option<SlowStart>),
    /// The least busy of a few, or by weight and business.
    LeastRequest(LeastRequest),
    /// Any.
    Random,
    /// Consistent hashing on a ring.
    RingHash(RingHash),
    /// Consistent hashing by a table.
    Maglev(Maglev),
    /// The connection's own destination.
    ClusterProvided,
}

/// `LeastRequestLbConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct LeastRequest {
    /// How many to compare, at least 2.
    pub choices: u32,
    /// Compare all.
    pub full_scan: bool,
    /// How much requests under way reduce the weight of a host: weight / (requests + 1) ^ bias.
    pub bias: f64,
    /// For new hosts.
    pub slow_start: Option<SlowStart>,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: 2, full_scan: false, bias: 1.0, slow_start: None }
    }
}

/// `SlowStartConfig`: weights of new hosts grow to what is configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// For so long.
    pub window: Duration,
    /// Exponent's inverse: 1 is linear, more is faster at first.
    pub aggression: f64,
    /// From this part of the weight, 0 to 1.
    pub least: f64,
}

impl SlowStart {
    /// The part of its weight that a host has which became healthy so long ago.
    pub fn factor(&self, since: Duration) -> f64 {
        if since >= self.window {
            return 1.0;
        }
        let passed = since.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        passed.powf(1.0 / self.aggression).max(self.least)
    }
}

/// `RingHashLbConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct RingHash {
    /// Entries at least.
    pub minimum: u64,
    /// Entries at most.
    pub maximum: u64,
    /// How entries are hashed.
    pub function: HashFunction,
    /// What all consistent hashing has.
    pub hashing: Hashing,
}

impl RingHash {
    /// Envoy's default of `minimum_ring_size`.
    pub const DEFAULT_MINIMUM: u64 = 1024;
    /// Envoy's default, and limit, of `maximum_ring_size`.
    pub const DEFAULT_MAXIMUM: u64 = 8 * 1024 * 1024;
}

/// How ring entries are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash64.
    #[default]
    Xx,
    /// MurmurHash64A with libstdc++'s seed.
    Murmur2,
}

/// `MaglevLbConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct Maglev {
    /// Entries, a prime.
    pub table_size: u64,
    /// What all consistent hashing has.
    pub hashing: Hashing,
}

impl Maglev {
    /// Envoy's default of `table_size`.
    pub const DEFAULT_TABLE_SIZE: u64 = 65_537;
    /// Envoy's limit of `table_size`.
    pub const MAX_TABLE_SIZE: u64 = 5_000_011;
}

/// `ConsistentHashingLbConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// Hosts are hashed by their names, not their addresses.
    pub use_hostname: bool,
    /// A host takes at most this percentage of the average load; 0: any.
    pub balance_factor: u32,
}

/// How localities share the load of a priority.
#[derive(Clone, Debug, PartialEq)]
pub enum Localities {
    /// They do not count.
    Together,
    /// By weight and health (`locality_weighted_lb_config`).
    Weighted,
    /// The proxy's own zone first (`zone_aware_lb_config`).
    ZoneAware(ZoneAware),
}

/// `ZoneAwareLbConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneAware {
    /// Percentage of requests it applies to.
    pub enabled: f64,
    /// Clusters with fewer healthy hosts are balanced over all zones.
    pub min_cluster_size: u64,
    /// No host rather than an unhealthy one.
    pub fail_on_panic: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { enabled: 100.0, min_cluster_size: 6, fail_on_panic: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_start_grows_to_the_whole_weight() {
        let start = SlowStart { window: Duration::from_secs(10), aggression: 1.0, least: 0.1 };
        assert_eq!(start.factor(Duration::ZERO), 0.1);
        assert_eq!(start.factor(Duration::from_secs(5)), 0.5);
        assert_eq!(start.factor(Duration::from_secs(10)), 1.0);
        let eager = SlowStart { aggression: 2.0, ..start };
        assert!((eager.factor(Duration::from_millis(2_500)) - 0.5).abs() < 1e-9);
    }
}
