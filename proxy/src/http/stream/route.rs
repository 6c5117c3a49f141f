//! Where a request goes: the routing table's decision.

use std::sync::Arc;

use http::HeaderValue;

use crate::{
    config::{
        http::Routes,
        request::RequestView,
        route::{Action, Clusters, Forward, Route, RouteTable, VirtualHost, WeightedCluster},
    },
    http::headers::mutate::Changes,
    runtime::Runtime,
};

/// What a tunnel is called where upgrades are allowed.
pub(in crate::http) const CONNECT: &str = "connect";

/// Where a request goes.
pub(in crate::http) struct Routed {
    pub table: Arc<RouteTable>,
    pub virtual_host: Arc<VirtualHost>,
    pub route: Arc<Route>,
    /// The name of the cluster, if the route forwards and knows one.
    pub cluster: Option<Arc<str>>,
    /// Which of the route's weighted clusters it is.
    pub weighted: Option<usize>,
}

impl Routed {
    pub fn changes(&self) -> Changes<'_> {
        Changes { weighted: self.weighted(), route: &self.route, virtual_host: &self.virtual_host, table: &self.table }
    }

    /// How the route forwards, if it does.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.route.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Direct(_) => None,
        }
    }

    /// The weighted cluster that was chosen.
    pub fn weighted(&self) -> Option<&WeightedCluster> {
        match &self.forward()?.clusters {
            Clusters::Weighted { clusters, .. } => clusters.get(self.weighted?),
            Clusters::One(_) => None,
        }
    }
}

/// The virtual host of a request, and where the request goes if one of its routes takes it.
pub(in crate::http) fn resolve(
    routes: &Routes,
    request: &RequestView<'_>,
    runtime: &Runtime,
) -> (Option<Arc<VirtualHost>>, Option<Routed>) {
    let current = routes.current(request.headers);
    let Some(table) = current.table() else { return (None, None) };
    let random = fastrand::u64(..);
    let domain = match &table.vhost_header {
        Some(name) => request.headers.get(name).map(HeaderValue::as_bytes),
        None => Some(request.authority),
    };
    let Some(virtual_host) = table.virtual_host(domain).cloned() else { return (None, None) };
    let Some(route) = virtual_host.route(request, random, runtime).cloned() else { return (Some(virtual_host), None) };
    let (cluster, weighted) = match &route.action {
        Action::Forward(forward) => match forward.pick(request, fastrand::u64(..), runtime) {
            Some(picked) => picked,
            None => return (Some(virtual_host), None),
        },
        Action::Redirect(_) | Action::Direct(_) => (None, None),
    };
    (Some(virtual_host.clone()), Some(Routed { table: table.clone(), virtual_host, route, cluster, weighted }))
}
