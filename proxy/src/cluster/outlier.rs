//! Outlier detection: hosts whose answers fail are left out for a while.
//!
//! Workers count what comes of attempts on the host itself and eject at once when too many failed in a row; a task of
//! the control runtime looks at success rates and takes hosts back. All state is atomic.

use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::clock;
use crate::{
    config::cluster::{
        Cluster, Endpoint, HealthFlags, Rate, Spell,
        outlier::{Detector, Kind, Settings},
    },
    telemetry::events::timestamp,
    wire::named::NamedAddress,
};

/// What came of an attempt, as outlier detection sees it (Envoy's `Outlier::Result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Response(u16),
    /// A connection is there; a response, or its absence, will follow.
    Connected,
    /// A connection is there, and nothing more will be known.
    ConnectedOnly,
    /// No connection, or it broke before a response.
    Failed,
    /// It took too long; the client gets this status.
    TimedOut(u16),
}

impl Cluster {
    /// Takes note of what came of an attempt at an endpoint.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        let Some(detector) = &self.outlier else { return };
        let monitor = &endpoint.host.outlier;
        let code = match (outcome, detector.settings.split) {
            (Outcome::Response(code), _) => code,
            (Outcome::Connected, false) => return,
            (Outcome::ConnectedOnly, false) => 200,
            (Outcome::Failed, false) => 503,
            (Outcome::TimedOut(code), false) => code,
            (Outcome::Connected | Outcome::ConnectedOnly, true) => {
                monitor.local.count(true);
                monitor.consecutive_local.store(0, Relaxed);
                return;
            }
            (Outcome::Failed | Outcome::TimedOut(_), true) => {
                monitor.local.count(false);
                let failures = monitor.consecutive_local.fetch_add(1, Relaxed) + 1;
                if failures == detector.settings.consecutive_local {
                    self.too_many(detector, endpoint, Kind::ConsecutiveLocal);
                }
                return;
            }
        };
        let failed = (500..600).contains(&code);
        monitor.external.count(!failed);
        if !failed {
            // Successes are many: write only when there is something to forget.
            for failures in [&monitor.consecutive_5xx, &monitor.consecutive_gateway] {
                if failures.load(Relaxed) != 0 {
                    failures.store(0, Relaxed);
                }
            }
            return;
        }
        if (502..=504).contains(&code) {
            if monitor.consecutive_gateway.fetch_add(1, Relaxed) + 1 == detector.settings.consecutive_gateway {
                self.too_many(detector, endpoint, Kind::ConsecutiveGateway);
            }
        } else {
            monitor.consecutive_gateway.store(0, Relaxed);
        }
        if monitor.consecutive_5xx.fetch_add(1, Relaxed) + 1 == detector.settings.consecutive_5xx {
            self.too_many(detector, endpoint, Kind::Consecutive5xx);
        }
    }

    fn too_many(&self, detector: &Detector, endpoint: &Endpoint, kind: Kind) {
        if endpoint.host.flags().any(HealthFlags::FAILED_OUTLIER) {
            return;
        }
        self.detected(detector, endpoint, kind);
        let monitor = &endpoint.host.outlier;
        match kind {
            Kind::Consecutive5xx => {
                self.stats.inc(detector.stats.old_5xx);
                monitor.consecutive_5xx.store(0, Relaxed);
            }
            Kind::ConsecutiveGateway => monitor.consecutive_gateway.store(0, Relaxed),
            _ => monitor.consecutive_local.store(0, Relaxed),
        }
    }

    /// Ejects a host, if it may be.
    fn detected(&self, detector: &Detector, endpoint: &Endpoint, kind: Kind) {
        let (settings, stats) = (&detector.settings, &detector.stats);
        self.stats.inc(stats.detected[kind as usize]);
        let hosts = self.endpoints.load().iter().count();
        let may = |ejected: u32| {
            let percent = 100.0 * f64::from(ejected + 1) / hosts as f64;
            percent <= f64::from(settings.max_percent.min(100)) || (settings.always_one && ejected == 0)
        };
        let enforced = match settings.enforcing[kind as usize] {
            100.. => true,
            percent => fastrand::u32(0..100) < percent,
        };
        let place = detector
            .ejected
            .fetch_update(AcqRel, Relaxed, |ejected| may(ejected).then_some(ejected + u32::from(enforced)));
        if place.is_err() {
            self.stats.inc(stats.overflow);
            return;
        }
        if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
            self.stats.inc(stats.old_total);
        }
        if enforced {
            if !endpoint.host.set(HealthFlags::FAILED_OUTLIER) {
                // Another worker was faster.
                detector.ejected.fetch_sub(1, AcqRel);
                return;
            }
            self.stats.inc(stats.enforced_total);
            self.stats.inc(stats.enforced[kind as usize]);
            let monitor = &endpoint.host.outlier;
            monitor.ejections.fetch_add(1, Relaxed);
            monitor.ejection.begin(settings);
            self.stats.set(stats.active, u64::from(detector.ejected.load(Relaxed)));
            tracing::info!(cluster = %self.name, host = %endpoint.address, why = kind.name(), "ejected");
            endpoint.host.failed.notify_waiters();
            self.changed();
        }
        if let Some(log) = &detector.log {
            log.write(ejection(self, detector, endpoint, kind, enforced));
        }
    }

    /// Takes an ejected host back.
    pub(super) fn uneject(&self, detector: &Detector, endpoint: &Endpoint) {
        if !endpoint.host.clear(HealthFlags::FAILED_OUTLIER) {
            return;
        }
        let monitor = &endpoint.host.outlier;
        for failures in [&monitor.consecutive_5xx, &monitor.consecutive_gateway, &monitor.consecutive_local] {
            failures.store(0, Relaxed);
        }
        monitor.ejection.ended.store(clock::now(), Relaxed);
        let left = detector.ejected.fetch_sub(1, AcqRel) - 1;
        self.stats.set(detector.stats.active, u64::from(left));
        tracing::info!(cluster = %self.name, host = %endpoint.address, "no longer ejected");
        self.changed();
        self.tell_return(detector, endpoint);
    }

    /// A host has said of itself that it is degraded.
    pub fn admits_degradation(&self, endpoint: &Endpoint) {
        let Some(detector) = self.outlier.as_ref().filter(|detector| detector.settings.degrades) else { return };
        if !endpoint.host.set(HealthFlags::DEGRADED_OUTLIER) {
            return;
        }
        let monitor = &endpoint.host.outlier;
        monitor.degradation.begin(&detector.settings);
        self.stats.inc(detector.stats.degraded);
        tracing::info!(cluster = %self.name, host = %endpoint.address, "degraded");
        self.changed();
        if let Some(log) = &detector.log {
            let mut event = event(self, endpoint, "DEGRADED", monitor.ejection.ended.load(Relaxed), "EJECT");
            event.insert("enforced".into(), true.into());
            event.insert("eject_consecutive_event".into(), json!({}));
            log.write(event);
        }
    }

    /// Takes a host for degraded no longer.
    fn recover(&self, detector: &Detector, endpoint: &Endpoint) {
        if !endpoint.host.clear(HealthFlags::DEGRADED_OUTLIER) {
            return;
        }
        endpoint.host.outlier.degradation.ended.store(clock::now(), Relaxed);
        tracing::info!(cluster = %self.name, host = %endpoint.address, "no longer degraded");
        self.changed();
        self.tell_return(detector, endpoint);
    }

    /// Logs that a host is used like others again.
    fn tell_return(&self, detector: &Detector, endpoint: &Endpoint) {
        let Some(log) = &detector.log else { return };
        let ejected = endpoint.host.outlier.ejection.began.load(Relaxed);
        let mut event = event(self, endpoint, Kind::Consecutive5xx.name(), ejected, "UNEJECT");
        event.insert("enforced".into(), false.into());
        log.write(event);
    }

    /// What happens once in an interval.
    fn look(&self, detector: &Detector) {
        let settings = &detector.settings;
        let now = clock::now();
        let endpoints = self.endpoints.load_full();
        for endpoint in endpoints.iter() {
            let monitor = &endpoint.host.outlier;
            if endpoint.host.flags().any(HealthFlags::FAILED_OUTLIER) && monitor.ejection.is_over(settings, now) {
                self.uneject(detector, endpoint);
            }
            if endpoint.host.flags().any(HealthFlags::DEGRADED_OUTLIER) && monitor.degradation.is_over(settings, now) {
                self.recover(detector, endpoint);
            }
        }
        let all: Vec<_> = endpoints.iter().collect();
        self.judge(
            detector,
            &all,
            |endpoint| &endpoint.host.outlier.external,
            Kind::SuccessRate,
            Kind::FailurePercentage,
        );
        self.judge(
            detector,
            &all,
            |endpoint| &endpoint.host.outlier.local,
            Kind::SuccessRateLocal,
            Kind::FailurePercentageLocal,
        );
        for endpoint in all {
            let (monitor, flags) = (&endpoint.host.outlier, endpoint.host.flags());
            if !flags.any(HealthFlags::FAILED_OUTLIER) {
                monitor.ejection.pass(settings, now);
            }
            if !flags.any(HealthFlags::DEGRADED_OUTLIER) {
                monitor.degradation.pass(settings, now);
            }
        }
    }

    /// Ejects hosts by the success rates of the interval that has ended.
    fn judge(
        &self,
        detector: &Detector,
        endpoints: &[&Arc<Endpoint>],
        of: impl Fn(&Endpoint) -> &Rate,
        by_rate: Kind,
        by_percentage: Kind,
    ) {
        let settings = &detector.settings;
        let rates = endpoints.iter().map(|endpoint| {
            let rate = of(endpoint);
            // Every interval begins anew, also for who is ejected.
            let (total, success) = (rate.total.swap(0, Relaxed), rate.success.swap(0, Relaxed));
            let ejected = endpoint.host.flags().any(HealthFlags::FAILED_OUTLIER);
            let percent = 100.0 * success as f64 / total as f64;
            let known = !ejected && total > 0;
            let enough = known && total >= settings.rate_volume.min(settings.failure_volume);
            rate.last.store(if enough { percent } else { -1.0 }.to_bits(), Relaxed);
            (*endpoint, total, percent, known)
        });
        let rates: Vec<_> = rates.filter(|(_, _, _, known)| *known).collect();
        let enough_hosts = |needed: usize| endpoints.len() >= needed;
        let local = usize::from(by_rate == Kind::SuccessRateLocal);
        let publish = |mean: f64, threshold: f64| {
            detector.rates[local][0].store(mean.to_bits(), Relaxed);
            detector.rates[local][1].store(threshold.to_bits(), Relaxed);
        };
        publish(-1.0, -1.0);
        if !enough_hosts(settings.rate_hosts) && !enough_hosts(settings.failure_hosts) {
            return;
        }
        let valid: Vec<_> = rates.iter().filter(|(_, total, ..)| *total >= settings.rate_volume).collect();
        if !valid.is_empty() && valid.len() >= settings.rate_hosts {
            let percents: Vec<f64> = valid.iter().map(|(_, _, percent, _)| *percent).collect();
            let (mean, threshold) = threshold(&percents, settings.rate_stdev);
            publish(mean, threshold);
            for (endpoint, ..) in valid.into_iter().filter(|(_, _, percent, _)| *percent < threshold) {
                self.stats.inc(detector.stats.old_success_rate);
                self.detected(detector, endpoint, by_rate);
            }
        }
        let valid: Vec<_> = rates.iter().filter(|(_, total, ..)| *total >= settings.failure_volume).collect();
        if !valid.is_empty() && valid.len() >= settings.failure_hosts {
            let limit = f64::from(settings.failure_threshold);
            for (endpoint, ..) in valid.into_iter().filter(|(_, _, percent, _)| 100.0 - percent >= limit) {
                self.detected(detector, endpoint, by_percentage);
            }
        }
    }
}

