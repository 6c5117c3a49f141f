//! What a series of checks makes of a host: a decision per check, made without I/O.

use std::time::Duration;

use crate::config::cluster::{
    HealthFlags,
    health::{HealthCheck, Intervals},
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Well; whether the host said that it is degraded.
    Passed { degraded: bool },
    /// Not well.
    Failed(Failure),
}

/// Why a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The host said that it is not well; with an HTTP status, if it has one. Counted, or enough at once.
    Active { status: u16, counted: bool },
    /// It could not be asked.
    Network,
    /// It did not answer in time.
    Timeout,
    /// It said so itself, in a response to somebody else.
    Passive,
}

impl Failure {
    /// `failure_type` of event logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active { .. } => "ACTIVE",
            Self::Network => "NETWORK",
            Self::Timeout => "NETWORK_TIMEOUT",
            Self::Passive => "PASSIVE",
        }
    }

    fn counted(self) -> bool {
        !matches!(self, Self::Active { counted: false, .. } | Self::Passive)
    }
}

/// Whether the host's health has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Unchanged,
    /// It will, if the next checks end as this one.
    Pending,
    Changed,
}

/// What is written about a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    AddHealthy { first: bool },
    Succeeded,
    Degraded,
    NoLongerDegraded,
    Ejected(Failure),
    Failed { failure: Failure, first: bool },
}

/// What follows from a check.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub set: HealthFlags,
    pub clear: HealthFlags,
    pub transition: Transition,
    pub events: Vec<Event>,
}

/// What is known from the checks so far.
#[derive(Debug)]
pub(super) struct Tracker {
    passed: u32,
    failed: u32,
    first: bool,
}

impl Tracker {
    pub fn new() -> Self {
        Self { passed: 0, failed: 0, first: true }
    }

    /// Takes a check into account, of a host with these flags.
    pub fn step(&mut self, check: &HealthCheck, flags: HealthFlags, checked: Checked) -> Step {
        let mut step = match checked {
            Checked::Passed { degraded } => self.passed(check, flags, degraded),
            Checked::Failed(failure) => self.failed(check, flags, failure),
        };
        if flags.any(HealthFlags::PENDING_ACTIVE) {
            // It has been checked now, whatever came of it.
            step.clear = step.clear.and(HealthFlags::PENDING_ACTIVE);
            step.transition = Transition::Changed;
        }
        self.first = false;
        step
    }

    fn passed(&mut self, check: &HealthCheck, flags: HealthFlags, degraded: bool) -> Step {
        self.failed = 0;
        let none = HealthFlags::default();
        let mut step = Step { set: none, clear: none, transition: Transition::Unchanged, events: Vec::new() };
        if flags.any(HealthFlags::FAILED_ACTIVE) {
            self.passed += 1;
            // The first result counts at once, so that starting is fast.
            if self.first || self.passed == check.healthy_threshold {
                step.clear =
                    HealthFlags::FAILED_ACTIVE.and(HealthFlags::ACTIVE_TIMEOUT).and(HealthFlags::EXCLUDED_IMMEDIATE);
                step.transition = Transition::Changed;
                step.events.push(Event::AddHealthy { first: self.first });
            } else {
                step.transition = Transition::Pending;
            }
        }
        // That it is healthy now says it already.
        if check.log_successes && step.transition != Transition::Changed {
            step.events.push(Event::Succeeded);
        }
        if degraded != flags.any(HealthFlags::DEGRADED_ACTIVE) {
            if degraded {
                step.set = HealthFlags::DEGRADED_ACTIVE;
                step.events.push(Event::Degraded);
            } else {
                step.clear = step.clear.and(HealthFlags::DEGRADED_ACTIVE);
                step.events.push(Event::NoLongerDegraded);
            }
            if step.transition == Transition::Unchanged {
                step.transition = Transition::Changed;
            }
        }
        step
    }

    fn failed(&mut self, check: &HealthCheck, flags: HealthFlags, failure: Failure) -> Step {
        self.passed = 0;
        let none = HealthFlags::default();
        let mut step = Step { set: none, clear: none, transition: Transition::Unchanged, events: Vec::new() };
        let mut failing = flags.any(HealthFlags::FAILED_ACTIVE);
        if !failing {
            self.failed += u32::from(failure.counted());
            if !failure.counted() || self.failed == check.unhealthy_threshold {
                step.set = HealthFlags::FAILED_ACTIVE;
                failing = true;
                step.transition = Transition::Changed;
                step.events.push(Event::Ejected(failure));
            } else {
                step.transition = Transition::Pending;
            }
        }
        if failing && failure == Failure::Timeout {
            step.set = step.set.and(HealthFlags::ACTIVE_TIMEOUT);
        } else if failing {
            step.clear = HealthFlags::ACTIVE_TIMEOUT;
        }
        if self.first || check.log_failures {
            step.events.push(Event::Failed { failure, first: self.first });
        }
        step
    }
}

