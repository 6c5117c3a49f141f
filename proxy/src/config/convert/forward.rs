//! Dynamic forward proxies: caches of names, and the clusters and filters that share them.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use prost::Message;
use weir_proto::envoy::{
    config::cluster::v3 as proto,
    extensions::{
        clusters::dynamic_forward_proxy::v3::{
            ClusterConfig, cluster_config::ClusterImplementationSpecifier as ClusterCache,
        },
        common::dynamic_forward_proxy::v3::DnsCacheConfig,
        filters::{
            http::dynamic_forward_proxy::v3::{
                FilterConfig as HttpProto, PerRouteConfig, filter_config::ImplementationSpecifier as FilterCache,
                per_route_config::HostRewriteSpecifier,
            },
            network::sni_dynamic_forward_proxy::v3::{FilterConfig as SniProto, filter_config::PortSpecifier},
        },
    },
};

use super::{
    context::Context,
    dns,
    endpoints::Assignment,
    fields::{duration, header_name, item, limit, sub, type_name, unpack},
};
use crate::config::{
    cluster::{AssignmentPolicy, AutoNames, Discovery, DnsCache, DnsCacheSettings, ForwardProxy},
    error::Error,
    filter::dynamic_forward_proxy::{DynamicForwardProxy, HostFrom},
    network::SniForwardProxy,
};

/// The type of such a cluster's configuration.
pub(super) const FORWARD_PROXY: &str = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";

/// Envoy's defaults.
const REFRESH: Duration = Duration::from_secs(60);
const LEAST_REFRESH: Duration = Duration::from_secs(5);
const HOST_TTL: Duration = Duration::from_secs(300);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HOSTS: u32 = 1024;
const MAX_PENDING: u32 = 1024;

/// The cache of a cluster, or of a filter: those of one name are one.
fn cache(cx: &mut Context, message: Option<&DnsCacheConfig>, at: &str) -> Result<Arc<DnsCache>, Error> {
    let at = sub(at, "dns_cache_config");
    let message = message.ok_or_else(|| Error::at(&at, "a cache is required"))?;
    let settings = settings(cx, message, &at)?;
    let stats = cx.stats.clone();
    let make = || Ok::<_, Error>(DnsCache::new(settings, &stats));
    let found = cx.dns_caches.get(&message.name, message.encode_to_vec(), make)?;
    found.map_err(|_| {
        let why = format!("config specified DNS cache '{}' with different settings", message.name);
        Error::at(&at, why)
    })
}

#[expect(deprecated, reason = "published configurations use them")]
fn settings(cx: &mut Context, message: &DnsCacheConfig, at: &str) -> Result<DnsCacheSettings, Error> {
    let supported = [
        "name",
        "dns_lookup_family",
        "dns_refresh_rate",
        "dns_min_refresh_rate",
        "host_ttl",
        "max_hosts",
        "dns_failure_refresh_rate",
        "dns_cache_circuit_breaker",
        "use_tcp_for_dns_lookups",
        "dns_resolution_config",
        "typed_dns_resolver_config",
        "preresolve_hostnames",
        "dns_query_timeout",
    ];
    cx.only(message, at, &supported, &[])?;
    if message.name.is_empty() {
        return Err(Error::at(sub(at, "name"), "value length must be at least 1 characters"));
    }
    let time = |value: Option<&prost_types::Duration>, default, field| {
        value.map_or(Ok(default), |value| duration(value, &sub(at, field)))
    };
    let max_hosts = message.max_hosts.unwrap_or(MAX_HOSTS) as usize;
    if message.preresolve_hostnames.len() > max_hosts {
        let why = format!(
            "DNS Cache [{}] configured with preresolve_hostnames={} larger than max_hosts={max_hosts}",
            message.name,
            message.preresolve_hostnames.len(),
        );
        return Err(Error::at(sub(at, "preresolve_hostnames"), why));
    }
    // What they have in common with clusters that DNS finds.
    let as_cluster = proto::Cluster {
        dns_refresh_rate: Some(match message.dns_refresh_rate {
            Some(rate) => rate,
            None => prost_types::Duration { seconds: REFRESH.as_secs() as i64, nanos: 0 },
        }),
        dns_failure_refresh_rate: message.dns_failure_refresh_rate,
        dns_lookup_family: message.dns_lookup_family,
        use_tcp_for_dns_lookups: message.use_tcp_for_dns_lookups,
        dns_resolution_config: message.dns_resolution_config.clone(),
        typed_dns_resolver_config: message.typed_dns_resolver_config.clone(),
        ..proto::Cluster::default()
    };
    let none = Assignment { endpoints: Vec::new(), weights: Vec::new(), policy: AssignmentPolicy::default() };
    let dns = dns::dns(cx, &as_cluster, true, none, at)?;
    let first = message.preresolve_hostnames.iter().enumerate().map(|(index, address)| {
        use weir_proto::envoy::config::core::v3::socket_address::PortSpecifier::PortValue;
        let at = item(at, "preresolve_hostnames", index);
        let Some(PortValue(port)) = &address.port_specifier else { return Err(Error::at(at, "a port is required")) };
        let port = u16::try_from(*port).map_err(|_| Error::at(&at, format!("{port} is not a port")))?;
        Ok((address.address.as_str().into(), port))
    });
    let breaker = message.dns_cache_circuit_breaker.as_ref();
    Ok(DnsCacheSettings {
        name: message.name.as_str().into(),
        family: dns.family,
        servers: dns.servers,
        refresh: dns.refresh,
        least_refresh: time(message.dns_min_refresh_rate.as_ref(), LEAST_REFRESH, "dns_min_refresh_rate")?,
        failure_refresh: dns.failure_refresh,
        timeout: limit(message.dns_query_timeout.as_ref(), Some(QUERY_TIMEOUT), &sub(at, "dns_query_timeout"))?,
        host_ttl: time(message.host_ttl.as_ref(), HOST_TTL, "host_ttl")?,
        max_hosts,
        max_pending: breaker.and_then(|breaker| breaker.max_pending_requests).unwrap_or(MAX_PENDING),
        first: first.collect::<Result<_, _>>()?,
    })
}

