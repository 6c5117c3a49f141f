//! Network filters.

use std::sync::Arc;

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::{
    config::{
        cluster::v3::Cluster as ClusterProto,
        core::v3::{ExtensionConfigSource, RuntimeFeatureFlag},
        listener::v3::{self as proto, filter::ConfigType},
    },
    extensions::filters::network::{
        connection_limit::v3::ConnectionLimit as LimitProto,
        direct_response::v3::Config as ResponseProto,
        echo::v3::Echo,
        http_connection_manager::v3::HttpConnectionManager as HttpProto,
        local_ratelimit::v3::LocalRateLimit as RateProto,
        rbac::v3::{Rbac as RbacProto, rbac::EnforcementType},
        sni_cluster::v3::SniCluster,
        tcp_proxy::v3::TcpProxy as TcpProto,
    },
};

use super::{
    context::Context,
    discovered::extension,
    fields::{data_source, duration, item, limit, sub, type_name, typed, unpack},
    filter, filter_state, forward, http, istio, rbac, tcp,
    tree::Inputs,
};
use crate::{
    config::{
        cell::nothing_further,
        error::Error,
        listener::Terminal,
        network::{ConnectionLimit, ConnectionRate, NetworkFilter, NetworkRbac, RbacStats, Switch},
        rbac::Engine,
    },
    telemetry::stats::Scope,
};

/// A network filter, by what becomes of a connection after it.
pub(super) enum Kind {
    /// The next one has it.
    Passing(NetworkFilter),
    /// It is the last.
    Terminal(Terminal),
}

pub(super) fn filter(
    cx: &mut Context,
    message: &proto::Filter,
    buffer_limit: usize,
    stats: &Scope,
    is_last: bool,
    at: &str,
) -> Result<Kind, Error> {
    match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => made(cx, any, buffer_limit, stats, &sub(at, "typed_config")),
        Some(ConfigType::ConfigDiscovery(discovery)) => {
            let at = sub(at, "config_discovery");
            discovered(cx, (&message.name, is_last), discovery, (buffer_limit, stats), &at)
        }
        None => Err(Error::at(sub(at, "typed_config"), "a configuration is required")),
    }
}

/// A filter whose configuration comes by itself: the last of its chain, or another.
fn discovered(
    cx: &mut Context,
    (name, is_last): (&str, bool),
    discovery: &ExtensionConfigSource,
    (buffer_limit, stats): (usize, &Scope),
    at: &str,
) -> Result<Kind, Error> {
    let (of, stats) = (("network_filter", name), stats.clone());
    if is_last {
        let make = move |cx: &mut Context, any: &Any, at: &str| match made(cx, any, buffer_limit, &stats, at)? {
            Kind::Terminal(terminal) => Ok(terminal),
            Kind::Passing(_) => Err(Error::at(at, "the last filter of a chain must be a terminal one")),
        };
        let further = |terminal: &Terminal| match terminal {
            Terminal::Http(manager) => manager.routes.cells(),
            _ => Vec::new(),
        };
        return Ok(Kind::Terminal(Terminal::Discovered(extension(cx, of, discovery, at, make, further)?)));
    }
    let make = move |cx: &mut Context, any: &Any, at: &str| match made(cx, any, buffer_limit, &stats, at)? {
        Kind::Passing(filter) => Ok(filter),
        Kind::Terminal(_) => Err(Error::at(at, "terminal filter is not the last one of its chain")),
    };
    let slot = extension(cx, of, discovery, at, make, nothing_further)?;
    Ok(Kind::Passing(NetworkFilter::Discovered(slot)))
}

fn made(cx: &mut Context, any: &Any, buffer_limit: usize, stats: &Scope, at: &str) -> Result<Kind, Error> {
    let any = &*typed(any, at)?;
    Ok(match type_name(any) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let manager: HttpProto = unpack(any, at)?;
            let manager = http::connection_manager(cx, &manager, buffer_limit, stats, at)?;
            Kind::Terminal(Terminal::Http(Arc::new(manager)))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            let proxy: TcpProto = unpack(any, at)?;
            Kind::Terminal(Terminal::Tcp(Arc::new(tcp::proxy(cx, &proxy, at)?)))
        }
        "envoy.extensions.filters.network.echo.v3.Echo" => {
            cx.only(&unpack::<Echo>(any, at)?, at, &[], &[])?;
            Kind::Terminal(Terminal::Echo)
        }
        "envoy.extensions.filters.network.direct_response.v3.Config" => {
            let message: ResponseProto = unpack(any, at)?;
            cx.only(&message, at, &["response"], &[])?;
            let at = &sub(at, "response");
            let response = message.response.as_ref().map(|source| data_source(source, at)).transpose()?;
            Kind::Terminal(Terminal::DirectResponse(response.unwrap_or_default().into()))
        }
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
            cx.only(&unpack::<SniCluster>(any, at)?, at, &[], &[])?;
            Kind::Passing(NetworkFilter::SniCluster)
        }
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig" => {
            Kind::Passing(NetworkFilter::SniForwardProxy(forward::sni_filter(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let message: RbacProto = unpack(any, at)?;
            Kind::Passing(NetworkFilter::Rbac(Box::new(network_rbac(cx, &message, at)?)))
        }
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => {
            let message: RateProto = unpack(any, at)?;
            Kind::Passing(NetworkFilter::LocalRateLimit(Box::new(local_ratelimit(cx, &message, at)?)))
        }
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
            let message: LimitProto = unpack(any, at)?;
            Kind::Passing(NetworkFilter::ConnectionLimit(Box::new(connection_limit(cx, &message, at)?)))
        }
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz" => {
            Kind::Passing(NetworkFilter::Authz(Box::new(filter::connection_authz(cx, &unpack(any, at)?, at)?)))
        }
        "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
            let settings = filter_state::of_connections(cx, &unpack(any, at)?, at)?;
            Kind::Passing(NetworkFilter::SetFilterState(Box::new(settings)))
        }
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {
            istio::metadata_exchange(cx, &unpack(any, at)?, at)?;
            Kind::Passing(NetworkFilter::Telling)
        }
        "stats.PluginConfig" => {
            istio::stats(cx, &unpack(any, at)?, at)?;
            Kind::Passing(NetworkFilter::Telling)
        }
        other => return Err(Error::at(at, format!("network filter {other} is not supported yet"))),
    })
}

