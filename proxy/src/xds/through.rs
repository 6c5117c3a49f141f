//! Connections to a management server that is a cluster of the bootstrap.

use std::{cell::Cell, sync::Arc};

use super::dial::{Dial, Dialling, watch};
use crate::{
    config::cluster::{Cluster, Health, HealthFlags},
    telemetry::stats::Shard,
    tls::client::Asked,
    wire::dial::Dialer,
};

/// What TLS offers by ALPN, where the cluster does not say.
const PROTOCOLS: &[&str] = &["h2"];

/// A cluster's endpoints, the preferred first, and another for each connection: what ended the last may be the endpoint's
/// fault. Those that are not healthy are left out unless all are.
pub struct Through {
    cluster: Arc<Cluster>,
    /// The host of the `:authority`, for a cluster that takes names of TLS from requests.
    host: String,
    shard: Shard,
    next: Cell<usize>,
}

impl Through {
    /// Counts what TLS does in `shard`, which is this thread's.
    pub fn new(cluster: Arc<Cluster>, authority: &str, shard: Shard) -> Self {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned();
        Self { cluster, host, shard, next: Cell::new(0) }
    }
}

impl Dial for Through {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let cluster = &self.cluster;
            let endpoints = cluster.endpoints.load_full();
            let all: Vec<_> = endpoints.priorities().iter().flat_map(|priority| &priority.endpoints).collect();
            let is_able = |flags: HealthFlags| !flags.excluded() && flags.health() != Health::Unhealthy;
            let able: Vec<_> = all.iter().filter(|endpoint| is_able(endpoint.host.flags())).copied().collect();
            let able = if able.is_empty() { all } else { able };
            let next = self.next.get();
            let Some(endpoint) = able.get(next % able.len().max(1)) else {
                return Err(format!("cluster {} has no endpoints", cluster.name));
            };
            self.next.set(next.wrapping_add(1));
            let auto = cluster.auto_names.as_ref();
            let asked = auto.map_or_else(Asked::default, |auto| auto.asked(&self.host));
            let asked = Asked { hostname: &endpoint.hostname, protocols: PROTOCOLS, ..asked };
            let way = cluster.way(endpoint, &Dialer::HOST, asked, None, &self.shard);
            let secured = way.connect().await.map_err(|error| format!("{}: {error}", endpoint.address))?;
            if cluster.socket.keepalive.is_none()
                && let Some(tcp) = secured.io.tcp()
            {
                watch(tcp).map_err(|error| format!("{}: {error}", endpoint.address))?;
            }
            Ok(Box::new(secured.io) as Box<_>)
        })
    }
}
