//! Where a cluster's endpoints come from: a list, DNS, or the original destination.

use std::{sync::Arc, time::Duration};

use weir_proto::envoy::config::{cluster::v3 as proto, core::v3 as core, endpoint::v3 as endpoint};

use super::{Context, Error, duration, host_and_port, item, sub};
use crate::config::{
    cluster::{Discovery, Dns, DnsFamily, DnsName, Endpoint, EndpointSet, EndpointTemplate},
    header_name,
};

/// Envoy's default of `dns_refresh_rate`.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy's default header of `ORIGINAL_DST` clusters with `use_http_header`.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";
/// The only overprovisioning factor there is for now.
const OVERPROVISIONING: u32 = 140;
/// Priorities go up to this.
const MAX_PRIORITY: u32 = 128;

/// An endpoint as configured: its host may be a name.
pub(super) struct Assigned {
    host: String,
    port: u16,
    hostname: String,
    template: EndpointTemplate,
    at: String,
}

/// The endpoints of `load_assignment`.
pub(super) fn assignment(
    cx: &mut Context,
    message: Option<&endpoint::ClusterLoadAssignment>,
    at: &str,
) -> Result<Vec<Assigned>, Error> {
    let Some(message) = message else { return Ok(Vec::new()) };
    cx.only(message, at, &["cluster_name", "endpoints", "policy"], &[])?;
    if let Some(policy) = &message.policy {
        let at = sub(at, "policy");
        cx.only(policy, &at, &["overprovisioning_factor"], &["endpoint_stale_after", "weighted_priority_health"])?;
        if policy.overprovisioning_factor.is_some_and(|factor| factor != OVERPROVISIONING) {
            return Err(Error::at(sub(&at, "overprovisioning_factor"), "only 140 is supported"));
        }
    }
    let mut assigned = Vec::new();
    for (index, locality) in message.endpoints.iter().enumerate() {
        let at = item(at, "endpoints", index);
        // Localities count only under locality-weighted load balancing, which is refused.
        let harmless = ["locality", "metadata", "load_balancing_weight", "proximity"];
        cx.only(locality, &at, &["lb_endpoints", "priority"], &harmless)?;
        if locality.priority > MAX_PRIORITY {
            return Err(Error::at(sub(&at, "priority"), format!("must be at most {MAX_PRIORITY}")));
        }
        for (index, host) in locality.lb_endpoints.iter().enumerate() {
            assigned.push(lb_endpoint(cx, host, locality.priority, &item(&at, "lb_endpoints", index))?);
        }
    }
    Ok(assigned)
}

fn lb_endpoint(cx: &mut Context, message: &endpoint::LbEndpoint, priority: u32, at: &str) -> Result<Assigned, Error> {
    use core::HealthStatus;
    cx.only(message, at, &["endpoint", "health_status", "load_balancing_weight"], &["metadata"])?;
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &message.host_identifier else {
        return Err(Error::at(sub(at, "endpoint"), "an endpoint is required"));
    };
    let at_endpoint = sub(at, "endpoint");
    cx.only(host, &at_endpoint, &["address", "hostname"], &["health_check_config", "observability_name"])?;
    let (address, port, at) = host_and_port(host.address.as_ref(), &sub(&at_endpoint, "address"))?;
    Ok(Assigned {
        host: address.to_owned(),
        port,
        hostname: host.hostname.clone(),
        template: EndpointTemplate {
            weight: message.load_balancing_weight.unwrap_or(1).max(1),
            priority,
            healthy: matches!(message.health_status(), HealthStatus::Unknown | HealthStatus::Healthy),
        },
        at: sub(&at, "address"),
    })
}

/// How endpoints are found, and those known already.
pub(super) fn discovery(
    cx: &mut Context,
    message: &proto::Cluster,
    assigned: Vec<Assigned>,
    at: &str,
) -> Result<(Discovery, EndpointSet), Error> {
    use proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &message.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Error::at(sub(at, "type"), format!("{kind} is not a discovery type")))?,
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(Error::at(sub(at, "cluster_type"), "not supported yet"));
        }
    };
    match kind {
        DiscoveryType::Static => {
            let endpoints = assigned
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
                        template: assigned.template,
                    })
                })
                .collect::<Result<Vec<_>, Error>>()?;
            Ok((Discovery::Static, EndpointSet::new(endpoints)))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            if kind == DiscoveryType::LogicalDns && assigned.len() != 1 {
                let at = sub(at, "load_assignment");
                return Err(Error::at(
                    at,
                    "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
                ));
            }
            let dns = dns(message, kind == DiscoveryType::StrictDns, assigned, at)?;
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
        DiscoveryType::Eds => Err(Error::at(sub(at, "type"), "EDS is not supported yet")),
    }
}

fn original_destination(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Discovery, Error> {
    let Some(proto::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(Discovery::OriginalDestination { header: None, port: None });
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
    Ok(Discovery::OriginalDestination { header, port })
}

#[expect(deprecated, reason = "the extension that replaces these fields is not supported yet")]
fn dns(message: &proto::Cluster, strict: bool, assigned: Vec<Assigned>, at: &str) -> Result<Dns, Error> {
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
    let (family, respect_ttl) = (message.dns_lookup_family(), message.respect_dns_ttl);
    Ok(Dns {
        strict,
        names: assigned
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
        refresh,
        respect_ttl,
        failure_refresh,
        jitter: match &message.dns_jitter {
            None => Duration::ZERO,
            Some(jitter) => duration(jitter, &sub(at, "dns_jitter"))?,
        },
    })
}
