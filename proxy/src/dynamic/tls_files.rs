//! Files that things are made from which are not of the bootstrap: followed as long as those are kept.

use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::config::{
    cluster::Cluster,
    listener::Listener,
    reload::{self, Reload},
    tls::Transport,
};

/// Follows files until it is dropped.
#[derive(Debug)]
pub(super) struct Followed(AbortHandle);

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The files of a cluster's TLS contexts, if there are any.
pub(super) fn of_cluster(cluster: &Cluster) -> Option<Followed> {
    let contexts = cluster.transports.iter().filter_map(Transport::tls);
    follow(contexts.map(|tls| tls.clone() as Arc<dyn Reload>))
}

/// The files of a listener's TLS contexts, if there are any.
pub(super) fn of_listener(listener: &Listener) -> Option<Followed> {
    let contexts = listener.chains().filter_map(|chain| chain.tls.clone());
    follow(contexts.map(|tls| tls as Arc<dyn Reload>))
}

fn follow(contexts: impl Iterator<Item = Arc<dyn Reload>>) -> Option<Followed> {
    let contexts: Vec<_> = contexts.filter(|context| context.may_have_files()).collect();
    (!contexts.is_empty()).then(|| Followed(tokio::task::spawn_local(reload::follow(contexts)).abort_handle()))
}
