//! Endpoints as configured or discovered, in sets by priority and locality.

use std::{net::SocketAddr, sync::Arc};

use super::host::{HealthFlags, Host};
use crate::{access_log::Upstream, matcher::metadata::EndpointMetadata, wire::named::NamedAddress};

/// An endpoint: its description, and the host that outlives it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name, for `auto_host_rewrite`; empty: none.
    pub hostname: Arc<str>,
    /// What it has in common with other addresses of the same configuration.
    pub template: Arc<Template>,
    /// Health and counters.
    pub host: Arc<Host>,
}

impl Endpoint {
    /// As logs name it.
    pub fn logged(&self) -> Upstream {
        let hostname = (!self.hostname.is_empty()).then(|| self.hostname.clone());
        Upstream { address: self.address, hostname, metadata: self.template.metadata.clone() }
    }
}

/// What an endpoint has besides its address.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// `load_balancing_weight`, at least 1.
    pub weight: u32,
    /// 0 first.
    pub priority: u32,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Health by configuration: some of [`HealthFlags::OF_EDS`].
    pub health: HealthFlags,
    /// Further addresses of the same endpoint, tried in turn when it cannot be reached.
    pub additional: Box<[SocketAddr]>,
    /// `envoy.lb` `canary`.
    pub canary: bool,
    /// `envoy.lb` `hash_key`: hashed instead of the address.
    pub hash_key: Option<Box<str>>,
    /// Its metadata.
    pub metadata: Option<Arc<EndpointMetadata>>,
    /// The listener inside of this process, or the Unix socket, that it is: its address stands for that.
    pub named: Option<Arc<NamedAddress>>,
    /// How its health checks differ.
    pub check: CheckAddress,
}

/// `Endpoint.health_check_config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckAddress {
    /// Address instead of the endpoint's.
    pub address: Option<SocketAddr>,
    /// Port instead of the endpoint's.
    pub port: Option<u16>,
    /// Host header; empty: the check's.
    pub hostname: Box<str>,
    /// Not checked at all.
    pub disabled: bool,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            locality: Arc::default(),
            health: HealthFlags::default(),
            additional: Box::default(),
            canary: false,
            hash_key: None,
            metadata: None,
            named: None,
            check: CheckAddress::default(),
        }
    }
}

/// Where endpoints are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Zone.
    pub zone: Box<str>,
    /// Sub-zone.
    pub sub_zone: Box<str>,
}

/// Endpoints, immutable.
#[derive(Debug)]
pub struct EndpointSet {
    priorities: Vec<Priority>,
    /// How it is to be used.
    pub policy: AssignmentPolicy,
}

/// `ClusterLoadAssignment.Policy`.
#[derive(Clone, Debug, PartialEq)]
pub struct AssignmentPolicy {
    /// Percent: a priority is fully able when its healthy share times this reaches 100.
    pub overprovisioning: u32,
    /// Health of a priority is by weight, not by number.
    pub weighted_health: bool,
    /// The requests that are turned away.
    pub drops: Option<Drops>,
}

/// `drop_overloads`: a share of the requests is turned away before an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops {
    /// Why, in the words of who asks for it.
    pub category: Box<str>,
    /// How many of [`Self::ALL`].
    pub share: u32,
}

impl Drops {
    /// A share of all requests.
    pub const ALL: u32 = 1_000_000;
}

impl Default for AssignmentPolicy {
    fn default() -> Self {
        Self { overprovisioning: 140, weighted_health: false, drops: None }
    }
}

/// The endpoints of one priority.
#[derive(Debug, Default)]
pub struct Priority {
    /// All of them.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The same by locality, the local one (if it is there) first.
    pub localities: Vec<LocalityEndpoints>,
    /// The first of the localities is the proxy's own.
    pub local: bool,
}

/// The endpoints of one locality in one priority.
#[derive(Clone, Debug)]
pub struct LocalityEndpoints {
    /// Which.
    pub locality: Arc<Locality>,
    /// Its weight among the localities; 0: it gets nothing under locality-weighted balancing.
    pub weight: u32,
    /// Indices into [`Priority::endpoints`].
    pub members: Vec<usize>,
}

/// Weights of localities, by priority.
pub type LocalityWeights = [(u32, Arc<Locality>, u32)];

impl EndpointSet {
    /// A set of endpoints whose localities have no weights.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self::with(endpoints, &[], None, AssignmentPolicy::default())
    }

    /// A set of endpoints, by priority and locality. `local` is the proxy's own locality.
    pub fn with(
        endpoints: impl IntoIterator<Item = Endpoint>,
        weights: &LocalityWeights,
        local: Option<&Locality>,
        policy: AssignmentPolicy,
    ) -> Self {
        // There is always a first priority, if an empty one.
        let mut priorities = vec![Priority::default()];
        for endpoint in endpoints {
            let number = endpoint.template.priority;
            let index = usize::try_from(number).unwrap_or_default();
            if priorities.len() <= index {
                priorities.resize_with(index + 1, Priority::default);
            }
            let priority = &mut priorities[index];
            let member = priority.endpoints.len();
            let locality = &endpoint.template.locality;
            match priority.localities.iter_mut().find(|known| known.locality == *locality) {
                Some(known) => known.members.push(member),
                None => {
                    let weight = weights
                        .iter()
                        .find(|(of, known, _)| *of == number && known == locality)
                        .map_or(0, |(_, _, weight)| *weight);
                    let locality = locality.clone();
                    priority.localities.push(LocalityEndpoints { locality, weight, members: vec![member] });
                }
            }
            priority.endpoints.push(Arc::new(endpoint));
        }
        for priority in &mut priorities {
            priority.localities.sort_by(|a, b| {
                let own = |one: &LocalityEndpoints| local.is_some_and(|local| *local == *one.locality);
                own(b).cmp(&own(a)).then_with(|| a.locality.cmp(&b.locality))
            });
            priority.local =
                local.is_some_and(|local| priority.localities.first().is_some_and(|first| *first.locality == *local));
        }
        Self { priorities, policy }
    }

    /// The priorities, the most preferred first.
    pub fn priorities(&self) -> &[Priority] {
        &self.priorities
    }

    /// Every endpoint.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flat_map(|priority| &priority.endpoints)
    }
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self::new([])
    }
}

impl Endpoint {
    /// An endpoint that nothing is known about.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, hostname: Arc::from(""), template: Arc::default(), host: Arc::default() }
    }
}
