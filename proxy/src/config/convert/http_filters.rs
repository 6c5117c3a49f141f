//! What requests pass on a connection manager: its HTTP filters, and the router that ends them.

use prost_types::Any;
use weir_proto::envoy::extensions::filters::{
    http::router::v3 as router, network::http_connection_manager::v3 as proto,
};

use super::{
    access_log,
    context::Context,
    discovered,
    fields::{header_names, item, sub, type_name, typed, unpack},
    filter, protocol,
};
use crate::{
    access_log::{Moments, Wanted},
    config::{
        cell::nothing_further,
        error::Error,
        filter::{FilterKind, HttpFilter},
        http::Router,
    },
};

/// A filter whose configuration came by itself.
fn discovered_filter(cx: &mut Context, any: &Any, at: &str) -> Result<FilterKind, Error> {
    let made = filter::filter(cx, any, at)?;
    made.ok_or_else(|| Error::at(at, format!("HTTP filter {} is not supported yet", type_name(any))))
}

/// The filters before the router, in order, and the router.
pub(super) fn http_filters(
    cx: &mut Context,
    messages: &[proto::HttpFilter],
    at: &str,
) -> Result<(Vec<HttpFilter>, Router), Error> {
    let mut router = None;
    let mut filters = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "http_filters", index);
        cx.only(message, &at, &["name", "typed_config", "config_discovery", "is_optional", "disabled"], &[])?;
        if router.is_some() {
            return Err(Error::at(at, "no filter may follow the router"));
        }
        use proto::http_filter::ConfigType;
        let config = match &message.config_type {
            Some(ConfigType::TypedConfig(any)) => Some(typed(any, &sub(&at, "typed_config"))?),
            Some(ConfigType::ConfigDiscovery(discovery)) => {
                let name = &message.name;
                let at = sub(&at, "config_discovery");
                let slot = discovered::extension(
                    cx,
                    ("http_filter", name),
                    discovery,
                    &at,
                    discovered_filter,
                    nothing_further,
                )?;
                let kind = FilterKind::Discovered(slot);
                filters.push(HttpFilter { name: name.as_str().into(), kind, disabled: message.disabled });
                continue;
            }
            None => None,
        };
        let config = config.as_deref();
        // Envoy 1.40 wants a configuration even for the router; many published configurations have none.
        let kind = config.map_or(message.name.as_str(), type_name);
        match kind {
            "envoy.extensions.filters.http.router.v3.Router" | "envoy.filters.http.router" | "envoy.router" => {
                let message = match config {
                    Some(any) => unpack(any, &sub(&at, "typed_config"))?,
                    None => router::Router::default(),
                };
                router = Some(self::router(cx, &message, &sub(&at, "typed_config"))?);
            }
            other => {
                let found = match config {
                    Some(any) => filter::filter(cx, any, &sub(&at, "typed_config"))?,
                    None => None,
                };
                match found {
                    Some(kind) => {
                        let name = message.name.as_str().into();
                        filters.push(HttpFilter { name, kind, disabled: message.disabled });
                    }
                    None if message.is_optional || message.disabled => {
                        cx.ignored.push(format!("{at}: {other} is optional or disabled"));
                    }
                    None => return Err(Error::at(at, format!("HTTP filter {other} is not supported yet"))),
                }
            }
        }
    }
    let router = router.ok_or_else(|| {
        Error::at(sub(at, "http_filters"), "the last filter must be the router (envoy.filters.http.router)")
    })?;
    Ok((filters, router))
}

fn router(cx: &mut Context, message: &router::Router, at: &str) -> Result<Router, Error> {
    protocol::only_codec(&message.upstream_http_filters, &sub(at, "upstream_http_filters"))?;
    let supported = [
        "upstream_http_filters",
        "suppress_envoy_headers",
        "respect_expected_rq_timeout",
        "strict_check_headers",
        "upstream_log",
        "upstream_log_options",
        "dynamic_stats",
    ];
    cx.only(message, at, &supported, &["start_child_span", "suppress_grpc_request_failure_code_stats"])?;
    let upstream_log = access_log::access_logs(cx, &message.upstream_log, at, "upstream_log")?;
    let log = match &message.upstream_log_options {
        None => Moments::default(),
        Some(options) => {
            let interval_at = sub(&sub(at, "upstream_log_options"), "upstream_log_flush_interval");
            Moments {
                on_start: false,
                on_established: options.flush_upstream_log_on_upstream_stream,
                interval: access_log::interval(options.upstream_log_flush_interval.as_ref(), &interval_at)?,
            }
        }
    };
    Ok(Router {
        wanted: Wanted::by(&upstream_log),
        upstream_log,
        log,
        suppress_envoy_headers: message.suppress_envoy_headers,
        no_dynamic_stats: !message.dynamic_stats.unwrap_or(true),
        respect_expected_rq_timeout: message.respect_expected_rq_timeout,
        strict_headers: header_names(&message.strict_check_headers, at, "strict_check_headers")?,
    })
}
