//! Where a cluster's endpoints come from: a list, DNS, files, the original destination, or other clusters.

use std::sync::Arc;

use weir_proto::envoy::{
    config::cluster::v3 as proto,
    extensions::clusters::aggregate::v3 as aggregate,
    r#type::metadata::v3::{MetadataKey, metadata_key::path_segment::Segment},
};

use super::{
    context::Context,
    dns,
    endpoints::{Assigned, Assignment, with_addresses, without_resolvers},
    fields::{duration, header_name, item, sub, type_name, unpack},
    forward,
    source::source,
};
use crate::config::{
    cluster::{Assignments, Discovery, EndpointSet, Members, NotedDestination, OriginalHosts},
    error::Error,
};

const AGGREGATE: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
/// Envoy's default header of `ORIGINAL_DST` clusters with `use_http_header`.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

/// How endpoints are found, and those known already. `secure`: connections to those that say nothing else are TLS.
pub(super) fn discovery(
    cx: &mut Context,
    message: &proto::Cluster,
    assignment: Assignment,
    secure: bool,
    at: &str,
) -> Result<(Discovery, EndpointSet), Error> {
    refuse_foreign(message, at)?;
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
                    let (kind, with) = dns::replaced(cx, message, &unpack(any, &at)?, &sub(&at, "typed_config"))?;
                    replaced = with;
                    message = &replaced;
                    kind
                }
                (_, Some(any)) if type_name(any) == AGGREGATE => {
                    return aggregate(cx, &unpack(any, &at)?, assigned, &at);
                }
                (_, Some(any)) if type_name(any) == forward::FORWARD_PROXY => {
                    if !assigned.is_empty() {
                        cx.ignored.push(at.replace("cluster_type", "load_assignment"));
                    }
                    let discovery = forward::discovery(cx, &unpack(any, &at)?, secure, &sub(&at, "typed_config"))?;
                    return Ok((discovery, EndpointSet::default()));
                }
                ("envoy.clusters.aggregate", None) => {
                    return aggregate(cx, &aggregate::ClusterConfig::default(), assigned, &at);
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
            without_resolvers(&assigned)?;
            let assignment = Assignment { endpoints: assigned, weights, policy };
            let dns = dns::dns(cx, message, kind == DiscoveryType::StrictDns, assignment, at)?;
            // The policy applies before there is an address.
            let none = EndpointSet::with([], &[], None, dns.policy.clone());
            Ok((Discovery::Dns(dns), none))
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

/// Refuses what only clusters of another type may say. As in Envoy, the type is the one that has a field of its own.
fn refuse_foreign(message: &proto::Cluster, at: &str) -> Result<(), Error> {
    use proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let is = |kind: DiscoveryType| message.cluster_discovery_type == Some(ClusterDiscoveryType::Type(kind.into()));
    if message.eds_cluster_config.is_some() && !is(DiscoveryType::Eds) {
        return Err(Error::at(sub(at, "eds_cluster_config"), "eds_cluster_config set in a non-EDS cluster"));
    }
    let common = message.common_lb_config.as_ref();
    let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
    if hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing) && !is(DiscoveryType::StrictDns) {
        let at = sub(at, "common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing");
        return Err(Error::at(at, "names of hosts are hashed in clusters of the type STRICT_DNS only"));
    }
    Ok(())
}

/// Other clusters. An assignment is of no use to it, and no mistake.
fn aggregate(
    cx: &mut Context,
    config: &aggregate::ClusterConfig,
    assigned: Vec<Assigned>,
    at: &str,
) -> Result<(Discovery, EndpointSet), Error> {
    if config.clusters.is_empty() {
        return Err(Error::at(sub(at, "typed_config.clusters"), "value must contain at least 1 item(s)"));
    }
    if !assigned.is_empty() {
        cx.ignored.push(at.replace("cluster_type", "load_assignment"));
    }
    let names = config.clusters.iter().map(|name| name.as_str().into()).collect();
    Ok((Discovery::Aggregate { names, members: Members::default() }, EndpointSet::default()))
}

fn eds(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Discovery, Error> {
    let config = message
        .eds_cluster_config
        .as_ref()
        .ok_or_else(|| Error::at(at, "cannot create an EDS cluster without an EDS config"))?;
    let (source, timeout) = source(cx.cells.sources(), config.eds_config.as_ref(), &sub(at, "eds_config"))?;
    let named = !config.service_name.is_empty();
    let service = if named { &config.service_name } else { &message.name };
    Ok(Discovery::Eds(Assignments { source, service: service.as_str().into(), named, timeout }))
}

fn noted_destination(message: &MetadataKey, at: &str) -> Result<NotedDestination, Error> {
    let each = message.path.iter().enumerate().map(|(index, segment)| match &segment.segment {
        Some(Segment::Key(key)) => Ok(key.as_str().into()),
        Some(Segment::Index(_)) => Err(Error::at(sub(&item(at, "path", index), "index"), "not supported yet")),
        None => Err(Error::at(item(at, "path", index), "expected one of key, index")),
    });
    Ok(NotedDestination { namespace: message.key.as_str().into(), path: each.collect::<Result<_, _>>()? })
}

fn original_destination(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Discovery, Error> {
    let cleanup = match &message.cleanup_interval {
        None => OriginalHosts::DEFAULT_CLEANUP,
        Some(interval) => duration(interval, &sub(at, "cleanup_interval"))?,
    };
    let hosts = Arc::new(OriginalHosts::new(cleanup));
    let Some(proto::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(Discovery::OriginalDestination { header: None, metadata: None, port: None, hosts });
    };
    let at = sub(at, "original_dst_lb_config");
    cx.only(config, &at, &["use_http_header", "http_header_name", "upstream_port_override", "metadata_key"], &[])?;
    let metadata = config.metadata_key.as_ref();
    let metadata = metadata.map(|key| noted_destination(key, &sub(&at, "metadata_key"))).transpose()?;
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
    Ok(Discovery::OriginalDestination { header, metadata, port, hosts })
}
