//! How HTTP is spoken to clusters.

use std::time::Duration;

use weir_proto::envoy::{
    config::{cluster::v3 as proto, core::v3 as core},
    extensions::{
        filters::network::http_connection_manager::v3::{HttpFilter, http_filter},
        upstreams::http::v3 as upstreams,
    },
};

use super::{
    context::Context,
    fields::{duration, header_name, limit, sub, type_name, unpack},
    http1,
    outlier::error_matcher,
    retry::retry,
    route::policies::{hash_policies, mirrors},
};
use crate::config::{
    cluster::{AutoNames, Cluster, ErrorMatcher, RoutePolicies, UpstreamProtocol},
    error::Error,
    heads::HeadLimits,
    http1::Http1,
    http2::{Http2, Keepalive},
};

/// Envoy's own bound of `max_response_headers_kb`.
const MOST_HEADERS_KB: u32 = 8192;

/// How HTTP is spoken to a cluster.
pub(super) struct Protocol {
    pub protocol: UpstreamProtocol,
    pub http2: Http2,
    pub http1: Http1,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub response_heads: HeadLimits,
    pub max_requests_per_connection: u32,
    pub auto_names: Option<AutoNames>,
    pub policies: RoutePolicies,
    pub errors: Option<ErrorMatcher>,
}

/// By the cluster's own fields, and by the options that replace them.
pub(super) fn protocol(cx: &mut Context, message: &proto::Cluster, at: &str) -> Result<Protocol, Error> {
    #[expect(deprecated, reason = "published configurations use them")]
    let (common, old_http1, old_http2, old_names, selection, max_requests) = (
        message.common_http_protocol_options.as_ref(),
        message.http_protocol_options.as_ref(),
        message.http2_protocol_options.as_ref(),
        message.upstream_http_protocol_options.as_ref(),
        message.protocol_selection(),
        message.max_requests_per_connection,
    );
    if message.typed_extension_protocol_options.is_empty()
        && old_http1.is_some()
        && old_http2.is_some()
        && selection == proto::cluster::ClusterProtocolSelection::UseConfiguredProtocol
    {
        let message =
            "Both HTTP1 and HTTP2 options may only be configured with non-default 'protocol_selection' values";
        return Err(Error::at(at, message));
    }
    let mut protocol = Protocol {
        protocol: match (selection, old_http2) {
            (proto::cluster::ClusterProtocolSelection::UseDownstreamProtocol, _) => UpstreamProtocol::Downstream,
            (_, Some(_)) => UpstreamProtocol::Http2,
            (_, None) => UpstreamProtocol::Http1,
        },
        http2: http2(cx, old_http2, &sub(at, "http2_protocol_options"))?,
        http1: http1::upstream(cx, old_http1, &sub(at, "http_protocol_options"))?,
        idle_timeout: idle(cx, common, &sub(at, "common_http_protocol_options"))?,
        max_connection_duration: lifetime(common, &sub(at, "common_http_protocol_options"))?,
        max_stream_duration: stream_duration(common, &sub(at, "common_http_protocol_options"))?,
        response_heads: response_heads(common, &sub(at, "common_http_protocol_options"))?,
        max_requests_per_connection: max_requests
            .or(common.and_then(|common| common.max_requests_per_connection))
            .unwrap_or(0),
        auto_names: match old_names {
            Some(options) => auto_names(cx, options, &sub(at, "upstream_http_protocol_options"))?,
            None => None,
        },
        policies: RoutePolicies::default(),
        errors: None,
    };
    for (name, any) in &message.typed_extension_protocol_options {
        let at = format!("{at}.typed_extension_protocol_options[\"{name}\"]");
        if type_name(any) != "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" {
            return Err(Error::at(at, format!("{} is not supported yet", type_name(any))));
        }
        let options: upstreams::HttpProtocolOptions = unpack(any, &at)?;
        typed_protocol(cx, &options, &mut protocol, &at)?;
    }
    Ok(protocol)
}

