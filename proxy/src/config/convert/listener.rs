//! Listeners, filter chains and network filters.

use std::{collections::HashMap, sync::Arc};

use weir_proto::envoy::{
    config::{core::v3 as core, listener::v3 as proto},
    extensions::filters::{
        listener::tls_inspector::v3::TlsInspector,
        network::{
            http_connection_manager::v3::HttpConnectionManager as HttpProto, tcp_proxy::v3::TcpProxy as TcpProto,
        },
    },
};

use super::{Context, Error, access_log, cidrs, http, item, limit, socket_address, sub, tcp, tls, type_name, unpack};
use crate::{
    config::listener::{
        FilterChain, FilterChainMatch, Listener, ListenerStats, NetworkFilter, SourceType, TrafficDirection,
    },
    telemetry::stats::Scope,
    tls::stats::InspectorStats,
};

const SUPPORTED: [&str; 22] = [
    "name",
    "stat_prefix",
    "ignore_global_conn_limit",
    "address",
    "additional_addresses",
    "filter_chains",
    "default_filter_chain",
    "use_original_dst",
    "per_connection_buffer_limit_bytes",
    "deprecated_v1",
    "listener_filters",
    "listener_filters_timeout",
    "continue_on_listener_filters_timeout",
    "transparent",
    "freebind",
    "traffic_direction",
    "access_log",
    "tcp_backlog_size",
    "bind_to_port",
    "internal_listener",
    "enable_mptcp",
    "socket_options",
];

const HARMLESS: [&str; 11] = [
    "stats_matcher",
    "metadata",
    "drain_type",
    "tcp_fast_open_queue_length",
    "connection_balance_config",
    "reuse_port",
    "enable_reuse_port",
    "max_connections_to_accept_per_socket_event",
    "bypass_overload_manager",
    "per_connection_buffer_high_watermark_timeout",
    "tcp_keepalive",
];

pub(super) fn listener(cx: &mut Context, message: &proto::Listener, index: usize, at: &str) -> Result<Listener, Error> {
    cx.only(message, at, &SUPPORTED, &HARMLESS)?;
    for (set, field) in [
        (message.transparent == Some(true), "transparent"),
        (message.enable_mptcp, "enable_mptcp"),
        (message.listener_specifier.is_some(), "internal_listener"),
        (!message.socket_options.is_empty(), "socket_options"),
    ] {
        if set {
            return Err(Error::at(sub(at, field), "not supported yet"));
        }
    }
    // Envoy names listeners without a name by a random id; a stable one is more use in logs.
    let name = if message.name.is_empty() { format!("listener_{index}") } else { message.name.clone() };
    let mut addresses = vec![socket_address(message.address.as_ref(), &sub(at, "address"))?];
    for (index, additional) in message.additional_addresses.iter().enumerate() {
        let at = item(at, "additional_addresses", index);
        cx.only(additional, &at, &["address"], &["tcp_keepalive"])?;
        addresses.push(socket_address(additional.address.as_ref(), &sub(&at, "address"))?);
    }
    let filters = listener_filters(cx, &message.listener_filters, at)?;
    let stats = stats_scope(cx, message, &addresses);
    #[expect(deprecated, reason = "published configurations use it")]
    let bind = message
        .bind_to_port
        .or_else(|| message.deprecated_v1.as_ref().and_then(|old| old.bind_to_port))
        .unwrap_or(true);
    let buffer_limit =
        message.per_connection_buffer_limit_bytes.map_or(Listener::DEFAULT_BUFFER_LIMIT, |bytes| bytes as usize);
    let mut filter_chains = Vec::new();
    let mut matches = HashMap::new();
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let at = item(at, "filter_chains", index);
        let chain = filter_chain(cx, chain, buffer_limit, &stats, &at)?;
        if let Some(earlier) = matches.insert(format!("{:?}", chain.matches), index) {
            let message =
                format!("the same matching rules as filter_chains[{earlier}]: every filter chain needs its own");
            return Err(Error::at(sub(&at, "filter_chain_match"), message));
        }
        filter_chains.push(Arc::new(chain));
    }
    let default_filter_chain = message
        .default_filter_chain
        .as_ref()
        .map(|chain| filter_chain(cx, chain, buffer_limit, &stats, &sub(at, "default_filter_chain")).map(Arc::new))
        .transpose()?;
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return Err(Error::at(at, "no filter chains specified"));
    }
    Ok(Listener {
        addresses,
        bind,
        ipv4_compat: ipv4_compat(message.address.as_ref()),
        backlog: message.tcp_backlog_size,
        freebind: message.freebind.unwrap_or(false),
        direction: match message.traffic_direction() {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        },
        use_original_destination: message.use_original_dst.unwrap_or(false),
        restore_original_destination: filters.original_destination,
        inspect_tls: filters.tls_inspector,
        inspect_http: filters.http_inspector,
        listener_filters_timeout: limit(
            message.listener_filters_timeout.as_ref(),
            Some(Listener::DEFAULT_FILTERS_TIMEOUT),
            &sub(at, "listener_filters_timeout"),
        )?,
        continue_on_listener_filters_timeout: message.continue_on_listener_filters_timeout,
        buffer_limit,
        filter_chains,
        default_filter_chain,
        access_log: access_log::access_logs(cx, &message.access_log, at, "access_log")?,
        process_ceiling: (!message.ignore_global_conn_limit).then(|| cx.ceiling.clone()),
        stats: ListenerStats::new(stats),
        ..Listener::named(&name)
    })
}

