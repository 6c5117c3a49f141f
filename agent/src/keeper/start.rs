//! Starting a keeper, and finding the one that an earlier agent started.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    Settings, cgroup,
    link::{self, Link},
};
use crate::handoff::ListenersHandedBack;

/// How long a keeper may take from its start to its first answer.
const START: Duration = Duration::from_secs(10);
/// The keeper appends to its log, also after it was made empty.
const MAX_LOG_BYTES: u64 = 256 * 1024;
const START_POLL: Duration = Duration::from_millis(10);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the keeper at {}: {source}", path.display())]
    Link { path: PathBuf, source: link::Error },
    #[error("cannot start the keeper: {action}: {source}")]
    Start { action: String, source: io::Error },
    #[error("the keeper ended at once: {0}")]
    Ended(String),
    #[error("the keeper does not answer within {START:?}: {0}")]
    Late(link::Error),
}

/// The keeper that lives, and what it holds; else a new one. One of another weir is replaced.
pub(super) async fn find_or_start(settings: &Settings) -> Result<(Link, Vec<ListenersHandedBack>), Error> {
    let failed = |source| Error::Link { path: settings.socket.clone(), source };
    let found = match Link::dial(&settings.socket, &settings.instance).await {
        Ok(link) => link,
        Err(error) if error.is_absence() => return Ok((start(settings).await?, Vec::new())),
        Err(error) => return Err(failed(error)),
    };
    let kept = found.fetch().await.map_err(failed)?;
    tracing::info!(pid = found.pid(), pods = kept.len(), "a keeper lives");
    trim_log(settings);
    if !found.is_foreign() {
        return Ok((found, kept));
    }
    // What it holds is held here until the next one has it.
    tracing::info!(pid = found.pid(), "the keeper is of another version; it is replaced");
    found.dismiss().await.map_err(failed)?;
    let link = start(settings).await?;
    for back in &kept {
        link.keep_again(back).await.map_err(failed)?;
    }
    Ok((link, kept))
}

/// Starts one, moves it to its cgroup, and waits until it answers.
async fn start(settings: &Settings) -> Result<Link, Error> {
    if let Some(words) = last_words(settings) {
        tracing::info!(%words, "the last that an earlier keeper said");
    }
    let failed = |action: &str| {
        let action = action.to_owned();
        move |source| Error::Start { action, source }
    };
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(settings.log())
        .and_then(|log| log.set_len(0).map(|()| log))
        .map_err(failed("open its log"))?;
    let log_again = log.try_clone().map_err(failed("open its log"))?;
    let mut child = Command::new(&settings.program)
        .arg0("weir-agent")
        .args(["keep", "--instance", &settings.instance, "--socket"])
        .arg(&settings.socket)
        .args(["--patience", &humantime::format_duration(settings.patience).to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        // Not the agent's own: who waits for the end of the container's output would wait for the keeper.
        .stderr(log_again)
        .spawn()
        .map_err(failed("run it"))?;
    let pid = child.id();
    if let Err(error) = cgroup::move_to(pid, &settings.cgroup) {
        tracing::warn!(
            %error, cgroup = %settings.cgroup.display(),
            "the keeper cannot move to a cgroup of its own: it ends with the agent's container, and new connections are \
             refused while agent and proxy are both away"
        );
    }
    // Somebody has to wait for it, or it stays as a zombie when it ends.
    let (ended, end) = std::sync::mpsc::channel();
    let wait = move || {
        let status = child.wait();
        let _ = ended.send(());
        tracing::debug!(pid, ?status, "a keeper's process ended");
    };
    thread::Builder::new().name("weir-keeper".to_owned()).spawn(wait).map_err(failed("wait for it"))?;
    let deadline = Instant::now() + START;
    loop {
        match Link::dial(&settings.socket, &settings.instance).await {
            Ok(link) => {
                tracing::info!(pid = link.pid(), limit = link.limit(), "keeper started");
                return Ok(link);
            }
            Err(_) if end.try_recv().is_ok() => {
                return Err(Error::Ended(last_words(settings).unwrap_or_else(|| "it said nothing".to_owned())));
            }
            Err(error) if Instant::now() >= deadline => return Err(Error::Late(error)),
            Err(_) => sleep(START_POLL).await,
        }
    }
}

/// An agent that fails again and again makes the keeper say so again and again.
fn trim_log(settings: &Settings) {
    let trim = || match fs::metadata(settings.log()) {
        Ok(log) if log.len() > MAX_LOG_BYTES => File::options().write(true).open(settings.log())?.set_len(0),
        _ => Ok(()),
    };
    if let Err(error) = trim() {
        tracing::warn!(%error, "the keeper's log is not trimmed");
    }
}

/// The last line of the log.
fn last_words(settings: &Settings) -> Option<String> {
    let log = fs::read_to_string(settings.log()).ok()?;
    log.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// Has a keeper end that no agent is connected to, if there is one, and removes what it left. What went wrong.
pub async fn dismiss(settings: &Settings) -> Result<(), String> {
    let ended = match Link::dial(&settings.socket, &settings.instance).await {
        Ok(link) => link.dismiss().await,
        Err(error) if error.is_absence() => Ok(()),
        Err(error) => Err(error),
    };
    ended.map_err(|error| problem(settings, &error))?;
    clean_up(settings).await;
    Ok(())
}

/// The same, for an agent that takes over what it held: nobody else may have these sockets.
pub(super) async fn relieve(settings: &Settings) -> Result<Vec<ListenersHandedBack>, String> {
    let kept = match Link::dial(&settings.socket, &settings.instance).await {
        Ok(link) => link.fetch().await,
        Err(error) if error.is_absence() => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let kept = kept.map_err(|error| problem(settings, &error))?;
    dismiss(settings).await?;
    Ok(kept)
}

fn problem(settings: &Settings, error: &link::Error) -> String {
    format!("the keeper at {}: {error}", settings.socket.display())
}

/// Removes what a keeper that has ended left: its socket, its log and, once it is empty, its cgroup.
pub(super) async fn clean_up(settings: &Settings) {
    for path in [settings.socket.clone(), settings.log()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what the keeper left is not removed");
            }
            _ => {}
        }
    }
    // The kernel lets go of a process's cgroup a moment after its sockets.
    let deadline = Instant::now() + START;
    while !cgroup::remove(&settings.cgroup) {
        if Instant::now() >= deadline {
            tracing::warn!(cgroup = %settings.cgroup.display(), "the keeper's cgroup is not removed");
            return;
        }
        sleep(START_POLL).await;
    }
}
