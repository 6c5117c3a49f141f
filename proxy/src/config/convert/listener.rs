//! Listeners, filter chains and network filters.

use std::{net::SocketAddr, sync::Arc};

use weir_proto::envoy::config::{core::v3 as core, listener::v3 as proto};

use super::{
    access_log,
    context::Context,
    fields::{item, limit, pipe_path, socket_address, sub},
    filter_chain, listener_filter, metadata,
    socket::{self, Purpose},
};
use crate::{
    access_log::Place,
    config::{
        error::Error,
        listener::{AddressOptions, FilterChain, Listener, ListenerSockets, ListenerStats, Pipe, TrafficDirection},
    },
    telemetry::stats::Scope,
    wire::named::NamedAddress,
};

const SUPPORTED: [&str; 29] = [
    "bypass_overload_manager",
    "drain_type",
    "metadata",
    "name",
    "stat_prefix",
    "ignore_global_conn_limit",
    "address",
    "additional_addresses",
    "filter_chains",
    "filter_chain_matcher",
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
    "tcp_fast_open_queue_length",
    "enable_reuse_port",
    "tcp_keepalive",
];

/// What an internal listener may say.
const OF_INTERNAL: [&str; 20] = [
    "drain_type",
    "metadata",
    "name",
    "stat_prefix",
    "ignore_global_conn_limit",
    "filter_chains",
    "filter_chain_matcher",
    "default_filter_chain",
    "use_original_dst",
    "per_connection_buffer_limit_bytes",
    "listener_filters",
    "listener_filters_timeout",
    "continue_on_listener_filters_timeout",
    "traffic_direction",
    "access_log",
    "bind_to_port",
    "internal_listener",
    "stats_matcher",
    "bypass_overload_manager",
    "per_connection_buffer_high_watermark_timeout",
];

const HARMLESS: [&str; 5] = [
    "stats_matcher",
    "connection_balance_config",
    "reuse_port",
    "max_connections_to_accept_per_socket_event",
    "per_connection_buffer_high_watermark_timeout",
];

pub(super) fn listener(cx: &mut Context, message: &proto::Listener, index: usize, at: &str) -> Result<Listener, Error> {
    cx.only(message, at, &SUPPORTED, &HARMLESS)?;
    cx.waits.clear();
    let internal = message.listener_specifier.is_some();
    if internal {
        // Of sockets there is nothing to say where there is none.
        cx.only(message, at, &OF_INTERNAL, &[])?;
    }
    // Envoy names listeners without a name by a random id; a stable one is more use in logs.
    cx.bypasses_overload = message.bypass_overload_manager;
    cx.modify_only = message.drain_type() == proto::listener::DrainType::ModifyOnly;
    cx.outbound = message.traffic_direction() == core::TrafficDirection::Outbound;
    let name = if message.name.is_empty() { format!("listener_{index}") } else { message.name.clone() };
    let mut pipes = Vec::new();
    let mut addresses = match internal {
        true => Vec::new(),
        false => vec![address(&mut pipes, message.address.as_ref(), &sub(at, "address"))?],
    };
    for (index, additional) in message.additional_addresses.iter().enumerate() {
        let at = item(at, "additional_addresses", index);
        cx.only(additional, &at, &["address", "socket_options", "tcp_keepalive"], &[])?;
        addresses.push(address(&mut pipes, additional.address.as_ref(), &sub(&at, "address"))?);
    }
    if !pipes.is_empty() {
        only_for_ip(message, at)?;
    }
    let sockets = sockets(cx, message, &addresses, at)?;
    let filters = listener_filter::filters(cx, &message.listener_filters, at)?;
    let of_filters = std::mem::take(&mut cx.waits);
    let stats = stats_scope(cx, message, &name, &addresses);
    #[expect(deprecated, reason = "published configurations use it")]
    let bind = message
        .bind_to_port
        .or_else(|| message.deprecated_v1.as_ref().and_then(|old| old.bind_to_port))
        .unwrap_or(true)
        && !internal
        && !cx.for_pods;
    let buffer_limit =
        message.per_connection_buffer_limit_bytes.map_or(Listener::DEFAULT_BUFFER_LIMIT, |bytes| bytes as usize);
    let listener_metadata = metadata::metadata(message.metadata.as_ref()).map(Arc::new);
    let place = |chain: &proto::FilterChain| {
        Arc::new(Place {
            listener: name.as_str().into(),
            filter_chain: chain.name.as_str().into(),
            listener_metadata: listener_metadata.clone(),
            chain_metadata: metadata::metadata(chain.metadata.as_ref()),
        })
    };
    let mut filter_chains = Vec::new();
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let at = item(at, "filter_chains", index);
        filter_chains.push(one_chain(cx, chain, &|| place(chain), buffer_limit, &stats, &at)?);
    }
    let filter_chain_matcher = match &message.filter_chain_matcher {
        Some(matcher) => Some(filter_chain::matcher(cx, matcher, &filter_chains, at)?),
        None => {
            filter_chain::tell_apart(&filter_chains, at)?;
            None
        }
    };
    let default_filter_chain = message
        .default_filter_chain
        .as_ref()
        .map(|chain| {
            let at = sub(at, "default_filter_chain");
            one_chain(cx, chain, &|| place(chain), buffer_limit, &stats, &at)
        })
        .transpose()?;
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        return Err(Error::at(at, "no filter chains specified"));
    }
    let chains = filter_chains.iter().chain(&default_filter_chain);
    let waits = of_filters.into_iter().chain(chains.flat_map(|chain| chain.waits.iter().cloned())).collect();
    Ok(Listener {
        addresses,
        pipes,
        internal,
        bind,
        sockets,
        direction: match message.traffic_direction() {
            core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
            core::TrafficDirection::Inbound => TrafficDirection::Inbound,
            core::TrafficDirection::Outbound => TrafficDirection::Outbound,
        },
        use_original_destination: message.use_original_dst.unwrap_or(false),
        filters,
        listener_filters_timeout: limit(
            message.listener_filters_timeout.as_ref(),
            Some(Listener::DEFAULT_FILTERS_TIMEOUT),
            &sub(at, "listener_filters_timeout"),
        )?,
        continue_on_listener_filters_timeout: message.continue_on_listener_filters_timeout,
        buffer_limit,
        filter_chains,
        filter_chain_matcher,
        default_filter_chain,
        access_log: access_log::access_logs(cx, &message.access_log, at, "access_log")?,
        process_ceiling: (!message.ignore_global_conn_limit).then(|| cx.ceiling.clone()),
        bypasses_overload: message.bypass_overload_manager,
        stats: ListenerStats::new(stats),
        waits,
        ..Listener::named(&name)
    })
}

