//! Load assignments: endpoints as a configuration or a file lists them.

use std::sync::Arc;

use weir_proto::envoy::config::{core::v3 as core, endpoint::v3 as endpoint};

use super::{
    context::Context,
    fields::{host_and_port, item, known_resolver, pipe_path, socket_address, sub},
    matcher::fraction,
};
use crate::{
    config::{
        cluster::{AssignmentPolicy, CheckAddress, Cluster, Drops, Endpoint, HealthFlags, Host, Locality, Template},
        error::Error,
    },
    matcher::{fraction::Fraction, metadata::EndpointMetadata},
    wire::named::NamedAddress,
};

/// Priorities go up to this.
const MAX_PRIORITY: u32 = 128;

/// An endpoint as configured: its host may be a name.
#[derive(Debug)]
pub(super) struct Assigned {
    pub host: String,
    pub port: u16,
    pub hostname: String,
    pub template: Arc<Template>,
    /// Who is to turn the host into an address.
    resolver: Box<str>,
    at: String,
}

/// A load assignment.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    pub endpoints: Vec<Assigned>,
    /// Weights of localities.
    pub weights: Vec<(u32, Arc<Locality>, u32)>,
    pub policy: AssignmentPolicy,
}

/// The endpoints of `load_assignment`.
pub(super) fn assignment(
    cx: &mut Context,
    message: Option<&endpoint::ClusterLoadAssignment>,
    at: &str,
) -> Result<Assignment, Error> {
    let Some(message) = message else { return Ok(Assignment::default()) };
    cx.only(message, at, &["cluster_name", "endpoints", "policy"], &[])?;
    let mut assignment = Assignment::default();
    if let Some(policy) = &message.policy {
        assignment.policy = self::policy(cx, policy, &sub(at, "policy"))?;
    }
    for (index, locality) in message.endpoints.iter().enumerate() {
        let at = item(at, "endpoints", index);
        // Metadata of a locality is for transport socket matches, proximity for nothing yet, in Envoy either.
        let supported = ["lb_endpoints", "priority", "locality", "load_balancing_weight"];
        cx.only(locality, &at, &supported, &["metadata", "proximity"])?;
        if locality.priority > MAX_PRIORITY {
            return Err(Error::at(sub(&at, "priority"), format!("must be at most {MAX_PRIORITY}")));
        }
        let place = locality.locality.as_ref().map(self::locality).unwrap_or_default();
        if let Some(weight) = locality.load_balancing_weight {
            assignment.weights.push((locality.priority, place.clone(), weight));
        }
        for (index, host) in locality.lb_endpoints.iter().enumerate() {
            let at = item(&at, "lb_endpoints", index);
            assignment.endpoints.push(lb_endpoint(cx, host, locality.priority, &place, &at)?);
        }
    }
    Ok(assignment)
}

fn policy(
    cx: &mut Context,
    message: &endpoint::cluster_load_assignment::Policy,
    at: &str,
) -> Result<AssignmentPolicy, Error> {
    let supported = ["overprovisioning_factor", "weighted_priority_health", "drop_overloads"];
    cx.only(message, at, &supported, &["endpoint_stale_after"])?;
    let default = AssignmentPolicy::default();
    Ok(AssignmentPolicy {
        overprovisioning: message.overprovisioning_factor.unwrap_or(default.overprovisioning),
        weighted_health: message.weighted_priority_health,
        drops: drops(&message.drop_overloads, &sub(at, "drop_overloads"))?,
    })
}

fn drops(
    messages: &[endpoint::cluster_load_assignment::policy::DropOverload],
    at: &str,
) -> Result<Option<Drops>, Error> {
    let message = match messages {
        [] => return Ok(None),
        [message] => message,
        several => {
            let count = several.len();
            let message = format!("Cluster drop_overloads config has {count} categories. Envoy only support one.");
            return Err(Error::at(at, message));
        }
    };
    let Fraction { numerator, denominator } = message.drop_percentage.as_ref().map_or(Fraction::NEVER, fraction);
    if numerator > denominator {
        let ratio = f64::from(numerator) / f64::from(denominator);
        let message = format!(
            "Cluster drop_overloads config is invalid. drop_ratio={ratio}(Numerator {numerator} / Denominator \
             {denominator}). The valid range is 0~1."
        );
        return Err(Error::at(at, message));
    }
    let share = numerator * (Drops::ALL / denominator);
    Ok((share > 0).then(|| Drops { category: message.category.as_str().into(), share }))
}

