//! Serving: worker threads, and this thread as the control runtime (agent, DNS, signals).

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant as StartedAt, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::error::Error;
use crate::{
    admin::{self, Admin, Command, Counts},
    bootstrap::{
        admin_socket,
        config::Loaded,
        privileges,
        server_stats::{ServerStats, ViewStats},
        signals::Signals,
        views::{Followed, Served, log_files},
    },
    cluster::{self, Local, Start},
    config::{reload, tcp::Passthrough, views::Views},
    drain::Drain,
    dynamic::{Following, Setup, endpoint_files, files::Files},
    http::pool::Pools,
    intake::{
        bound,
        handoff::{Client, Status, Superseded},
        listening::Listening,
        passing::PassingOn,
        pods::Pods,
    },
    lifecycle::Lifecycle,
    memory,
    options::{Options, WhenSuperseded},
    overload,
    queue::Queue,
    runtime::Runtime,
    telemetry::{
        panics,
        stats::{Kind, Shard, Store, Value},
        unknown_fields,
        writer::{LogFiles, Reopener},
    },
    view::{ViewId, ViewNames},
    worker::{self, Worker, Workers},
    xds::{budget::Budget, saved::Directory, shared::Bodies},
};

/// What the admin server may ask for while the control thread is busy; more is not heard.
const COMMANDS: usize = 16;
/// How often a draining process looks whether it is done.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// A pod may take this part of the limit of open files, each connection being two or three of them.
const POD_SHARE: u64 = 8;
/// Requests for upstream sockets that may wait for the agent: each pod has at most one per family under way.
const NEEDS: usize = 2 * weir_abi::map::MAX_PODS as usize;
/// Connections that a pod may have open in any case.
const LEAST_CEILING: u64 = 256;

