//! Clusters that requests ask for, by name.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{chosen::Chosen, subject::Source};

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct AskedClusters(Mutex<Chosen<Asking>>);

#[derive(Debug, Default)]
struct Asking {
    news: watch::Sender<()>,
    /// Who was asked.
    sources: Vec<Source>,
    /// There is such a cluster.
    found: bool,
}

impl Asking {
    /// Nobody would miss it.
    fn is_idle(&self) -> bool {
        !self.found && self.news.receiver_count() == 0
    }
}

/// A cluster that was asked for.
#[derive(Debug)]
pub struct AskedCluster(watch::Receiver<()>);

impl AskedCluster {
    /// Resolves when something is said of it from now on: it may be there, or there may be none.
    pub async fn answered(mut self) {
        let _ = self.0.changed().await;
    }
}

impl AskedClusters {
    /// Asks a source for one. Who is the first to do so has it noted, and names that nothing is to be said of any more: before
    /// anybody else can ask. None: there is nothing to wait for.
    pub(super) fn ask(
        &self,
        source: &Source,
        name: &Arc<str>,
        note: impl FnOnce(Vec<Arc<str>>),
    ) -> Option<AskedCluster> {
        let mut asked = self.0.lock();
        let mut forgotten = Vec::new();
        if asked.get_mut(name).is_none() {
            forgotten = asked.add(name, Asking::default(), Asking::is_idle)?;
        }
        let asking = asked.get_mut(name)?;
        if !asking.sources.contains(source) {
            asking.sources.push(source.clone());
            note(forgotten);
        }
        Some(AskedCluster(asking.news.subscribe()))
    }

    /// Something is known of a cluster.
    pub(super) fn answer(&self, name: &str, found: bool) {
        if let Some(asking) = self.0.lock().get_mut(name) {
            asking.found = found;
            asking.news.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cell::chosen::MOST;

    /// Asks, and gives what is noted, if anything.
    fn ask(asked: &AskedClusters, source: &Source, name: &str) -> Option<(AskedCluster, Option<Vec<Arc<str>>>)> {
        let mut noted = None;
        let cluster = asked.ask(source, &name.into(), |forgotten| noted = Some(forgotten))?;
        Some((cluster, noted))
    }

    #[tokio::test]
    async fn each_source_is_asked_once_for_a_cluster() {
        let asked = AskedClusters::default();
        let other = Source::Server(bytes::Bytes::from_static(b"other"));
        let ask = |source| ask(&asked, source, "a").unwrap();
        asked.answer("a", true);
        let (first, noted) = ask(&Source::Ads);
        assert!(noted.is_some() && ask(&Source::Ads).1.is_none() && ask(&other).1.is_some());
        assert!(!first.0.has_changed().unwrap());
        asked.answer("a", true);
        first.answered().await;
        // What was said before is known to who asks later.
        assert!(!ask(&Source::Ads).0.0.has_changed().unwrap());
    }

    #[test]
    fn names_that_lead_nowhere_make_room() {
        let asked = AskedClusters::default();
        let ask = |name: usize| ask(&asked, &Source::Ads, &name.to_string());
        let look = || asked.0.lock().look();
        let mut waiting: Vec<_> = (0..MOST).map(ask).collect();
        assert!(ask(MOST).is_none());
        asked.answer("1", true);
        // Nobody waits for 1, 2 and 3.
        drop(waiting.drain(1..4));
        assert!(ask(MOST).is_none());
        look();
        let (_one_more, noted) = ask(MOST).unwrap();
        let mut forgotten = noted.unwrap();
        forgotten.sort();
        assert_eq!(forgotten, ["2", "3"].map(Arc::from));
        assert!(ask(1).is_some_and(|(_, noted)| noted.is_none()));
        let (_two, noted) = ask(2).unwrap();
        assert!(noted.is_some());
        look();
        assert!(ask(3).is_none());
    }
}
