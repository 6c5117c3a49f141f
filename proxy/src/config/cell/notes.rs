//! What feeders are told of cells that come and go, from whichever thread.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, ReentrantMutex};
use tokio::sync::Notify;

use super::{
    feed::Feed,
    subject::{Feeder, Source},
};

/// What a feeder is told.
#[derive(Clone, Debug)]
pub enum Note {
    /// A cell is there, and is to be fed.
    Wanted(Weak<dyn Feed>),
    /// The cell of this number is gone.
    Gone(u64),
    /// A request needs what the cell of this number has under this name.
    Asked(u64, Arc<str>),
    /// Requests do not need these of it any more.
    Forgotten(u64, Vec<Arc<str>>),
    /// A request needs a cluster of this name.
    Cluster(Source, Arc<str>),
    /// Requests do not need clusters of these names any more.
    ForgottenClusters(Vec<Arc<str>>),
}

/// What feeders are told, and the order of changes.
#[derive(Debug, Default)]
pub(super) struct Notes {
    files: Untold,
    servers: Untold,
    /// Held while something that follows cells is made or changed, in which there may be more that does.
    pub(super) changing: ReentrantMutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Untold {
    pub(super) noted: Mutex<Vec<Note>>,
    pub(super) news: Notify,
}

impl Notes {
    pub(super) fn of(&self, feeder: Feeder) -> &Untold {
        match feeder {
            Feeder::Files => &self.files,
            Feeder::Servers => &self.servers,
        }
    }

    pub(super) fn note(&self, source: &Source, note: Note) {
        let untold = self.of(source.feeder());
        untold.noted.lock().push(note);
        untold.news.notify_one();
    }
}
