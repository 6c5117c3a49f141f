//! What the choice of an endpoint goes by.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    config::cluster::{Cluster, Endpoint},
    filter_state::FilterState,
    matcher::metadata::{EndpointMetadata, Metadata},
};

/// What a choice depends on besides the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// The connection's original destination.
    pub destination: Option<SocketAddr>,
    /// What an `ORIGINAL_DST` cluster's header says.
    pub destination_header: Option<&'a str>,
    /// The host that the request asks for, or the connection by SNI.
    pub host: Option<&'a str>,
    /// What filters noted of the request, and of its connection.
    pub metadata: [Option<&'a Metadata>; 2],
    /// What they keep.
    pub filter_state: Option<&'a FilterState>,
    /// What consistent hashing goes by (the route's hash policy); none: anything.
    pub hash: Option<u64>,
    /// Endpoints to avoid, by picking again.
    pub avoid: &'a [SocketAddr],
    /// Avoid canaries.
    pub omit_canaries: bool,
    /// Avoid endpoints whose `envoy.lb` metadata has all of this.
    pub omit_metadata: Option<&'a EndpointMetadata>,
    /// How often to pick again.
    pub repicks: u32,
    /// Priorities that a retry leaves out, unless nothing else can take the load.
    pub previous_priorities: &'a [u32],
}

/// A choice.
#[derive(Debug)]
pub struct Picked {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The cluster that it is of, if the one that was asked for is an aggregate.
    pub member: Option<Arc<Cluster>>,
    /// Its priority, for [`PickContext::previous_priorities`].
    pub priority: u32,
    /// No priority was left but previous ones: they do not count any more.
    pub anew: bool,
}

impl Picked {
    /// The cluster that the endpoint is of.
    pub fn cluster<'a>(&'a self, asked: &'a Arc<Cluster>) -> &'a Arc<Cluster> {
        self.member.as_ref().unwrap_or(asked)
    }
}

impl PickContext<'_> {
    /// Whether another endpoint is preferred to this one.
    pub(super) fn rejects(&self, endpoint: &Endpoint) -> bool {
        self.repicks > 0
            && (self.avoid.contains(&endpoint.address)
                || (self.omit_canaries && endpoint.template.canary)
                || self.omit_metadata.is_some_and(|omitted| has_all(endpoint, omitted)))
    }
}

fn has_all(endpoint: &Endpoint, wanted: &EndpointMetadata) -> bool {
    let of_endpoint = endpoint.template.metadata.as_ref().and_then(|metadata| metadata.get("envoy.lb"));
    wanted.iter().all(|(key, value)| of_endpoint.and_then(|metadata| metadata.get(key)) == Some(value))
}
