//! The sockets by which others find the agent, and whether they are still at their paths. A socket that is removed from
//! its directory, by whatever cleans up there, is not reachable any more and cannot be put back: another has to be made.

use std::{
    fs,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

/// How often they are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// Device and number of an inode.
type Inode = (u64, u64);

/// The sockets of an agent that leads.
#[derive(Debug, Default)]
pub(super) struct Bound(Vec<(PathBuf, Option<Inode>)>);

impl Bound {
    /// A socket that this process has just made.
    pub(super) fn own(&mut self, path: &Path) {
        // If it is gone already, any other one is not it.
        self.0.push((path.to_owned(), Some(inode(path).unwrap_or_default())));
    }

    /// One of another process, which may be replaced by that. If it is not there, it is not missed either.
    pub(super) fn foreign(&mut self, path: &Path) {
        if inode(path).is_some() {
            self.0.push((path.to_owned(), None));
        }
    }

    /// Resolves when one of them is not at its path any more.
    pub(super) async fn lost(&self) -> &Path {
        loop {
            sleep(LOOK).await;
            let gone = |(path, made): &&(PathBuf, Option<Inode>)| match (made, inode(path)) {
                (_, None) => true,
                (Some(made), Some(found)) => found != *made,
                (None, Some(_)) => false,
            };
            if let Some((path, _)) = self.0.iter().find(gone) {
                return path;
            }
        }
    }
}

/// What is at a path, if anything.
fn inode(path: &Path) -> Option<Inode> {
    fs::symlink_metadata(path).ok().map(|found| (found.st_dev(), found.st_ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::time::timeout;

    use super::*;

    /// Many looks.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_removed_or_replaced_is_missed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (own, foreign) = (at("agent.sock"), at("keeper.sock"));
        let _listeners = [&own, &foreign].map(|path| UnixListener::bind(path).unwrap());
        let mut bound = Bound::default();
        bound.own(&own);
        bound.foreign(&foreign);
        bound.foreign(&at("never.sock"));
        assert!(timeout(LONG, bound.lost()).await.is_err(), "nothing is");

        // The keeper is another one.
        let _next = UnixListener::bind(at("next.sock")).unwrap();
        fs::rename(at("next.sock"), &foreign).unwrap();
        assert!(timeout(LONG, bound.lost()).await.is_err(), "nothing is");
        fs::remove_file(&foreign).unwrap();
        assert_eq!(bound.lost().await, foreign);
        let _again = UnixListener::bind(&foreign).unwrap();
        assert!(timeout(LONG, bound.lost()).await.is_err(), "nothing is");

        let _other = UnixListener::bind(at("other.sock")).unwrap();
        fs::rename(at("other.sock"), &own).unwrap();
        assert_eq!(bound.lost().await, own);
        fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(bound.lost().await, own);
    }
}