/// `filters` of a cluster. What changes nothing of its connections is taken.
pub(super) fn of_cluster(cx: &mut Context, message: &ClusterProto, at: &str) -> Result<(), Error> {
    for (index, filter) in message.filters.iter().enumerate() {
        let at = item(at, "filters", index);
        cx.only(filter, &at, &["name", "typed_config"], &[])?;
        let any = filter.typed_config.as_ref();
        let at = sub(&at, "typed_config");
        let any = any.ok_or_else(|| Error::at(&at, "a configuration is required"))?;
        let any = &*typed(any, &at)?;
        match type_name(any) {
            "envoy.tcp.metadataexchange.config.MetadataExchange" => {
                istio::metadata_exchange(cx, &unpack(any, &at)?, &at)?;
            }
            other => return Err(Error::at(at, format!("network filter {other} is not supported here yet"))),
        }
    }
    Ok(())
}

fn network_rbac(cx: &mut Context, message: &RbacProto, at: &str) -> Result<NetworkRbac, Error> {
    let supported = [
        "rules",
        "matcher",
        "shadow_rules",
        "shadow_matcher",
        "shadow_rules_stat_prefix",
        "stat_prefix",
        "enforcement_type",
        "delay_deny",
    ];
    cx.only(message, at, &supported, &[])?;
    let mut engine = |rules: Option<&_>, matcher: Option<&_>, fields: [&str; 2]| {
        let [rules_at, matcher_at] = fields.map(|field| sub(at, field));
        let engine = rbac::engine(cx, rules, matcher, Inputs::Connection, [&rules_at, &matcher_at])?;
        match &engine {
            Some(Engine::Rules(rules)) if rules.read_headers() => {
                Err(Error::at(rules_at, "header: a connection has no headers"))
            }
            _ => Ok(engine),
        }
    };
    let enforced = engine(message.rules.as_ref(), message.matcher.as_ref(), ["rules", "matcher"])?;
    let shadow_fields = ["shadow_rules", "shadow_matcher"];
    let shadow = engine(message.shadow_rules.as_ref(), message.shadow_matcher.as_ref(), shadow_fields)?;
    let scope = cx.stats.scope(&message.stat_prefix).scope("rbac");
    Ok(NetworkRbac {
        rules: enforced,
        shadow,
        shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
        continuous: message.enforcement_type() == EnforcementType::Continuous,
        delay: limit(message.delay_deny.as_ref(), None, &sub(at, "delay_deny"))?,
        stats: RbacStats::new(scope, &message.shadow_rules_stat_prefix),
    })
}

fn local_ratelimit(cx: &mut Context, message: &RateProto, at: &str) -> Result<ConnectionRate, Error> {
    cx.only(message, at, &["stat_prefix", "token_bucket", "runtime_enabled", "share_key"], &[])?;
    let bucket_at = sub(at, "token_bucket");
    let tokens = message.token_bucket.as_ref().ok_or_else(|| Error::at(&bucket_at, "a bucket is required"))?;
    let bucket = filter::bucket(tokens, &bucket_at)?;
    let bucket = match message.share_key.as_str() {
        "" => bucket,
        // Filters with the same key and the same bucket have one.
        key => cx.buckets.lock().entry((key.to_owned(), tokens.encode_to_vec())).or_insert(bucket).clone(),
    };
    let scope = cx.stats.scope("local_rate_limit").scope(&message.stat_prefix);
    Ok(ConnectionRate::new(bucket, switch(message.runtime_enabled.as_ref()), scope))
}

fn connection_limit(cx: &mut Context, message: &LimitProto, at: &str) -> Result<ConnectionLimit, Error> {
    cx.only(message, at, &["stat_prefix", "max_connections", "delay", "runtime_enabled"], &[])?;
    let max = message.max_connections.ok_or_else(|| Error::at(sub(at, "max_connections"), "a limit is required"))?;
    let delay = message.delay.as_ref().map(|delay| duration(delay, &sub(at, "delay"))).transpose()?;
    let scope = cx.stats.scope("connection_limit").scope(&message.stat_prefix);
    Ok(ConnectionLimit::new(max, delay, switch(message.runtime_enabled.as_ref()), scope))
}

fn switch(flag: Option<&RuntimeFeatureFlag>) -> Switch {
    let default = flag.and_then(|flag| flag.default_value).unwrap_or(true);
    Switch { default, key: flag.map(|flag| flag.runtime_key.as_str()).unwrap_or_default().into() }
}
