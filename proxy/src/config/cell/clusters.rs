//! Clusters that requests ask for, by name.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{asks::MOST, subject::Source};

/// What has been asked for.
#[derive(Debug, Default)]
pub(super) struct AskedClusters(Mutex<HashMap<Arc<str>, Asking>>);

#[derive(Debug, Default)]
struct Asking {
    news: watch::Sender<()>,
    /// Who was asked.
    sources: Vec<Source>,
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
    /// Asks for one, and says whether nobody asked this source before. None: too many were asked for.
    pub(super) fn ask(&self, source: &Source, name: &Arc<str>) -> Option<(AskedCluster, bool)> {
        let mut clusters = self.0.lock();
        if clusters.len() >= MOST && !clusters.contains_key(name) {
            return None;
        }
        let asking = clusters.entry(name.clone()).or_default();
        let news = !asking.sources.contains(source);
        if news {
            asking.sources.push(source.clone());
        }
        Some((AskedCluster(asking.news.subscribe()), news))
    }

    /// Something is known of a cluster.
    pub(super) fn answer(&self, name: &str) {
        if let Some(asking) = self.0.lock().get(name) {
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
        asked.answer("a");
        let (first, news) = asked.ask(&Source::Ads, &name).unwrap();
        assert!(news && !asked.ask(&Source::Ads, &name).unwrap().1 && asked.ask(&other, &name).unwrap().1);
        assert!(!first.0.has_changed().unwrap());
        asked.answer("a");
        first.answered().await;
        // What was said before is known to who asks later.
        assert!(!asked.ask(&Source::Ads, &name).unwrap().0.0.has_changed().unwrap());
    }
}
