//! `/server_info` and `/ready`.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    dynamic,
    reply::{Reply, Status},
    state::Admin,
};
use crate::{dynamic::resources::AGENT, lifecycle::State, telemetry::log};

pub(super) fn ready(admin: &Admin) -> Reply {
    let state = admin.lifecycle.state();
    let status = if state == State::Live { Status::OK } else { Status::SERVICE_UNAVAILABLE };
    let missing = if state == State::Live { String::new() } else { dynamic::missing(admin) };
    Reply::text(status, format!("{}\n{missing}", state.name()))
}

pub(super) fn answer(admin: &Admin) -> Reply {
    let uptime = format!("{}s", admin.started.elapsed().as_secs());
    let mut node = admin.own().bootstrap.node.clone().unwrap_or_default();
    AGENT.clone_into(&mut node.user_agent_name);
    let node = weir_proto::to_json(&node).unwrap_or_else(|_| json!({}));
    Reply::pretty(&json!({
        "version": version(),
        "state": admin.lifecycle.state().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": command_line(admin),
        "node": node,
        "hot_restart_initializing": false,
    }))
}

/// In the form of Envoy's: revision, version, state of the sources, kind of build, TLS library.
pub(super) fn version() -> String {
    let kind = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("weir/{}/Clean/{kind}/AWS-LC", env!("CARGO_PKG_VERSION"))
}

fn seconds(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        millis => format!("{}.{millis:03}s", duration.as_secs()),
    }
}

fn command_line(admin: &Admin) -> Value {
    let options = &admin.options;
    let other = &options.ineffective;
    let path =
        |path: &Option<std::path::PathBuf>| path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    json!({
        "base_id": options.base_id.to_string(),
        "concurrency": options.workers(),
        "config_path": path(&options.source.config_path),
        "config_yaml": options.source.config_yaml.clone().unwrap_or_default(),
        "allow_unknown_static_fields": options.allow_unknown_static_fields,
        "admin_address_path": path(&options.admin_address_path),
        "local_address_ip_version": options.local_address_ip_version.name(),
        "log_level": options.log_level.name(),
        "component_log_level": options.component_log_level.clone().unwrap_or_default(),
        "log_format": options.log_format.as_deref().unwrap_or(log::DEFAULT_PATTERN),
        "log_path": path(&options.log_path),
        "service_cluster": options.service_cluster.clone().unwrap_or_default(),
        "service_node": options.service_node.clone().unwrap_or_default(),
        "service_zone": options.service_zone.clone().unwrap_or_default(),
        "file_flush_interval": seconds(options.file_flush_interval_msec),
        "drain_time": seconds(options.envoy_drain_time()),
        "parent_shutdown_time": seconds(options.parent_shutdown_time_s),
        "mode": options.mode.name(),
        "disable_hot_restart": options.disable_hot_restart,
        "restart_epoch": options.restart_epoch,
        "cpuset_threads": options.cpuset_threads,
        "reject_unknown_dynamic_fields": options.reject_unknown_dynamic_fields,
        "log_format_escaped": options.log_format_escaped,
        "disabled_extensions": [],
        "ignore_unknown_dynamic_fields": options.ignore_unknown_dynamic_fields,
        "drain_strategy": options.drain_strategy.name(),
        "skip_deprecated_logs": options.skip_deprecated_logs,
        "stats_tag": options.stats_tag.iter().map(|(tag, value)| format!("{tag}:{value}")).collect::<Vec<_>>(),
        "file_flush_min_size": options.file_flush_min_size_kb.unwrap_or(0),
        "use_dynamic_base_id": options.use_dynamic_base_id,
        "base_id_path": path(&other.base_id_path),
        "skip_hot_restart_on_no_parent": other.skip_hot_restart_on_no_parent,
        "skip_hot_restart_parent_stats": other.skip_hot_restart_parent_stats,
        "socket_path": other.socket_path,
        "socket_mode": u32::from_str_radix(&other.socket_mode, 8).unwrap_or(0),
        "enable_mutex_tracing": other.enable_mutex_tracing,
        "enable_core_dump": other.enable_core_dump,
        "enable_fine_grain_logging": other.enable_fine_grain_logging,
        "log_stacktrace_single_entry": other.log_stacktrace_single_entry,
    })
}