fn ipv4_compat(address: Option<&core::Address>) -> bool {
    matches!(
        address.and_then(|address| address.address.as_ref()),
        Some(core::address::Address::SocketAddress(socket)) if socket.ipv4_compat
    )
}

#[derive(Default)]
struct ListenerFilters {
    original_destination: bool,
    tls_inspector: Option<InspectorStats>,
    http_inspector: bool,
}

fn listener_filters(cx: &mut Context, messages: &[proto::ListenerFilter], at: &str) -> Result<ListenerFilters, Error> {
    let mut filters = ListenerFilters::default();
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "listener_filters", index);
        cx.only(message, &at, &["name", "typed_config"], &[])?;
        let kind = match &message.config_type {
            Some(proto::listener_filter::ConfigType::TypedConfig(any)) => type_name(any),
            _ => &message.name,
        };
        match kind {
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" | "envoy.filters.listener.original_dst" => {
                filters.original_destination = true
            }
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
            | "envoy.filters.listener.tls_inspector" => {
                tls_inspector(cx, message, &at)?;
                filters.tls_inspector = Some(InspectorStats::new(&cx.stats));
            }
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
            | "envoy.filters.listener.http_inspector" => filters.http_inspector = true,
            other => return Err(Error::at(at, format!("listener filter {other} is not supported yet"))),
        }
    }
    Ok(filters)
}

/// The scope of a listener's statistics: Envoy names it by its address, unless told otherwise.
fn stats_scope(cx: &Context, message: &proto::Listener, addresses: &[std::net::SocketAddr]) -> Scope {
    let name = match (message.stat_prefix.as_str(), addresses.first()) {
        ("", Some(address)) => address.to_string(),
        (prefix, _) => prefix.to_owned(),
    };
    cx.stats.scope(&format!("listener.{name}"))
}

fn tls_inspector(cx: &mut Context, message: &proto::ListenerFilter, at: &str) -> Result<(), Error> {
    let Some(proto::listener_filter::ConfigType::TypedConfig(any)) = &message.config_type else { return Ok(()) };
    let at = sub(at, "typed_config");
    let message: TlsInspector = unpack(any, &at)?;
    for (set, field) in [
        (message.enable_ja3_fingerprinting == Some(true), "enable_ja3_fingerprinting"),
        (message.enable_ja4_fingerprinting == Some(true), "enable_ja4_fingerprinting"),
    ] {
        if set {
            return Err(Error::at(sub(&at, field), "not supported yet"));
        }
    }
    let supported = ["enable_ja3_fingerprinting", "enable_ja4_fingerprinting"];
    // The kernel keeps the bytes that are looked at: there is no buffer to size.
    cx.only(&message, &at, &supported, &["initial_read_buffer_size"])
}

