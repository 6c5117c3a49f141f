//! Fields that many messages have, and the paths by which errors name them.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use ::http::HeaderName;
use ipnet::IpNet;
use prost::{Message, Name};
use prost_types::Any;
use weir_proto::envoy::config::core::v3 as core;

use crate::{config::error::Error, matcher::structs::object, wire::pipe};

/// The path of a field.
pub(super) fn sub(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

/// The path of an element of a repeated field.
pub(super) fn item(at: &str, field: &str, index: usize) -> String {
    format!("{}[{index}]", sub(at, field))
}

/// Decodes an `Any` of type `M`.
pub(super) fn unpack<M: Message + Name + Default>(any: &prost_types::Any, at: &str) -> Result<M, Error> {
    M::decode(&*any.value).map_err(|error| Error::at(at, format!("not a {}: {error}", M::full_name())))
}

/// What stands at `typed_config`: of a `TypedStruct` what it spells, if its type is known.
pub(super) fn typed<'a>(any: &'a Any, at: &str) -> Result<Cow<'a, Any>, Error> {
    let (type_url, value) = match type_name(any) {
        "udpa.type.v1.TypedStruct" => {
            let message: weir_proto::udpa::r#type::v1::TypedStruct = unpack(any, at)?;
            (message.type_url, message.value)
        }
        "xds.type.v3.TypedStruct" => {
            let message: weir_proto::xds::r#type::v3::TypedStruct = unpack(any, at)?;
            (message.type_url, message.value)
        }
        _ => return Ok(Cow::Borrowed(any)),
    };
    let members = value.as_ref().map(object).unwrap_or_default();
    let text = weir_proto::whole_numbers(members.into()).to_string();
    let spelled = weir_proto::any_from_json(&type_url, &text);
    let spelled = spelled.map_err(|error| Error::at(sub(at, "value"), error.to_string()))?;
    // One of an unknown type is refused by that type's name.
    Ok(Cow::Owned(spelled.unwrap_or(Any { type_url, value: Vec::new() })))
}

