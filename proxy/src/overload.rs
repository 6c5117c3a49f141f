//! The overload manager: it looks at how much of the process's resources is used, and has less taken on when that is too much.
//!
//! The control thread decides ([`Watcher`]); the workers look at what it has decided ([`Overload`]), which costs them a load each.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Release},
        },
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    config::overload::{Configured, Monitor, Remedy, Resource, Settings},
    memory,
    telemetry::stats::{Counter, Gauge, Scope, Shard, Store, Unit},
};

/// Envoy shrinks its heap so often while it is told to.
const SHRINK_INTERVAL: Duration = Duration::from_secs(10);
/// It looks no oftener, whatever it is told.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);

/// What is being done, for all workers.
#[derive(Debug, Default)]
pub struct Overload {
    /// For each remedy.
    points: [Point; Remedy::ALL.len()],
    /// Told when connections are accepted no more, or again.
    accepts: Notify,
}

/// How far a remedy is taken.
#[derive(Debug, Default)]
struct Point {
    /// Bits of an `f32`: the share of what comes that it is for.
    share: AtomicU32,
    /// Of a load shed point: what it was for.
    shed: Option<Counter>,
}

impl Overload {
    /// Whether it is for what has just come: by chance where it is for a share.
    pub fn strikes(&self, remedy: Remedy, stats: &Shard) -> bool {
        let share = self.share(remedy);
        if share <= 0.0 || (share < 1.0 && fastrand::f32() >= share) {
            return false;
        }
        if let Some(shed) = self.points[remedy as usize].shed {
            stats.inc(shed);
        }
        true
    }

    /// Resolves when no connections are accepted.
    pub async fn accepts_none(&self) {
        self.accepts_when(false).await;
    }

    /// Resolves when they are.
    pub async fn accepts_again(&self) {
        self.accepts_when(true).await;
    }

    async fn accepts_when(&self, accepts: bool) {
        loop {
            let mut told = std::pin::pin!(self.accepts.notified());
            told.as_mut().enable();
            if self.is_whole(Remedy::StopConnections) != accepts {
                return;
            }
            told.await;
        }
    }

    fn share(&self, remedy: Remedy) -> f32 {
        f32::from_bits(self.points[remedy as usize].share.load(Acquire))
    }

    fn is_whole(&self, remedy: Remedy) -> bool {
        self.share(remedy) >= 1.0
    }

    fn set(&self, remedy: Remedy, share: f64) {
        self.points[remedy as usize].share.store((share as f32).to_bits(), Release);
        if remedy == Remedy::StopConnections {
            self.accepts.notify_waiters();
        }
    }
}

/// Who decides.
#[derive(Debug)]
pub struct Watcher {
    settings: Settings,
    shared: Arc<Overload>,
    store: Store,
    /// Keeps the names.
    scope: Scope,
    monitors: Vec<Monitored>,
    gauges: Vec<Gauges>,
}

/// What is known of a monitor.
#[derive(Debug)]
struct Monitored {
    /// The last that could be told.
    pressure: f64,
    /// It could not be told when it was looked at last.
    unknown: bool,
    gauge: Gauge,
    failed: Counter,
}

/// A remedy's statistics.
#[derive(Debug)]
struct Gauges {
    /// Not of load shed points.
    active: Option<Gauge>,
    scale_percent: Gauge,
}