fn filter_chain(
    cx: &mut Context,
    message: &proto::FilterChain,
    buffer_limit: usize,
    stats: &Scope,
    at: &str,
) -> Result<FilterChain, Error> {
    let supported = ["filter_chain_match", "filters", "name", "transport_socket", "transport_socket_connect_timeout"];
    cx.only(message, at, &supported, &["metadata"])?;
    let tls = tls::downstream(cx, message.transport_socket.as_ref(), stats, &sub(at, "transport_socket"))?;
    let timeout_at = sub(at, "transport_socket_connect_timeout");
    let handshake_timeout = limit(message.transport_socket_connect_timeout.as_ref(), None, &timeout_at)?;
    let matches = match &message.filter_chain_match {
        None => FilterChainMatch::default(),
        Some(matches) => filter_chain_match(cx, matches, &sub(at, "filter_chain_match"))?,
    };
    let mut terminal = None;
    for (index, filter) in message.filters.iter().enumerate() {
        let at = item(at, "filters", index);
        if terminal.is_some() {
            return Err(Error::at(item_before(&at, index), "terminal filter is not the last one of its chain"));
        }
        terminal = Some(network_filter(cx, filter, buffer_limit, stats, &at)?);
    }
    let terminal = terminal.ok_or_else(|| {
        Error::at(sub(at, "filters"), "expected one of http_connection_manager and tcp_proxy as the last filter")
    })?;
    Ok(FilterChain { name: message.name.as_str().into(), matches, tls, handshake_timeout, terminal })
}

fn item_before(at: &str, index: usize) -> String {
    at.replace(&format!("filters[{index}]"), &format!("filters[{}]", index - 1))
}

fn filter_chain_match(
    cx: &mut Context,
    message: &proto::FilterChainMatch,
    at: &str,
) -> Result<FilterChainMatch, Error> {
    let supported = [
        "destination_port",
        "prefix_ranges",
        "direct_source_prefix_ranges",
        "source_type",
        "source_prefix_ranges",
        "source_ports",
        "server_names",
        "transport_protocol",
        "application_protocols",
    ];
    cx.only(message, at, &supported, &[])?;
    let port = |port: u32, at: String| u16::try_from(port).map_err(|_| Error::at(at, format!("{port} is not a port")));
    let mut server_names = Vec::new();
    for (index, name) in message.server_names.iter().enumerate() {
        let at = item(at, "server_names", index);
        let suffix = name.strip_prefix("*.").unwrap_or(name);
        if suffix.contains('*') {
            return Err(Error::at(at, format!("partial wildcards are not supported: \"{name}\"")));
        }
        server_names.push(name.to_ascii_lowercase().into());
    }
    use proto::filter_chain_match::ConnectionSourceType;
    Ok(FilterChainMatch {
        destination_port: message.destination_port.map(|n| port(n, sub(at, "destination_port"))).transpose()?,
        prefix_ranges: cidrs(&message.prefix_ranges, at, "prefix_ranges")?,
        server_names,
        transport_protocol: message.transport_protocol.as_str().into(),
        application_protocols: message.application_protocols.iter().map(|name| name.as_str().into()).collect(),
        direct_source_prefix_ranges: cidrs(&message.direct_source_prefix_ranges, at, "direct_source_prefix_ranges")?,
        source_type: match message.source_type() {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            ConnectionSourceType::External => SourceType::External,
        },
        source_prefix_ranges: cidrs(&message.source_prefix_ranges, at, "source_prefix_ranges")?,
        source_ports: message
            .source_ports
            .iter()
            .enumerate()
            .map(|(index, n)| port(*n, item(at, "source_ports", index)))
            .collect::<Result<_, _>>()?,
    })
}

fn network_filter(
    cx: &mut Context,
    message: &proto::Filter,
    buffer_limit: usize,
    stats: &Scope,
    at: &str,
) -> Result<NetworkFilter, Error> {
    let Some(proto::filter::ConfigType::TypedConfig(any)) = &message.config_type else {
        return Err(Error::at(sub(at, "typed_config"), "a configuration is required"));
    };
    let at = sub(at, "typed_config");
    match type_name(any) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let manager: HttpProto = unpack(any, &at)?;
            Ok(NetworkFilter::Http(Arc::new(http::connection_manager(cx, &manager, buffer_limit, stats, &at)?)))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            let proxy: TcpProto = unpack(any, &at)?;
            Ok(NetworkFilter::Tcp(Arc::new(tcp::proxy(cx, &proxy, &at)?)))
        }
        other => Err(Error::at(at, format!("network filter {other} is not supported yet"))),
    }
}
