//! The HTTP connection manager.

use std::sync::Arc;

use http::HeaderValue;
use weir_proto::envoy::{
    config::core::v3 as core,
    extensions::filters::network::http_connection_manager::v3::{self as proto, http_connection_manager as manager},
};

use super::{
    access_log, client_certificate,
    context::Context,
    discovered,
    fields::{cidrs, duration, item, limit, sub},
    hosts::Discovery,
    http_filters::http_filters,
    http1, identity, local_reply, node, protocol, route, scopes,
};
use crate::{
    access_log::{Moments, Wanted},
    config::{
        error::Error,
        http::{
            Codec, EscapedSlashes, HttpConnectionManager, HttpStats, Routes, ServerHeader, StripPort, Table,
            Underscores,
        },
        http1::Http1,
    },
    telemetry::stats::Scope,
};

const SUPPORTED: [&str; 49] = [
    "append_local_overload",
    "tracing",
    "request_id_extension",
    "original_ip_detection_extensions",
    "drain_timeout",
    "delayed_close_timeout",
    "access_log_flush_interval",
    "flush_access_log_on_new_request",
    "access_log_options",
    "local_reply_config",
    "codec_type",
    "stat_prefix",
    "rds",
    "route_config",
    "scoped_routes",
    "http_filters",
    "common_http_protocol_options",
    "http_protocol_options",
    "http2_protocol_options",
    "stream_error_on_invalid_http_message",
    "server_name",
    "server_header_transformation",
    "max_request_headers_kb",
    "stream_idle_timeout",
    "request_timeout",
    "request_headers_timeout",
    "access_log",
    "use_remote_address",
    "http1_safe_max_connection_duration",
    "xff_num_trusted_hops",
    "internal_address_config",
    "skip_xff_append",
    "via",
    "generate_request_id",
    "preserve_external_request_id",
    "always_set_request_id_in_response",
    "forward_client_cert_details",
    "set_current_client_cert_details",
    "upgrade_configs",
    "normalize_path",
    "merge_slashes",
    "strip_matching_host_port",
    "strip_any_host_port",
    "strip_trailing_host_dot",
    "path_with_escaped_slashes_action",
    "proxy_100_continue",
    "add_user_agent",
    "append_x_forwarded_port",
    "scheme_header_transformation",
];

/// They change when connections end, or say how to speak what is not spoken.
const HARMLESS: [&str; 4] =
    ["http3_protocol_options", "stream_flush_timeout", "drain_timeout_jitter", "add_proxy_protocol_connection_state"];