/// How long until the next check. `traffic`: the cluster has had a connection. `random` is in 0..1.
pub(super) fn pause(
    intervals: &Intervals,
    passed: bool,
    transition: Transition,
    traffic: bool,
    random: f64,
) -> Duration {
    let base = match (traffic, transition, passed) {
        (false, _, true) => intervals.no_traffic_healthy.unwrap_or(intervals.no_traffic),
        (false, _, false) => intervals.no_traffic,
        (true, Transition::Pending, true) => intervals.healthy_edge,
        (true, Transition::Pending, false) => intervals.unhealthy_edge,
        (true, _, true) => intervals.healthy,
        (true, _, false) => intervals.unhealthy,
    };
    let share = base.mul_f64(f64::from(intervals.jitter_percent) / 100.0);
    base + share.mul_f64(random) + intervals.jitter.mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::cluster::health::{CheckStats, Probe, TcpProbe},
        telemetry::stats::Scope,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const NETWORK: Checked = Checked::Failed(Failure::Network);
    const PASSED: Checked = Checked::Passed { degraded: false };

    fn check() -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp(TcpProbe { send: Default::default(), receive: Vec::new() }),
            timeout: SECOND,
            intervals: Intervals {
                initial_jitter: Duration::ZERO,
                healthy: SECOND,
                healthy_edge: 2 * SECOND,
                unhealthy: 3 * SECOND,
                unhealthy_edge: 4 * SECOND,
                no_traffic: 60 * SECOND,
                no_traffic_healthy: None,
                jitter: Duration::ZERO,
                jitter_percent: 0,
            },
            unhealthy_threshold: 2,
            healthy_threshold: 2,
            reuse_connection: true,
            ignore_new_hosts: false,
            logs: Vec::new(),
            log_failures: false,
            log_successes: false,
            stats: CheckStats::new(&Scope::default()),
        }
    }

    #[test]
    fn the_first_check_counts_at_once_and_others_towards_thresholds() {
        let (check, mut tracker) = (check(), Tracker::new());
        let failing = HealthFlags::FAILED_ACTIVE;
        let healthy = HealthFlags::default();
        assert_eq!(tracker.step(&check, failing, PASSED).transition, Transition::Changed);
        assert_eq!(tracker.step(&check, healthy, PASSED).transition, Transition::Unchanged);
        assert_eq!(tracker.step(&check, healthy, NETWORK).transition, Transition::Pending);
        let step = tracker.step(&check, healthy, NETWORK);
        assert_eq!((step.transition, step.set), (Transition::Changed, failing));
        assert_eq!(step.events, [Event::Ejected(Failure::Network)]);
        assert_eq!(tracker.step(&check, failing, PASSED).transition, Transition::Pending);
        assert_eq!(tracker.step(&check, failing, NETWORK).transition, Transition::Unchanged);
        assert_eq!(tracker.step(&check, failing, PASSED).transition, Transition::Pending);
        assert_eq!(tracker.step(&check, failing, PASSED).transition, Transition::Changed);
    }

    #[test]
    fn a_wrong_answer_is_enough_unless_it_is_retriable() {
        let check = check();
        let after = |counted| {
            let mut tracker = Tracker::new();
            tracker.first = false;
            let failed = Checked::Failed(Failure::Active { status: 500, counted });
            tracker.step(&check, HealthFlags::default(), failed).transition
        };
        assert_eq!((after(false), after(true)), (Transition::Changed, Transition::Pending));
    }

    #[test]
    fn degradation_is_told_once() {
        let (check, mut tracker) = (check(), Tracker::new());
        let degraded = Checked::Passed { degraded: true };
        let step = tracker.step(&check, HealthFlags::default(), degraded);
        assert_eq!((step.set, step.events), (HealthFlags::DEGRADED_ACTIVE, vec![Event::Degraded]));
        assert_eq!(tracker.step(&check, HealthFlags::DEGRADED_ACTIVE, degraded).events, []);
        assert_eq!(tracker.step(&check, HealthFlags::DEGRADED_ACTIVE, PASSED).events, [Event::NoLongerDegraded]);
    }

    #[test]
    fn pauses_depend_on_traffic_and_on_edges() {
        let seconds =
            |passed, transition, traffic| pause(&check().intervals, passed, transition, traffic, 0.5).as_secs();
        assert_eq!(seconds(true, Transition::Unchanged, false), 60);
        assert_eq!(seconds(true, Transition::Changed, true), 1);
        assert_eq!(seconds(true, Transition::Pending, true), 2);
        assert_eq!(seconds(false, Transition::Unchanged, true), 3);
        assert_eq!(seconds(false, Transition::Pending, true), 4);
        let jittery = Intervals { jitter: 2 * SECOND, jitter_percent: 100, ..check().intervals };
        assert_eq!(pause(&jittery, true, Transition::Unchanged, true, 0.5), Duration::from_millis(2_500));
    }
}