fn typed_protocol(
    cx: &mut Context,
    message: &upstreams::HttpProtocolOptions,
    protocol: &mut Protocol,
    at: &str,
) -> Result<(), Error> {
    use upstreams::http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig};
    let supported = [
        "common_http_protocol_options",
        "explicit_http_config",
        "use_downstream_protocol_config",
        "auto_config",
        "upstream_http_protocol_options",
        "retry_policy",
        "hash_policy",
        "request_mirror_policies",
        "outlier_detection",
        "http_filters",
    ];
    cx.only(message, at, &supported, &["header_validation_config"])?;
    only_codec(&message.http_filters, &sub(at, "http_filters"))?;
    protocol.policies = RoutePolicies {
        retry: retry(cx, message.retry_policy.as_ref(), at)?,
        hash: hash_policies(cx, &message.hash_policy, at)?,
        // Clusters are in no order: one that copies go to may come later, or never.
        mirrors: mirrors(cx, &message.request_mirror_policies, false, at)?,
    };
    if let Some(detection) = &message.outlier_detection {
        let at = sub(at, "outlier_detection.error_matcher");
        let predicate = detection.error_matcher.as_ref().ok_or_else(|| Error::at(&at, "a predicate is required"))?;
        protocol.errors = Some(error_matcher(cx, predicate, &at)?);
    }
    protocol.auto_names = match &message.upstream_http_protocol_options {
        Some(options) => auto_names(cx, options, &sub(at, "upstream_http_protocol_options"))?,
        None => None,
    };
    if let Some(common) = &message.common_http_protocol_options {
        let at = sub(at, "common_http_protocol_options");
        protocol.idle_timeout = idle(cx, Some(common), &at)?;
        protocol.max_connection_duration = lifetime(Some(common), &at)?;
        protocol.max_stream_duration = stream_duration(Some(common), &at)?;
        protocol.response_heads = response_heads(Some(common), &at)?;
        protocol.max_requests_per_connection = common.max_requests_per_connection.unwrap_or(0);
    }
    match &message.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            let at = sub(at, "explicit_http_config");
            match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                    protocol.protocol = UpstreamProtocol::Http1;
                    protocol.http1 = http1::upstream(cx, Some(options), &sub(&at, "http_protocol_options"))?;
                }
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    protocol.protocol = UpstreamProtocol::Http2;
                    protocol.http2 = http2(cx, Some(options), &sub(&at, "http2_protocol_options"))?;
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(Error::at(sub(&at, "http3_protocol_options"), "not supported yet"));
                }
                None => return Err(Error::at(at, "a protocol is required")),
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            protocol.protocol = UpstreamProtocol::Downstream;
            let options = config.http_protocol_options.as_ref();
            let http1_at = sub(at, "use_downstream_protocol_config.http_protocol_options");
            protocol.http1 = http1::upstream(cx, options, &http1_at)?;
            let at = sub(at, "use_downstream_protocol_config.http2_protocol_options");
            protocol.http2 = http2(cx, config.http2_protocol_options.as_ref(), &at)?;
        }
        Some(UpstreamProtocolOptions::AutoConfig(config)) => {
            let at = sub(at, "auto_config");
            cx.only(config, &at, &["http_protocol_options", "http2_protocol_options"], &[])?;
            protocol.protocol = UpstreamProtocol::Negotiated;
            let options = config.http_protocol_options.as_ref();
            protocol.http1 = http1::upstream(cx, options, &sub(&at, "http_protocol_options"))?;
            protocol.http2 = http2(cx, config.http2_protocol_options.as_ref(), &sub(&at, "http2_protocol_options"))?;
        }
        None => {
            let message = "expected explicit_http_config, use_downstream_protocol_config or auto_config";
            return Err(Error::at(at, message));
        }
    }
    Ok(())
}

/// Refuses filters of requests to upstreams but the one that sends them, which there is in any case.
pub(super) fn only_codec(filters: &[HttpFilter], at: &str) -> Result<(), Error> {
    const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
    let is_codec = |filter: &HttpFilter| matches!(&filter.config_type, Some(http_filter::ConfigType::TypedConfig(any)) if type_name(any) == CODEC);
    match filters {
        [] => Ok(()),
        [codec] if is_codec(codec) => Ok(()),
        _ => Err(Error::at(at, "not supported yet but for the codec alone")),
    }
}

fn auto_names(
    cx: &mut Context,
    message: &core::UpstreamHttpProtocolOptions,
    at: &str,
) -> Result<Option<AutoNames>, Error> {
    cx.only(message, at, &["auto_sni", "auto_san_validation", "override_auto_sni_header"], &[])?;
    if !message.auto_sni && !message.auto_san_validation {
        return Ok(None);
    }
    let header = match message.override_auto_sni_header.as_str() {
        "" => None,
        // The authority is kept as `host`.
        ":authority" => Some(header_name("host", at)?),
        name => Some(header_name(name, &sub(at, "override_auto_sni_header"))?),
    };
    Ok(Some(AutoNames { server_name: message.auto_sni, validate: message.auto_san_validation, header }))
}

