//! How a connection manager finds out who the client is, and what ids of requests are about.

use weir_proto::envoy::{
    config::core::v3 as core,
    extensions::{
        filters::network::http_connection_manager::v3::{self as manager, http_connection_manager::Tracing},
        http::original_ip_detection::{custom_header::v3 as custom_header, xff::v3 as xff},
        request_id::uuid::v3 as uuid,
    },
    r#type::v3::Percent,
};

use super::{
    context::Context,
    fields::{cidrs, header_name, item, sub, type_name, unpack},
};
use crate::config::{
    error::Error,
    http::{Detection, Sampling, Trust},
};

/// What `request_id_extension` says: whether ids say that requests are traced, and decide on it.
pub(super) fn request_ids(
    cx: &mut Context,
    message: Option<&manager::RequestIdExtension>,
    at: &str,
) -> Result<(bool, bool), Error> {
    let at = sub(&sub(at, "request_id_extension"), "typed_config");
    let Some(message) = message else { return Ok((true, true)) };
    let any = message.typed_config.as_ref().ok_or_else(|| Error::at(&*at, "a configuration is required"))?;
    if type_name(any) != "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" {
        return Err(Error::at(at, format!("{} is not supported yet", type_name(any))));
    }
    let uuid: uuid::UuidRequestIdConfig = unpack(any, &at)?;
    cx.only(&uuid, &at, &["pack_trace_reason", "use_request_id_for_trace_sampling"], &[])?;
    Ok((uuid.pack_trace_reason.unwrap_or(true), uuid.use_request_id_for_trace_sampling.unwrap_or(true)))
}

/// Which requests are traced.
pub(super) fn sampling(
    cx: &mut Context,
    message: Option<&Tracing>,
    by_id: bool,
    at: &str,
) -> Result<Option<Sampling>, Error> {
    let Some(message) = message else { return Ok(None) };
    let at = sub(at, "tracing");
    let harmless = [
        "verbose",
        "max_path_tag_length",
        "custom_tags",
        "provider",
        "spawn_upstream_span",
        "operation",
        "upstream_operation",
        "no_context_propagation",
    ];
    cx.only(message, &at, &["client_sampling", "random_sampling", "overall_sampling"], &harmless)?;
    Ok(Some(Sampling {
        client: share(message.client_sampling.as_ref(), 100, &at, "client_sampling")?,
        random: share(message.random_sampling.as_ref(), 10_000, &at, "random_sampling")?,
        overall: share(message.overall_sampling.as_ref(), 100, &at, "overall_sampling")?,
        by_id,
        outbound: cx.outbound,
    }))
}

/// A percentage as a share of `whole`.
fn share(percent: Option<&Percent>, whole: u32, at: &str, field: &str) -> Result<u32, Error> {
    let Some(Percent { value }) = percent else { return Ok(whole) };
    if !(0.0..=100.0).contains(value) {
        return Err(Error::at(sub(at, field), "expected a percentage between 0 and 100"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and the whole")]
    Ok((value / 100.0 * f64::from(whole)).round() as u32)
}

/// How the client is found out.
pub(super) fn detection(
    cx: &mut Context,
    message: &manager::HttpConnectionManager,
    at: &str,
) -> Result<Vec<Detection>, Error> {
    let messages = &message.original_ip_detection_extensions;
    for (with, mixed) in [
        ("use_remote_address", message.use_remote_address == Some(true)),
        ("xff_num_trusted_hops", message.xff_num_trusted_hops > 0),
    ] {
        if mixed && !messages.is_empty() {
            let error = format!("Original IP detection extensions and {with} may not be mixed");
            return Err(Error::at(sub(at, "original_ip_detection_extensions"), error));
        }
    }
    let messages = messages.iter().enumerate();
    messages.map(|(index, message)| one(cx, message, &item(at, "original_ip_detection_extensions", index))).collect()
}

fn one(cx: &mut Context, message: &core::TypedExtensionConfig, at: &str) -> Result<Detection, Error> {
    let at = sub(at, "typed_config");
    let any = message.typed_config.as_ref().ok_or_else(|| Error::at(&*at, "a configuration is required"))?;
    match type_name(any) {
        "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => {
            let xff: xff::XffConfig = unpack(any, &at)?;
            cx.only(&xff, &at, &["xff_num_trusted_hops", "xff_trusted_cidrs", "skip_xff_append"], &[])?;
            let trust = match &xff.xff_trusted_cidrs {
                None => Trust::Hops(xff.xff_num_trusted_hops),
                Some(_) if xff.xff_num_trusted_hops > 0 => {
                    return Err(Error::at(at, "Cannot set both xff_num_trusted_hops and xff_trusted_cidrs"));
                }
                Some(trusted) => Trust::Networks(cidrs(&trusted.cidrs, &sub(&at, "xff_trusted_cidrs"), "cidrs")?),
            };
            Ok(Detection::ForwardedFor { trust, append: !xff.skip_xff_append.unwrap_or(true) })
        }
        "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
            let header: custom_header::CustomHeaderConfig = unpack(any, &at)?;
            let supported = ["header_name", "allow_extension_to_set_address_as_trusted", "reject_with_status"];
            cx.only(&header, &at, &supported, &[])?;
            let status = |status: i32| {
                let error = u16::try_from(status).ok().filter(|status| *status >= 400);
                error.and_then(|status| http::StatusCode::from_u16(status).ok()).unwrap_or(http::StatusCode::FORBIDDEN)
            };
            Ok(Detection::Header {
                name: header_name(&header.header_name, &sub(&at, "header_name"))?,
                trusted: header.allow_extension_to_set_address_as_trusted,
                reject: header.reject_with_status.as_ref().map(|reject| status(reject.code)),
            })
        }
        other => Err(Error::at(at, format!("{other} is not supported yet"))),
    }
}

/// The scheme that requests have whatever they say.
pub(super) fn scheme(
    cx: &mut Context,
    message: Option<&core::SchemeHeaderTransformation>,
    at: &str,
) -> Result<Option<&'static str>, Error> {
    use core::scheme_header_transformation::Transformation;
    let Some(message) = message else { return Ok(None) };
    let at = sub(at, "scheme_header_transformation");
    cx.only(message, &at, &["scheme_to_overwrite"], &[])?;
    match &message.transformation {
        None => Ok(None),
        Some(Transformation::SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => Ok(Some("http")),
            "https" => Ok(Some("https")),
            other => {
                Err(Error::at(sub(&at, "scheme_to_overwrite"), format!("expected http or https, got \"{other}\"")))
            }
        },
    }
}
