//! What keeps a request on the same endpoint.

use http::request::Parts;

use crate::{
    config::{
        cluster::Cluster,
        route::{self, Forward, Hashed},
    },
    http::stream::Stream,
};

/// The hash of a request by the cluster's policies or the route's, where the load balancing looks at it.
pub(super) fn hashed(stream: &Stream, cluster: &Cluster, forward: &Forward, parts: &Parts) -> Hashed {
    let own = &cluster.policies.hash;
    let policies = if own.is_empty() { &forward.hash } else { own };
    if policies.is_empty() || !cluster.hashes() {
        return Hashed::default();
    }
    route::hash(policies, &stream.view(parts))
}
