//! `run`, `check` and `uninstall`: what the command line asks for, put together from the other modules.

use std::{
    env, io,
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::RwLock;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    api,
    config::{self, Config, Source},
    enroll::{Ground, Reconciler, Registry, Settings},
    features::{self, Features},
    handoff::Server,
    redirect::{
        self, Redirect,
        inspect::Pinned,
        node::{self, PodsCgroup},
        pins::{self, Pins},
    },
    sources::{self, Follower},
    status::Board,
};

/// Overrides `log` of the configuration.
const LOG_VARIABLE: &str = "WEIR_LOG";
/// Threads of the runtime; one may be busy with a step of the reconciler.
const THREADS: usize = 2;
/// What proxies said and the reconciler has not heard yet.
const EVENTS: usize = 256;

/// Enrolls pods until SIGTERM or SIGINT. Pins, and with them the redirect, stay.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let ebpf_logs = start_logging(&config.log)?;
    let features = probe(&config)?;
    raise_file_limit();
    let node_netns = node::netns_cookie(&config.node_processes.netns)?;
    let pods_cgroup = find_pods_cgroup(&config, &features)?;
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let result = runtime.block_on(serve(&config, &features, node_netns, pods_cgroup, ebpf_logs));
    // Requests for sockets may wait on the pool of blocking threads; nobody waits for them any more.
    Runtime::shutdown_background(runtime);
    result
}

async fn serve(
    config: &Config,
    features: &Features,
    node_netns: u64,
    pods_cgroup: PodsCgroup,
    ebpf_logs: bool,
) -> anyhow::Result<()> {
    // What can fail for the configuration's sake comes before anything is loaded: a failed start leaves nothing behind.
    let pins = Pins::lock(&config.pins())?;
    let handoff = Server::bind(&config.paths.handoff, config.paths.socket_group)?;
    let api = api::bind(&config.paths.api)?;
    let redirect = Arc::new(Redirect::start(pins, &features.cgroup2, ebpf_logs)?);
    redirect.config().update(|config| {
        node::apply(config, node_netns);
        pods_cgroup.apply(config);
    })?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let board = Arc::new(RwLock::new(Board {
        instance: config.instance.clone(),
        node: config.node.clone(),
        cgroup2: features.cgroup2.clone(),
        pin_path: redirect.directory().to_owned(),
        adopted: redirect.adopted(),
        started: SystemTime::now(),
        pods: Vec::new(),
        proxies: Vec::new(),
        source_error: String::new(),
        pods_cgroup: None,
        pods_cgroup_error: String::new(),
    }));
    let registry = Arc::new(Registry::new(redirect.clone()));
    let ground = Ground { redirect: redirect.clone(), workers: config.workers, proc: config.paths.proc.clone() };
    let settings = Settings { node: config.node.clone(), node_netns, redirect: config.redirect.clone() };
    let reconciler = Reconciler::new(ground, settings, board.clone(), registry.clone())?;

    let (events, heard) = mpsc::channel(EVENTS);
    tokio::spawn(handoff.run(events, registry));
    let source = follow(&config.source)?;
    let reconciling = tokio::spawn(reconciler.run(source, heard));
    if let Some(config::PodsCgroup::At(path)) = config.node_processes.pods_cgroup.clone() {
        tokio::spawn(node::watch(path, features.cgroup2.clone(), redirect.config()));
    }
    let stop = CancellationToken::new();
    let kernel = Arc::new(Pinned::new(redirect.directory().to_owned(), redirect.config()));
    let mut serving = tokio::spawn(api::serve(api, board, kernel, stop.clone()));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), instance = %config.instance, node = %config.node,
        kernel = %features.kernel, cgroup2 = %features.cgroup2.display(), pins = %redirect.directory().display(),
        adopted = redirect.adopted(), "agent started"
    );

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut serving => ended.context("the API server ended").and_then(|ended| Ok(ended?)),
        ended = reconciling => match ended {
            Ok(()) => Err(anyhow::anyhow!("the source of pods ended")),
            Err(error) => Err(anyhow::Error::new(error).context("the reconciler ended")),
        },
    };
    tracing::info!("agent stops; the redirect stays");
    stop.cancel();
    if !serving.is_finished() {
        let _ = serving.await;
    }
    ended
}

