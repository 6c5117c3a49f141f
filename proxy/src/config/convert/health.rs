//! Active health checks.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method};
use weir_proto::envoy::{
    config::core::v3::{self as core, health_check as proto},
    extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink,
    r#type::v3::{CodecClientType, Int64Range},
};

use super::{
    context::Context,
    fields::{duration, header_name, item, sub, type_name, unpack},
    matcher,
    outlier::event_log,
};
use crate::{
    config::{
        cluster::health::{CheckStats, GrpcProbe, HealthCheck, HttpProbe, Intervals, Probe, TcpProbe},
        error::Error,
        headers::{Addition, Value},
    },
    telemetry::stats::Scope,
};

const SUPPORTED: [&str; 21] = [
    "timeout",
    "interval",
    "initial_jitter",
    "interval_jitter",
    "interval_jitter_percent",
    "unhealthy_threshold",
    "healthy_threshold",
    "reuse_connection",
    "no_traffic_interval",
    "no_traffic_healthy_interval",
    "unhealthy_interval",
    "unhealthy_edge_interval",
    "healthy_edge_interval",
    "event_log_path",
    "event_logger",
    "always_log_health_check_failures",
    "always_log_health_check_success",
    "health_checker",
    "http_health_check",
    "grpc_health_check",
    "tcp_health_check",
];

/// Envoy's default of `no_traffic_interval`.
const NO_TRAFFIC: Duration = Duration::from_secs(60);

/// A cluster's health check, if it has one.
pub(super) fn health(
    cx: &mut Context,
    messages: &[core::HealthCheck],
    ignore_new_hosts: bool,
    scope: &Scope,
    at: &str,
) -> Result<Option<HealthCheck>, Error> {
    let message = match messages {
        [] => return Ok(None),
        [message] => message,
        _ => {
            return Err(Error::at(
                sub(at, "health_checks"),
                "multiple health checks are not supported, in Envoy either",
            ));
        }
    };
    let at = item(at, "health_checks", 0);
    // Envoy has it in its API only: the port of a check is the endpoint's to say.
    cx.only(message, &at, &SUPPORTED, &["alt_port"])?;
    let time = |message: &Option<prost_types::Duration>, field: &str, default: Duration| match message {
        None => Ok(default),
        Some(message) => duration(message, &sub(&at, field)),
    };
    let required = |message: &Option<prost_types::Duration>, field: &str| match message {
        Some(message) => duration(message, &sub(&at, field)),
        None => Err(Error::at(sub(&at, field), "a duration is required")),
    };
    let healthy = required(&message.interval, "interval")?;
    let unhealthy = time(&message.unhealthy_interval, "unhealthy_interval", healthy)?;
    let intervals = Intervals {
        initial_jitter: time(&message.initial_jitter, "initial_jitter", Duration::ZERO)?,
        healthy,
        healthy_edge: time(&message.healthy_edge_interval, "healthy_edge_interval", healthy)?,
        unhealthy,
        unhealthy_edge: time(&message.unhealthy_edge_interval, "unhealthy_edge_interval", unhealthy)?,
        no_traffic: time(&message.no_traffic_interval, "no_traffic_interval", NO_TRAFFIC)?,
        no_traffic_healthy: message
            .no_traffic_healthy_interval
            .as_ref()
            .map(|message| duration(message, &sub(&at, "no_traffic_healthy_interval")))
            .transpose()?,
        jitter: time(&message.interval_jitter, "interval_jitter", Duration::ZERO)?,
        jitter_percent: message.interval_jitter_percent,
    };
    let threshold = |threshold: Option<u32>, field: &str| {
        threshold.ok_or_else(|| Error::at(sub(&at, field), "a threshold is required"))
    };
    let mut logs = Vec::new();
    #[expect(deprecated, reason = "published configurations use it")]
    let path = &message.event_log_path;
    if !path.is_empty() {
        logs.push(event_log(path, &sub(&at, "event_log_path"))?);
    }
    for (index, sink) in message.event_logger.iter().enumerate() {
        let at = sub(&item(&at, "event_logger", index), "typed_config");
        let any = sink.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
        if type_name(any) != "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink" {
            return Err(Error::at(&at, format!("{} is not supported yet", type_name(any))));
        }
        let sink: HealthCheckEventFileSink = unpack(any, &at)?;
        logs.push(event_log(&sink.event_log_path, &sub(&at, "event_log_path"))?);
    }
    Ok(Some(HealthCheck {
        probe: probe(cx, message, &at)?,
        timeout: required(&message.timeout, "timeout")?,
        intervals,
        unhealthy_threshold: threshold(message.unhealthy_threshold, "unhealthy_threshold")?,
        healthy_threshold: threshold(message.healthy_threshold, "healthy_threshold")?,
        reuse_connection: message.reuse_connection.unwrap_or(true),
        ignore_new_hosts,
        logs,
        log_failures: message.always_log_health_check_failures,
        log_successes: message.always_log_health_check_success,
        stats: CheckStats::new(scope),
    }))
}

