//! Clusters that requests ask for, by name.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    asks::{MOST, News},
    subject::Source,
};

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct AskedClusters(Mutex<HashMap<Arc<str>, Asking>>);

#[derive(Debug, Default)]
struct Asking {
    news: watch::Sender<()>,
    /// Who was asked.
    sources: Vec<Source>,
    /// There is such a cluster.
    found: bool,
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
    /// Asks a source for one. None: too many were asked for, and are there or waited for.
    pub(super) fn ask(&self, source: &Source, name: &Arc<str>) -> Option<(AskedCluster, News)> {
        let mut clusters = self.0.lock();
        let mut forgotten = Vec::new();
        if clusters.len() >= MOST && !clusters.contains_key(name) {
            let idle = |asking: &Asking| !asking.found && asking.news.receiver_count() == 0;
            forgotten.extend(clusters.extract_if(|_, asking| idle(asking)).map(|(name, _)| name));
            if clusters.len() >= MOST {
                return None;
            }
        }
        let asking = clusters.entry(name.clone()).or_default();
        let first = !asking.sources.contains(source);
        if first {
            asking.sources.push(source.clone());
        }
        Some((AskedCluster(asking.news.subscribe()), News { first, forgotten }))
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

    #[tokio::test]
    async fn each_source_is_asked_once_for_a_cluster() {
        let asked = AskedClusters::default();
        let name: Arc<str> = "a".into();
        let other = Source::Server(bytes::Bytes::from_static(b"other"));
        let ask = |source| asked.ask(source, &name).unwrap();
        asked.answer("a", true);
        let (first, news) = ask(&Source::Ads);
        assert!(news.first && !ask(&Source::Ads).1.first && ask(&other).1.first);
        assert!(!first.0.has_changed().unwrap());
        asked.answer("a", true);
        first.answered().await;
        // What was said before is known to who asks later.
        assert!(!ask(&Source::Ads).0.0.has_changed().unwrap());
    }

    #[test]
    fn names_that_lead_nowhere_make_room() {
        let asked = AskedClusters::default();
        let ask = |number: usize| asked.ask(&Source::Ads, &number.to_string().into());
        let mut waiting: Vec<_> = (0..MOST).map(ask).collect();
        assert!(ask(MOST).is_none());
        asked.answer("1", true);
        // Nobody waits for 1, 2 and 3.
        drop(waiting.drain(1..4));
        let (_one_more, news) = ask(MOST).unwrap();
        let mut forgotten = news.forgotten;
        forgotten.sort();
        assert_eq!((news.first, forgotten), (true, ["2", "3"].map(Arc::from).to_vec()));
        assert!(ask(1).is_some_and(|(_, news)| !news.first));
        let (_two, news) = ask(2).unwrap();
        assert!(news.first);
        assert!(ask(3).is_none());
    }
}