impl Watcher {
    /// One that has yet to look.
    pub fn new(mut settings: Settings, store: &Store) -> Self {
        // Who is accepted again is not to meet what was decided before with it.
        settings.remedies.sort_by_key(|configured| configured.remedy == Remedy::StopConnections);
        let scope = store.root().scope("overload");
        let monitored = |monitor: &Monitor| {
            let name = &monitor.name;
            if !matches!(monitor.resource, Resource::Connections(_)) {
                scope.counter(&format!("{name}.skipped_updates"));
            }
            Monitored {
                pressure: 0.0,
                unknown: false,
                gauge: scope.gauge(&format!("{name}.pressure")),
                failed: scope.counter(&format!("{name}.failed_updates")),
            }
        };
        let monitors = settings.monitors.iter().map(monitored).collect();
        let mut shared = Overload::default();
        let gauged = |Configured { remedy, .. }: &Configured| {
            let name = remedy.name();
            if remedy.sheds() {
                shared.points[*remedy as usize].shed = Some(scope.counter(&format!("{name}.shed_load_count")));
            }
            Gauges {
                active: (!remedy.sheds()).then(|| scope.gauge(&format!("{name}.active"))),
                scale_percent: scope.gauge(&format!("{name}.scale_percent")),
            }
        };
        let gauges: Vec<_> = settings.remedies.iter().map(gauged).collect();
        let this = Self { settings, shared: Arc::new(shared), store: store.clone(), scope, monitors, gauges };
        // Shown, and 0, from the start.
        this.tell();
        this
    }

    /// What it decides.
    pub fn shared(&self) -> Arc<Overload> {
        self.shared.clone()
    }

