//! `run`, `check`, `keep` and `uninstall`: what the command line asks for, put together from the other modules.
//!
//! [`node::Node`] is what an agent knows of its machine before it changes anything, [`lead::Leading`] all that runs while
//! it is the one that enrols pods.

mod check;
mod keep;
mod lead;
mod logging;
mod mount;
mod node;
mod pods;
mod uninstall;

pub use check::check;
pub use keep::keep;
pub use mount::mount_bpffs;
pub use uninstall::uninstall;

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{config::Config, health, seccomp};
use lead::Leading;
use node::Node;

/// Threads of the runtime; one may be busy with a step of the reconciler.
const THREADS: usize = 2;

/// Enrolls pods until SIGTERM or SIGINT. Pins, and with them the redirect, stay.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let ebpf_logs = logging::start(&config.log)?;
    let node = Node::look(config, ebpf_logs)?;
    raise_file_limit();
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let result = runtime.block_on(serve(&node));
    // Requests for sockets may wait on the pool of blocking threads; nobody waits for them any more.
    Runtime::shutdown_background(runtime);
    result
}

async fn serve(node: &Node) -> anyhow::Result<()> {
    if let Some(settings) = &node.config.seccomp {
        seccomp::write(&settings.profile)?;
    }
    if let Some(settings) = &node.config.health {
        let listener = health::bind(settings.address).await?;
        tokio::spawn(health::serve(listener, node.health.clone()));
    }
    let mut leading = Leading::start(node).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = leading.failed() => Err(error),
    };
    tracing::info!("agent stops; the redirect stays");
    leading.stop().await;
    ended
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

/// Each pod costs some dozen file descriptors.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
