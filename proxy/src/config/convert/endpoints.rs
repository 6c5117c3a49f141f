//! Where a cluster's endpoints come from: a list, DNS, or the original destination.

use std::{sync::Arc, time::Duration};

use weir_proto::envoy::{
    config::{cluster::v3 as proto, core::v3 as core, endpoint::v3 as endpoint},
    extensions::{
        clusters::dns::v3::DnsCluster,
        network::dns_resolver::{cares::v3::CaresDnsResolverConfig, getaddrinfo::v3::GetAddrInfoDnsResolverConfig},
    },
};

use super::{Context, Error, duration, host_and_port, item, socket_address, sub, type_name, unpack};
use crate::{
    cluster::discovery::original::OriginalHosts,
    config::{
        cluster::{
            AssignmentPolicy, CheckAddress, Cluster, Discovery, Dns, DnsFamily, DnsName, EdsFile, Endpoint,
            EndpointSet, HealthFlags, Host, Locality, Metadata, NameServers, Template,
        },
        header_name,
    },
};

const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
/// Envoy's default of `dns_refresh_rate`.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's default header of `ORIGINAL_DST` clusters with `use_http_header`.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";
/// Priorities go up to this.
const MAX_PRIORITY: u32 = 128;

/// An endpoint as configured: its host may be a name.
#[derive(Debug)]
pub(super) struct Assigned {
    host: String,
    port: u16,
    hostname: String,
    template: Arc<Template>,
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
    let supported = ["overprovisioning_factor", "weighted_priority_health"];
    cx.only(message, at, &supported, &["endpoint_stale_after"])?;
    let default = AssignmentPolicy::default();
    Ok(AssignmentPolicy {
        overprovisioning: message.overprovisioning_factor.unwrap_or(default.overprovisioning),
        weighted_health: message.weighted_priority_health,
        ..default
    })
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
    let (address, port, at) = host_and_port(host.address.as_ref(), &sub(&at_endpoint, "address"))?;
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
        host: address.to_owned(),
        port,
        hostname: host.hostname.clone(),
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
        }),
        at: sub(&at, "address"),
    })
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
pub(super) fn metadata(message: &core::Metadata) -> Metadata {
    message.filter_metadata.iter().map(|(name, fields)| (name.clone(), json_struct(fields))).collect()
}

