//! A host: what is known about an address besides its configuration. It survives updates of its cluster's endpoints.
//!
//! Everything is atomic: workers count requests, outlier detection, active health checks and EDS each own some of the
//! health flags.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use tokio::sync::Notify;

/// Reasons why a host is not used, or only as the last choice; Envoy's `HealthFlag`s with the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFlags(u32);

impl HealthFlags {
    /// Active health checks fail.
    pub const FAILED_ACTIVE: Self = Self(1);
    /// Outlier detection has ejected it.
    pub const FAILED_OUTLIER: Self = Self(1 << 1);
    /// EDS says that it is unhealthy.
    pub const FAILED_EDS: Self = Self(1 << 2);
    /// Active health checks say that it is degraded.
    pub const DEGRADED_ACTIVE: Self = Self(1 << 3);
    /// EDS says that it is degraded.
    pub const DEGRADED_EDS: Self = Self(1 << 4);
    /// No longer in the configuration, but active health checks still pass.
    pub const PENDING_REMOVAL: Self = Self(1 << 5);
    /// New, and not health-checked yet.
    pub const PENDING_ACTIVE: Self = Self(1 << 6);
    /// The upstream itself said that it fails (`x-envoy-immediate-health-check-fail`).
    pub const EXCLUDED_IMMEDIATE: Self = Self(1 << 7);
    /// Active health checks fail because they time out.
    pub const ACTIVE_TIMEOUT: Self = Self(1 << 8);
    /// EDS says that it is draining.
    pub const DRAINING_EDS: Self = Self(1 << 9);
    /// It has said of itself that it is degraded (`x-envoy-degraded`).
    pub const DEGRADED_OUTLIER: Self = Self(1 << 10);

    /// Names as `/clusters` spells them, in its order.
    pub const NAMES: [(Self, &'static str); 11] = [
        (Self::FAILED_ACTIVE, "failed_active_hc"),
        (Self::FAILED_OUTLIER, "failed_outlier_check"),
        (Self::FAILED_EDS, "failed_eds_health"),
        (Self::DEGRADED_ACTIVE, "degraded_active_hc"),
        (Self::DEGRADED_EDS, "degraded_eds_health"),
        (Self::PENDING_REMOVAL, "pending_dynamic_removal"),
        (Self::PENDING_ACTIVE, "pending_active_hc"),
        (Self::EXCLUDED_IMMEDIATE, "excluded_via_immediate_hc_fail"),
        (Self::ACTIVE_TIMEOUT, "active_hc_timeout"),
        (Self::DRAINING_EDS, "eds_status_draining"),
        (Self::DEGRADED_OUTLIER, "degraded_outlier_detection"),
    ];

    const UNHEALTHY: Self =
        Self(Self::FAILED_ACTIVE.0 | Self::FAILED_OUTLIER.0 | Self::FAILED_EDS.0 | Self::DRAINING_EDS.0);
    const DEGRADED: Self = Self(Self::DEGRADED_ACTIVE.0 | Self::DEGRADED_EDS.0 | Self::DEGRADED_OUTLIER.0);
    const EXCLUDED: Self = Self(Self::PENDING_ACTIVE.0 | Self::EXCLUDED_IMMEDIATE.0 | Self::DRAINING_EDS.0);
    /// Those that EDS owns.
    pub const OF_EDS: Self = Self(Self::FAILED_EDS.0 | Self::DEGRADED_EDS.0 | Self::DRAINING_EDS.0);

    /// Those that active health checks own.
    pub const OF_CHECKS: Self =
        Self(Self::FAILED_ACTIVE.0 | Self::DEGRADED_ACTIVE.0 | Self::PENDING_ACTIVE.0 | Self::ACTIVE_TIMEOUT.0);

    /// Whether any of `flags` is set.
    pub fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of them that are among `flags`.
    #[must_use]
    pub const fn only(self, flags: Self) -> Self {
        Self(self.0 & flags.0)
    }

    /// What they come to.
    pub fn health(self) -> Health {
        if self.any(Self::UNHEALTHY) {
            Health::Unhealthy
        } else if self.any(Self::DEGRADED) {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Whether the host does not count among its priority's hosts.
    pub fn excluded(self) -> bool {
        self.any(Self::EXCLUDED)
    }
}

/// Envoy's coarse health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not to be used, but in panic.
    Unhealthy,
    /// To be used when there are not enough healthy ones.
    Degraded,
    /// To be used.
    Healthy,
}

/// What is known about one address of one cluster.
#[derive(Debug)]
pub struct Host {
    flags: AtomicU32,
    /// When it was last found healthy, in milliseconds of [`clock`](crate::cluster::clock); slow start counts from it.
    pub healthy_since: AtomicU64,
    /// Told when it becomes unhealthy: pools close its connections once no request uses them.
    pub failed: Notify,
    /// Told when a connection to it has ended: others may wait for its place.
    pub freed: Notify,
    /// How often its own responses said that it fails, since its health check last looked.
    pub admitted: Admitted,
    /// Counted by workers, shown by `/clusters`.
    pub stats: HostStats,
    /// What outlier detection remembers.
    pub outlier: Monitor,
}

/// Failures that a host admits in its responses (`x-envoy-immediate-health-check-fail`).
#[derive(Debug, Default)]
pub struct Admitted {
    count: AtomicU32,
    told: Notify,
}

impl Admitted {
    /// One more.
    pub fn add(&self) {
        self.count.fetch_add(1, Release);
        self.told.notify_one();
    }

    /// Waits until there are some, and takes them.
    pub async fn take(&self) -> u32 {
        loop {
            let count = self.count.swap(0, Acquire);
            if count > 0 {
                return count;
            }
            self.told.notified().await;
        }
    }
}

/// Per-host counters, names as Envoy's.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections open.
    pub cx_active: AtomicU64,
    /// Connections that could not be made.
    pub cx_connect_fail: AtomicU64,
    /// Requests.
    pub rq_total: AtomicU64,
    /// Requests under way.
    pub rq_active: AtomicU64,
    /// Requests with a response below 500.
    pub rq_success: AtomicU64,
    /// Requests with another outcome.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
}

/// What outlier detection remembers of a host. Times are milliseconds of [`clock`](crate::cluster::clock), 0: never.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Responses of 5xx in a row.
    pub consecutive_5xx: AtomicU32,
    /// Responses of 502 to 504 in a row.
    pub consecutive_gateway: AtomicU32,
    /// Failures to get a response in a row.
    pub consecutive_local: AtomicU32,
    /// Responses since the last interval.
    pub external: Rate,
    /// Connection attempts since the last interval.
    pub local: Rate,
    /// Ejections so far.
    pub ejections: AtomicU32,
    /// When it is ejected.
    pub ejection: Spell,
    /// When it is degraded.
    pub degradation: Spell,
}

