//! Asking a management server for what a request needs: its virtual host, the routes of its scope, its cluster.

use std::{sync::Arc, time::Duration};

use crate::config::cell::{AskedCluster, Registry, Source};

/// What is asked for when a request needs it, besides routes.
#[derive(Debug, Default)]
pub struct OnDemand {
    /// Clusters, where they are.
    pub clusters: Option<OnDemandClusters>,
}

/// `odcds`.
#[derive(Debug)]
pub struct OnDemandClusters {
    /// Who is asked.
    pub source: Source,
    /// A request waits so long.
    pub timeout: Duration,
    /// Where is asked.
    pub registry: Arc<Registry>,
}

impl OnDemandClusters {
    /// Asks for a cluster. None: there is nothing to wait for.
    pub fn ask(&self, name: &Arc<str>) -> Option<AskedCluster> {
        self.registry.ask_for_cluster(&self.source, name)
    }
}
