//! How upstream connections are made: source addresses, socket options, several addresses, PROXY protocol.

use std::{net::SocketAddr, time::Duration};

use socket2::TcpKeepalive;
use weir_proto::envoy::{
    config::{
        cluster::v3 as proto,
        core::v3::{self as core, socket_option},
    },
    extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport,
};

use super::{
    context::Context,
    fields::{item, sub},
};
use crate::{
    config::error::Error,
    wire::{
        proxy_header::{ProxyHeader, Tlv},
        race::{Family, Preference},
        socket::{SocketOption, SocketSettings, SocketState},
    },
};

/// What a cluster's sockets are given before they connect.
pub(super) fn socket(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<SocketSettings, Error> {
    let mut settings = bind(cx, message.upstream_bind_config.as_ref(), &sub(at, "upstream_bind_config"))?;
    settings.keepalive = keepalive(cx, message.upstream_connection_options.as_ref(), at)?;
    Ok(settings)
}

fn bind(cx: &mut Context, message: Option<&core::BindConfig>, at: &str) -> Result<SocketSettings, Error> {
    let mut settings = SocketSettings::default();
    let Some(message) = message else { return Ok(settings) };
    let supported = ["source_address", "freebind", "socket_options", "extra_source_addresses"];
    // Its only implementation does what is done here.
    cx.only(message, at, &supported, &["local_address_selector"])?;
    settings.freebind = message.freebind.unwrap_or(false);
    if let Some(source) = &message.source_address {
        settings.sources.push(source_address(source, &sub(at, "source_address"))?);
    }
    for (index, extra) in message.extra_source_addresses.iter().enumerate() {
        let at_extra = item(at, "extra_source_addresses", index);
        cx.only(extra, &at_extra, &["address"], &[])?;
        if index > 0 {
            return Err(Error::at(at_extra, "there is more than one extra source address, expected at most one"));
        }
        let address_at = sub(&at_extra, "address");
        let address = extra.address.as_ref().ok_or_else(|| Error::at(&address_at, "an address is required"))?;
        let address = source_address(address, &address_at)?;
        match settings.sources.first() {
            None => return Err(Error::at(at_extra, "an extra source address with no source_address")),
            Some(first) if first.is_ipv4() == address.is_ipv4() => {
                return Err(Error::at(
                    at_extra,
                    "has the same IP version source addresses twice: source_address has it",
                ));
            }
            Some(_) => settings.sources.push(address),
        }
    }
    for (index, option) in message.socket_options.iter().enumerate() {
        settings.options.push(option_of(cx, option, &item(at, "socket_options", index))?);
    }
    Ok(settings)
}

fn source_address(message: &core::SocketAddress, at: &str) -> Result<SocketAddr, Error> {
    use core::socket_address::PortSpecifier;
    let ip = message
        .address
        .parse()
        .map_err(|_| Error::at(sub(at, "address"), format!("malformed IP address: {}", message.address)))?;
    let port = match &message.port_specifier {
        None => 0,
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| Error::at(sub(at, "port_value"), format!("{port} is not a port")))?
        }
        Some(PortSpecifier::NamedPort(_)) => return Err(Error::at(sub(at, "named_port"), "not supported yet")),
    };
    Ok(SocketAddr::new(ip, port))
}

fn option_of(cx: &mut Context, message: &core::SocketOption, at: &str) -> Result<SocketOption, Error> {
    cx.only(message, at, &["description", "level", "name", "int_value", "buf_value", "state"], &[])?;
    let state = match message.state() {
        core::socket_option::SocketState::StatePrebind => SocketState::PreBind,
        core::socket_option::SocketState::StateBound => SocketState::Bound,
        core::socket_option::SocketState::StateListening => {
            return Err(Error::at(sub(at, "state"), "STATE_LISTENING is for listeners"));
        }
    };
    let value = match &message.value {
        Some(socket_option::Value::IntValue(value)) => *value,
        // Most options are numbers, and a buffer holds one as the machine does.
        Some(socket_option::Value::BufValue(bytes)) => match <[u8; 4]>::try_from(bytes.as_ref()) {
            Ok(bytes) => i64::from(i32::from_ne_bytes(bytes)),
            Err(_) => return Err(Error::at(sub(at, "buf_value"), "expected 4 bytes: others are not supported yet")),
        },
        None => return Err(Error::at(at, "expected int_value or buf_value")),
    };
    let value = i32::try_from(value).map_err(|_| Error::at(sub(at, "int_value"), "expected a number of 32 bits"))?;
    SocketOption::new(message.level, message.name, value, state).ok_or_else(|| {
        let message = format!("the socket option {} of the level {} is not supported yet", message.name, message.level);
        Error::at(sub(at, "name"), message)
    })
}

