//! Endpoints from files of load assignments, read again when they are replaced.
//!
//! Looking at a file twice a second needs no permission and sees every way of replacing it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Weak,
    time::{Duration, SystemTime},
};

use prost::Message;
use tokio::sync::oneshot;
use weir_proto::envoy::{config::endpoint::v3::ClusterLoadAssignment, service::discovery::v3::DiscoveryResponse};
use xxhash_rust::xxh64::xxh64;

use crate::config::{
    self,
    cluster::{Cluster, Discovery, EdsFile},
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
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

/// Reads a cluster's file, and reads it again when it changes, until the cluster is gone. Says when it
/// has read it first.
pub(in crate::cluster) async fn follow(cluster: Weak<Cluster>, answered: oneshot::Sender<()>) {
    let mut answered = Some(answered);
    let Some(file) = cluster.upgrade().and_then(|cluster| match &cluster.discovery {
        Discovery::Eds(file) => Some(file.clone()),
        _ => None,
    }) else {
        return;
    };
    let mut seen = None;
    if let Some(cluster) = cluster.upgrade() {
        // Known before they count anything, as in Envoy.
        let scope = &cluster.stats.scope;
        for name in ["init_fetch_timeout", "update_rejected"] {
            scope.counter(name);
        }
    }
    loop {
        {
            let Some(cluster) = cluster.upgrade() else { return };
            let now = Version::of(&file.path);
            if seen != Some(now) {
                update(&cluster, &file);
                seen = Some(now);
            }
        }
        if let Some(answered) = answered.take() {
            // Nobody waits any more: that is fine.
            let _ = answered.send(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What tells a file from its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(Option<(u64, i64, i64, u64)>);

impl Version {
    fn of(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        Self(found.map(|found| (found.ino(), found.mtime(), found.mtime_nsec(), found.size())))
    }
}

fn update(cluster: &Cluster, file: &EdsFile) {
    let (stats, scope) = (&cluster.stats, &cluster.stats.scope);
    stats.inc(stats.update_attempt);
    match load(cluster, file) {
        Ok((assignment, version)) => {
            stats.inc(stats.update_success);
            stats.set(stats.version, xxh64(version.as_bytes(), 0));
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            stats.set(scope.gauge("update_time"), u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
            let Some(assignment) = assignment else {
                stats.inc(stats.update_empty);
                return;
            };
            let changed = assignment.apply(cluster);
            if !changed {
                cluster.stats.inc(cluster.stats.update_no_rebuild);
            }
            tracing::debug!(cluster = %cluster.name, changed, "endpoints read");
        }
        Err(refused) => {
            // The endpoints that there are stay.
            stats.inc(match refused {
                Refused::Content(_) => scope.counter("update_rejected"),
                _ => stats.update_failure,
            });
            tracing::warn!(cluster = %cluster.name, %refused, "endpoints are refused");
        }
    }
}

fn load(cluster: &Cluster, file: &EdsFile) -> Result<(Option<config::convert::Endpoints>, String), Refused> {
    let path = || file.path.to_path_buf();
    let bytes = fs::read(&file.path).map_err(|error| Refused::Read { path: path(), error })?;
    let syntax = |why: String| Refused::Syntax { path: path(), why };
    let response: DiscoveryResponse = match file.path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => DiscoveryResponse::decode(&*bytes).map_err(|error| syntax(error.to_string()))?,
        _ => {
            let text = String::from_utf8(bytes).map_err(|error| syntax(error.to_string()))?;
            weir_proto::from_yaml_unvalidated(&text).map_err(|error| syntax(error.to_string()))?
        }
    };
    weir_proto::validate(&response)
        .map_err(|error| Refused::Content(config::Error::at("resources", error.to_string())))?;
    let any = match response.resources.as_slice() {
        [] => {
            tracing::debug!(cluster = %cluster.name, "the file has no endpoints for it");
            return Ok((None, response.version_info));
        }
        [any] => any,
        several => {
            let message = format!("Unexpected EDS resource length: {}", several.len());
            return Err(Refused::Content(config::Error::at("resources", message)));
        }
    };
    let at = "resources[0]";
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        let message = format!("expected a {TYPE}, not {}", any.type_url);
        return Err(Refused::Content(config::Error::at(at, message)));
    }
    let message = ClusterLoadAssignment::decode(&*any.value).map_err(|error| syntax(format!("{at}: {error}")))?;
    if *message.cluster_name != *file.service {
        let message = format!("Unexpected EDS cluster (expecting {}): {}", file.service, message.cluster_name);
        return Err(Refused::Content(config::Error::at(format!("{at}.cluster_name"), message)));
    }
    let assignment = config::convert::load_assignment(&message, at).map_err(Refused::Content)?;
    Ok((Some(assignment), response.version_info))
}
