//! Endpoints of clusters that have them from a file of their own, read again when it is replaced.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    time::SystemTime,
};

use tokio::sync::oneshot;
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

use super::{endpoints, read};
use crate::{
    config::{
        cell::Source,
        cluster::{Assignments, Cluster, Discovery},
    },
    xds::{
        file::{LOOK, Watched},
        kind::Kind,
        stats::SubscriptionStats,
    },
};

/// Follows a cluster's file, until the cluster is gone. Says when it has read it first.
pub fn follow(cluster: Weak<Cluster>, answered: oneshot::Sender<()>) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(look_again_and_again(cluster, answered))
}

async fn look_again_and_again(weak: Weak<Cluster>, answered: oneshot::Sender<()>) {
    let mut answered = Some(answered);
    let Some((mut watched, service, stats)) = weak.upgrade().and_then(|cluster| match &cluster.discovery {
        Discovery::Eds(Assignments { source: Source::File(path), service, .. }) => {
            let stats = SubscriptionStats::register(&cluster.stats.scope);
            Some((Watched::new(PathBuf::from(&**path)), service.clone(), stats))
        }
        _ => None,
    }) else {
        return;
    };
    loop {
        if watched.changed() {
            let Some(cluster) = weak.upgrade() else { return };
            update(&cluster, &watched, &service, &stats);
        } else if weak.strong_count() == 0 {
            return;
        }
        if let Some(answered) = answered.take() {
            // Nobody waits any more: that is fine.
            let _ = answered.send(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn update(cluster: &Cluster, file: &Watched, service: &Arc<str>, stats: &SubscriptionStats) {
    let response = match file.read() {
        Ok(response) => response,
        Err(unreadable) => {
            stats.failed();
            tracing::warn!(cluster = %cluster.name, %unreadable, "endpoints can't be read; those that there are stay");
            return;
        }
    };
    match take(cluster, &response, service) {
        Ok(()) => stats.succeeded(&response.version_info, SystemTime::now(), None),
        Err(why) => {
            stats.rejected();
            let file = file.path().display();
            tracing::warn!(cluster = %cluster.name, %file, why, "endpoints are refused; those that there are stay");
        }
    }
}

/// Gives a cluster the one assignment of its file. None is no fault.
fn take(cluster: &Cluster, response: &DiscoveryResponse, service: &Arc<str>) -> Result<(), String> {
    let any = match response.resources.as_slice() {
        [] => {
            cluster.stats.inc(cluster.stats.update_empty);
            return Ok(());
        }
        [any] => any,
        several => return Err(format!("Unexpected EDS resource length: {}", several.len())),
    };
    let kind = Kind::LoadAssignment;
    kind.expect(&any.type_url)?;
    let found = kind.name_of(&any.value).map_err(|error| error.to_string())?;
    if *found != **service {
        return Err(format!("Unexpected EDS cluster (expecting {service}): {found}"));
    }
    let message = read::message(&any.value.clone().into()).map_err(read::Wrong::why)?;
    endpoints::apply(cluster, &message)
}
