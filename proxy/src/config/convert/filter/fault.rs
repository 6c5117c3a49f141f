//! Faults on purpose.

use http::StatusCode;
use weir_proto::envoy::extensions::filters::{
    common::fault::v3::{fault_delay::FaultDelaySecifier, fault_rate_limit::LimitType},
    http::fault::v3::{self as proto, fault_abort::ErrorType},
};

use crate::{
    config::{
        convert::{
            context::Context,
            fields::{duration, sub},
            matcher, metadata,
        },
        error::Error,
        filter::{
            fault::{Abort, Delay, Fault, Keys, RateLimit},
            stats::{self, Counted},
        },
    },
    matcher::fraction::Fraction,
};

pub(super) fn fault(cx: &mut Context, message: &proto::HttpFault, at: &str) -> Result<Fault, Error> {
    let supported = [
        "delay",
        "abort",
        "upstream_cluster",
        "headers",
        "downstream_nodes",
        "max_active_faults",
        "response_rate_limit",
        "disable_downstream_cluster_stats",
        "filter_metadata",
        "delay_percent_runtime",
        "abort_percent_runtime",
        "delay_duration_runtime",
        "abort_http_status_runtime",
        "max_active_faults_runtime",
        "response_rate_limit_percent_runtime",
        "abort_grpc_status_runtime",
    ];
    cx.only(message, at, &supported, &[])?;
    let share = |percentage: Option<&weir_proto::envoy::r#type::v3::FractionalPercent>| {
        percentage.map_or(Fraction::NEVER, matcher::fraction)
    };
    let delay = match &message.delay {
        None => None,
        Some(delay) => {
            let at = sub(at, "delay");
            let kind = match &delay.fault_delay_secifier {
                Some(FaultDelaySecifier::FixedDelay(fixed)) => Delay::Fixed(duration(fixed, &sub(&at, "fixed_delay"))?),
                Some(FaultDelaySecifier::HeaderDelay(_)) => Delay::Header,
                None => return Err(Error::at(at, "expected one of fixed_delay, header_delay")),
            };
            Some((kind, share(delay.percentage.as_ref())))
        }
    };
    let abort = match &message.abort {
        None => None,
        Some(abort) => Some((self::abort(abort, &sub(at, "abort"))?, share(abort.percentage.as_ref()))),
    };
    let rate_limit = match &message.response_rate_limit {
        None => None,
        Some(limit) => {
            let kind = match &limit.limit_type {
                Some(LimitType::FixedLimit(fixed)) => RateLimit::Fixed(fixed.limit_kbps),
                Some(LimitType::HeaderLimit(_)) => RateLimit::Header,
                None => {
                    let at = sub(at, "response_rate_limit");
                    return Err(Error::at(at, "expected one of fixed_limit, header_limit"));
                }
            };
            Some((kind, share(limit.percentage.as_ref())))
        }
    };
    let body = message.abort.as_ref().map_or("", |abort| abort.response_body.as_str());
    Ok(Fault {
        delay,
        abort,
        rate_limit,
        abort_body: (!body.is_empty()).then(|| bytes::Bytes::copy_from_slice(body.as_bytes())),
        upstream_cluster: (!message.upstream_cluster.is_empty()).then(|| message.upstream_cluster.as_str().into()),
        headers: matcher::headers(cx, &message.headers, at, "headers")?,
        downstream_nodes: message.downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        max_active: message.max_active_faults,
        keys: keys(message),
        active: std::sync::Arc::default(),
        metadata: message.filter_metadata.as_ref().map(metadata::object),
        disable_downstream_cluster_stats: message.disable_downstream_cluster_stats,
        stats: Counted::<stats::Fault>::new(cx.http.scope("fault")),
    })
}

/// The keys that are configured, else those that Envoy has for every fault.
fn keys(message: &proto::HttpFault) -> Keys {
    let or = |key: &str, usual: &str| -> Box<str> { if key.is_empty() { usual } else { key }.into() };
    Keys {
        delay_share: or(&message.delay_percent_runtime, "fault.http.delay.fixed_delay_percent"),
        delay: or(&message.delay_duration_runtime, "fault.http.delay.fixed_duration_ms"),
        abort_share: or(&message.abort_percent_runtime, "fault.http.abort.abort_percent"),
        http_status: or(&message.abort_http_status_runtime, "fault.http.abort.http_status"),
        grpc_status: or(&message.abort_grpc_status_runtime, "fault.http.abort.grpc_status"),
        rate_share: or(&message.response_rate_limit_percent_runtime, "fault.http.rate_limit.response_percent"),
        max_active: or(&message.max_active_faults_runtime, "fault.http.max_active_faults"),
    }
}

fn abort(message: &proto::FaultAbort, at: &str) -> Result<Abort, Error> {
    Ok(match &message.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(*status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            Abort::Http(status.ok_or_else(|| Error::at(sub(at, "http_status"), "expected a status from 200 to 599"))?)
        }
        Some(ErrorType::GrpcStatus(status)) => Abort::Grpc(
            u8::try_from(*status).map_err(|_| Error::at(sub(at, "grpc_status"), "expected a gRPC status code"))?,
        ),
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => return Err(Error::at(at, "expected one of http_status, grpc_status, header_abort")),
    })
}