fn idle(cx: &mut Context, message: Option<&core::HttpProtocolOptions>, at: &str) -> Result<Option<Duration>, Error> {
    let Some(message) = message else { return Ok(Some(Cluster::DEFAULT_IDLE)) };
    let supported = [
        "idle_timeout",
        "max_requests_per_connection",
        "max_connection_duration",
        "max_stream_duration",
        "max_headers_count",
        "max_response_headers_kb",
    ];
    cx.only(message, at, &supported, &["headers_with_underscores_action"])?;
    limit(message.idle_timeout.as_ref(), Some(Cluster::DEFAULT_IDLE), &sub(at, "idle_timeout"))
}

fn lifetime(message: Option<&core::HttpProtocolOptions>, at: &str) -> Result<Option<Duration>, Error> {
    let duration = message.and_then(|message| message.max_connection_duration.as_ref());
    limit(duration, None, &sub(at, "max_connection_duration"))
}

fn stream_duration(message: Option<&core::HttpProtocolOptions>, at: &str) -> Result<Option<Duration>, Error> {
    let duration = message.and_then(|message| message.max_stream_duration.as_ref());
    limit(duration, None, &sub(at, "max_stream_duration"))
}

fn response_heads(message: Option<&core::HttpProtocolOptions>, at: &str) -> Result<HeadLimits, Error> {
    let mut limits = HeadLimits::default();
    let Some(message) = message else { return Ok(limits) };
    if let Some(kb) = message.max_response_headers_kb {
        if !(1..=MOST_HEADERS_KB).contains(&kb) {
            let expected = format!("expected 1 to {MOST_HEADERS_KB}");
            return Err(Error::at(sub(at, "max_response_headers_kb"), expected));
        }
        limits.bytes = Some(kb * 1024);
    }
    if let Some(count) = message.max_headers_count {
        if count == 0 {
            return Err(Error::at(sub(at, "max_headers_count"), "expected 1 or more"));
        }
        limits.fields = count;
    }
    Ok(limits)
}

/// HTTP/2 settings of either side.
pub(super) fn http2(cx: &mut Context, message: Option<&core::Http2ProtocolOptions>, at: &str) -> Result<Http2, Error> {
    let mut settings = Http2::default();
    let Some(message) = message else { return Ok(settings) };
    let supported = [
        "max_concurrent_streams",
        "initial_stream_window_size",
        "initial_connection_window_size",
        "connection_keepalive",
        "allow_connect",
    ];
    let harmless = [
        "hpack_table_size",
        "max_outbound_frames",
        "max_outbound_control_frames",
        "max_consecutive_inbound_frames_with_empty_payload",
        "max_inbound_priority_frames_per_stream",
        "max_inbound_window_update_frames_per_data_frame_sent",
        "stream_error_on_invalid_http_messaging",
        "override_stream_error_on_invalid_http_message",
        "use_oghttp2_codec",
        "max_metadata_size",
        "enable_huffman_encoding",
        "max_header_field_size_kb",
        "disallow_obs_text",
    ];
    cx.only(message, at, &supported, &harmless)?;
    if let Some(keepalive) = &message.connection_keepalive {
        let at = sub(at, "connection_keepalive");
        // Only a PING in time counts: when it is sent, and before which request, changes nothing that is seen.
        cx.only(keepalive, &at, &["interval", "timeout"], &["interval_jitter", "connection_idle_interval"])?;
        let timeout_at = sub(&at, "timeout");
        let timeout = keepalive.timeout.as_ref().ok_or_else(|| Error::at(&timeout_at, "a timeout is required"))?;
        let timeout = duration(timeout, &timeout_at)?;
        if let Some(interval) = &keepalive.interval {
            settings.keepalive = Some(Keepalive { interval: duration(interval, &sub(&at, "interval"))?, timeout });
        }
    }
    if let Some(streams) = message.max_concurrent_streams {
        settings.max_concurrent_streams = streams;
    }
    settings.allow_connect = message.allow_connect;
    for (field, value, setting) in [
        ("initial_stream_window_size", message.initial_stream_window_size, &mut settings.stream_window),
        ("initial_connection_window_size", message.initial_connection_window_size, &mut settings.connection_window),
    ] {
        if let Some(value) = value {
            if !(65_535..=0x7fff_ffff).contains(&value) {
                return Err(Error::at(sub(at, field), "expected 65535 to 2147483647"));
            }
            *setting = value;
        }
    }
    Ok(settings)
}
