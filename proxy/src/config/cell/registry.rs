//! Which cells there are.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use parking_lot::{Mutex, ReentrantMutexGuard};

use super::{
    clusters::{AskedCluster, AskedClusters},
    feed::Feed,
    notes::{Note, Notes},
    one::{Cell, Making},
    subject::{Feeder, Source, Subject},
};

/// Which sources somebody follows; a configuration that names others is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `ads`: the bootstrap has `ads_config`.
    pub ads: bool,
    /// And that is a stream of deltas.
    pub ads_sends_deltas: bool,
    /// `api_config_source`.
    pub servers: bool,
}

/// The cells of a view. It keeps none alive.
#[derive(Default)]
pub struct Registry {
    cells: Mutex<HashMap<Subject, Weak<dyn Feed>>>,
    notes: Arc<Notes>,
    numbers: AtomicU64,
    sources: Mutex<Sources>,
    clusters: AskedClusters,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("cells", &self.cells.lock().len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// The cell of a subject, which `make` says how to make if it is not there.
    pub fn cell<T: Send + Sync + 'static>(&self, subject: Subject, make: impl FnOnce() -> Making<T>) -> Arc<Cell<T>> {
        let cell = self.sleeping(subject, make);
        cell.want();
        cell
    }

    /// The same, but nobody is told of a new one until it is [wanted](Cell::want).
    pub fn sleeping<T: Send + Sync + 'static>(
        &self,
        subject: Subject,
        make: impl FnOnce() -> Making<T>,
    ) -> Arc<Cell<T>> {
        let mut cells = self.cells.lock();
        let known = cells.get(&subject).and_then(Weak::upgrade);
        let known = known.and_then(|known| (known as Arc<dyn Any + Send + Sync>).downcast::<Cell<T>>().ok());
        if let Some(known) = known {
            return known;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let cell = Arc::new(Cell::new(subject.clone(), number, make(), self.notes.clone()));
        let feed: Arc<dyn Feed> = cell.clone();
        cells.insert(subject, Arc::downgrade(&feed));
        cell
    }

    /// What a feeder has not been told yet, in order.
    pub fn take(&self, feeder: Feeder) -> Vec<Note> {
        self.cells.lock().retain(|_, cell| cell.strong_count() > 0);
        std::mem::take(&mut *self.notes.of(feeder).noted.lock())
    }

    /// Resolves when there is something to [`take`](Self::take).
    pub async fn noted(&self, feeder: Feeder) {
        self.notes.of(feeder).news.notified().await;
    }

    /// Every cell that there is, by subject.
    pub fn all(&self) -> Vec<Arc<dyn Feed>> {
        let mut all: Vec<_> = self.cells.lock().values().filter_map(Weak::upgrade).collect();
        all.sort_by(|a, b| a.subject().cmp(b.subject()));
        all
    }

    /// Asks a source for a cluster. None: there is nothing to wait for.
    pub fn ask_for_cluster(&self, source: &Source, name: &Arc<str>) -> Option<AskedCluster> {
        self.clusters.ask(source, name, |forgotten| {
            if !forgotten.is_empty() {
                tracing::info!(names = forgotten.len(), "clusters that there are none of are not followed any more");
                self.notes.note(source, Note::ForgottenClusters(forgotten));
            }
            self.notes.note(source, Note::Cluster(source.clone(), name.clone()));
        })
    }

    /// Something is known of a cluster: it is in force, or there is none.
    pub fn cluster_is_known(&self, name: &str, found: bool) {
        self.clusters.answer(name, found);
    }

    /// No cell changes its value as long as this is kept: for who makes something of cells and then follows them.
    pub fn still(&self) -> ReentrantMutexGuard<'_, ()> {
        self.notes.changing.lock()
    }

    /// Somebody follows these, too.
    pub fn follows(&self, sources: Sources) {
        *self.sources.lock() = sources;
    }

    /// What is followed besides files.
    pub fn sources(&self) -> Sources {
        *self.sources.lock()
    }
}