/// A locality, shared by its endpoints.
pub(super) fn locality(message: &core::Locality) -> Arc<Locality> {
    Arc::new(Locality {
        region: message.region.as_str().into(),
        zone: message.zone.as_str().into(),
        sub_zone: message.sub_zone.as_str().into(),
    })
}

fn lb_endpoint(
    cx: &mut Context,
    message: &endpoint::LbEndpoint,
    priority: u32,
    locality: &Arc<Locality>,
    at: &str,
) -> Result<Assigned, Error> {
    cx.only(message, at, &["endpoint", "health_status", "load_balancing_weight", "metadata"], &[])?;
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &message.host_identifier else {
        return Err(Error::at(sub(at, "endpoint"), "an endpoint is required"));
    };
    let at_endpoint = sub(at, "endpoint");
    let supported = ["address", "hostname", "additional_addresses", "health_check_config"];
    cx.only(host, &at_endpoint, &supported, &["observability_name"])?;
    let named = named_address(cx, host.address.as_ref(), &sub(&at_endpoint, "address"))?;
    let (address, port, at) = match named.as_ref().map(|named| named.address()) {
        Some(address) => (address.ip().to_string(), address.port(), sub(&at_endpoint, "address")),
        None => {
            let (host, port, at) = host_and_port(host.address.as_ref(), &sub(&at_endpoint, "address"))?;
            (host.to_owned(), port, at)
        }
    };
    if named.is_some() && host.health_check_config.as_ref().is_some_and(|check| check.port_value > 0) {
        let at = sub(&sub(&at_endpoint, "health_check_config"), "port_value");
        return Err(Error::at(at, "Invalid host configuration: non-zero port for non-IP address"));
    }
    let resolver = match host.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(core::address::Address::SocketAddress(socket)) => socket.resolver_name.as_str().into(),
        _ => Box::default(),
    };
    let additional = host
        .additional_addresses
        .iter()
        .enumerate()
        .map(|(index, message)| {
            let at = sub(&item(&at_endpoint, "additional_addresses", index), "address");
            socket_address(message.address.as_ref(), &at)
        })
        .collect::<Result<_, _>>()?;
    let metadata = message.metadata.as_ref().map(metadata);
    let of_balancing = |key: &str| metadata.as_ref().and_then(|all| all.get("envoy.lb")?.get(key));
    Ok(Assigned {
        host: address,
        port,
        hostname: host.hostname.clone(),
        resolver,
        template: Arc::new(Template {
            weight: message.load_balancing_weight.unwrap_or(1).max(1),
            priority,
            locality: locality.clone(),
            health: health(message.health_status()),
            additional,
            canary: of_balancing("canary").and_then(serde_json::Value::as_bool).unwrap_or(false),
            hash_key: of_balancing("hash_key")
                .and_then(serde_json::Value::as_str)
                .filter(|key| !key.is_empty())
                .map(Into::into),
            check: check_address(cx, host.health_check_config.as_ref(), &sub(&at_endpoint, "health_check_config"))?,
            metadata: metadata.map(Arc::new),
            named,
        }),
        at: sub(&at, "address"),
    })
}

/// The name that an endpoint is reached by, if that is no address.
fn named_address(
    cx: &mut Context,
    message: Option<&core::Address>,
    at: &str,
) -> Result<Option<Arc<NamedAddress>>, Error> {
    use core::{address::Address, envoy_internal_address::AddressNameSpecifier};
    match message.and_then(|message| message.address.as_ref()) {
        Some(Address::EnvoyInternalAddress(message)) => {
            let at = sub(at, "envoy_internal_address");
            cx.only(message, &at, &["server_listener_name", "endpoint_id"], &[])?;
            match &message.address_name_specifier {
                Some(AddressNameSpecifier::ServerListenerName(name)) => {
                    Ok(Some(NamedAddress::internal(name, &message.endpoint_id)))
                }
                None => Err(Error::at(sub(&at, "server_listener_name"), "a name is required")),
            }
        }
        Some(Address::Pipe(message)) => pipe_path(message, &sub(at, "pipe")).map(|path| Some(NamedAddress::pipe(path))),
        _ => Ok(None),
    }
}