fn probe(cx: &mut Context, message: &core::HealthCheck, at: &str) -> Result<Probe, Error> {
    Ok(match &message.health_checker {
        Some(proto::HealthChecker::HttpHealthCheck(http)) => {
            Probe::Http(Box::new(http_probe(cx, http, &sub(at, "http_health_check"))?))
        }
        Some(proto::HealthChecker::GrpcHealthCheck(grpc)) => {
            let at = sub(at, "grpc_health_check");
            cx.only(grpc, &at, &["service_name", "authority", "initial_metadata"], &[])?;
            Probe::Grpc(GrpcProbe {
                service: grpc.service_name.as_str().into(),
                authority: grpc.authority.as_str().into(),
                add: additions(cx, &grpc.initial_metadata, &at, "initial_metadata")?,
            })
        }
        Some(proto::HealthChecker::TcpHealthCheck(tcp)) => {
            let at = sub(at, "tcp_health_check");
            cx.only(tcp, &at, &["send", "receive"], &[])?;
            Probe::Tcp(TcpProbe {
                send: tcp.send.as_ref().map(|send| payload(send, &sub(&at, "send"))).transpose()?.unwrap_or_default(),
                receive: payloads(&tcp.receive, &at)?,
            })
        }
        Some(proto::HealthChecker::CustomHealthCheck(custom)) => {
            let at = sub(at, "custom_health_check");
            return Err(Error::at(at, format!("health checker {} is not supported yet", custom.name)));
        }
        None => return Err(Error::at(at, "a health checker is required, such as http_health_check")),
    })
}

fn http_probe(cx: &mut Context, message: &proto::HttpHealthCheck, at: &str) -> Result<HttpProbe, Error> {
    let supported = [
        "host",
        "path",
        "send",
        "receive",
        "response_buffer_size",
        "request_headers_to_add",
        "request_headers_to_remove",
        "expected_statuses",
        "retriable_statuses",
        "codec_client_type",
        "service_name_matcher",
        "method",
    ];
    cx.only(message, at, &supported, &[])?;
    if message.path.is_empty() {
        return Err(Error::at(sub(at, "path"), "a path is required"));
    }
    let remove = message.request_headers_to_remove.iter().enumerate();
    let expected = ranges(&message.expected_statuses, at, "expected_statuses")?;
    let method = match message.method() {
        core::RequestMethod::MethodUnspecified => Method::GET,
        core::RequestMethod::Connect => return Err(Error::at(sub(at, "method"), "CONNECT is no health check")),
        method => Method::from_bytes(method.as_str_name().as_bytes())
            .map_err(|_| Error::at(sub(at, "method"), "is not a method"))?,
    };
    if message.send.is_some() && [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE].contains(&method) {
        return Err(Error::at(sub(at, "send"), format!("a health check by {method} has no body")));
    }
    let http2 = match message.codec_client_type() {
        CodecClientType::Http1 => false,
        CodecClientType::Http2 => true,
        CodecClientType::Http3 => return Err(Error::at(sub(at, "codec_client_type"), "HTTP3 is not supported yet")),
    };
    let buffer = message.response_buffer_size.unwrap_or(1024);
    Ok(HttpProbe {
        host: message.host.as_str().into(),
        path: message.path.as_str().into(),
        method,
        send: message.send.as_ref().map(|send| payload(send, &sub(at, "send"))).transpose()?.unwrap_or_default(),
        receive: payloads(&message.receive, at)?,
        buffer: usize::try_from(buffer).unwrap_or(usize::MAX),
        add: additions(cx, &message.request_headers_to_add, at, "request_headers_to_add")?,
        remove: remove
            .map(|(index, name)| header_name(name, &item(at, "request_headers_to_remove", index)))
            .collect::<Result<Vec<HeaderName>, _>>()?,
        expected: if expected.is_empty() { std::iter::once(200..201).collect() } else { expected },
        retriable: ranges(&message.retriable_statuses, at, "retriable_statuses")?,
        service: message
            .service_name_matcher
            .as_ref()
            .map(|service| matcher::string(service, &sub(at, "service_name_matcher")))
            .transpose()?,
        http2,
    })
}

fn ranges(messages: &[Int64Range], at: &str, field: &str) -> Result<Vec<Range<u16>>, Error> {
    messages
        .iter()
        .enumerate()
        .map(|(index, range)| {
            let bounds = (u16::try_from(range.start), u16::try_from(range.end));
            match bounds {
                (Ok(start), Ok(end)) if (100..600).contains(&start) && start < end && end <= 600 => Ok(start..end),
                _ => Err(Error::at(item(at, field, index), "expected a range of statuses from 100 to below 600")),
            }
        })
        .collect()
}

fn additions(
    cx: &mut Context,
    messages: &[core::HeaderValueOption],
    at: &str,
    field: &str,
) -> Result<Vec<Addition>, Error> {
    let numbered = messages.iter().enumerate();
    numbered
        .map(|(index, message)| {
            let at = item(at, field, index);
            let addition = super::headers::addition(cx, message, &at)?;
            match addition.value {
                Value::Fixed(_) => Ok(addition),
                Value::Format(_) => Err(Error::at(at, "operators are not supported in health checks yet")),
            }
        })
        .collect()
}

fn payloads(messages: &[proto::Payload], at: &str) -> Result<Vec<Bytes>, Error> {
    messages.iter().enumerate().map(|(index, message)| payload(message, &item(at, "receive", index))).collect()
}

fn payload(message: &proto::Payload, at: &str) -> Result<Bytes, Error> {
    use proto::payload::Payload;
    match &message.payload {
        Some(Payload::Binary(bytes)) => Ok(bytes.clone()),
        Some(Payload::Text(text)) => {
            let digits = text.as_bytes().chunks(2).map(|pair| {
                std::str::from_utf8(pair)
                    .ok()
                    .filter(|pair| pair.len() == 2)
                    .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                    .ok_or_else(|| Error::at(sub(at, "text"), format!("\"{text}\" is not hexadecimal")))
            });
            digits.collect::<Result<Vec<u8>, _>>().map(Bytes::from)
        }
        None => Err(Error::at(at, "a payload is required")),
    }
}