pub(super) fn connection_manager(
    cx: &mut Context,
    message: &proto::HttpConnectionManager,
    buffer_limit: usize,
    listener: &Scope,
    at: &str,
) -> Result<HttpConnectionManager, Error> {
    cx.only(message, at, &SUPPORTED, &HARMLESS)?;
    // What routes say about filters counts where the filter does.
    cx.http = Scope::default();
    let routes = match &message.route_specifier {
        Some(manager::RouteSpecifier::RouteConfig(routes)) => {
            // Envoy's default for routes that are part of the listener.
            let check = routes.validate_clusters.unwrap_or(true);
            let table = route::route_table(cx, routes, check, &Discovery::None, &sub(at, "route_config"))?;
            Routes::One(Table::Fixed(Arc::new(table)))
        }
        Some(manager::RouteSpecifier::Rds(rds)) => {
            let prefix = &message.stat_prefix;
            Routes::One(Table::Discovered(discovered::routes(cx, rds, prefix, &sub(at, "rds"))?))
        }
        Some(manager::RouteSpecifier::ScopedRoutes(scoped)) => {
            let scoped = scopes::scoped_routes(cx, scoped, &message.stat_prefix, &sub(at, "scoped_routes"))?;
            Routes::Scoped(Box::new(scoped))
        }
        None => return Err(Error::at(sub(at, "route_config"), "a route configuration is required")),
    };
    cx.http = cx.stats.scope("http").scope(&message.stat_prefix);
    let (filters, router) = http_filters(cx, &message.http_filters, at)?;
    let access_log = access_log::access_logs(cx, &message.access_log, at, "access_log")?;
    let wanted = Wanted::by(&access_log).with_times_of(&router.wanted);
    let common = common(cx, message.common_http_protocol_options.as_ref(), at)?;
    let client_http1 = http1(cx, message.http_protocol_options.as_ref(), at)?;
    let text = |value: &str, field: &str| {
        HeaderValue::from_str(value).map_err(|_| Error::at(sub(at, field), "not a header value"))
    };
    let (pack_trace_reason, sampled_by_id) = identity::request_ids(cx, message.request_id_extension.as_ref(), at)?;
    let client_cert_details = client_certificate::details(cx, message, at)?;
    Ok(HttpConnectionManager {
        forward_client_cert: client_certificate::forwarded(message),
        client_cert_details,
        stat_prefix: message.stat_prefix.as_str().into(),
        stats: HttpStats::new(&cx.stats, listener, &message.stat_prefix),
        codec: match message.codec_type() {
            manager::CodecType::Auto => Codec::Auto,
            manager::CodecType::Http1 => Codec::Http1,
            manager::CodecType::Http2 => Codec::Http2,
            manager::CodecType::Http3 => return Err(Error::at(sub(at, "codec_type"), "HTTP3 is not supported yet")),
        },
        http1: client_http1.settings,
        http2: protocol::http2(cx, message.http2_protocol_options.as_ref(), &sub(at, "http2_protocol_options"))?,
        routes,
        filters,
        router,
        wanted,
        access_log,
        log: log_moments(cx, message, at)?,
        server_name: match message.server_name.as_str() {
            "" => HeaderValue::from_static("envoy"),
            name => text(name, "server_name")?,
        },
        server_header: match message.server_header_transformation() {
            manager::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            manager::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            manager::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        use_remote_address: message.use_remote_address.unwrap_or(false),
        passes_expectations: message.proxy_100_continue,
        detection: identity::detection(cx, message, at)?,
        xff_num_trusted_hops: message.xff_num_trusted_hops,
        skip_xff_append: message.skip_xff_append,
        append_port: message.append_x_forwarded_port,
        scheme: identity::scheme(cx, message.scheme_header_transformation.as_ref(), at)?,
        tells_itself: (message.add_user_agent == Some(true))
            .then(|| text(&cx.service_cluster, "add_user_agent"))
            .transpose()?,
        node_address: node::address(),
        internal_addresses: match &message.internal_address_config {
            None => Vec::new(),
            Some(internal) => {
                let at = sub(at, "internal_address_config");
                cx.only(internal, &at, &["cidr_ranges"], &["unix_sockets"])?;
                cidrs(&internal.cidr_ranges, &at, "cidr_ranges")?
            }
        },
        via: match message.via.as_str() {
            "" => None,
            via => Some(text(via, "via")?),
        },
        generate_request_id: message.generate_request_id.unwrap_or(true),
        pack_trace_reason,
        tracing: identity::sampling(cx, message.tracing.as_ref(), sampled_by_id, at)?,
        preserve_external_request_id: message.preserve_external_request_id,
        request_id_in_response: message.always_set_request_id_in_response,
        accept_http_10: client_http1.accept_10,
        default_host: client_http1.default_host,
        max_head_bytes: message
            .max_request_headers_kb
            .map_or(HttpConnectionManager::DEFAULT_MAX_HEAD, |kb| kb as usize * 1024),
        max_headers: common.max_headers,
        idle_timeout: common.idle_timeout,
        max_connection_duration: common.max_connection_duration,
        drain_timeout: match &message.drain_timeout {
            Some(timeout) => duration(timeout, &sub(at, "drain_timeout"))?,
            None => HttpConnectionManager::DEFAULT_DRAIN,
        },
        delayed_close_timeout: limit(
            message.delayed_close_timeout.as_ref(),
            Some(HttpConnectionManager::DEFAULT_DELAYED_CLOSE),
            &sub(at, "delayed_close_timeout"),
        )?,
        max_stream_duration: common.max_stream_duration,
        max_requests_per_connection: common.max_requests,
        http1_safe_max_duration: message.http1_safe_max_connection_duration,
        stream_idle_timeout: limit(
            message.stream_idle_timeout.as_ref(),
            Some(HttpConnectionManager::DEFAULT_STREAM_IDLE),
            &sub(at, "stream_idle_timeout"),
        )?,
        request_timeout: limit(message.request_timeout.as_ref(), None, &sub(at, "request_timeout"))?,
        request_headers_timeout: limit(
            message.request_headers_timeout.as_ref(),
            None,
            &sub(at, "request_headers_timeout"),
        )?,
        upgrades: upgrades(cx, &message.upgrade_configs, at)?,
        strip_port: match &message.strip_port_mode {
            Some(manager::StripPortMode::StripAnyHostPort(true)) if message.strip_matching_host_port => {
                return Err(Error::at(sub(at, "strip_any_host_port"), "not together with strip_matching_host_port"));
            }
            Some(manager::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
            _ if message.strip_matching_host_port => StripPort::Matching,
            _ => StripPort::Never,
        },
        strip_trailing_host_dot: message.strip_trailing_host_dot,
        normalize_path: message.normalize_path.unwrap_or(false),
        merge_slashes: message.merge_slashes,
        escaped_slashes: {
            use manager::PathWithEscapedSlashesAction as Escaped;
            match message.path_with_escaped_slashes_action() {
                Escaped::ImplementationSpecificDefault | Escaped::KeepUnchanged => EscapedSlashes::Keep,
                Escaped::RejectRequest => EscapedSlashes::Reject,
                Escaped::UnescapeAndRedirect => EscapedSlashes::Redirect,
                Escaped::UnescapeAndForward => EscapedSlashes::Forward,
            }
        },
        refuses_absolute_urls: message
            .http_protocol_options
            .as_ref()
            .is_some_and(|http1| http1.allow_absolute_url == Some(false)),
        underscores: common.underscores,
        closes_on_bad_request: !client_http1
            .stream_error
            .or(message.stream_error_on_invalid_http_message)
            .unwrap_or(false),
        custom_methods: message.http_protocol_options.as_ref().is_some_and(|http1| http1.allow_custom_methods),
        local_reply: {
            let config = message.local_reply_config.as_ref();
            let at = sub(at, "local_reply_config");
            config.map(|config| local_reply::local_replies(cx, config, &at)).transpose()?
        },
        buffer_limit,
        modify_only: cx.modify_only,
        bypasses_overload: cx.bypasses_overload,
        tells_overload: message.append_local_overload,
        service_cluster: text(&cx.service_cluster, "cluster")?,
        service_node: text(&cx.service_node, "node")?,
    })
}

fn upgrades(cx: &mut Context, messages: &[manager::UpgradeConfig], at: &str) -> Result<Vec<Box<str>>, Error> {
    let mut upgrades = Vec::new();
    for (index, upgrade) in messages.iter().enumerate() {
        let at = item(at, "upgrade_configs", index);
        cx.only(upgrade, &at, &["upgrade_type", "enabled"], &[])?;
        let same = |other: &manager::UpgradeConfig| other.upgrade_type.eq_ignore_ascii_case(&upgrade.upgrade_type);
        if messages.iter().take(index).any(same) {
            let expected = format!("\"{}\" is there already", upgrade.upgrade_type);
            return Err(Error::at(sub(&at, "upgrade_type"), expected));
        }
        if upgrade.enabled.unwrap_or(true) {
            upgrades.push(upgrade.upgrade_type.to_ascii_lowercase().into());
        }
    }
    Ok(upgrades)
}

struct Common {
    underscores: Underscores,
    idle_timeout: Option<std::time::Duration>,
    max_connection_duration: Option<std::time::Duration>,
    max_stream_duration: Option<std::time::Duration>,
    max_headers: usize,
    max_requests: u32,
}

fn common(cx: &mut Context, message: Option<&core::HttpProtocolOptions>, at: &str) -> Result<Common, Error> {
    let at = sub(at, "common_http_protocol_options");
    let none = core::HttpProtocolOptions::default();
    let message = message.unwrap_or(&none);
    let supported = [
        "idle_timeout",
        "max_connection_duration",
        "max_headers_count",
        "max_stream_duration",
        "max_requests_per_connection",
        "headers_with_underscores_action",
    ];
    cx.only(message, &at, &supported, &["max_response_headers_kb"])?;
    if message.max_response_headers_kb.is_some() {
        return Err(Error::at(sub(&at, "max_response_headers_kb"), "it is an upstream's"));
    }
    use core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let underscores = match message.headers_with_underscores_action() {
        Action::Allow => Underscores::Allow,
        Action::RejectRequest => Underscores::Reject,
        Action::DropHeader => Underscores::Drop,
    };
    let idle = Some(HttpConnectionManager::DEFAULT_IDLE);
    Ok(Common {
        underscores,
        idle_timeout: limit(message.idle_timeout.as_ref(), idle, &sub(&at, "idle_timeout"))?,
        max_connection_duration: limit(
            message.max_connection_duration.as_ref(),
            None,
            &sub(&at, "max_connection_duration"),
        )?,
        max_stream_duration: limit(message.max_stream_duration.as_ref(), None, &sub(&at, "max_stream_duration"))?,
        max_headers: message
            .max_headers_count
            .map_or(HttpConnectionManager::DEFAULT_MAX_HEADERS, |count| count as usize),
        max_requests: message.max_requests_per_connection.unwrap_or(0),
    })
}

/// HTTP/1 with clients.
#[derive(Default)]
struct ClientHttp1 {
    settings: Http1,
    accept_10: bool,
    stream_error: Option<bool>,
    default_host: Option<HeaderValue>,
}

fn http1(cx: &mut Context, message: Option<&core::Http1ProtocolOptions>, at: &str) -> Result<ClientHttp1, Error> {
    let Some(message) = message else { return Ok(ClientHttp1::default()) };
    let at = sub(at, "http_protocol_options");
    let supported = [
        "accept_http_10",
        "default_host_for_http_10",
        "allow_absolute_url",
        "send_fully_qualified_url",
        "allow_custom_methods",
        "override_stream_error_on_invalid_http_message",
        http1::SHARED[0],
        http1::SHARED[1],
    ];
    cx.only(message, &at, &supported, &["use_balsa_parser", "ignore_http_11_upgrade"])?;
    if message.send_fully_qualified_url {
        return Err(Error::at(sub(&at, "send_fully_qualified_url"), "not supported yet"));
    }
    let host = match message.default_host_for_http_10.as_str() {
        "" => None,
        host => Some(
            HeaderValue::from_str(host)
                .map_err(|_| Error::at(sub(&at, "default_host_for_http_10"), "not a header value"))?,
        ),
    };
    Ok(ClientHttp1 {
        settings: http1::shared(cx, message, &at)?,
        accept_10: message.accept_http_10,
        stream_error: message.override_stream_error_on_invalid_http_message,
        default_host: host,
    })
}

/// When lines are written besides the end of a request.
#[expect(deprecated, reason = "published configurations use the fields that access_log_options replaces")]
fn log_moments(cx: &mut Context, message: &proto::HttpConnectionManager, at: &str) -> Result<Moments, Error> {
    let Some(options) = &message.access_log_options else {
        return Ok(Moments {
            on_start: message.flush_access_log_on_new_request,
            on_established: false,
            interval: access_log::interval(
                message.access_log_flush_interval.as_ref(),
                &sub(at, "access_log_flush_interval"),
            )?,
        });
    };
    let at = sub(at, "access_log_options");
    if message.flush_access_log_on_new_request || message.access_log_flush_interval.is_some() {
        let error = "access_log_flush_interval and flush_access_log_on_new_request are not to be set beside it";
        return Err(Error::at(at, error));
    }
    let supported = [
        "access_log_flush_interval",
        "flush_access_log_on_new_request",
        "flush_log_on_tunnel_successfully_established",
    ];
    cx.only(options, &at, &supported, &[])?;
    Ok(Moments {
        on_start: options.flush_access_log_on_new_request,
        on_established: options.flush_log_on_tunnel_successfully_established,
        interval: access_log::interval(
            options.access_log_flush_interval.as_ref(),
            &sub(&at, "access_log_flush_interval"),
        )?,
    })
}