fn check_address(
    cx: &mut Context,
    message: Option<&endpoint::endpoint::HealthCheckConfig>,
    at: &str,
) -> Result<CheckAddress, Error> {
    let Some(message) = message else { return Ok(CheckAddress::default()) };
    cx.only(message, at, &["port_value", "hostname", "address", "disable_active_health_check"], &[])?;
    let port = u16::try_from(message.port_value)
        .map_err(|_| Error::at(sub(at, "port_value"), format!("{} is not a port", message.port_value)))?;
    Ok(CheckAddress {
        address: message
            .address
            .as_ref()
            .map(|address| socket_address(Some(address), &sub(at, "address")))
            .transpose()?,
        port: Some(port).filter(|port| *port > 0),
        hostname: message.hostname.as_str().into(),
        disabled: message.disable_active_health_check,
    })
}

/// The flags that a health status means.
fn health(status: core::HealthStatus) -> HealthFlags {
    use core::HealthStatus;
    match status {
        HealthStatus::Unknown | HealthStatus::Healthy => HealthFlags::default(),
        HealthStatus::Unhealthy | HealthStatus::Timeout => HealthFlags::FAILED_EDS,
        HealthStatus::Draining => HealthFlags::DRAINING_EDS,
        HealthStatus::Degraded => HealthFlags::DEGRADED_EDS,
    }
}

/// Metadata as JSON, by filter namespace.
pub(super) fn metadata(message: &core::Metadata) -> EndpointMetadata {
    message.filter_metadata.iter().map(|(name, fields)| (name.clone(), json_struct(fields))).collect()
}

pub(super) fn json_struct(message: &prost_types::Struct) -> serde_json::Value {
    message.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<serde_json::Map<_, _>>().into()
}

fn json(message: &prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(value)) => Value::String(value.clone()),
        Some(Kind::StructValue(value)) => json_struct(value),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json).collect()),
    }
}

/// A load assignment that arrived while its cluster was in force.
#[derive(Debug)]
pub(crate) struct Endpoints {
    endpoints: Vec<Endpoint>,
    weights: Vec<(u32, Arc<Locality>, u32)>,
    policy: AssignmentPolicy,
}

impl Endpoints {
    /// Makes them the cluster's. Whether that changes anything.
    pub(crate) fn apply(self, cluster: &Cluster) -> bool {
        cluster.replace(self.endpoints, &self.weights, self.policy)
    }
}

/// The endpoints of a load assignment, for [`Endpoints::apply`].
pub(crate) fn load_assignment(message: &endpoint::ClusterLoadAssignment, at: &str) -> Result<Endpoints, Error> {
    let Assignment { endpoints, weights, policy } = assignment(&mut Context::default(), Some(message), at)?;
    Ok(Endpoints { endpoints: with_addresses(endpoints)?, weights, policy })
}

/// Refuses names that have somebody else to turn them into addresses than DNS.
pub(super) fn without_resolvers(assigned: &[Assigned]) -> Result<(), Error> {
    match assigned.iter().find(|assigned| !assigned.resolver.is_empty()) {
        Some(assigned) => Err(Error::at(&assigned.at, "clusters of DNS must not have a custom resolver name set")),
        None => Ok(()),
    }
}

/// Endpoints whose hosts are all addresses.
pub(super) fn with_addresses(assigned: Vec<Assigned>) -> Result<Vec<Endpoint>, Error> {
    assigned
        .into_iter()
        .map(|assigned| {
            known_resolver(&assigned.resolver, &assigned.at)?;
            let ip = assigned.host.parse().map_err(|_| {
                let message = format!(
                    "\"{}\" is not an IP address; consider setting the cluster's type to STRICT_DNS or LOGICAL_DNS",
                    assigned.host
                );
                Error::at(&assigned.at, message)
            })?;
            Ok(Endpoint {
                address: std::net::SocketAddr::new(ip, assigned.port),
                hostname: Arc::from(assigned.hostname),
                host: Arc::new(Host::new(assigned.template.health)),
                template: assigned.template,
            })
        })
        .collect()
}
