//! How upstream connections are made: source addresses, socket options, several addresses, PROXY protocol.

use std::net::SocketAddr;

use socket2::TcpKeepalive;
use weir_proto::envoy::{
    config::{cluster::v3 as proto, core::v3 as core},
    extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport,
};

use super::{
    context::Context,
    fields::{item, sub},
    socket::{self, Purpose},
};
use crate::{
    config::error::Error,
    wire::{
        proxy_header::{ProxyHeader, Tlv},
        race::{Family, Preference},
        socket::SocketSettings,
    },
};

/// What a cluster's sockets are given before they connect.
pub(super) fn settings(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<SocketSettings, Error> {
    let mut settings = match &message.upstream_bind_config {
        // It counts instead of what is said for all clusters, but for what it leaves open of these.
        Some(own) => {
            let mut settings = bind(cx, own, &sub(at, "upstream_bind_config"))?;
            settings.freebind = own.freebind.unwrap_or(cx.bind.freebind);
            if own.socket_options.is_empty() {
                settings.options.clone_from(&cx.bind.options);
            }
            settings
        }
        None => cx.bind.clone(),
    };
    settings.keepalive = keepalive(cx, message.upstream_connection_options.as_ref(), at)?;
    Ok(settings)
}

/// `upstream_bind_config`, a cluster's or that of all.
pub(super) fn bind(cx: &mut Context, message: &core::BindConfig, at: &str) -> Result<SocketSettings, Error> {
    let mut settings = SocketSettings::default();
    let supported = ["source_address", "freebind", "socket_options", "extra_source_addresses"];
    // Its only implementation does what is done here.
    cx.only(message, at, &supported, &["local_address_selector"])?;
    settings.freebind = message.freebind.unwrap_or(false);
    if let Some(source) = &message.source_address {
        settings.sources.push(source_address(source, &sub(at, "source_address"))?);
    }
    for (index, extra) in message.extra_source_addresses.iter().enumerate() {
        let at_extra = item(at, "extra_source_addresses", index);
        cx.only(extra, &at_extra, &["address", "socket_options"], &[])?;
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
        if let Some(own) = &extra.socket_options {
            let at = sub(&at_extra, "socket_options");
            settings.extra_options = Some(socket::options(cx, &own.socket_options, Purpose::Connect, &at)?);
        }
    }
    settings.options = socket::options(cx, &message.socket_options, Purpose::Connect, at)?;
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

/// `upstream_connection_options.tcp_keepalive`.
fn keepalive(
    cx: &mut Context,
    message: Option<&proto::UpstreamConnectionOptions>,
    at: &str,
) -> Result<Option<TcpKeepalive>, Error> {
    let Some(message) = message else { return Ok(None) };
    let at = sub(at, "upstream_connection_options");
    let harmless = ["set_local_interface_name_on_upstream_connections"];
    cx.only(message, &at, &["tcp_keepalive", "happy_eyeballs_config"], &harmless)?;
    let message = message.tcp_keepalive.as_ref();
    message.map(|message| socket::keepalive(cx, message, &sub(&at, "tcp_keepalive"))).transpose()
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
