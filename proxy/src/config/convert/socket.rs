//! Options of sockets, those that listen and those that connect.

use std::time::Duration;

use socket2::TcpKeepalive;
use weir_proto::envoy::config::core::v3::{self as core, socket_option};

use super::{
    context::Context,
    fields::{item, sub},
};
use crate::{
    config::error::Error,
    wire::socket_option::{SocketOption, SocketState},
};

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To listen.
    Listen,
    /// To connect.
    Connect,
}

/// The options at a field, without those that are for datagrams.
pub(super) fn options(
    cx: &mut Context,
    messages: &[core::SocketOption],
    purpose: Purpose,
    at: &str,
) -> Result<Vec<SocketOption>, Error> {
    let mut options = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let option = option(cx, message, purpose, &item(at, "socket_options", index))?;
        let datagrams = message.r#type.as_ref().is_some_and(|kind| kind.datagram.is_some() && kind.stream.is_none());
        options.extend(Some(option).filter(|_| !datagrams));
    }
    Ok(options)
}

fn option(cx: &mut Context, message: &core::SocketOption, purpose: Purpose, at: &str) -> Result<SocketOption, Error> {
    let supported = ["description", "level", "name", "int_value", "buf_value", "state", "type", "ip_version"];
    cx.only(message, at, &supported, &[])?;
    let number = |value: i64, field: &str| {
        i32::try_from(value).map_err(|_| Error::at(sub(at, field), "expected a number of 32 bits"))
    };
    let state = match (message.state(), purpose) {
        (core::socket_option::SocketState::StatePrebind, _) => SocketState::PreBind,
        (core::socket_option::SocketState::StateBound, _) => SocketState::Bound,
        (core::socket_option::SocketState::StateListening, Purpose::Listen) => SocketState::Listening,
        (core::socket_option::SocketState::StateListening, Purpose::Connect) => {
            return Err(Error::at(sub(at, "state"), "STATE_LISTENING is for listeners"));
        }
    };
    let value = match &message.value {
        Some(socket_option::Value::IntValue(value)) => number(*value, "int_value")?.to_ne_bytes().into(),
        Some(socket_option::Value::BufValue(bytes)) => bytes.as_ref().into(),
        None => return Err(Error::at(at, "expected int_value or buf_value")),
    };
    let ipv6 = match message.ip_version() {
        core::socket_option::SocketIpVersion::Unspecified => None,
        core::socket_option::SocketIpVersion::Ipv4 => Some(false),
        core::socket_option::SocketIpVersion::Ipv6 => Some(true),
    };
    Ok(SocketOption { level: number(message.level, "level")?, name: number(message.name, "name")?, value, state, ipv6 })
}

/// `TcpKeepalive`: what is not set is the kernel's default.
pub(super) fn keepalive(cx: &mut Context, message: &core::TcpKeepalive, at: &str) -> Result<TcpKeepalive, Error> {
    cx.only(message, at, &["keepalive_probes", "keepalive_time", "keepalive_interval"], &[])?;
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
    Ok(keepalive)
}
