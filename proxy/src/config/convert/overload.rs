//! The overload manager: the limit on open connections, pressures, and what is done under them.

use std::{sync::Arc, time::Duration};

use weir_proto::envoy::{
    config::overload::v3::{
        OverloadManager, Trigger as TriggerMessage, resource_monitor::ConfigType, trigger::TriggerOneof,
    },
    extensions::resource_monitors::{
        downstream_connections::v3::DownstreamConnectionsConfig, fixed_heap::v3::FixedHeapConfig,
        injected_resource::v3::InjectedResourceConfig,
    },
};

use super::{
    context::Context,
    fields::{duration, item, sub, type_name, typed, unpack},
};
use crate::config::{
    error::Error,
    listener::Ceiling,
    overload::{Configured, Level, Monitor, Remedy, Resource, Settings, Trigger},
};

const DOWNSTREAM_CONNECTIONS: &str =
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
const FIXED_HEAP: &str = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig";
const INJECTED_RESOURCE: &str = "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig";

/// Envoy's default.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How many connections the process may have open, and what is done under pressure.
pub(super) fn manager(
    cx: &mut Context,
    message: &OverloadManager,
    at: &str,
) -> Result<(Arc<Ceiling>, Settings), Error> {
    let supported = ["resource_monitors", "refresh_interval", "actions", "loadshed_points"];
    cx.only(message, at, &supported, &["buffer_factory_config"])?;
    let interval = message.refresh_interval.as_ref();
    let interval = interval.map(|interval| duration(interval, &sub(at, "refresh_interval"))).transpose()?;
    let mut ceiling = Arc::default();
    let mut settings = Settings { refresh_interval: interval.unwrap_or(REFRESH_INTERVAL), ..Settings::default() };
    for (index, monitor) in message.resource_monitors.iter().enumerate() {
        let at = item(at, "resource_monitors", index);
        cx.only(monitor, &at, &["name", "typed_config"], &[])?;
        if settings.monitors.iter().any(|other| *other.name == *monitor.name) {
            return Err(Error::at(at, format!("Duplicate resource monitor {}", monitor.name)));
        }
        let at = sub(&at, "typed_config");
        let Some(ConfigType::TypedConfig(any)) = &monitor.config_type else {
            return Err(Error::at(at, "a configuration is required"));
        };
        let any = typed(any, &at)?;
        let resource = match type_name(&any) {
            DOWNSTREAM_CONNECTIONS => {
                let message: DownstreamConnectionsConfig = unpack(&any, &at)?;
                let most = u64::try_from(message.max_active_downstream_connections).unwrap_or(0);
                ceiling = Arc::new(Ceiling::of(most, Ceiling::PROCESS));
                Resource::Connections(ceiling.clone())
            }
            FIXED_HEAP => match unpack::<FixedHeapConfig>(&any, &at)?.max_heap_size_bytes {
                0 => return Err(Error::at(sub(&at, "max_heap_size_bytes"), "max heap size must be greater than 0")),
                most => Resource::Heap(most),
            },
            INJECTED_RESOURCE => Resource::File(unpack::<InjectedResourceConfig>(&any, &at)?.filename.into()),
            other => return Err(Error::at(at, format!("resource monitor {other} is not supported yet"))),
        };
        settings.monitors.push(Monitor { name: monitor.name.as_str().into(), resource });
    }
    for (index, action) in message.actions.iter().enumerate() {
        let at = item(at, "actions", index);
        cx.only(action, &at, &["name", "triggers"], &[])?;
        let named = (&*action.name, "overload action");
        add(cx, &mut settings, named, &action.triggers, &at)?;
    }
    for (index, point) in message.loadshed_points.iter().enumerate() {
        let at = item(at, "loadshed_points", index);
        cx.only(point, &at, &["name", "triggers"], &[])?;
        let named = (&*point.name, "load shed point");
        add(cx, &mut settings, named, &point.triggers, &at)?;
    }
    Ok((ceiling, settings))
}

/// Adds the remedy of a name, of a kind.
fn add(
    cx: &mut Context,
    settings: &mut Settings,
    (name, kind): (&str, &str),
    messages: &[TriggerMessage],
    at: &str,
) -> Result<(), Error> {
    let known = Remedy::ALL.into_iter().find(|remedy| remedy.name() == name);
    let Some(remedy) = known.filter(|remedy| remedy.sheds() == (kind == "load shed point")) else {
        return Err(Error::at(sub(at, "name"), format!("{kind} {name:?} is not supported yet")));
    };
    if settings.remedies.iter().any(|other| other.remedy == remedy) {
        return Err(Error::at(sub(at, "name"), format!("Duplicate {kind} {name}")));
    }
    let mut triggers: Vec<Trigger> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "triggers", index);
        cx.only(message, &at, &["name", "threshold", "scaled"], &[])?;
        let Some(monitor) = settings.monitors.iter().position(|monitor| *monitor.name == *message.name) else {
            let known: Vec<_> = settings.monitors.iter().map(|monitor| &*monitor.name).collect();
            let message = format!(
                "Unknown trigger resource {} for {kind} {name}: expected one of {}",
                message.name,
                known.join(", ")
            );
            return Err(Error::at(sub(&at, "name"), message));
        };
        if triggers.iter().any(|other| other.monitor == monitor) {
            return Err(Error::at(sub(&at, "name"), format!("Duplicate trigger resource for {kind} {name}")));
        }
        triggers.push(Trigger { monitor, level: level(message, &at)? });
    }
    settings.remedies.push(Configured { remedy, triggers });
    Ok(())
}

fn level(message: &TriggerMessage, at: &str) -> Result<Level, Error> {
    match &message.trigger_oneof {
        Some(TriggerOneof::Threshold(threshold)) => Ok(Level::Threshold(threshold.value)),
        Some(TriggerOneof::Scaled(scaled)) if scaled.scaling_threshold < scaled.saturation_threshold => {
            Ok(Level::Scaled(scaled.scaling_threshold, scaled.saturation_threshold))
        }
        Some(TriggerOneof::Scaled(_)) => {
            Err(Error::at(sub(at, "scaled"), "scaling_threshold must be less than saturation_threshold"))
        }
        None => Err(Error::at(at, "threshold or scaled is required")),
    }
}