/// When something is the matter with a host, for longer each time. Times are milliseconds of
/// [`clock`](crate::cluster::clock), 0: never.
#[derive(Debug, Default)]
pub struct Spell {
    /// How many times the base time it lasts.
    pub backoff: AtomicU32,
    /// Random part of its length, milliseconds.
    pub jitter: AtomicU64,
    /// When it last began.
    pub began: AtomicU64,
    /// When it last ended.
    pub ended: AtomicU64,
}

/// How many of how many succeeded.
#[derive(Debug)]
pub struct Rate {
    /// All.
    pub total: AtomicU64,
    /// Those that succeeded.
    pub success: AtomicU64,
    /// Success rate of the last interval that had enough, in percent, as the bits of an `f64`; -1: none.
    pub last: AtomicU64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { total: AtomicU64::new(0), success: AtomicU64::new(0), last: AtomicU64::new((-1.0_f64).to_bits()) }
    }
}

impl Rate {
    /// Counts one.
    pub fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.success.fetch_add(1, Relaxed);
        }
    }

    /// The success rate of the last interval that had enough requests, in percent.
    pub fn last(&self) -> Option<f64> {
        Some(f64::from_bits(self.last.load(Relaxed))).filter(|rate| *rate >= 0.0)
    }
}

impl Host {
    /// A host with these flags.
    pub fn new(flags: HealthFlags) -> Self {
        Self {
            flags: AtomicU32::new(flags.0),
            healthy_since: AtomicU64::new(0),
            failed: Notify::new(),
            freed: Notify::new(),
            admitted: Admitted::default(),
            stats: HostStats::default(),
            outlier: Monitor::default(),
        }
    }

    /// The flags now.
    pub fn flags(&self) -> HealthFlags {
        HealthFlags(self.flags.load(Acquire))
    }

    /// What they come to.
    pub fn health(&self) -> Health {
        self.flags().health()
    }

    /// Sets flags; whether any was not set.
    pub fn set(&self, flags: HealthFlags) -> bool {
        self.flags.fetch_or(flags.0, Release) & flags.0 != flags.0
    }

    /// Clears flags; whether any was set.
    pub fn clear(&self, flags: HealthFlags) -> bool {
        self.flags.fetch_and(!flags.0, Release) & flags.0 != 0
    }

    /// Makes those of `owned` be what `flags` says; whether that changed anything.
    pub fn assign(&self, owned: HealthFlags, flags: HealthFlags) -> bool {
        let was = self.flags.fetch_update(Release, Acquire, |was| Some(was & !owned.0 | flags.0 & owned.0));
        was.is_ok_and(|was| was & owned.0 != flags.0 & owned.0)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new(HealthFlags::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_to_a_health() {
        let host = Host::default();
        assert_eq!(host.health(), Health::Healthy);
        assert!(host.set(HealthFlags::DEGRADED_EDS) && !host.set(HealthFlags::DEGRADED_EDS));
        assert_eq!(host.health(), Health::Degraded);
        host.set(HealthFlags::FAILED_OUTLIER);
        assert_eq!(host.health(), Health::Unhealthy);
        assert!(host.assign(HealthFlags::OF_EDS, HealthFlags::FAILED_EDS));
        assert!(!host.assign(HealthFlags::OF_EDS, HealthFlags::FAILED_EDS));
        assert!(host.clear(HealthFlags::FAILED_OUTLIER) && host.clear(HealthFlags::FAILED_EDS));
        assert_eq!(host.health(), Health::Healthy);
    }
}
