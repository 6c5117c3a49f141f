//! Endpoints from files of load assignments, read again when they are replaced.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use prost::Message;
use tokio::sync::{Notify, oneshot};
use weir_proto::envoy::{config::endpoint::v3::ClusterLoadAssignment, service::discovery::v3::DiscoveryResponse};

use crate::config::{
    self,
    cluster::{Cluster, Discovery, EdsFile},
};

/// The message that such a file holds resources of.
const TYPE: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Why a file's endpoints do not apply.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {why}", path.display())]
    Syntax { path: PathBuf, why: String },
    #[error(transparent)]
    Content(config::Error),
}

/// Reads a cluster's file, and reads it again when it or its directory changes, until the cluster is gone. Says when it
/// has read it first.
pub(in crate::cluster) async fn follow(cluster: Weak<Cluster>, answered: oneshot::Sender<()>) {
    let mut answered = Some(answered);
    let changed = Arc::new(Notify::new());
    let Some(file) = cluster.upgrade().and_then(|cluster| match &cluster.discovery {
        Discovery::Eds(file) => Some(file.clone()),
        _ => None,
    }) else {
        return;
    };
    // Watched before it is read: no change is missed.
    let _watcher = match watcher(&file, changed.clone()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::error!(path = %file.path.display(), %error, "changes of the endpoints' file are not noticed");
            None
        }
    };
    loop {
        {
            let Some(cluster) = cluster.upgrade() else { return };
            update(&cluster, &file);
        }
        if let Some(answered) = answered.take() {
            // Nobody waits any more: that is fine.
            let _ = answered.send(());
        }
        changed.notified().await;
    }
}

fn watcher(file: &EdsFile, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let directory = file.watched.as_deref().or_else(|| file.path.parent()).unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // As Envoy: a file is replaced by renaming another one to its name.
        if event.is_ok_and(|event| matches!(event.kind, notify::EventKind::Modify(notify::event::ModifyKind::Name(_))))
        {
            changed.notify_one();
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn update(cluster: &Cluster, file: &EdsFile) {
    cluster.stats.inc(cluster.stats.update_attempt);
    match load(cluster, file) {
        Ok(Some(assignment)) => {
            cluster.stats.inc(cluster.stats.update_success);
            let changed = assignment.apply(cluster);
            if !changed {
                cluster.stats.inc(cluster.stats.update_no_rebuild);
            }
            tracing::debug!(cluster = %cluster.name, changed, "endpoints read");
        }
        Ok(None) => {
            cluster.stats.inc(cluster.stats.update_success);
            cluster.stats.inc(cluster.stats.update_empty);
        }
        Err(refused) => {
            // The endpoints that there are stay.
            cluster.stats.inc(cluster.stats.update_failure);
            tracing::warn!(cluster = %cluster.name, %refused, "endpoints are refused");
        }
    }
}

fn load(cluster: &Cluster, file: &EdsFile) -> Result<Option<config::convert::Endpoints>, Refused> {
    let path = || file.path.to_path_buf();
    let bytes = fs::read(&file.path).map_err(|error| Refused::Read { path: path(), error })?;
    let syntax = |why: String| Refused::Syntax { path: path(), why };
    let response: DiscoveryResponse = match file.path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => DiscoveryResponse::decode(&*bytes).map_err(|error| syntax(error.to_string()))?,
        _ => {
            let text = String::from_utf8(bytes).map_err(|error| syntax(error.to_string()))?;
            weir_proto::from_yaml(&text).map_err(|error| syntax(error.to_string()))?
        }
    };
    for (index, any) in response.resources.iter().enumerate() {
        let at = format!("resources[{index}]");
        if any.type_url.rsplit('/').next() != Some(TYPE) {
            return Err(syntax(format!("{at}: expected a {TYPE}, not {}", any.type_url)));
        }
        let message = ClusterLoadAssignment::decode(&*any.value).map_err(|error| syntax(format!("{at}: {error}")))?;
        if *message.cluster_name == *file.service {
            return config::convert::load_assignment(&message, &at).map(Some).map_err(Refused::Content);
        }
    }
    tracing::debug!(cluster = %cluster.name, "the file has no endpoints for it");
    Ok(None)
}
