//! Following the files of TLS contexts: secrets that are replaced, certificates that are renewed.
//!
//! Looking at a few files once a second needs no permission and no kernel object, and sees every way of replacing a
//! file: written in place, renamed over, or a symbolic link turned (as the kubelet does).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::error::Error;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What can be made anew from files.
pub trait Reload: Send + Sync {
    /// The files to follow, as it is made now.
    fn files(&self) -> Vec<PathBuf>;
    /// There are some, or may be once it is made anew.
    fn may_have_files(&self) -> bool {
        !self.files().is_empty()
    }
    /// Makes it anew; on an error what was stays in use.
    fn reload(&self) -> Result<(), Error>;
}

/// Follows the files of all of these for ever.
pub async fn follow(all: Vec<Arc<dyn Reload>>) {
    let mut followed: Vec<_> =
        all.into_iter().filter(|one| one.may_have_files()).map(|one| (state(&*one), one)).collect();
    if followed.is_empty() {
        return;
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        for (known, one) in &mut followed {
            let now = state(&**one);
            if now == *known {
                continue;
            }
            *known = now;
            match one.reload() {
                Ok(()) => tracing::info!(files = ?one.files(), "TLS context made anew"),
                Err(error) => tracing::warn!(%error, "TLS context not made anew; the old one stays"),
            }
        }
    }
}

/// What tells a file from its successor; of one that is not there, that it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState(Option<(u64, u64, i64, i64, u64)>);

impl FileState {
    /// Of the file that has this path now, links followed.
    pub(crate) fn of(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        Self(found.map(|found| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size())))
    }
}

fn state(one: &dyn Reload) -> Vec<FileState> {
    one.files().iter().map(|file| FileState::of(file)).collect()
}
