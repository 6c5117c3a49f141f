//! Converting what comes while the process runs, in the terms that the bootstrap has set.

use std::sync::Arc;

use weir_proto::envoy::config::{cluster::v3::Cluster as ClusterMessage, listener::v3 as proto};

use super::{
    cluster,
    context::{Context, Kept},
    listener,
};
use crate::config::{
    cell::Feed,
    cluster::{Cluster, NameServers},
    error::Error,
    listener::{Ceiling, Listener},
};

/// What the bootstrap has said of everything.
#[derive(Debug)]
pub struct Converter(Context);

impl Converter {
    pub(super) fn new(cx: Context) -> Self {
        Self(Context { changing: true, ..cx })
    }

    /// Connections that the process may have open.
    pub(super) fn ceiling(&self) -> Arc<Ceiling> {
        self.0.ceiling.clone()
    }

    /// Who is asked for names where a cluster does not say so itself.
    pub(super) fn name_servers(&self) -> NameServers {
        self.0.name_servers.clone()
    }

    /// Makes a cluster, which waits for cells that it names. Paths of errors begin at the message.
    pub fn cluster(&mut self, message: &ClusterMessage) -> Result<(Cluster, Vec<Arc<dyn Feed>>), Error> {
        self.0.waits.clear();
        let made = cluster::cluster(&mut self.0, message, "");
        self.tell("cluster", &message.name);
        Ok((made?, std::mem::take(&mut self.0.waits)))
    }

    /// Makes a listener. Filter chains that are made from the same as one of `kept` are those.
    pub fn listener(&mut self, message: &proto::Listener, kept: Vec<Kept>) -> Result<Listener, Error> {
        self.0.kept = kept;
        let made = listener::listener(&mut self.0, message, 0, "");
        self.0.kept.clear();
        self.tell("listener", &message.name);
        made
    }

    /// Routes of listeners may name this cluster from now on.
    pub fn has_cluster(&self, name: &str) {
        self.0.clusters.add(name);
    }

    /// And this one no more.
    pub fn lost_cluster(&self, name: &str) {
        self.0.clusters.remove(name);
    }

    /// Says which fields have no effect.
    fn tell(&mut self, kind: &str, name: &str) {
        for path in self.0.ignored.drain(..) {
            tracing::debug!(kind, name, path, "field has no effect in this version");
        }
    }
}
