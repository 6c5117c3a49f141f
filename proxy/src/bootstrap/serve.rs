//! Serving: worker threads, and this thread as the control runtime (agent, DNS, signals).

use std::{
    collections::HashSet,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bootstrap::{
        Error,
        options::{Options, WhenSuperseded},
        privileges,
    },
    cluster::{Local, discovery},
    config::{Snapshot, listener::NetworkFilter, reload},
    http::pool::Pools,
    intake::{
        bound::{self, BoundListener},
        handoff::{Client, Status},
        pods::Pods,
    },
    telemetry::{
        stats::{Kind, Store, Value},
        writer::{LogFile, LogFiles, Reopener},
    },
    worker::{self, Accepting, Source, Worker, Workers, drain::Drain},
};

/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// A pod may take this part of the limit of open files, each connection being two or three of them.
const POD_SHARE: u64 = 8;
/// Requests for upstream sockets that may wait for the agent: each pod has at most one per family under way.
const NEEDS: usize = 2 * weir_abi::map::MAX_PODS as usize;
/// Connections that a pod may have open in any case.
const LEAST_CEILING: u64 = 256;

/// Binds, gives up every privilege, serves until told to end.
pub(super) fn serve(options: &Options, snapshot: Snapshot, stats: Store) -> Result<(), Error> {
    let generation = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let open_files = privileges::raise_open_files()?;
    let logs = LogFiles::open(log_files(&snapshot))?;
    let bound = bound::bind(&snapshot, options.workers())?;
    privileges::drop_all(options.user)?;

    let drain = Drain::new();
    let writer = logs.spawn()?;
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let workers = (0..options.workers()).map(|index| {
        let (snapshot, log, stats, drain) =
            (snapshot.clone(), writer.handle(stats.worker(index)), stats.worker(index), drain.watch());
        move || {
            let balancers = Local::new(stats.clone());
            Worker { index, snapshot, pools: Pools::default(), balancers, log, stats, drain }
        }
    });
    let workers = Rc::new(Workers::start(workers, options.file_flush_interval_msec)?);

    let control = Control {
        options,
        generation,
        snapshot,
        workers: workers.clone(),
        stats: stats.clone(),
        drain,
        reopener: writer.reopener(),
        ceiling: (open_files / POD_SHARE).max(LEAST_CEILING) as usize,
    };
    let runtime = worker::local_runtime()?;
    let ended = runtime.block_on(control.run(bound));
    drop(runtime);
    // Every task of the control runtime has been dropped: nobody else has the workers.
    if let Some(workers) = Rc::into_inner(workers) {
        workers.join();
    }
    writer.finish();
    tracing::info!(totals = totals(&stats).join(" "), "ended");
    ended
}

/// What is counted whatever the configuration, and is not 0.
fn totals(stats: &Store) -> Vec<String> {
    let counters = stats.read(Kind::Counter, |name| name.starts_with("weir."));
    let totals = counters.iter().filter_map(|metric| match metric.value {
        Value::Counter(total @ 1..) => Some(format!("{}={total}", metric.name().trim_start_matches("weir."))),
        _ => None,
    });
    totals.collect()
}

fn log_files(snapshot: &Snapshot) -> HashSet<LogFile> {
    let listeners = snapshot.listeners().iter();
    listeners
        .flat_map(|listener| {
            let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
            let filters = chains.flat_map(|chain| match &chain.terminal {
                NetworkFilter::Http(manager) => &manager.access_log,
                NetworkFilter::Tcp(proxy) => &proxy.access_log,
            });
            listener.access_log.iter().chain(filters)
        })
        .map(|log| log.file.clone())
        .collect()
}

struct Control<'a> {
    options: &'a Options,
    generation: u64,
    snapshot: Arc<ArcSwap<Snapshot>>,
    workers: Rc<Workers>,
    stats: Store,
    drain: Drain,
    reopener: Reopener,
    ceiling: usize,
}