impl Spell {
    /// Begins.
    fn begin(&self, settings: &Settings) {
        self.began.store(clock::now(), Relaxed);
        self.jitter.store(fastrand::u64(0..=millis(settings.jitter)), Relaxed);
        let backoff = self.backoff.load(Relaxed);
        if settings.base_ejection * backoff < settings.max_ejection + settings.base_ejection {
            self.backoff.store(backoff + 1, Relaxed);
        }
    }

    /// Whether it has lasted as long as it is to.
    fn is_over(&self, settings: &Settings, now: u64) -> bool {
        let length = (settings.base_ejection * self.backoff.load(Relaxed)).min(settings.max_ejection);
        self.began.load(Relaxed) + millis(length) + self.jitter.load(Relaxed) <= now
    }

    /// An interval has passed without: the next one need not last as long.
    fn pass(&self, settings: &Settings, now: u64) {
        let ended = self.ended.load(Relaxed);
        if ended > 0 && now.saturating_sub(ended) >= millis(settings.interval) {
            let _ = self.backoff.fetch_update(Relaxed, Relaxed, |backoff| backoff.checked_sub(1));
        }
    }
}

/// Mean, and the mean less so many standard deviations (times 1000).
fn threshold(percents: &[f64], factor: u32) -> (f64, f64) {
    let count = percents.len() as f64;
    let mean = percents.iter().sum::<f64>() / count;
    let variance = percents.iter().map(|percent| (percent - mean).powi(2)).sum::<f64>() / count;
    (mean, mean - f64::from(factor) / 1000.0 * variance.sqrt())
}