    /// Looks again and again, if it has anything to look at.
    pub async fn run(mut self) {
        if self.settings.monitors.is_empty() {
            return std::future::pending().await;
        }
        let delays = self.scope.histogram("refresh_interval_delay", Unit::Milliseconds);
        let shrinks = self.scope.counter(&format!("{}.shrink_count", Remedy::ShrinkHeap.name()));
        let mut looked = Instant::now();
        let mut shrunk = Instant::now();
        loop {
            tokio::time::sleep(self.settings.refresh_interval.max(LEAST_INTERVAL)).await;
            let since = looked.elapsed();
            self.store.control().record(delays, u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
            looked = Instant::now();
            self.look();
            if self.shared.is_whole(Remedy::ShrinkHeap) && shrunk.elapsed() >= SHRINK_INTERVAL {
                shrunk = Instant::now();
                self.store.control().inc(shrinks);
                memory::give_back();
            }
        }
    }

    /// Looks at every resource, and decides.
    fn look(&mut self) {
        for (monitor, monitored) in self.settings.monitors.iter().zip(&mut self.monitors) {
            if let Resource::Connections(ceiling) = &monitor.resource {
                // As Envoy counts them.
                self.store.control().add(monitored.failed, ceiling.take_refused());
            }
            match monitor.resource.pressure() {
                Ok(pressure) => {
                    monitored.pressure = pressure;
                    monitored.unknown = false;
                }
                Err(why) => {
                    self.store.control().inc(monitored.failed);
                    if !std::mem::replace(&mut monitored.unknown, true) {
                        let pressure = monitored.pressure;
                        tracing::warn!(target: "main", pressure, "Failed to update resource {}: {why}; what was known holds", monitor.name);
                    }
                }
            }
        }
        for Configured { remedy, triggers } in &self.settings.remedies {
            let asked = triggers.iter().map(|trigger| trigger.level.share(self.monitors[trigger.monitor].pressure));
            let (name, before, share) = (remedy.name(), self.shared.share(*remedy), asked.fold(0.0, f64::max));
            self.shared.set(*remedy, share);
            let pressure =
                || triggers.iter().map(|trigger| self.monitors[trigger.monitor].pressure).fold(0.0, f64::max);
            match (before > 0.0, share > 0.0) {
                (false, true) => {
                    tracing::warn!(target: "main", action = name, share, pressure = pressure(), "overload begins")
                }
                (true, true) if before < 1.0 && share >= 1.0 => {
                    tracing::warn!(target: "main", action = name, pressure = pressure(), "overload is saturated");
                }
                (true, false) => {
                    tracing::warn!(target: "main", action = name, pressure = pressure(), "overload is over")
                }
                _ => {}
            }
        }
        self.tell();
    }

    /// Brings the gauges up to date.
    fn tell(&self) {
        for monitored in &self.monitors {
            self.store.set(monitored.gauge, (monitored.pressure * 100.0) as u64);
        }
        for (Configured { remedy, .. }, gauges) in self.settings.remedies.iter().zip(&self.gauges) {
            let share = self.shared.share(*remedy);
            if let Some(active) = gauges.active {
                self.store.set(active, u64::from(share >= 1.0));
            }
            self.store.set(gauges.scale_percent, (share * 100.0) as u64);
        }
    }
}

impl Resource {
    /// How much of it is used: 1 is all.
    fn pressure(&self) -> Result<f64, String> {
        match self {
            Self::Heap(most) => {
                let own = memory::own().ok_or("the kernel does not tell how much memory there is")?;
                Ok(own as f64 / (*most).max(1) as f64)
            }
            Self::File(path) => injected(path),
            Self::Connections(ceiling) => Ok(ceiling.pressure()),
        }
    }
}

/// The pressure that a file has.
fn injected(path: &Path) -> Result<f64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let pressure: f64 = text.trim().parse().map_err(|_| "failed to parse injected resource pressure".to_owned())?;
    if (0.0..=1.0).contains(&pressure) { Ok(pressure) } else { Err("pressure out of range".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overload::{Level, Trigger};

    fn watcher(store: &Store, resource: Resource, remedies: &[(Remedy, Level)]) -> Watcher {
        let remedies = remedies.iter().map(|(remedy, level)| Configured {
            remedy: *remedy,
            triggers: vec![Trigger { monitor: 0, level: *level }],
        });
        let settings = Settings {
            refresh_interval: Duration::from_millis(1),
            monitors: vec![Monitor { name: "m".into(), resource }],
            remedies: remedies.collect(),
        };
        Watcher::new(settings, store)
    }

    #[test]
    fn memory_presses() {
        let store = Store::new(1);
        let mut watcher = watcher(&store, Resource::Heap(1), &[(Remedy::StopRequests, Level::Threshold(1.0))]);
        let (overload, stats) = (watcher.shared(), store.worker(0));
        assert!(!overload.strikes(Remedy::StopRequests, &stats));
        watcher.look();
        assert!(overload.strikes(Remedy::StopRequests, &stats));
        assert!(!overload.strikes(Remedy::DisableKeepalive, &stats));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pressure");
        fs::write(&path, "0.75\n").unwrap();
        let store = Store::new(1);
        let remedies = [(Remedy::ShedRequests, Level::Scaled(0.5, 1.0)), (Remedy::ShrinkHeap, Level::Threshold(0.7))];
        let mut watcher = watcher(&store, Resource::File(path.clone()), &remedies);
        let level = |name: &str| store.level(store.root().gauge(&format!("overload.{name}")));
        watcher.look();
        let of_point = "envoy.load_shed_points.http_connection_manager_decode_headers.scale_percent";
        let told = || (level("m.pressure"), level(of_point), level("envoy.overload_actions.shrink_heap.active"));
        assert_eq!(told(), (75, 50, 1));
        for wrong in ["much", "1.5", ""] {
            fs::write(&path, wrong).unwrap();
            watcher.look();
            assert_eq!(told(), (75, 50, 1), "{wrong:?}");
        }
        fs::write(&path, "0").unwrap();
        watcher.look();
        assert_eq!(told(), (0, 0, 0));
    }

    #[test]
    fn a_share_of_what_comes_is_shed_and_counted() {
        let store = Store::new(1);
        let watcher = watcher(&store, Resource::Heap(1), &[(Remedy::ShedRequests, Level::Threshold(1.0))]);
        let (overload, stats) = (watcher.shared(), store.worker(0));
        overload.set(Remedy::ShedRequests, 0.5);
        let shed = (0..1000).filter(|_| overload.strikes(Remedy::ShedRequests, &stats)).count();
        assert!((300..700).contains(&shed), "{shed}");
        let name = "overload.envoy.load_shed_points.http_connection_manager_decode_headers.shed_load_count";
        assert_eq!(store.total(store.root().counter(name)), shed as u64);
    }

    #[tokio::test]
    async fn connections_wait() {
        let overload = Overload::default();
        overload.accepts_again().await;
        overload.set(Remedy::StopConnections, 1.0);
        let mut again = std::pin::pin!(overload.accepts_again());
        assert!(futures_util::poll!(&mut again).is_pending());
        overload.set(Remedy::StopConnections, 0.5);
        again.await;
    }
}