/// `upstream_connection_options.tcp_keepalive`: what is not set is the kernel's default.
fn keepalive(
    cx: &mut Context,
    message: Option<&proto::UpstreamConnectionOptions>,
    at: &str,
) -> Result<Option<TcpKeepalive>, Error> {
    let Some(message) = message else { return Ok(None) };
    let at = sub(at, "upstream_connection_options");
    let harmless = ["set_local_interface_name_on_upstream_connections"];
    cx.only(message, &at, &["tcp_keepalive", "happy_eyeballs_config"], &harmless)?;
    let Some(message) = &message.tcp_keepalive else { return Ok(None) };
    cx.only(message, &sub(&at, "tcp_keepalive"), &["keepalive_probes", "keepalive_time", "keepalive_interval"], &[])?;
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = message.keepalive_time {
        keepalive = keepalive.with_time(seconds(time));
    }
    if let Some(interval) = message.keepalive_interval {
        keepalive = keepalive.with_interval(seconds(interval));
    }
    if let Some(probes) = message.keepalive_probes {
        keepalive = keepalive.with_retries(probes);
    }
    Ok(Some(keepalive))
}

/// `happy_eyeballs_config`.
pub(super) fn preference(message: Option<&proto::UpstreamConnectionOptions>) -> Preference {
    use proto::upstream_connection_options::FirstAddressFamilyVersion as Version;
    let Some(message) = message.and_then(|message| message.happy_eyeballs_config.as_ref()) else {
        return Preference::default();
    };
    Preference {
        first: match message.first_address_family_version() {
            // Endpoints have neither pipes nor internal addresses.
            Version::Default | Version::Pipe | Version::Internal => None,
            Version::V4 => Some(Family::V4),
            Version::V6 => Some(Family::V6),
        },
        count: message.first_address_family_count.map_or(1, |count| count as usize),
    }
}

/// How upstreams are told whose connection it is, by a transport socket around another.
pub(super) fn proxy_transport(
    cx: &mut Context,
    message: &ProxyProtocolUpstreamTransport,
    at: &str,
) -> Result<ProxyHeader, Error> {
    cx.only(message, at, &["config", "transport_socket"], &[])?;
    if message.transport_socket.is_none() {
        return Err(Error::at(sub(at, "transport_socket"), "a transport socket is required"));
    }
    let default = core::ProxyProtocolConfig::default();
    proxy_header(cx, message.config.as_ref().unwrap_or(&default), &sub(at, "config"))
}

/// How upstreams are told whose connection it is.
pub(super) fn proxy_header(
    cx: &mut Context,
    config: &core::ProxyProtocolConfig,
    at: &str,
) -> Result<ProxyHeader, Error> {
    cx.only(config, at, &["version", "added_tlvs"], &[])?;
    let mut tlvs = Vec::new();
    for (index, tlv) in config.added_tlvs.iter().enumerate() {
        let at = item(at, "added_tlvs", index);
        cx.only(tlv, &at, &["type", "value"], &[])?;
        let kind = u8::try_from(tlv.r#type).map_err(|_| Error::at(sub(&at, "type"), "expected 0 to 255"))?;
        tlvs.push(Tlv { kind, value: tlv.value.as_ref().into() });
    }
    if tlvs.iter().map(|tlv| tlv.value.len() + 3).sum::<usize>() > ProxyHeader::MAX_TLVS {
        return Err(Error::at(sub(at, "added_tlvs"), format!("expected at most {} bytes", ProxyHeader::MAX_TLVS)));
    }
    Ok(match config.version() {
        core::proxy_protocol_config::Version::V1 => ProxyHeader::V1,
        core::proxy_protocol_config::Version::V2 => ProxyHeader::V2(tlvs.into()),
    })
}
