//! Load assignments: who waits for which, and what they come to.

use std::{collections::HashMap, sync::Arc};

use weir_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;

use crate::config::{self, cell::Source, cluster::Cluster};

/// Which clusters have their endpoints from where, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Assigned(HashMap<(Source, Arc<str>), Vec<u64>>);

impl Assigned {
    pub(super) fn add(&mut self, source: &Source, name: &Arc<str>, number: u64) {
        self.0.entry((source.clone(), name.clone())).or_default().push(number);
    }

    pub(super) fn remove(&mut self, source: &Source, name: &Arc<str>, number: u64) {
        let key = (source.clone(), name.clone());
        if let Some(numbers) = self.0.get_mut(&key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// The clusters that an assignment is for.
    pub(super) fn of(&self, source: &Source, name: &Arc<str>) -> Vec<u64> {
        self.0.get(&(source.clone(), name.clone())).cloned().unwrap_or_default()
    }
}

/// Gives a cluster its endpoints; why not, if they are refused.
pub(super) fn apply(cluster: &Cluster, message: &ClusterLoadAssignment) -> Result<(), String> {
    let endpoints = config::convert::load_assignment(message, "").map_err(|error| error.to_string())?;
    if endpoints.apply(cluster) {
        tracing::debug!(cluster = %cluster.name, "endpoints changed");
    } else {
        cluster.stats.inc(cluster.stats.update_no_rebuild);
    }
    Ok(())
}