/// Validates the configuration and the pods file and prints what the machine has.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    EnvFilter::try_new(&config.log).with_context(|| filter_problem("log", &config.log))?;
    let features = probe(&config)?;
    let node_netns = node::netns_cookie(&config.node_processes.netns)?;
    let pods_cgroup = match &config.node_processes.pods_cgroup {
        Some(config::PodsCgroup::At(path)) => Some((path, PodsCgroup::find(path, &features.cgroup2)?)),
        _ => None,
    };
    println!("configuration: {}", path.display());
    println!("instance: {}, pins in {}", config.instance, config.pins().display());
    println!("kernel: {}, with everything that weir needs", features.kernel);
    println!("cgroup2: {}", features.cgroup2.display());
    println!("node's network namespace: {}, cookie {node_netns}", config.node_processes.netns.display());
    match pods_cgroup {
        Some((path, found)) => println!("pods' cgroup: {}, id {}, level {}", path.display(), found.id, found.level),
        None => println!("pods' cgroup: none, so that no process counts as the node's own"),
    }
    if let Source::File(file) = &config.source {
        let pods = sources::file::read_once(&file.path)?;
        println!("pods: {}, {} of them", file.path.display(), pods.len());
    }
    Ok(())
}

fn follow(source: &Source) -> anyhow::Result<Follower> {
    match source {
        Source::File(file) => Ok(sources::file::follow(file.path.clone())),
        Source::Kubernetes(_) => bail!("source.kubernetes: this agent takes pods from [source.file] only"),
    }
}

/// Removes the pins and links of an instance, and tells whether there were any.
pub fn uninstall(path: Option<&Path>, instance: Option<String>) -> anyhow::Result<()> {
    let config = path.map(Config::read).transpose()?;
    let bpffs = config.as_ref().map_or_else(|| config::Paths::default().bpffs, |config| config.paths.bpffs.clone());
    let instance = instance.or(config.map(|config| config.instance)).unwrap_or_else(config::default_instance);
    let directory: PathBuf = config::pins(&bpffs, &instance);
    if pins::uninstall(&directory)? {
        println!("removed {}: nothing is redirected any more", directory.display());
    } else {
        println!("nothing to remove: there is no {}", directory.display());
    }
    Ok(())
}

/// An error with what caused it, but nothing twice: most of the agent's errors name their cause themselves.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Everything that is missing, a line each.
fn probe(config: &Config) -> anyhow::Result<Features> {
    features::probe(config).map_err(|missing| {
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

fn find_pods_cgroup(config: &Config, features: &Features) -> anyhow::Result<PodsCgroup> {
    let Some(config::PodsCgroup::At(path)) = &config.node_processes.pods_cgroup else {
        tracing::warn!(
            "node_processes.pods_cgroup is not set: no process counts as the node's own, probes are redirected"
        );
        return Ok(PodsCgroup::default());
    };
    match PodsCgroup::find(path, &features.cgroup2) {
        Ok(found) => Ok(found),
        Err(error @ node::Error::Missing { .. }) => {
            tracing::warn!(%error, "no process counts as the node's own until it is there");
            Ok(PodsCgroup::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts logging to standard error. Whether the eBPF programs' records are wanted.
fn start_logging(configured: &str) -> anyhow::Result<bool> {
    let (source, text) = match env::var(LOG_VARIABLE) {
        Ok(text) if !text.is_empty() => (LOG_VARIABLE, text),
        _ => ("log", configured.to_owned()),
    };
    let Ok(filter) = EnvFilter::try_new(&text) else { bail!(filter_problem(source, &text)) };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(redirect::logs_wanted())
}

fn filter_problem(source: &str, text: &str) -> String {
    format!("{source}: invalid filter {text:?}, expected one such as \"info\" or \"info,weir_agent=debug\"")
}

/// Each pod costs some dozen file descriptors.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
