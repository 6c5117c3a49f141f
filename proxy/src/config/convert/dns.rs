//! Clusters whose endpoints DNS finds.

use std::{sync::Arc, time::Duration};

use weir_proto::envoy::{
    config::{bootstrap::v3::Bootstrap, cluster::v3 as proto, core::v3 as core},
    extensions::{
        clusters::dns::v3::DnsCluster,
        network::dns_resolver::{cares::v3::CaresDnsResolverConfig, getaddrinfo::v3::GetAddrInfoDnsResolverConfig},
    },
};

use super::{
    context::Context,
    endpoints::Assignment,
    fields::{duration, item, socket_address, sub, type_name, unpack},
};
use crate::config::{
    cluster::{Dns, DnsFamily, DnsName, NameServers, Resolver},
    error::Error,
};

/// Envoy's default of `dns_refresh_rate`.
const REFRESH: Duration = Duration::from_secs(5);

/// A `DnsCluster` as the kind of cluster whose fields it replaces.
#[expect(deprecated, reason = "what it replaces is what everything else reads")]
pub(super) fn replaced(
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

/// What says who is asked for names.
struct Said<'a> {
    typed: Option<&'a core::TypedExtensionConfig>,
    older: Option<&'a core::DnsResolutionConfig>,
    tcp: bool,
}

/// Who is asked for names by all that do not say so themselves: what the system says, or what the bootstrap does.
#[expect(deprecated, reason = "published configurations use them")]
pub(super) fn of_process(cx: &mut Context, message: &Bootstrap) -> Result<NameServers, Error> {
    let (typed, older) = (message.typed_dns_resolver_config.as_ref(), message.dns_resolution_config.as_ref());
    name_servers(cx, &Said { typed, older, tcp: message.use_tcp_for_dns_lookups }, "")
}

/// The same of a cluster.
#[expect(deprecated, reason = "published configurations use them")]
fn of_cluster(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<NameServers, Error> {
    let (typed, older) = (message.typed_dns_resolver_config.as_ref(), message.dns_resolution_config.as_ref());
    let tcp = message.use_tcp_for_dns_lookups;
    if typed.is_none() && older.is_none() {
        return Ok(NameServers { tcp: tcp || cx.name_servers.tcp, ..cx.name_servers.clone() });
    }
    name_servers(cx, &Said { typed, older, tcp }, at)
}

fn name_servers(cx: &mut Context, said: &Said<'_>, at: &str) -> Result<NameServers, Error> {
    let mut servers = NameServers { tcp: said.tcp, ..NameServers::default() };
    let addresses = |addresses: &[core::Address], at: &str| -> Result<Vec<_>, Error> {
        let numbered = addresses.iter().enumerate();
        numbered.map(|(index, address)| socket_address(Some(address), &item(at, "resolvers", index))).collect()
    };
    if let Some(config) = said.older {
        servers.addresses = addresses(&config.resolvers, &sub(at, "dns_resolution_config"))?;
        servers.options(config.dns_resolver_options.as_ref());
    }
    let Some(config) = said.typed else { return Ok(servers) };
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
            servers.resolver = Resolver::GetAddrInfo;
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

/// How the names of an assignment are resolved.
#[expect(deprecated, reason = "the extension that replaces these fields is not supported yet")]
pub(super) fn dns(
    cx: &mut Context,
    message: &proto::Cluster,
    strict: bool,
    assignment: Assignment,
    at: &str,
) -> Result<Dns, Error> {
    use proto::cluster::DnsLookupFamily;
    let refresh = match &message.dns_refresh_rate {
        None => REFRESH,
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
    let servers = of_cluster(cx, message, at)?;
    let (family, respect_ttl) = (message.dns_lookup_family(), message.respect_dns_ttl);
    Ok(Dns {
        strict,
        weights: assignment.weights.into(),
        policy: assignment.policy,
        names: assignment
            .endpoints
            .into_iter()
            .map(|assigned| {
                let hostname = if assigned.hostname.is_empty() { &assigned.host } else { &assigned.hostname };
                let hostname = Arc::from(hostname.as_str());
                DnsName { host: assigned.host.into(), hostname, port: assigned.port, template: assigned.template }
            })
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