/// Where the hosts of such a cluster come from. `secure`: its connections are TLS.
pub(super) fn discovery(cx: &mut Context, config: &ClusterConfig, secure: bool, at: &str) -> Result<Discovery, Error> {
    cx.only(config, at, &["dns_cache_config", "allow_insecure_cluster_options"], &[])?;
    let message = match &config.cluster_implementation_specifier {
        Some(ClusterCache::DnsCacheConfig(message)) => Some(message),
        _ => None,
    };
    let cache = cache(cx, message, at)?;
    Ok(Discovery::ForwardProxy(Arc::new(ForwardProxy::new(cache, if secure { 443 } else { 80 }))))
}

/// The names that TLS takes from requests to such a cluster: unless something is said, those of the hosts.
#[expect(deprecated, reason = "what is not said there is said here")]
pub(super) fn names(message: &proto::Cluster, said: Option<AutoNames>, at: &str) -> Result<Option<AutoNames>, Error> {
    let Some(proto::cluster::ClusterDiscoveryType::ClusterType(custom)) = &message.cluster_discovery_type else {
        return Ok(said);
    };
    let Some(any) = custom.typed_config.as_ref().filter(|any| type_name(any) == FORWARD_PROXY) else {
        return Ok(said);
    };
    if message.upstream_http_protocol_options.is_none() && message.typed_extension_protocol_options.is_empty() {
        return Ok(Some(AutoNames { server_name: true, validate: true, header: None }));
    }
    let config: ClusterConfig = unpack(any, at)?;
    let both = said.as_ref().is_some_and(|names| names.server_name && names.validate);
    if both || config.allow_insecure_cluster_options {
        return Ok(said);
    }
    let why = "dynamic_forward_proxy cluster must have auto_sni and auto_san_validation true unless \
               allow_insecure_cluster_options is set.";
    Err(Error::at(at, why))
}

/// The HTTP filter.
pub(super) fn http_filter(cx: &mut Context, message: &HttpProto, at: &str) -> Result<DynamicForwardProxy, Error> {
    // Nothing reads the address that is saved: Envoy's RBAC matcher of it is refused.
    cx.only(message, at, &["dns_cache_config", "save_upstream_address", "allow_dynamic_host_from_filter_state"], &[])?;
    let config = match &message.implementation_specifier {
        Some(FilterCache::DnsCacheConfig(config)) => Some(config),
        _ => None,
    };
    Ok(DynamicForwardProxy {
        cache: cache(cx, config, at)?,
        from_filter_state: message.allow_dynamic_host_from_filter_state,
    })
}

/// What a route says of it.
pub(super) fn of_route(cx: &mut Context, message: &PerRouteConfig, at: &str) -> Result<HostFrom, Error> {
    cx.only(message, at, &["host_rewrite_literal", "host_rewrite_header"], &[])?;
    Ok(match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
            let literal = HeaderValue::from_str(host);
            let why = || Error::at(sub(at, "host_rewrite_literal"), format!("\"{host}\" is not the value of a header"));
            HostFrom::Literal(literal.map_err(|_| why())?)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) if !name.is_empty() => {
            HostFrom::Header(header_name(name, &sub(at, "host_rewrite_header"))?)
        }
        _ => HostFrom::Request,
    })
}

/// The network filter.
pub(super) fn sni_filter(cx: &mut Context, message: &SniProto, at: &str) -> Result<SniForwardProxy, Error> {
    cx.only(message, at, &["dns_cache_config", "port_value", "save_upstream_address"], &[])?;
    let port = match message.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(port).map_err(|_| Error::at(sub(at, "port_value"), format!("{port} is not a port")))?
        }
        None => 0,
    };
    Ok(SniForwardProxy { cache: cache(cx, message.dns_cache_config.as_ref(), at)?, port })
}