/// Binds, gives up every privilege, serves until told to end.
pub(super) fn serve(options: &Options, loaded: Loaded, started: StartedAt) -> Result<(), Error> {
    let Loaded { stats, stats_settings, admin, runtime, layers, overload: pressures, own, others, names } = loaded;
    let loaded: Vec<_> = std::iter::once(own).chain(others).collect();
    let generation = since_boot().as_nanos() as u64;
    let open_files = privileges::raise_open_files()?;
    let admin_logs = admin.iter().flat_map(|admin| &admin.access_log).map(|log| log.file.clone());
    let passthrough_log = options.passthrough_log();
    let files = loaded.iter().flat_map(|view| log_files(&view.snapshot));
    let files = files.chain(admin_logs).chain(passthrough_log.clone());
    let mut logs = LogFiles::open(files)?;
    logs.give_to(options.user);
    let bound = loaded.iter().map(|view| bound::bind(&view.snapshot, options.workers()));
    let bound: Vec<_> = bound.collect::<Result<_, _>>()?;
    let admin_address_path = options.admin_address_path.as_deref();
    let admin_listener =
        admin.as_ref().map(|admin| admin_socket::bind(&admin.address, admin_address_path)).transpose()?;
    let apart = privileges::drop_all(options.user, options.state_dir.is_some())?;
    tracing::info!(%apart, "privileges given up");
    if let Some(path) = &options.state_dir {
        Directory::open(path).map_err(|source| Error::StateDir { path: path.clone(), source })?;
    }

    panics::watch(stats.shared());
    unknown_fields::watch(&stats, options.unknown_dynamic_fields());
    let drain = Drain::new();
    if let Some(size) = options.file_flush_min_size_kb {
        logs.gather(size as usize * 1024);
    }
    let writer = logs.spawn(stats.shared())?;
    let lifecycle = Arc::new(Lifecycle::default());
    let (served, followed): (Vec<_>, Vec<_>) = loaded.into_iter().map(Served::new).unzip();
    let follows = followed.iter().any(Option::is_some);
    if !follows {
        lifecycle.initializing();
    }
    let views = Views::new(served.iter().map(Served::in_force));
    let passthrough = Arc::new(Passthrough::new(passthrough_log.as_ref()));
    let watcher = overload::Watcher::new(pressures, &stats);
    let workers = (0..options.workers()).map(|index| {
        let passthrough = passthrough.clone();
        let (views, log, stats, drain) =
            (views.clone(), writer.handle(stats.worker(index)), stats.worker(index), drain.watch());
        let (lifecycle, runtime, overload) = (lifecycle.clone(), runtime.clone(), watcher.shared());
        move || {
            let balancers = Local::new(stats.clone());
            let (pools, rested) = (Pools::default(), Notify::new());
            Worker {
                index,
                views,
                passthrough,
                pools,
                balancers,
                log,
                stats,
                drain,
                lifecycle,
                runtime,
                overload,
                rested,
            }
        }
    });
    let workers = Rc::new(Workers::start(workers, options.file_flush_interval_msec)?);
    let inbound_drain = Drain::new();
    let listening = Arc::new(Listening::new(workers.teller(), drain.watch(), inbound_drain.watch()));
    let _claims: Vec<_> = served.iter().zip(bound).flat_map(|(view, bound)| view.put_all(&listening, bound)).collect();
    let starts = Queue::default();
    let bodies = (served.len() > 1).then(Bodies::default);
    let discovery_memory = Budget::of(options.discovery_memory());
    let setup = |(view, followed): (&Served, Option<Followed>)| {
        let Followed { resources, converter } = followed?;
        Some(Setup {
            view: view.id,
            name: view.name.clone(),
            resources,
            converter,
            cells: view.cells.clone(),
            snapshot: view.snapshot.clone(),
            gate: view.gate.clone(),
            listening: listening.clone(),
            lifecycle: lifecycle.clone(),
            stats: view.stats.clone(),
            clusters: starts.clone(),
            drain_time: options.envoy_drain_time(),
            discovery_memory: discovery_memory.clone(),
            bodies: bodies.clone(),
            state_dir: options.state_dir.as_deref().map(|directory| view.state_dir(directory)),
        })
    };
    let setups: Vec<_> = served.iter().zip(followed).filter_map(setup).collect();
    let following = if follows { Some(Following::spawn(setups)?) } else { None };

    let own = views.of(ViewId::OWN);
    let server_stats = ServerStats::new(&stats, &own.load(), &runtime, options.workers(), started);
    let others = served.iter().filter(|view| view.id != ViewId::OWN);
    let _of_views: Vec<_> =
        others.map(|view| ViewStats::new(&view.stats, &view.snapshot.load(), options.workers())).collect();
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let (flush_interval, flush_on_admin) = (stats_settings.flush_interval, stats_settings.flush_on_admin);
    if let (Some(settings), Some(listener)) = (admin, admin_listener) {
        let admin = Admin {
            stats: stats.clone(),
            settings: Arc::new(stats_settings),
            views: served.iter().map(|view| view.shown(following.as_ref())).collect(),
            runtime: runtime.clone(),
            lifecycle: lifecycle.clone(),
            options: options.clone(),
            listening: listening.clone(),
            started,
            loaded: SystemTime::now(),
            reopener: writer.reopener(),
            commands,
            counts: Arc::new(Counts::new(&stats)),
            allow_paths: settings.allow_paths,
        };
        admin::spawn(Arc::new(admin), listener, writer.handle(Shard::default()), settings.access_log)?;
    }
    let control = Control {
        options,
        lifecycle,
        runtime,
        server_stats: Rc::new(server_stats),
        inbound_drain,
        listening,
        following: RefCell::new(following),
        flush_interval,
        flush_on_admin,
        commanded: RefCell::new(Some(commanded)),
        generation,
        served,
        views,
        names,
        workers: workers.clone(),
        stats: stats.clone(),
        drain,
        overload: RefCell::new(Some(watcher)),
        reopener: writer.reopener(),
        ceiling: (open_files / POD_SHARE).max(LEAST_CEILING) as usize,
    };
    let control_runtime = worker::local_runtime()?;
    let ended = control_runtime.block_on(control.run(starts));
    drop(control_runtime);
    if let Some(following) = control.following.into_inner() {
        following.end();
    }
    drop(control.workers);
    // Every task of the control runtime has been dropped: nobody else has the workers.
    if let Some(workers) = Rc::into_inner(workers) {
        workers.join();
    }
    drop(layers);
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

/// How long the machine has been up: no step of the clock moves it, so that of two processes the later has more of it.
fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

struct Control<'a> {
    options: &'a Options,
    lifecycle: Arc<Lifecycle>,
    runtime: Arc<Runtime>,
    server_stats: Rc<ServerStats>,
    flush_interval: Duration,
    /// Histograms' intervals end when the admin server is asked for them.
    flush_on_admin: bool,
    /// What the admin server asks for.
    commanded: RefCell<Option<mpsc::Receiver<Command>>>,
    generation: u64,
    /// The views.
    served: Vec<Served>,
    /// What is in force of them.
    views: Views,
    names: ViewNames,
    workers: Rc<Workers>,
    stats: Store,
    drain: Drain,
    /// Looks for overload.
    overload: RefCell<Option<overload::Watcher>>,
    /// Of the connections of inbound listeners, which may be drained alone.
    inbound_drain: Drain,
    listening: Arc<Listening>,
    /// Who follows management servers.
    following: RefCell<Option<Following>>,
    reopener: Reopener,
    ceiling: usize,
}

