//! HTTP/1 settings of either side.

use weir_proto::envoy::{
    config::core::v3::{self as core, http1_protocol_options::header_key_format::HeaderFormat},
    extensions::http::header_formatters::preserve_case::v3 as preserve_case,
};

use super::{
    context::Context,
    fields::{sub, type_name, unpack},
};
use crate::config::{
    error::Error,
    http1::{HeaderNames, Http1},
};

/// What both sides know of `Http1ProtocolOptions`.
pub(super) const SHARED: [&str; 2] = ["enable_trailers", "header_key_format"];

/// Settings towards upstreams.
pub(super) fn upstream(
    cx: &mut Context,
    message: Option<&core::Http1ProtocolOptions>,
    at: &str,
) -> Result<Http1, Error> {
    let Some(message) = message else { return Ok(Http1::default()) };
    let harmless = [
        "allow_absolute_url",
        "accept_http_10",
        "default_host_for_http_10",
        "override_stream_error_on_invalid_http_message",
        "allow_chunked_length",
        "use_balsa_parser",
        "allow_custom_methods",
        "ignore_http_11_upgrade",
    ];
    cx.only(message, at, &SHARED, &harmless)?;
    shared(cx, message, at)
}

/// Reads [`SHARED`].
pub(super) fn shared(cx: &mut Context, message: &core::Http1ProtocolOptions, at: &str) -> Result<Http1, Error> {
    let at = sub(at, "header_key_format");
    let names = match message.header_key_format.as_ref().map(|format| format.header_format.as_ref()) {
        None => HeaderNames::Lower,
        Some(None) => return Err(Error::at(at, "expected proper_case_words or stateful_formatter")),
        Some(Some(HeaderFormat::ProperCaseWords(_))) => HeaderNames::Words,
        Some(Some(HeaderFormat::StatefulFormatter(extension))) => {
            let at = sub(&sub(&at, "stateful_formatter"), "typed_config");
            let config = extension.typed_config.as_ref();
            let any = config.ok_or_else(|| Error::at(&*at, "a configuration is required"))?;
            if type_name(any) != "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
            {
                return Err(Error::at(at, format!("{} is not supported yet", type_name(any))));
            }
            let preserve: preserve_case::PreserveCaseFormatterConfig = unpack(any, &at)?;
            cx.only(&preserve, &at, &["forward_reason_phrase"], &[])?;
            HeaderNames::AsTheyCame { reason: preserve.forward_reason_phrase }
        }
    };
    Ok(Http1 { trailers: message.enable_trailers, names })
}
