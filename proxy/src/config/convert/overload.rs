//! The overload manager: of its resource monitors the one that limits open connections.

use weir_proto::envoy::{
    config::overload::v3::{OverloadManager, resource_monitor::ConfigType},
    extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
};

use super::{
    context::Context,
    fields::{item, sub, type_name, unpack},
};
use crate::config::{error::Error, listener::Ceiling};

const DOWNSTREAM_CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// How many connections the process may have open.
pub(super) fn ceiling(cx: &mut Context, message: &OverloadManager, at: &str) -> Result<Ceiling, Error> {
    cx.only(message, at, &["resource_monitors"], &["refresh_interval", "buffer_factory_config"])?;
    let mut ceiling = Ceiling::default();
    for (index, monitor) in message.resource_monitors.iter().enumerate() {
        let at = item(at, "resource_monitors", index);
        cx.only(monitor, &at, &["name", "typed_config"], &[])?;
        let at = sub(&at, "typed_config");
        match &monitor.config_type {
            Some(ConfigType::TypedConfig(any)) if type_name(any) == DOWNSTREAM_CONNECTIONS => {
                let message: DownstreamConnectionsConfig = unpack(any, &at)?;
                let most = u64::try_from(message.max_active_downstream_connections).unwrap_or(0);
                ceiling = Ceiling::of(most, Ceiling::PROCESS);
            }
            Some(ConfigType::TypedConfig(any)) => {
                return Err(Error::at(at, format!("resource monitor {} is not supported yet", type_name(any))));
            }
            None => return Err(Error::at(at, "a configuration is required")),
        }
    }
    Ok(ceiling)
}