/// The message name in an `Any`'s type URL.
pub(super) fn type_name(any: &prost_types::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Times of day and of the process can be as far away as this.
const LONGEST: Duration = Duration::from_secs(weir_proto::MAX_DURATION_SECONDS.unsigned_abs());

/// A duration that is not negative.
pub(super) fn duration(message: &prost_types::Duration, at: &str) -> Result<Duration, Error> {
    let duration = Duration::try_from(*message).map_err(|_| Error::at(at, "expected a duration of at least 0"))?;
    if duration > LONGEST {
        return Err(Error::at(at, format!("expected a duration of at most {} s", LONGEST.as_secs())));
    }
    Ok(duration)
}

/// A duration of which 0 means "never", and an absent one `default`.
pub(super) fn limit(
    message: Option<&prost_types::Duration>,
    default: Option<Duration>,
    at: &str,
) -> Result<Option<Duration>, Error> {
    match message {
        None => Ok(default),
        Some(message) => Ok(Some(duration(message, at)?).filter(|duration| !duration.is_zero())),
    }
}

/// Networks.
pub(super) fn cidrs(messages: &[core::CidrRange], at: &str, field: &str) -> Result<Vec<IpNet>, Error> {
    messages.iter().enumerate().map(|(index, message)| cidr(message, &item(at, field, index))).collect()
}

/// A network.
pub(super) fn cidr(message: &core::CidrRange, at: &str) -> Result<IpNet, Error> {
    let ip: std::net::IpAddr = message.address_prefix.parse().map_err(|_| {
        Error::at(sub(at, "address_prefix"), format!("\"{}\" is not an IP address", message.address_prefix))
    })?;
    let length = message.prefix_len.unwrap_or(0);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(ip, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| Error::at(sub(at, "prefix_len"), format!("{length} is too long for {ip}")))
}

/// Who turns addresses into addresses: nobody, or what does nothing.
const KNOWN_RESOLVERS: [&str; 2] = ["", "envoy.ip"];

/// An IP address and port.
pub(super) fn socket_address(message: Option<&core::Address>, at: &str) -> Result<SocketAddr, Error> {
    let (host, port, at) = host_and_port(message, at)?;
    if let Some(core::address::Address::SocketAddress(socket)) = message.and_then(|message| message.address.as_ref()) {
        known_resolver(&socket.resolver_name, &at)?;
    }
    let ip = host.parse().map_err(|_| Error::at(sub(&at, "address"), format!("\"{host}\" is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// Refuses who is not known to turn addresses into addresses.
pub(super) fn known_resolver(name: &str, at: &str) -> Result<(), Error> {
    match KNOWN_RESOLVERS.contains(&name) {
        true => Ok(()),
        false => Err(Error::at(sub(at, "resolver_name"), format!("Unknown address resolver: {name}"))),
    }
}

/// A host and port, and the path of the socket address.
pub(super) fn host_and_port<'a>(message: Option<&'a core::Address>, at: &str) -> Result<(&'a str, u16, String), Error> {
    use core::{address::Address, socket_address::PortSpecifier};
    let socket = match message.and_then(|message| message.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket,
        Some(Address::Pipe(_)) => return Err(Error::at(sub(at, "pipe"), "not supported yet")),
        Some(Address::EnvoyInternalAddress(_)) => {
            return Err(Error::at(sub(at, "envoy_internal_address"), "not supported yet"));
        }
        None => return Err(Error::at(at, "an address is required")),
    };
    let at = sub(at, "socket_address");
    if socket.protocol() != core::socket_address::Protocol::Tcp {
        return Err(Error::at(sub(&at, "protocol"), "expected TCP: UDP is not supported yet"));
    }
    if !socket.network_namespace_filepath.is_empty() {
        return Err(Error::at(sub(&at, "network_namespace_filepath"), "not supported yet"));
    }
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| Error::at(sub(&at, "port_value"), format!("{port} is not a port")))?
        }
        Some(PortSpecifier::NamedPort(_)) => return Err(Error::at(sub(&at, "named_port"), "not supported yet")),
        None => return Err(Error::at(sub(&at, "port_value"), "a port is required")),
    };
    Ok((&socket.address, port, at))
}

/// A Unix socket's path.
pub(super) fn pipe_path<'a>(message: &'a core::Pipe, at: &str) -> Result<&'a str, Error> {
    let path = message.path.as_str();
    if path.starts_with(pipe::ABSTRACT) {
        if message.mode != 0 {
            return Err(Error::at(sub(at, "mode"), "Cannot set mode for Abstract AF_UNIX sockets"));
        }
    } else if path.len() > pipe::LONGEST {
        let most = pipe::LONGEST + 1;
        let message = format!("Path \"{path}\" exceeds maximum UNIX domain socket path size of {most}.");
        return Err(Error::at(sub(at, "path"), message));
    }
    Ok(path)
}

/// The bytes of a data source.
pub(super) fn data_source(message: &core::DataSource, at: &str) -> Result<Vec<u8>, Error> {
    use core::data_source::Specifier;
    match &message.specifier {
        None => Ok(Vec::new()),
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes().to_vec()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.to_vec()),
        Some(Specifier::Filename(path)) => {
            std::fs::read(path).map_err(|error| Error::at(sub(at, "filename"), format!("{path}: {error}")))
        }
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| Error::at(sub(at, "environment_variable"), format!("{name} is not set"))),
    }
}

/// A header name that is known to be valid.
pub(super) fn header_name(name: &str, path: &str) -> Result<HeaderName, Error> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::at(path, format!("\"{name}\" is not a header name")))
}

/// The header names of a list.
pub(super) fn header_names(names: &[String], at: &str, field: &str) -> Result<Vec<HeaderName>, Error> {
    names.iter().enumerate().map(|(index, name)| header_name(name, &item(at, field, index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_an_end() {
        let read = |seconds, nanos| {
            let message = prost_types::Duration { seconds, nanos };
            duration(&message, "x.idle_timeout").map_err(|error| error.to_string())
        };
        assert_eq!(read(1, 500_000_000), Ok(Duration::from_millis(1500)));
        assert_eq!(read(315_576_000_000, 0), Ok(LONGEST));
        let refused = |what: &str| Err(format!("x.idle_timeout: expected a duration of at {what}"));
        assert_eq!(read(i64::MAX, 0), refused("most 315576000000 s"));
        assert_eq!(read(-1, 0), refused("least 0"));
    }
}
