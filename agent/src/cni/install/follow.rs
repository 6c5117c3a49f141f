//! Keeps the plugin in place: after the network's own, and again when that writes its configuration anew.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use weir_cni::namespaces;

use super::{Error, Place, State, failed};
use crate::{
    file::{Ownership, put, watch_directory},
    sources::kubernetes::Namespaces,
};

/// Looked at without an event now and then: the directory may come late, and events get lost.
const POLL: Duration = Duration::from_secs(5);
/// Events of one change come together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// So often in [`WINDOW`] the entry is put back; then whoever takes it out is not fought.
const ATTEMPTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// An entry that somebody takes out is put back no more often than this.
const CONTESTED: Duration = Duration::from_secs(30);

/// Puts the plugin in place and keeps it there until `stop`, when it stays in place, or until it is taken out.
pub fn follow(place: Place, stop: CancellationToken) -> watch::Receiver<State> {
    let waiting = Error::NoConfiguration(place.cni.conf_dir.clone()).to_string();
    let (sender, state) = watch::channel(State::Waiting(waiting));
    tokio::spawn(keep(place, sender, stop));
    state
}

/// Takes the plugin out, again until that is done; `tell` hears why it is not, and at last `None`.
pub async fn take_out(place: Place, mut tell: impl FnMut(Option<State>)) {
    loop {
        let removing = place.clone();
        let Err(error) = blocking(move || removing.remove()).await else { break };
        tracing::error!(%error, "the CNI plugin, which is switched off, is still in place");
        tell(Some(State::Failed(format!("switched off, but still in place: {error}"))));
        sleep(POLL).await;
    }
    tell(None);
}

/// Writes the list of enrolled namespaces whenever the source learns of a change, and again when somebody removes or
/// overwrites it, until `stop`. While it is not known the last one stays.
pub fn follow_namespaces(
    place: Place,
    mut namespaces: watch::Receiver<Namespaces>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut news = true;
        while !stop.is_cancelled() {
            let known = namespaces.borrow_and_update().clone();
            let enrolled =
                known.map(|known| known.iter().filter(|(_, is)| **is).map(|(name, _)| name.clone()).collect());
            let writing = place.clone();
            let written =
                blocking(move || enrolled.map_or(Ok(false), |enrolled| writing.write_namespaces(enrolled))).await;
            if matches!(written, Ok(true)) && !news {
                tracing::warn!(
                    file = %place.namespaces().display(),
                    "the list of enrolled namespaces was removed or overwritten by another; it is put back"
                );
            }
            let next = async {
                match written {
                    // Polled: nothing reads it while this agent answers.
                    Ok(_) => {
                        let changed = timeout(POLL, namespaces.changed()).await;
                        news = changed.is_ok();
                        !matches!(changed, Ok(Err(_)))
                    }
                    Err(Error::TakenOut) => false,
                    Err(error) => {
                        tracing::error!(%error, "the CNI plugin does not know which namespaces are enrolled");
                        sleep(POLL).await;
                        true
                    }
                }
            };
            if stop.run_until_cancelled(next).await != Some(true) {
                return;
            }
        }
    })
}

impl Place {
    /// Writes the list of enrolled namespaces, unless it is there; whether it was not. Blocks.
    pub fn write_namespaces(&self, enrolled: BTreeSet<String>) -> Result<bool, Error> {
        let _placing = self.placing()?;
        let path = self.namespaces();
        let wanted = namespaces::Namespaces { enrolled };
        // Of one that cannot be read the plugin takes nothing either.
        if path.exists() && namespaces::Namespaces::read(&path).is_ok_and(|present| present == wanted) {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.cni.state_dir)
            .and_then(|()| put(&path, wanted.document().as_bytes(), Ownership::mode(0o644)))
            .map_err(failed("cni.state_dir", "write", &path))?;
        tracing::info!(file = %path.display(), namespaces = ?wanted.enrolled, "enrolled namespaces written");
        Ok(true)
    }
}

async fn keep(place: Place, state: watch::Sender<State>, stop: CancellationToken) {
    let (events, mut changed) = mpsc::channel(1);
    let mut watcher = None;
    let mut contest = Contest::default();
    while !stop.is_cancelled() {
        if watcher.is_none() {
            watcher = watch_directory(&place.cni.conf_dir, events.clone());
        }
        let installing = place.clone();
        let is_contested = contest.is_on(Instant::now());
        let installed = blocking(move || {
            // First, so that nobody is told to run what is not there.
            installing.install_program()?;
            if is_contested { Ok(None) } else { installing.install_entry().map(Some) }
        })
        .await;
        let now = match installed {
            Ok(Some((file, changed))) => {
                contest.count(changed, &file, Instant::now());
                State::Installed(file)
            }
            Err(Error::TakenOut) => return,
            Ok(None) => State::Failed(Error::Contested(contest.file.clone()).to_string()),
            Err(error @ Error::NoConfiguration(_)) => State::Waiting(error.to_string()),
            Err(error) => State::Failed(error.to_string()),
        };
        tell(&state, now);
        // A watcher of a directory that was removed hears nothing more.
        if !place.cni.conf_dir.is_dir() {
            watcher = None;
        }
        let wait = async {
            if is_contested {
                sleep(CONTESTED).await;
                contest.retry();
            } else if timeout(POLL, changed.recv()).await.is_ok() {
                sleep(DEBOUNCE).await;
            }
            let _ = changed.try_recv();
        };
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

fn tell(state: &watch::Sender<State>, now: State) {
    state.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            match &now {
                State::Installed(file) => tracing::info!(file = %file.display(), "pods are held by the CNI plugin"),
                State::Waiting(reason) => tracing::warn!(%reason, "pods are not held yet"),
                State::Failed(error) => tracing::error!(%error, "pods are not held by the CNI plugin"),
            }
            *before = now;
        }
        changed
    });
}

/// Whether somebody else keeps taking the entry out.
#[derive(Debug, Default)]
struct Contest {
    /// When the entry was put in lately.
    put: Vec<Instant>,
    file: PathBuf,
}

impl Contest {
    fn is_on(&mut self, now: Instant) -> bool {
        self.put.retain(|put| now.duration_since(*put) < WINDOW);
        self.put.len() > ATTEMPTS
    }

    fn count(&mut self, changed: bool, file: &Path, now: Instant) {
        if changed {
            self.put.push(now);
        }
        file.clone_into(&mut self.file);
    }

    /// One more attempt.
    fn retry(&mut self) {
        self.put.pop();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nothing is waited for any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_contest_is_noticed_and_not_fought() {
        let mut contest = Contest::default();
        let file = Path::new("/etc/cni/net.d/05-cilium.conflist");
        for _ in 0..=ATTEMPTS {
            assert!(!contest.is_on(Instant::now()));
            contest.count(true, file, Instant::now());
            contest.count(false, file, Instant::now());
        }
        assert!(contest.is_on(Instant::now()));
        contest.retry();
        assert!(!contest.is_on(Instant::now()));
        contest.count(true, file, Instant::now());
        assert!(contest.is_on(Instant::now()));
        tokio::time::advance(WINDOW).await;
        assert!(!contest.is_on(Instant::now()));
        assert_eq!(
            Error::Contested(contest.file).to_string(),
            "/etc/cni/net.d/05-cilium.conflist: something takes weir's entry out again and again; if that is Cilium, \
             set cni.exclusive=false in its chart"
        );
    }
}
