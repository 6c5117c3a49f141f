//! What becomes of a response after its headers, which statistics and outlier detection hear of: it takes too long, or its
//! trailers tell what came of a call of gRPC.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use super::{timers::Expired, verdict::Verdict};
use crate::{
    cluster::Outcome,
    config::{
        cluster::{Cluster, Endpoint},
        route::RequestStats,
    },
    telemetry::stats::{Counter, Shard},
};

/// Where a response comes from.
#[derive(Debug)]
pub(in crate::http) struct Late {
    cluster: Arc<Cluster>,
    /// The endpoint's, if that is another.
    member: Option<Arc<Cluster>>,
    endpoint: Arc<Endpoint>,
    groups: SmallVec<[Counter; 2]>,
    /// Whether the host has done well is not known yet.
    open: bool,
}

impl Late {
    /// `groups`: the statistics of the route and of the virtual cluster.
    pub fn new(
        cluster: Arc<Cluster>,
        member: Option<Arc<Cluster>>,
        endpoint: Arc<Endpoint>,
        groups: &[&RequestStats],
        open: bool,
    ) -> Self {
        let groups = groups.iter().map(|group| group.handles.upstream_rq_timeout).collect();
        Self { cluster, member, endpoint, groups, open }
    }

    /// The response has ended, with trailers or without. Whether that tells what nothing before did.
    pub fn ended(&mut self, trailers: Option<&HeaderMap>) -> bool {
        let open = std::mem::take(&mut self.open);
        if open {
            trailers.map_or(Verdict::Error, Verdict::of_trailers).charge(&self.endpoint);
        }
        open
    }

    /// A limit has passed. The stream's own limits are none of the cluster's.
    pub fn charge(&self, shard: &Shard, which: Expired) {
        match which {
            Expired::Global => {
                shard.inc(self.cluster.stats.upstream_rq_timeout);
                self.groups.iter().for_each(|counter| shard.inc(*counter));
            }
            Expired::PerTry | Expired::PerTryIdle => {
                shard.inc(self.cluster.stats.upstream_rq_per_try_idle_timeout);
                let chosen = self.member.as_ref().unwrap_or(&self.cluster);
                chosen.report(&self.endpoint, Outcome::TimedOut(StatusCode::GATEWAY_TIMEOUT.as_u16()));
            }
            Expired::StreamDuration => return shard.inc(self.cluster.stats.upstream_rq_max_duration_reached),
            Expired::Idle | Expired::MaxDuration | Expired::Request => return,
        }
        self.endpoint.host.stats.rq_timeout.fetch_add(1, Relaxed);
    }
}