pub(super) fn json_struct(message: &prost_types::Struct) -> serde_json::Value {
    message.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<Metadata>().into()
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

/// Endpoints whose hosts are all addresses.
fn with_addresses(assigned: Vec<Assigned>) -> Result<Vec<Endpoint>, Error> {
    assigned
        .into_iter()
        .map(|assigned| {
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

/// How endpoints are found, and those known already.
pub(super) fn discovery(
    cx: &mut Context,
    message: &proto::Cluster,
    assignment: Assignment,
    at: &str,
) -> Result<(Discovery, EndpointSet), Error> {
    let Assignment { endpoints: assigned, weights, policy } = assignment;
    let replaced;
    let mut message = message;
    use proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &message.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Error::at(sub(at, "type"), format!("{kind} is not a discovery type")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let at = sub(at, "cluster_type");
            match (custom.name.as_str(), &custom.typed_config) {
                (_, Some(any)) if type_name(any) == DNS_CLUSTER => {
                    let (kind, with) = dns_cluster(cx, message, &unpack(any, &at)?, &sub(&at, "typed_config"))?;
                    replaced = with;
                    message = &replaced;
                    kind
                }
                (_, Some(any)) => return Err(Error::at(at, format!("{} is not supported yet", type_name(any)))),
                ("envoy.cluster.static", None) => DiscoveryType::Static,
                ("envoy.cluster.strict_dns", None) => DiscoveryType::StrictDns,
                ("envoy.cluster.logical_dns", None) => DiscoveryType::LogicalDns,
                ("envoy.cluster.eds", None) => DiscoveryType::Eds,
                ("envoy.cluster.original_dst", None) => DiscoveryType::OriginalDst,
                (name, None) => return Err(Error::at(sub(&at, "name"), format!("{name} is not supported yet"))),
            }
        }
    };
    match kind {
        DiscoveryType::Static => {
            let endpoints = with_addresses(assigned)?;
            Ok((Discovery::Static, EndpointSet::with(endpoints, &weights, cx.local.as_deref(), policy)))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            if kind == DiscoveryType::LogicalDns && assigned.len() != 1 {
                let at = sub(at, "load_assignment");
                return Err(Error::at(
                    at,
                    "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
                ));
            }
            let assignment = Assignment { endpoints: assigned, weights, policy };
            let dns = dns(cx, message, kind == DiscoveryType::StrictDns, assignment, at)?;
            Ok((Discovery::Dns(dns), EndpointSet::default()))
        }
        DiscoveryType::OriginalDst => {
            if !assigned.is_empty() {
                return Err(Error::at(
                    sub(at, "load_assignment"),
                    "ORIGINAL_DST clusters must have no load assignment",
                ));
            }
            Ok((original_destination(cx, message, at)?, EndpointSet::default()))
        }
        DiscoveryType::Eds => {
            if !assigned.is_empty() {
                return Err(Error::at(sub(at, "load_assignment"), "EDS clusters must have no load assignment"));
            }
            Ok((eds(cx, message, &sub(at, "eds_cluster_config"))?, EndpointSet::default()))
        }
    }
}

/// A `DnsCluster` as the kind of cluster whose fields it replaces.
#[expect(deprecated, reason = "what it replaces is what everything else reads")]
fn dns_cluster(
    cx: &mut Context,
    message: &proto::Cluster,
    config: &DnsCluster,
    at: &str,
) -> Result<(proto::cluster::DiscoveryType, proto::Cluster), Error> {
    use proto::cluster::DiscoveryType;
    let supported = [
        "dns_refresh_rate",
        "dns_failure_refresh_rate",
        "respect_dns_ttl",
        "dns_jitter",
        "typed_dns_resolver_config",
        "dns_lookup_family",
        "all_addresses_in_single_endpoint",
    ];
    cx.only(config, at, &supported, &["dns_min_refresh_rate"])?;
    let kind = match config.all_addresses_in_single_endpoint {
        true => DiscoveryType::LogicalDns,
        false => DiscoveryType::StrictDns,
    };
    let failure = config
        .dns_failure_refresh_rate
        .as_ref()
        .map(|rate| proto::cluster::RefreshRate { base_interval: rate.base_interval, max_interval: rate.max_interval });
    let replaced = proto::Cluster {
        name: message.name.clone(),
        dns_refresh_rate: config.dns_refresh_rate,
        dns_failure_refresh_rate: failure,
        respect_dns_ttl: config.respect_dns_ttl,
        dns_jitter: config.dns_jitter,
        typed_dns_resolver_config: config.typed_dns_resolver_config.clone(),
        // One more value in front: what is not said is AUTO.
        dns_lookup_family: (config.dns_lookup_family - 1).max(0),
        ..proto::Cluster::default()
    };
    Ok((kind, replaced))
}

/// Who is asked: what the system says, or what the configuration does.
#[expect(deprecated, reason = "published configurations use them")]
fn name_servers(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<NameServers, Error> {
    let mut servers = NameServers { tcp: message.use_tcp_for_dns_lookups, ..NameServers::default() };
    let addresses = |addresses: &[core::Address], at: &str| -> Result<Vec<_>, Error> {
        let numbered = addresses.iter().enumerate();
        numbered.map(|(index, address)| socket_address(Some(address), &item(at, "resolvers", index))).collect()
    };
    if let Some(config) = &message.dns_resolution_config {
        servers.addresses = addresses(&config.resolvers, &sub(at, "dns_resolution_config"))?;
        servers.options(config.dns_resolver_options.as_ref());
    }
    let Some(config) = &message.typed_dns_resolver_config else { return Ok(servers) };
    let at = sub(at, "typed_dns_resolver_config.typed_config");
    let any = config.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
    match type_name(any) {
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
            let config: CaresDnsResolverConfig = unpack(any, &at)?;
            let harmless = [
                "filter_unroutable_families",
                "udp_max_queries",
                "query_timeout_seconds",
                "query_tries",
                "rotate_nameservers",
                "edns0_max_payload_size",
                "max_udp_channel_duration",
                "reinit_channel_on_timeout",
                "qcache_max_ttl",
            ];
            cx.only(&config, &at, &["resolvers", "dns_resolver_options"], &harmless)?;
            servers.addresses = addresses(&config.resolvers, &at)?;
            servers.options(config.dns_resolver_options.as_ref());
        }
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig" => {
            let config: GetAddrInfoDnsResolverConfig = unpack(any, &at)?;
            cx.only(&config, &at, &[], &["num_retries", "num_resolver_threads"])?;
        }
        other => return Err(Error::at(at, format!("the resolver {other} is not supported yet"))),
    }
    Ok(servers)
}

impl NameServers {
    fn options(&mut self, options: Option<&core::DnsResolverOptions>) {
        if let Some(options) = options {
            self.tcp |= options.use_tcp_for_dns_lookups;
            self.no_search |= options.no_default_search_domain;
        }
    }
}

fn eds(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Discovery, Error> {
    use core::config_source::ConfigSourceSpecifier as Source;
    let config = message.eds_cluster_config.as_ref().ok_or_else(|| Error::at(at, "is required for EDS clusters"))?;
    let at = sub(at, "eds_config");
    let source = config.eds_config.as_ref().ok_or_else(|| Error::at(&at, "a source is required"))?;
    cx.only(source, &at, &["path", "path_config_source", "resource_api_version", "initial_fetch_timeout"], &[])?;
    let (path, watched) = match &source.config_source_specifier {
        Some(Source::PathConfigSource(path)) => (&path.path, path.watched_directory.as_ref()),
        #[expect(deprecated, reason = "published configurations use it")]
        Some(Source::Path(path)) => (path, None),
        _ => return Err(Error::at(at, "only path_config_source is supported yet")),
    };
    if !std::path::Path::new(path).is_file() {
        let message = format!("paths must refer to an existing path in the system: \"{path}\" does not exist");
        return Err(Error::at(sub(&at, "path_config_source.path"), message));
    }
    let service = if config.service_name.is_empty() { &message.name } else { &config.service_name };
    Ok(Discovery::Eds(EdsFile {
        path: std::path::Path::new(path).into(),
        watched: watched.map(|watched| std::path::Path::new(&watched.path).into()),
        service: service.as_str().into(),
    }))
}

fn original_destination(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Discovery, Error> {
    let cleanup = match &message.cleanup_interval {
        None => OriginalHosts::DEFAULT_CLEANUP,
        Some(interval) => duration(interval, &sub(at, "cleanup_interval"))?,
    };
    let hosts = Arc::new(OriginalHosts::new(cleanup));
    let Some(proto::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(Discovery::OriginalDestination { header: None, port: None, hosts });
    };
    let at = sub(at, "original_dst_lb_config");
    cx.only(config, &at, &["use_http_header", "http_header_name", "upstream_port_override"], &[])?;
    let header = match (config.use_http_header, config.http_header_name.as_str()) {
        (false, _) => None,
        (true, "") => Some(header_name(ORIGINAL_DST_HEADER, &at)?),
        (true, name) => Some(header_name(name, &sub(&at, "http_header_name"))?),
    };
    let port = config
        .upstream_port_override
        .map(|port| {
            u16::try_from(port)
                .map_err(|_| Error::at(sub(&at, "upstream_port_override"), format!("{port} is not a port")))
        })
        .transpose()?;
    Ok(Discovery::OriginalDestination { header, port, hosts })
}

#[expect(deprecated, reason = "the extension that replaces these fields is not supported yet")]
fn dns(
    cx: &mut Context,
    message: &proto::Cluster,
    strict: bool,
    assignment: Assignment,
    at: &str,
) -> Result<Dns, Error> {
    use proto::cluster::DnsLookupFamily;
    let refresh = match &message.dns_refresh_rate {
        None => DNS_REFRESH,
        Some(rate) => duration(rate, &sub(at, "dns_refresh_rate"))?,
    };
    let failure_refresh = match &message.dns_failure_refresh_rate {
        None => (refresh, refresh),
        Some(rate) => {
            let at = sub(at, "dns_failure_refresh_rate");
            let base_at = sub(&at, "base_interval");
            let base = rate.base_interval.as_ref().ok_or_else(|| Error::at(&base_at, "an interval is required"))?;
            let base = duration(base, &base_at)?;
            let max = match &rate.max_interval {
                Some(max) => duration(max, &sub(&at, "max_interval"))?,
                None => base * 10,
            };
            if max < base {
                return Err(Error::at(sub(&at, "max_interval"), "must not be less than base_interval"));
            }
            (base, max)
        }
    };
    let servers = name_servers(cx, message, at)?;
    let (family, respect_ttl) = (message.dns_lookup_family(), message.respect_dns_ttl);
    Ok(Dns {
        strict,
        weights: assignment.weights.into(),
        policy: assignment.policy,
        names: assignment
            .endpoints
            .into_iter()
            .map(|assigned| DnsName { host: assigned.host.into(), port: assigned.port, template: assigned.template })
            .collect(),
        family: match family {
            DnsLookupFamily::Auto => DnsFamily::Auto,
            DnsLookupFamily::V4Only => DnsFamily::V4Only,
            DnsLookupFamily::V6Only => DnsFamily::V6Only,
            DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
            DnsLookupFamily::All => DnsFamily::All,
        },
        servers,
        refresh,
        respect_ttl,
        failure_refresh,
        jitter: match &message.dns_jitter {
            None => Duration::ZERO,
            Some(jitter) => duration(jitter, &sub(at, "dns_jitter"))?,
        },
    })
}
