//! Outlier detection as configured, and what it counts under.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};

use crate::telemetry::{
    events::EventLog,
    stats::{Counter, Gauge, Scope},
};

/// `OutlierDetection`. Percentages are 0 to 100.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Responses of 5xx in a row that eject; 0: none do.
    pub consecutive_5xx: u32,
    /// Responses of 502 to 504 in a row that eject.
    pub consecutive_gateway: u32,
    /// Local failures in a row that eject, if they are told apart.
    pub consecutive_local: u32,
    /// Failures to get a response are told apart from responses.
    pub split: bool,
    /// Between looks at ejected hosts and at success rates.
    pub interval: Duration,
    /// An ejection lasts this long, times the number of ejections.
    pub base_ejection: Duration,
    /// But no longer.
    pub max_ejection: Duration,
    /// Random addition to that.
    pub jitter: Duration,
    /// At most this share of hosts is ejected.
    pub max_percent: u32,
    /// One host may be ejected whatever its share.
    pub always_one: bool,
    /// An active health check that passes ends an ejection.
    pub uneject_by_check: bool,
    /// Success rates count with so many hosts of enough requests.
    pub rate_hosts: usize,
    /// So many requests in an interval.
    pub rate_volume: u64,
    /// A host whose success rate is so many standard deviations, times 1000, below the mean is ejected.
    pub rate_stdev: u32,
    /// A host of which this share of requests fails is ejected.
    pub failure_threshold: u32,
    /// With so many hosts of enough requests.
    pub failure_hosts: usize,
    /// So many requests in an interval.
    pub failure_volume: u64,
    /// How often a detected outlier is ejected, by [`Kind`], percent.
    pub enforcing: [u32; Kind::ALL.len()],
    /// Hosts are degraded for a while that say of themselves that they are.
    pub degrades: bool,
}

/// Why a host is ejected; Envoy's `OutlierEjectionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `CONSECUTIVE_5XX`.
    Consecutive5xx,
    /// `CONSECUTIVE_GATEWAY_FAILURE`.
    ConsecutiveGateway,
    /// `SUCCESS_RATE`.
    SuccessRate,
    /// `CONSECUTIVE_LOCAL_ORIGIN_FAILURE`.
    ConsecutiveLocal,
    /// `SUCCESS_RATE_LOCAL_ORIGIN`.
    SuccessRateLocal,
    /// `FAILURE_PERCENTAGE`.
    FailurePercentage,
    /// `FAILURE_PERCENTAGE_LOCAL_ORIGIN`.
    FailurePercentageLocal,
}

impl Kind {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::SuccessRate,
        Self::ConsecutiveLocal,
        Self::SuccessRateLocal,
        Self::FailurePercentage,
        Self::FailurePercentageLocal,
    ];

    /// In event logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGateway => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::ConsecutiveLocal => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRateLocal => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::FailurePercentageLocal => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }

    /// In statistics.
    const fn stat(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::SuccessRate => "success_rate",
            Self::ConsecutiveLocal => "consecutive_local_origin_failure",
            Self::SuccessRateLocal => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocal => "local_origin_failure_percentage",
        }
    }
}

/// A cluster's outlier detection.
#[derive(Debug)]
pub struct Detector {
    /// How.
    pub settings: Settings,
    /// Hosts ejected now.
    pub ejected: AtomicU32,
    /// Mean success rate and the rate below which hosts are ejected, of the last interval, percent as bits of `f64`;
    /// -1: none. Of responses, and of local origin.
    pub rates: [[AtomicU64; 2]; 2],
    /// Where events go.
    pub log: Option<Arc<EventLog>>,
    /// Names.
    pub stats: DetectorStats,
}

/// `outlier_detection.*`.
#[derive(Debug, Default)]
pub struct DetectorStats {
    /// `ejections_active`.
    pub active: Gauge,
    /// `ejections_enforced_total`.
    pub enforced_total: Counter,
    /// `ejections_overflow`.
    pub overflow: Counter,
    /// `ejections_detected_degradation`.
    pub degraded: Counter,
    /// `ejections_enforced_*`, by [`Kind`].
    pub enforced: [Counter; Kind::ALL.len()],
    /// `ejections_detected_*`, by [`Kind`].
    pub detected: [Counter; Kind::ALL.len()],
    /// `ejections_total`, which Envoy has kept from before there were the others.
    pub old_total: Counter,
    /// `ejections_consecutive_5xx`, likewise.
    pub old_5xx: Counter,
    /// `ejections_success_rate`, likewise.
    pub old_success_rate: Counter,
}

impl DetectorStats {
    /// Registers the names below a cluster's scope.
    pub fn new(scope: &Scope) -> Self {
        let counter = |name: &str| scope.counter(&format!("outlier_detection.ejections_{name}"));
        Self {
            active: scope.gauge("outlier_detection.ejections_active"),
            enforced_total: counter("enforced_total"),
            overflow: counter("overflow"),
            degraded: counter("detected_degradation"),
            enforced: Kind::ALL.map(|kind| counter(&format!("enforced_{}", kind.stat()))),
            detected: Kind::ALL.map(|kind| counter(&format!("detected_{}", kind.stat()))),
            old_total: counter("total"),
            old_5xx: counter("consecutive_5xx"),
            old_success_rate: counter("success_rate"),
        }
    }
}

impl Detector {
    /// With these settings.
    pub fn new(settings: Settings, scope: &Scope, log: Option<Arc<EventLog>>) -> Self {
        let none = || AtomicU64::new((-1.0_f64).to_bits());
        Self {
            settings,
            ejected: AtomicU32::new(0),
            rates: [[none(), none()], [none(), none()]],
            log,
            stats: DetectorStats::new(scope),
        }
    }
}
