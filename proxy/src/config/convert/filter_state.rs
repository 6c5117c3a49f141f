//! What filters are to keep in filter state.

use weir_proto::envoy::extensions::filters::{
    common::set_filter_state::v3::{
        FilterStateValue,
        filter_state_value::{Key, SharedWithUpstream, Value},
    },
    http::set_filter_state::v3::Config as HttpProto,
    network::set_filter_state::v3::Config as NetworkProto,
};

use super::{
    access_log,
    context::Context,
    fields::{item, sub},
};
use crate::{
    config::{
        cluster::{DESTINATION_KEY, DYNAMIC_HOST_KEY, DYNAMIC_PORT_KEY},
        error::Error,
        filter,
        filter_state::{Factory, Setting},
        network,
    },
    filter_state::Shared,
};

pub(super) fn of_requests(
    cx: &mut Context,
    message: &HttpProto,
    at: &str,
) -> Result<filter::set_filter_state::SetFilterState, Error> {
    cx.only(message, at, &["on_request_headers", "clear_route_cache"], &[])?;
    Ok(filter::set_filter_state::SetFilterState {
        on_request: settings(cx, &message.on_request_headers, at, "on_request_headers")?,
        clear_route_cache: message.clear_route_cache,
    })
}

pub(super) fn of_connections(
    cx: &mut Context,
    message: &NetworkProto,
    at: &str,
) -> Result<network::SetFilterState, Error> {
    cx.only(message, at, &["on_new_connection", "on_downstream_tls_handshake"], &[])?;
    Ok(network::SetFilterState {
        on_new_connection: settings(cx, &message.on_new_connection, at, "on_new_connection")?,
        on_handshake: settings(cx, &message.on_downstream_tls_handshake, at, "on_downstream_tls_handshake")?,
    })
}

fn settings(cx: &mut Context, messages: &[FilterStateValue], at: &str, field: &str) -> Result<Vec<Setting>, Error> {
    let each = messages.iter().enumerate();
    each.map(|(index, message)| setting(cx, message, &item(at, field, index))).collect()
}

fn setting(cx: &mut Context, message: &FilterStateValue, at: &str) -> Result<Setting, Error> {
    let supported = ["object_key", "factory_key", "format_string", "shared_with_upstream", "skip_if_empty"];
    cx.only(message, at, &supported, &["read_only"])?;
    let Some(Key::ObjectKey(key)) = &message.key else {
        return Err(Error::at(sub(at, "object_key"), "a key is required"));
    };
    let Some(Value::FormatString(format)) = &message.value else {
        return Err(Error::at(sub(at, "format_string"), "a format is required"));
    };
    let (field, made_by) = match message.factory_key.as_str() {
        "" => ("object_key", key.as_str()),
        factory => ("factory_key", factory),
    };
    let factory = factory(made_by).ok_or_else(|| {
        Error::at(sub(at, field), format!("\"{made_by}\" is not an object factory that is supported yet"))
    })?;
    Ok(Setting {
        key: key.as_str().into(),
        factory,
        format: access_log::substitution(cx, Some(format), &sub(at, "format_string"))?,
        shared: match message.shared_with_upstream() {
            SharedWithUpstream::None => Shared::No,
            SharedWithUpstream::Once => Shared::Once,
            SharedWithUpstream::Transitive => Shared::Transitive,
        },
        skip_if_empty: message.skip_if_empty,
    })
}

/// What makes objects, by its name.
fn factory(name: &str) -> Option<Factory> {
    Some(match name {
        "envoy.string" | network::CLUSTER_KEY | DYNAMIC_HOST_KEY => Factory::Text,
        DYNAMIC_PORT_KEY => Factory::Number,
        "envoy.hashable_string" | "istio.hashable_string" => Factory::Keyed,
        "envoy.filters.listener.original_dst.local_ip"
        | "envoy.filters.listener.original_dst.remote_ip"
        | DESTINATION_KEY => Factory::Address,
        _ => return None,
    })
}
