//! Keeping what is accepted on disk: changes are written together, on a thread that may block, and what can't be written is
//! tried again.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, spawn_blocking};

use super::{kind::Kind, saved::Directory, stats::ControlPlaneStats, store::Store, told::Told};

/// Changes that follow each other this closely are written together.
const QUIET: Duration = Duration::from_secs(1);
/// But the first of them waits no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The same for a type that this process has not begun to write yet: whoever is killed soon after it began leaves something.
const QUIET_AT_FIRST: Duration = Duration::from_millis(100);
/// See [`QUIET_AT_FIRST`].
const LONGEST_AT_FIRST: Duration = Duration::from_secs(1);
/// What can't be written is tried again after.
const AGAIN: Duration = Duration::from_secs(10);

/// Writes what changes to a directory.
pub(super) struct Saving {
    directory: Directory,
    /// Where failures are counted.
    stats: ControlPlaneStats,
    pending: Pending,
    writing: Option<Writing>,
    told: Told,
}

struct Writing {
    kinds: Vec<Kind>,
    /// Those that could not be written, with the reason.
    failed: JoinHandle<Vec<(Kind, io::Error)>>,
}

impl Saving {
    /// Nothing has changed yet.
    pub(super) fn new(directory: Directory, stats: ControlPlaneStats) -> Self {
        Self { directory, stats, pending: Pending::default(), writing: None, told: Told::default() }
    }

    /// Where it writes.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A type has changed.
    pub(super) fn changed(&mut self, kind: Kind, now: Instant) {
        self.pending.changed(kind, now);
    }

    /// When it is time to [begin](Self::begin). None while something is being written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.due().filter(|_| self.writing.is_none())
    }

    /// Begins to write what has changed, if it is time.
    pub(super) fn begin(&mut self, store: &Store, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let kinds = self.pending.take();
        let contents: Vec<_> = kinds.iter().map(|kind| (*kind, store.of(*kind))).collect();
        let directory = self.directory.clone();
        let failed = spawn_blocking(move || {
            let saved = contents.iter().map(|(kind, of)| (*kind, directory.save(*kind, of)));
            saved.filter_map(|(kind, saved)| saved.err().map(|error| (kind, error))).collect()
        });
        self.writing = Some(Writing { kinds, failed });
    }

    /// Resolves once what is being written is, or can't be.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let done = (&mut writing.failed).await;
        let kinds = self.writing.take().map(|writing| writing.kinds).unwrap_or_default();
        let failed = done.unwrap_or_else(|fault| {
            let error = || io::Error::other(fault.to_string());
            kinds.into_iter().map(|kind| (kind, error())).collect()
        });
        let now = Instant::now();
        for (kind, error) in failed {
            self.stats.save_failed();
            if self.told.is_news(&format!("{} {error}", kind.short()), now) {
                tracing::error!(kind = kind.short(), %error, "accepted resources can't be saved: it is tried again");
            }
            self.pending.again(kind, now);
        }
    }

    /// Writes what is not yet written, once, on this thread: nothing else goes on here any more.
    pub(super) async fn finish(&mut self, store: &Store) {
        if self.writing.is_some() {
            self.written().await;
        }
        for kind in self.pending.take() {
            if let Err(error) = self.directory.save(kind, &store.of(kind)) {
                tracing::error!(kind = kind.short(), %error, "accepted resources can't be saved");
            }
        }
    }
}

/// Resolves once what is being written is; never where nothing is kept.
pub(super) async fn written(saving: Option<&mut Saving>) {
    match saving {
        Some(saving) => saving.written().await,
        None => std::future::pending().await,
    }
}

/// When what is to be written.
#[derive(Debug, Default)]
struct Pending {
    kinds: Vec<Kind>,
    /// What has been taken before.
    taken: Vec<Kind>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Something could not be written: it waits so long.
    not_before: Option<Instant>,
}

impl Pending {
    /// A type has changed.
    fn changed(&mut self, kind: Kind, now: Instant) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// When it is time to write.
    fn due(&self) -> Option<Instant> {
        let (quiet, longest) = match self.kinds.iter().all(|kind| self.taken.contains(kind)) {
            true => (QUIET, LONGEST_WAIT),
            false => (QUIET_AT_FIRST, LONGEST_AT_FIRST),
        };
        let due = (self.last? + quiet).min(self.first? + longest);
        Some(self.not_before.map_or(due, |at| at.max(due)))
    }