/// Looks at a cluster once in an interval, until the cluster is gone.
pub(super) async fn watch(cluster: Weak<Cluster>) {
    loop {
        let Some(interval) =
            cluster.upgrade().and_then(|cluster| cluster.outlier.as_ref().map(|detector| detector.settings.interval))
        else {
            return;
        };
        tokio::time::sleep(interval).await;
        let Some(cluster) = cluster.upgrade() else { return };
        if let Some(detector) = &cluster.outlier {
            cluster.look(detector);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What every event has, in the order of Envoy's fields. `last` is when the opposite last happened.
fn event(cluster: &Cluster, endpoint: &Endpoint, kind: &str, last: u64, action: &str) -> Map<String, Value> {
    let mut event = Map::new();
    event.insert("type".into(), kind.into());
    event.insert("timestamp".into(), timestamp());
    if last > 0 {
        let seconds = clock::now().saturating_sub(last) / 1000;
        event.insert("secs_since_last_action".into(), seconds.to_string().into());
    }
    event.insert("cluster_name".into(), (*cluster.name).into());
    event.insert("upstream_url".into(), NamedAddress::text(&endpoint.address).into());
    event.insert("action".into(), action.into());
    event.insert("num_ejections".into(), endpoint.host.outlier.ejections.load(Relaxed).into());
    event
}

fn ejection(
    cluster: &Cluster,
    detector: &Detector,
    endpoint: &Endpoint,
    kind: Kind,
    enforced: bool,
) -> Map<String, Value> {
    let monitor = &endpoint.host.outlier;
    let mut event = event(cluster, endpoint, kind.name(), monitor.ejection.ended.load(Relaxed), "EJECT");
    event.insert("enforced".into(), enforced.into());
    let local = matches!(kind, Kind::SuccessRateLocal | Kind::FailurePercentageLocal);
    let rate = |rate: &Rate| rate.last().map_or(0, |percent| percent as u32);
    let host = rate(if local { &monitor.local } else { &monitor.external });
    let of_cluster = |index: usize| f64::from_bits(detector.rates[usize::from(local)][index].load(Relaxed)) as i64;
    let (name, fields) = match kind {
        Kind::SuccessRate | Kind::SuccessRateLocal => (
            "eject_success_rate_event",
            json!({
                "host_success_rate": host,
                "cluster_average_success_rate": of_cluster(0),
                "cluster_success_rate_ejection_threshold": of_cluster(1),
            }),
        ),
        Kind::FailurePercentage | Kind::FailurePercentageLocal => {
            ("eject_failure_percentage_event", json!({ "host_success_rate": host }))
        }
        _ => ("eject_consecutive_event", json!({})),
    };
    event.insert(name.into(), fields);
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        cluster::{EndpointSet, outlier::Settings},
        convert::outlier_defaults,
    };
    use crate::telemetry::stats::Scope;

    fn cluster(hosts: u16, change: impl FnOnce(&mut Settings)) -> Cluster {
        let endpoints = (1..=hosts).map(|port| Endpoint::at(([127, 0, 0, 1], port).into()));
        let mut settings = Settings { max_percent: 100, ..outlier_defaults() };
        change(&mut settings);
        let mut cluster = Cluster::fixed("c", EndpointSet::new(endpoints));
        cluster.outlier = Some(Detector::new(settings, &Scope::default(), None));
        cluster
    }

    fn hosts(cluster: &Cluster) -> Vec<Arc<Endpoint>> {
        cluster.endpoints.load().iter().cloned().collect()
    }

    fn ejected(endpoint: &Endpoint) -> bool {
        endpoint.host.flags().any(HealthFlags::FAILED_OUTLIER)
    }

    #[test]
    fn failures_in_a_row_eject() {
        let cluster = cluster(2, |settings| settings.consecutive_5xx = 3);
        let [first, second] = &hosts(&cluster)[..] else { panic!("two") };
        let version = cluster.version();
        for code in [500, 500, 200, 500, 500] {
            cluster.report(first, Outcome::Response(code));
        }
        assert!(!ejected(first));
        cluster.report(first, Outcome::Failed);
        assert!(ejected(first) && !ejected(second));
        assert_ne!(cluster.version(), version);
    }

    #[test]
    fn gateway_failures_are_not_enforced_by_default() {
        let cluster = cluster(1, |settings| (settings.consecutive_gateway, settings.consecutive_5xx) = (1, 0));
        let hosts = hosts(&cluster);
        cluster.report(&hosts[0], Outcome::Response(503));
        assert!(!ejected(&hosts[0]));
    }

    #[test]
    fn local_failures_can_be_told_apart() {
        let cluster = cluster(1, |settings| {
            settings.split = true;
            (settings.consecutive_local, settings.consecutive_5xx) = (2, 1);
        });
        let hosts = hosts(&cluster);
        cluster.report(&hosts[0], Outcome::Failed);
        cluster.report(&hosts[0], Outcome::Connected);
        cluster.report(&hosts[0], Outcome::TimedOut(504));
        assert!(!ejected(&hosts[0]));
        cluster.report(&hosts[0], Outcome::Failed);
        assert!(ejected(&hosts[0]));
    }

    #[test]
    fn only_a_share_of_hosts_is_ejected() {
        let eject_all = |cluster: &Cluster| {
            let hosts = hosts(cluster);
            hosts.iter().for_each(|host| cluster.report(host, Outcome::Response(500)));
            hosts.iter().filter(|host| ejected(host)).count()
        };
        let with = |percent, always| {
            eject_all(&cluster(3, |settings| {
                (settings.consecutive_5xx, settings.max_percent, settings.always_one) = (1, percent, always);
            }))
        };
        assert_eq!([with(10, false), with(10, true), with(67, false), with(100, false)], [0, 1, 2, 3]);
    }

    #[test]
    fn a_low_success_rate_ejects() {
        let cluster = cluster(5, |settings| {
            (settings.rate_volume, settings.rate_hosts) = (10, 5);
            settings.consecutive_5xx = 0;
        });
        let hosts = hosts(&cluster);
        for (index, host) in hosts.iter().enumerate() {
            for request in 0..10 {
                let code = if index == 4 && request % 2 == 0 { 500 } else { 200 };
                cluster.report(host, Outcome::Response(code));
            }
        }
        let detector = cluster.outlier.as_ref().unwrap();
        cluster.look(detector);
        // Envoy's example: {50, 100, 100, 100, 100} has the mean 90 and the threshold 52.
        assert_eq!(f64::from_bits(detector.rates[0][1].load(Relaxed)), 52.0);
        assert!(ejected(&hosts[4]) && hosts[..4].iter().all(|host| !ejected(host)));
    }

    #[test]
    fn an_ejection_ends() {
        let cluster = cluster(1, |settings| {
            (settings.consecutive_5xx, settings.base_ejection) = (1, Duration::ZERO);
        });
        let hosts = hosts(&cluster);
        cluster.report(&hosts[0], Outcome::Response(500));
        assert!(ejected(&hosts[0]));
        cluster.look(cluster.outlier.as_ref().unwrap());
        assert!(!ejected(&hosts[0]));
        assert_eq!(cluster.outlier.as_ref().unwrap().ejected.load(Relaxed), 0);
    }
}
