//! What is kept on disk of sources and views that are not followed any more: it goes, with its secrets, once all that is
//! followed has answered. Until then nobody knows what will be.

use std::{
    cell::RefCell,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::{sources::is_name, view::View};
use crate::xds::saved::Directory;

/// How often it is looked whether all has answered.
const LOOK: Duration = Duration::from_secs(5);
/// The directory of views in that of the process.
const VIEWS: &str = "views";

/// Where things are kept.
pub(super) struct Kept {
    /// That of the view.
    pub(super) directory: Option<PathBuf>,
    /// What all views are called that have names.
    pub(super) views: Rc<[Arc<str>]>,
}

impl Kept {
    /// Removes what is of no use any more, when it is time. Never ends.
    pub(super) async fn tidy(&self, view: &Rc<RefCell<View>>, mut initialized: watch::Receiver<bool>) {
        if let (Some(directory), Ok(_)) = (&self.directory, initialized.wait_for(|initialized| *initialized).await) {
            let known = loop {
                let known = view.borrow().answered_sources();
                match known {
                    Some(known) => break known,
                    None => tokio::time::sleep(LOOK).await,
                }
            };
            remove_sources(directory, |name| known.contains(name));
            self.remove_views(directory);
        }
        std::future::pending().await
    }

    /// `directory` is that of a view, or of the process, which has theirs.
    fn remove_views(&self, directory: &Path) {
        let beside = directory.parent().filter(|parent| parent.file_name() == Some(OsStr::new(VIEWS)));
        let all = beside.map_or_else(|| directory.join(VIEWS), Path::to_owned);
        for (path, name) in directories(&all) {
            if self.views.iter().all(|view| **view != *name) {
                remove_sources(&path, |_| false);
                // What somebody else has made there stays, with it.
                let _ = fs::remove_dir(&path);
            }
        }
    }
}

/// Removes what sources have below a directory, but for some.
fn remove_sources(directory: &Path, keep: impl Fn(&str) -> bool) {
    for (path, name) in directories(directory) {
        if is_name(&name) && !keep(&name) {
            Directory::remove(&path);
        }
    }
}

/// The directories in one, with their names.
fn directories(of: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|of| of.is_dir()));
    directories.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files below a directory that has these, and those of nobody else.
    fn left(directory: &Path, files: &[&str], remove: impl FnOnce()) -> Vec<String> {
        for file in files {
            let path = directory.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        remove();
        let left = files.iter().filter(|file| directory.join(file).exists());
        left.map(|file| (*file).to_owned()).collect()
    }

    const SDS: &str = "sds-0123456789abcdef/sds.xds";

    #[test]
    fn sources_that_are_gone_go_and_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        let files = ["ads/cds.xds", SDS, "sds-0/sds.xds", "other/cds.xds", "eds-00000000000000ff/mine", "views/a/x"];
        let remove = || remove_sources(directory, |name| name == "ads");
        assert_eq!(left(directory, &files, remove), [files[0], files[2], files[3], files[4], files[5]]);
        assert!(!directory.join("sds-0123456789abcdef").exists());
    }

    #[test]
    fn views_that_are_gone_go_whoever_looks() {
        for of in ["", "views/shop"] {
            let temporary = tempfile::tempdir().unwrap();
            let kept = Kept { directory: None, views: Rc::new(["shop".into()]) };
            let files =
                ["ads/cds.xds", "views/shop/ads/cds.xds", "views/bank/ads/cds.corrupt-5", "views/bank/ads/sds.new-1"];
            let directory = temporary.path();
            let remove = || kept.remove_views(&directory.join(of));
            assert_eq!(left(directory, &files, remove), files[..2]);
            assert!(!directory.join("views/bank").exists());
        }
    }
}