    /// A type could not be written.
    fn again(&mut self, kind: Kind, now: Instant) {
        self.changed(kind, now);
        self.not_before = Some(now + AGAIN);
    }

    /// The types to write: the caller does.
    fn take(&mut self) -> Vec<Kind> {
        (self.first, self.last, self.not_before) = (None, None, None);
        let kinds = std::mem::take(&mut self.kinds);
        self.taken.extend(kinds.iter().filter(|kind| !self.taken.contains(kind)).copied().collect::<Vec<_>>());
        kinds
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::*;
    use crate::{
        telemetry::stats::{self, Scope, process},
        xds::{
            store::Content,
            update::{Origin, Resource},
        },
    };

    #[tokio::test]
    async fn what_cannot_be_written_is_counted_and_tried_again() {
        let temporary = tempfile::tempdir().unwrap();
        let (store, counted) = (Store::default(), stats::Store::new(1));
        let resource =
            Resource { name: "x".into(), version: "1".into(), body: "body".into(), ttl: None, aliases: Vec::new() };
        let content = Content { version: "7".into(), resources: vec![resource], ..Content::default() };
        let update = store.changes(Kind::Cluster, content, Origin::Server).unwrap();
        store.settle(&update, &Ok(()), None, SystemTime::UNIX_EPOCH);
        let scope: Scope = counted.root().scope("control_plane");
        let directory = Directory::open(temporary.path()).unwrap();
        let mut saving = Saving::new(directory.clone(), ControlPlaneStats::register(&scope));
        // No file can take the place of a directory.
        let path = temporary.path().join("cds.xds");
        fs::create_dir(&path).unwrap();
        let now = Instant::now();
        saving.changed(Kind::Cluster, now);
        saving.begin(&store, now);
        assert_eq!(saving.due(), Some(now + QUIET_AT_FIRST));
        saving.begin(&store, now + QUIET_AT_FIRST);
        assert_eq!(saving.due(), None);
        saving.written().await;
        assert_eq!(counted.total(process::STATE_SAVE_FAILED), 1);
        let again = saving.due().unwrap();
        assert!(again >= now + AGAIN);
        fs::remove_dir(&path).unwrap();
        saving.begin(&store, again);
        saving.written().await;
        assert_eq!((saving.due(), counted.total(process::STATE_SAVE_FAILED)), (None, 1));
        let saved = directory.load(Kind::Cluster, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((&*saved.version, saved.resources.len()), ("7", 1));
    }

    #[test]
    fn changes_are_written_together_but_not_late() {
        let now = Instant::now();
        let millis = Duration::from_millis;
        let mut pending = Pending { taken: vec![Kind::Cluster, Kind::Listener], ..Pending::default() };
        assert_eq!(pending.due(), None);
        pending.changed(Kind::Cluster, now);
        pending.changed(Kind::Listener, now + millis(900));
        pending.changed(Kind::Cluster, now + millis(900));
        assert_eq!(pending.due(), Some(now + millis(1900)));
        for after in 1..=12 {
            pending.changed(Kind::Cluster, now + after * millis(900));
        }
        assert_eq!(pending.due(), Some(now + LONGEST_WAIT));
        assert_eq!(pending.take(), [Kind::Cluster, Kind::Listener]);
        assert_eq!((pending.due(), pending.take()), (None, Vec::new()));
    }

    #[test]
    fn what_comes_first_is_written_soon() {
        let now = Instant::now();
        let millis = Duration::from_millis;
        let mut pending = Pending::default();
        pending.changed(Kind::Cluster, now);
        assert_eq!(pending.due(), Some(now + millis(100)));
        for after in 1..=20 {
            pending.changed(Kind::Cluster, now + after * millis(90));
        }
        assert_eq!(pending.due(), Some(now + millis(1000)));
        assert_eq!(pending.take(), [Kind::Cluster]);
        pending.changed(Kind::Cluster, now);
        assert_eq!(pending.due(), Some(now + QUIET));
        pending.changed(Kind::Listener, now);
        assert_eq!(pending.due(), Some(now + QUIET_AT_FIRST));
    }
}
