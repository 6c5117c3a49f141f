//! What conversions share.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::{Message, Name};

use super::{fields::sub, secrets::Secrets};
use crate::{
    config::{
        cluster::{LocalZones, Locality},
        error::Error,
        filter::local_ratelimit::Bucket,
        listener::Ceiling,
    },
    telemetry::{events::EventLog, stats::Scope},
    wire::socket::SocketSettings,
};

/// What conversions share.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
    /// The scope below which objects register their statistics: `cx.stats.scope("cluster.backend")`.
    pub stats: Scope,
    /// The connection manager's own, `http.<stat_prefix>.`, for its filters.
    pub http: Scope,
    /// The proxy's own locality.
    pub local: Option<Arc<Locality>>,
    /// The cluster that this proxy is part of (`local_cluster_name`), and where its hosts are.
    pub local_cluster: Option<Box<str>>,
    /// How its zones and others' compare.
    pub zones: Arc<LocalZones>,
    /// Secrets of the bootstrap.
    pub secrets: Arc<Secrets>,
    /// Where outlier detection writes its events.
    pub outlier_log: Option<Arc<EventLog>>,
    /// How sockets of clusters that do not say so themselves are bound.
    pub bind: SocketSettings,
    /// Connections that the process may have open.
    pub ceiling: Arc<Ceiling>,
    /// Token buckets that several filters share, by key and configuration.
    pub buckets: HashMap<(String, Vec<u8>), Bucket>,
    /// Clusters that static routes may name.
    pub clusters: HashSet<String>,
    /// The cluster that this process belongs to: `node.cluster`.
    pub service_cluster: String,
}

impl Context {
    /// Accepts `message` if the fields that are set are all in `supported` or `harmless`; notes the harmless ones.
    pub fn only<M: Message + Name>(
        &mut self,
        message: &M,
        at: &str,
        supported: &[&str],
        harmless: &[&str],
    ) -> Result<(), Error> {
        for field in weir_proto::set_fields(message) {
            if harmless.contains(&&*field) {
                self.ignored.push(sub(at, &field));
            } else if !supported.contains(&&*field) {
                return Err(Error::at(sub(at, &field), "not supported yet"));
            }
        }
        Ok(())
    }

    /// A cluster that a static route names must exist.
    pub fn known_cluster(&self, name: &str, at: &str) -> Result<Arc<str>, Error> {
        if self.clusters.contains(name) {
            Ok(name.into())
        } else {
            Err(Error::at(at, format!("unknown cluster \"{name}\"")))
        }
    }
}