/// Why serving ends.
enum End {
    Signal(&'static str),
    Superseded(Duration),
    Quit,
}

/// When a draining process ends.
struct Parting {
    deadline: Instant,
    /// Whether a signal has told it to. One that was superseded may be told afterwards, by whoever supervises it.
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
    async fn run(&self, starts: Queue<Start>) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        let (status, mut changes) = watch::channel(Status::Starting);
        let (drain_agent, agent_drain) = watch::channel(None);
        let running_later = tokio::task::spawn_local(cluster::start_later(starts, endpoint_files::follow));
        let caches = self.served.iter().map(|view| cluster::keep_caches(view.dns_caches.clone()));
        let resolving = tokio::task::spawn_local(futures_util::future::join_all(caches));
        if let Some(watcher) = self.overload.take() {
            tokio::task::spawn_local(watcher.run());
        }
        let discovery;
        tokio::select! {
            started = self.start(status, agent_drain) => discovery = started?,
            name = signals.end(&self.reopener) => {
                tracing::info!(signal = name, "ended while starting");
                return Ok(());
            }
        }
        let flushing = self.flush_regularly();
        let end = tokio::select! {
            name = signals.end(&self.reopener) => End::Signal(name),
            deadline = superseded(&mut changes) => End::Superseded(deadline),
            () = self.obey() => End::Quit,
        };
        let (why, grace, told) = match end {
            End::Signal(name) => (name, self.options.drain_time(), true),
            End::Quit => ("/quitquitquit", Duration::ZERO, true),
            End::Superseded(deadline) => ("superseded", deadline, false),
        };
        tracing::info!(why, ?grace, open = self.stats.open_connections(), "stops accepting");
        self.listening.stop(false).await;
        let mut parting = Parting { deadline: Instant::now() + grace, told };
        if !grace.is_zero() {
            self.start_drain(Some(grace));
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
                        self.start_drain(Some(grace));
                    }
                }
            }
        }
        flushing.abort();
        running_later.abort();
        resolving.abort();
        drop(discovery);
        Ok(())
    }

    fn start_drain(&self, grace: Option<Duration>) {
        self.drain.start(grace);
        self.inbound_drain.start(grace);
    }

    /// Keeps the server's own statistics up to date.
    fn flush_regularly(&self) -> tokio::task::JoinHandle<()> {
        let (stats, lifecycle, runtime) = (self.server_stats.clone(), self.lifecycle.clone(), self.runtime.clone());
        let views = self.views.clone();
        let flush_on_admin = self.flush_on_admin;
        let mut ticks = tokio::time::interval(self.flush_interval);
        tokio::task::spawn_local(async move {
            loop {
                ticks.tick().await;
                stats.flush(&lifecycle, &runtime, &views);
                if !flush_on_admin {
                    stats.end_interval();
                }
                if weir_proto::forget() {
                    memory::give_back();
                }
            }
        })
    }

    /// Does what the admin server asks for; resolves when it asks for the end.
    async fn obey(&self) {
        let Some(mut commands) = self.commanded.borrow_mut().take() else { return std::future::pending().await };
        // What is to be stopped once the drain time is over.
        let mut stop: Option<(Instant, bool)> = None;
        loop {
            let at = stop.map(|(at, _)| at);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = async { tokio::time::sleep_until(at.unwrap_or_else(Instant::now)).await }, if at.is_some() => {
                    if let Some((_, inbound_only)) = stop.take() {
                        self.stop_accepting(inbound_only).await;
                    }
                    continue;
                }
            };
            match command {
                Some(Command::Quit) => return,
                Some(Command::DrainListeners { graceful, inbound_only, skip_exit }) => {
                    tracing::info!(graceful, inbound_only, skip_exit, "drains its listeners");
                    if graceful || skip_exit {
                        self.inbound_drain.start(None);
                        if !inbound_only {
                            self.drain.start(None);
                        }
                    }
                    match (skip_exit, graceful) {
                        (true, _) => {}
                        (false, true) => stop = Some((Instant::now() + self.options.envoy_drain_time(), inbound_only)),
                        (false, false) => self.stop_accepting(inbound_only).await,
                    }
                }
                // Nobody is left to ask for anything.
                None => return std::future::pending().await,
            }
        }
    }

    /// Closes the listening sockets, those of inbound listeners first.
    async fn stop_accepting(&self, inbound_only: bool) {
        let stopped = self.listening.stop(inbound_only).await;
        self.server_stats.listeners_stopped(stopped as u64);
    }

    /// Reads files, resolves names, waits for what the process's own view follows, then accepts: from what was bound and from
    /// the agent's pods. Connections of the other views wait for those.
    async fn start(
        &self,
        status: watch::Sender<Status>,
        drain: watch::Receiver<Option<Duration>>,
    ) -> Result<cluster::Running, Error> {
        let mut clusters = Vec::new();
        for view in &self.served {
            let mut files = Files::new(view.cells.clone());
            files.look(SystemTime::now());
            tokio::task::spawn_local(files.follow());
            let snapshot = view.snapshot.load();
            clusters.extend(snapshot.clusters().cloned());
            tokio::task::spawn_local(reload::follow(snapshot.reloadable().collect()));
        }
        let discovery = cluster::start(clusters, endpoint_files::follow).await?;
        if let Some(following) = &mut *self.following.borrow_mut() {
            following.begin();
        }
        let own = self.served.iter().filter(|view| view.id == ViewId::OWN);
        for view in own {
            self.started(view).await;
        }
        self.listening.start().await?;
        if let Some(path) = &self.options.source.handoff {
            let (needs, needed) = mpsc::channel(NEEDS);
            let (passing_on, passing) = PassingOn::new();
            let (stats, names) = (self.stats.shared(), self.names.clone());
            let pods = Pods::new(self.workers.clone(), needs, passing, stats, self.ceiling, names);
            let superseded = match self.options.when_superseded {
                WhenSuperseded::Exit => Superseded::Finishes,
                WhenSuperseded::Wait => Superseded::StandsBy,
            };
            let (path, stats) = (path.clone(), self.stats.clone());
            let client = Client::new(path, self.generation, pods, needed, passing_on, stats, status);
            tokio::task::spawn_local(client.when(superseded).run(drain));
        }
        self.live_once_all_started();
        tracing::info!(workers = self.workers.len(), version = env!("CARGO_PKG_VERSION"), "serving");
        Ok(discovery)
    }

    /// Resolves once a view has what it starts with, and connections are let in.
    fn started(&self, view: &Served) -> impl Future<Output = ()> + use<> {
        let initialized = self.following.borrow().as_ref().map(|following| following.initialized(view.id));
        view.start(async move {
            if let Some(initialized) = initialized {
                initialized.await;
            }
        })
    }

    /// The process is ready once every view is.
    fn live_once_all_started(&self) {
        let others = self.served.iter().filter(|view| view.id != ViewId::OWN);
        let others: Vec<_> = others.map(|view| self.started(view)).collect();
        let lifecycle = self.lifecycle.clone();
        if others.is_empty() {
            return lifecycle.live();
        }
        tokio::task::spawn_local(async move {
            futures_util::future::join_all(others).await;
            lifecycle.live();
        });
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