/// Why serving ends.
enum End {
    Signal(&'static str),
    Superseded(Duration),
}

/// When a draining process ends.
struct Parting {
    deadline: Instant,
    /// Whether a signal has told it to. One that a successor has superseded is told afterwards: by Kubernetes, once the
    /// successor is ready.
    told: bool,
}

impl Parting {
    /// A signal: how long connections may go on yet, or `None` to end at once.
    fn tell(&mut self, now: Instant, grace: Duration) -> Option<Duration> {
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        self.deadline = self.deadline.min(now + grace);
        Some(self.deadline.saturating_duration_since(now))
    }
}

impl Control<'_> {
    async fn run(self, bound: Vec<BoundListener>) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        let (status, mut changes) = watch::channel(Status::Starting);
        let (drain_agent, agent_drain) = watch::channel(None);
        let accepting = Accepting::none();
        let discovery;
        tokio::select! {
            started = self.start(bound, &accepting, status, agent_drain) => discovery = started?,
            name = signals.end(&self.reopener) => {
                tracing::info!(signal = name, "ended while starting");
                return Ok(());
            }
        }
        let end = tokio::select! {
            name = signals.end(&self.reopener) => End::Signal(name),
            deadline = superseded(&mut changes) => End::Superseded(deadline),
        };
        let (why, grace, told) = match end {
            End::Signal(name) => (name, self.options.drain_time(), true),
            End::Superseded(deadline) => ("superseded", deadline, false),
        };
        tracing::info!(why, ?grace, open = self.stats.open_connections(), "stops accepting");
        accepting.stop().await;
        let mut parting = Parting { deadline: Instant::now() + grace, told };
        if !grace.is_zero() {
            self.drain.start(Some(grace));
            drain_agent.send_replace(Some(grace));
            let drained = self.drained(changes);
            tokio::pin!(drained);
            loop {
                tokio::select! {
                    () = &mut drained => break,
                    () = tokio::time::sleep_until(parting.deadline) => break,
                    name = signals.end(&self.reopener) => {
                        let grace = parting.tell(Instant::now(), self.options.drain_time());
                        tracing::info!(signal = name, ?grace, "told to end while draining");
                        let Some(grace) = grace else { break };
                        self.drain.start(Some(grace));
                    }
                }
            }
        }
        if !parting.told && self.options.when_superseded == WhenSuperseded::Wait {
            tracing::info!("superseded; waits to be told to end");
            signals.end(&self.reopener).await;
        }
        drop(discovery);
        Ok(())
    }

    /// Resolves names, then accepts: from what was bound and from the agent's pods.
    async fn start(
        &self,
        bound: Vec<BoundListener>,
        accepting: &Accepting,
        status: watch::Sender<Status>,
        drain: watch::Receiver<Option<Duration>>,
    ) -> Result<discovery::Running, Error> {
        let clusters: Vec<_> = self.snapshot.load().clusters().cloned().collect();
        let discovery = discovery::start(clusters).await?;
        tokio::task::spawn_local(reload::follow(self.snapshot.load_full()));
        for BoundListener { name, address, sockets } in bound {
            for (index, socket) in sockets.into_iter().enumerate() {
                let source = Source::Bound { listener: name.clone(), drain: self.drain.watch() };
                self.workers.accept(index, socket, source, accepting).await?;
            }
            tracing::info!(listener = %name, %address, "listening");
        }
        if let Some(path) = &self.options.source.handoff {
            let (needs, needed) = mpsc::channel(NEEDS);
            let pods = Pods::new(self.workers.clone(), needs, self.stats.shared(), self.ceiling);
            let client = Client::new(path.clone(), self.generation, pods, needed, self.stats.clone(), status);
            tokio::task::spawn_local(client.run(drain));
        }
        tracing::info!(workers = self.workers.len(), version = env!("CARGO_PKG_VERSION"), "serving");
        Ok(discovery)
    }

    /// Resolves once nothing is accepted any more and no connection is open.
    async fn drained(&self, mut status: watch::Receiver<Status>) {
        // Without an agent, or once it is superseded and lost its agent, the client is gone.
        let _ = status.wait_for(|status| *status == Status::Stopped).await;
        let mut look = tokio::time::interval(DRAIN_POLL);
        while self.stats.open_connections() > 0 {
            look.tick().await;
        }
    }
}

async fn superseded(status: &mut watch::Receiver<Status>) -> Duration {
    let superseded = |status: &Status| matches!(status, Status::Superseded(_));
    match status.wait_for(superseded).await.map(|status| *status) {
        Ok(Status::Superseded(deadline)) => deadline,
        // No agent, nobody to be superseded by.
        _ => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to end and gives its name; meanwhile SIGUSR1 reopens the access logs, and SIGHUP, which
    /// Envoy ignores, is ignored.
    async fn end(&mut self, reopener: &Reopener) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.reopen.recv() => reopener.reopen(),
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superseded_process_ends_at_the_second_signal_and_drains_after_the_first() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut superseded = Parting { deadline: now + seconds(30), told: false };
        assert_eq!(superseded.tell(now, seconds(60)), Some(seconds(30)));
        assert_eq!(superseded.tell(now, seconds(60)), None);
        let mut superseded = Parting { deadline: now + seconds(30), told: false };
        assert_eq!(superseded.tell(now + seconds(1), seconds(5)), Some(seconds(5)));
        let mut told = Parting { deadline: now + seconds(30), told: true };
        assert_eq!(told.tell(now, seconds(60)), None);
    }
}