/// A filter chain: a new one, unless there is one that was made from the same.
fn one_chain(
    cx: &mut Context,
    message: &proto::FilterChain,
    place: &dyn Fn() -> Arc<Place>,
    buffer_limit: usize,
    stats: &Scope,
    at: &str,
) -> Result<Arc<FilterChain>, Error> {
    if let Some((_, kept)) = cx.kept.iter().find(|(of, _)| of == message) {
        return Ok(kept.clone());
    }
    filter_chain::filter_chain(cx, message, place(), buffer_limit, stats, at).map(Arc::new)
}

/// What a listener listens on. If it is a Unix socket, that is added to `pipes`.
fn address(pipes: &mut Vec<Pipe>, message: Option<&core::Address>, at: &str) -> Result<SocketAddr, Error> {
    let Some(core::address::Address::Pipe(pipe)) = message.and_then(|message| message.address.as_ref()) else {
        return socket_address(message, at);
    };
    let named = NamedAddress::pipe(pipe_path(pipe, &sub(at, "pipe"))?);
    let address = named.address();
    pipes.push(Pipe { address: named, mode: pipe.mode });
    Ok(address)
}

/// Refuses what sockets that are not of IP can't have.
fn only_for_ip(message: &proto::Listener, at: &str) -> Result<(), Error> {
    let said = [
        ("enable_mptcp", message.enable_mptcp),
        ("transparent", message.transparent == Some(true)),
        ("freebind", message.freebind == Some(true)),
        ("tcp_fast_open_queue_length", message.tcp_fast_open_queue_length.is_some()),
    ];
    match said.iter().find(|(_, said)| *said) {
        Some((field, _)) => Err(Error::at(sub(at, field), "can only be used with IP addresses")),
        None => Ok(()),
    }
}

/// How a listener's sockets are made.
fn sockets(
    cx: &mut Context,
    message: &proto::Listener,
    addresses: &[SocketAddr],
    at: &str,
) -> Result<ListenerSockets, Error> {
    let keepalive = |cx: &mut Context, message: Option<&core::TcpKeepalive>, at: &str| {
        message.map(|message| socket::keepalive(cx, message, &sub(at, "tcp_keepalive"))).transpose()
    };
    let options = AddressOptions {
        options: socket::options(cx, &message.socket_options, Purpose::Listen, at)?,
        keepalive: keepalive(cx, message.tcp_keepalive.as_ref(), at)?,
    };
    let mut own = Vec::new();
    for (index, (additional, address)) in message.additional_addresses.iter().zip(addresses.iter().skip(1)).enumerate()
    {
        let at = item(at, "additional_addresses", index);
        let mut of_address = options.clone();
        if let Some(options) = &additional.socket_options {
            let at = sub(&at, "socket_options");
            of_address.options = socket::options(cx, &options.socket_options, Purpose::Listen, &at)?;
        }
        if let Some(own) = keepalive(cx, additional.tcp_keepalive.as_ref(), &at)? {
            of_address.keepalive = Some(own);
        }
        own.push((*address, of_address));
    }
    Ok(ListenerSockets {
        ipv4_compat: ipv4_compat(message.address.as_ref()),
        backlog: message.tcp_backlog_size,
        freebind: message.freebind.unwrap_or(false),
        transparent: message.transparent.unwrap_or(false),
        mptcp: message.enable_mptcp,
        reuse_port: message.enable_reuse_port.unwrap_or(true),
        fast_open_queue: message.tcp_fast_open_queue_length,
        options,
        own,
    })
}

fn ipv4_compat(address: Option<&core::Address>) -> bool {
    matches!(
        address.and_then(|address| address.address.as_ref()),
        Some(core::address::Address::SocketAddress(socket)) if socket.ipv4_compat
    )
}

/// The scope of a listener's statistics: Envoy names it by its address, unless told otherwise.
fn stats_scope(cx: &Context, message: &proto::Listener, name: &str, addresses: &[SocketAddr]) -> Scope {
    let name = match (message.stat_prefix.as_str(), addresses.first()) {
        ("", Some(address)) => NamedAddress::text(address),
        ("", None) => format!("envoy://{name}/"),
        (prefix, _) => prefix.to_owned(),
    };
    cx.stats.scope(&format!("listener.{name}"))
}
