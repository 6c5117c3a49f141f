//! HTTP filters before the router, and what routes change of them.

pub mod alpn;
pub mod cors;
pub mod dynamic_forward_proxy;
pub mod ext_authz;
pub mod fault;
pub mod grpc_stats;
pub mod header_mutation;
pub mod health_check;
pub mod jwt_authn;
pub mod local_ratelimit;
pub mod on_demand;
pub mod peer_metadata;
pub mod rbac;
pub mod set_filter_state;
pub mod stats;

use std::{borrow::Cow, sync::Arc};

use self::{
    cors::CorsPolicy, ext_authz::ExtAuthz, fault::Fault, grpc_stats::GrpcStats, header_mutation::HeaderMutation,
    health_check::HealthCheck, jwt_authn::JwtAuthn, local_ratelimit::LocalRateLimit, on_demand::OnDemand, rbac::Rbac,
    stats::Counted,
};
use crate::config::cell::Slot;

/// A filter of a chain.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// Its name, by which routes refer to it.
    pub name: Arc<str>,
    /// What it does.
    pub kind: FilterKind,
    /// It does nothing unless a route says otherwise.
    pub disabled: bool,
}

/// What a filter does.
#[derive(Clone, Debug)]
pub enum FilterKind {
    /// Says what TLS offers upstreams by ALPN.
    Alpn(Arc<alpn::AlpnOverride>),
    /// Reads whole requests, of at most so many bytes, before they are passed on.
    Buffer(usize),
    /// Answers preflight requests and says in responses who may read them, by the policies of routes.
    Cors(Counted<stats::Cors>),
    /// Resolves the host of requests to dynamic forward proxies.
    DynamicForwardProxy(Arc<dynamic_forward_proxy::DynamicForwardProxy>),
    /// Asks a service whether requests may pass.
    ExtAuthz(Arc<ExtAuthz>),
    /// Delays, aborts and slows down.
    Fault(Arc<Fault>),
    /// What it does comes by itself (`config_discovery`).
    Discovered(Arc<Slot<FilterKind>>),
    /// Counts gRPC messages and outcomes.
    GrpcStats(Arc<GrpcStats>),
    /// Changes headers.
    HeaderMutation(Arc<HeaderMutation>),
    /// Answers health checks.
    HealthCheck(Arc<HealthCheck>),
    /// Lets requests pass that carry tokens.
    JwtAuthn(Arc<JwtAuthn>),
    /// Limits the rate of requests.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Only measures, and nobody reads that yet.
    Measuring,
    /// Asks for what a request needs and has not come.
    OnDemand(Arc<OnDemand>),
    /// Takes out headers of proxies among themselves.
    PeerMetadata(peer_metadata::PeerHeaders),
    /// Lets requests pass by policy.
    Rbac(Arc<Rbac>),
    /// Keeps objects in filter state.
    SetFilterState(Arc<set_filter_state::SetFilterState>),
}

impl FilterKind {
    /// What it does now; none: that has not come.
    pub fn current(&self) -> Option<Cow<'_, Self>> {
        match self {
            Self::Discovered(slot) => Some(Cow::Owned(Self::clone(&*slot.current()?))),
            known => Some(Cow::Borrowed(known)),
        }
    }
}

/// What a weighted cluster, a route, a virtual host or a route configuration says about filters, by name.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(Box<str>, Override)>);

/// What it says about one filter.
#[derive(Clone, Debug)]
pub struct Override {
    /// The filter is off here.
    pub disabled: bool,
    /// Its configuration here.
    pub config: Option<RouteFilter>,
}

/// A filter's configuration for a route.
#[derive(Clone, Debug)]
pub enum RouteFilter {
    /// Another limit, bytes; none: off.
    Buffer(Option<usize>),
    /// Who may read responses.
    Cors(Arc<CorsPolicy>),
    /// Where the host comes from.
    DynamicForwardProxy(Arc<dynamic_forward_proxy::HostFrom>),
    /// How something is asked here.
    ExtAuthz(Arc<ext_authz::OfRoute>),
    /// Instead of the filter's own.
    Fault(Arc<Fault>),
    /// Besides the filter's own.
    HeaderMutation(Arc<HeaderMutation>),
    /// What is required here.
    JwtAuthn(Arc<jwt_authn::OfRoute>),
    /// Instead of the filter's own.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Instead of the filter's own.
    OnDemand(Arc<OnDemand>),
    /// Instead of the filter's own.
    Rbac(Arc<Rbac>),
}

impl Overrides {
    /// From pairs of a filter's name and what is said about it.
    pub fn new(list: Vec<(Box<str>, Override)>) -> Self {
        Self(list)
    }

    /// Says something about a filter unless something is said about it.
    pub fn add_if_absent(&mut self, name: Box<str>, said: Override) {
        if self.get(&name).is_none() {
            self.0.push((name, said));
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it says about a filter.
    pub fn get(&self, name: &str) -> Option<&Override> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, said)| said)
    }
}
