//! Bodies of responses made here.

use http::HeaderValue;
use weir_proto::envoy::config::core::v3::{self as core, substitution_format_string::Format as Kind};

use super::{Context, Error, data_source, metadata, sub};
use crate::{config::local_reply::BodyFormat, telemetry::format::Format};

pub(super) fn body_format(
    cx: &mut Context,
    message: &core::SubstitutionFormatString,
    at: &str,
) -> Result<BodyFormat, Error> {
    let supported = ["text_format", "json_format", "text_format_source", "content_type"];
    cx.only(message, at, &supported, &["json_format_options", "omit_empty_values"])?;
    let text = |text: &str, at: &str| Format::text(text).map_err(|error| Error::at(at, error.to_string()));
    let (format, content_type) = match &message.format {
        #[expect(deprecated, reason = "published configurations use it")]
        Some(Kind::TextFormat(format)) => (text(format, &sub(at, "text_format"))?, "text/plain"),
        Some(Kind::TextFormatSource(source)) => {
            let at = sub(at, "text_format_source");
            let format = String::from_utf8(data_source(source, &at)?).map_err(|_| Error::at(&at, "expected UTF-8"))?;
            (text(&format, &at)?, "text/plain")
        }
        Some(Kind::JsonFormat(json)) => {
            let format = Format::json(&metadata::object(json).into())
                .map_err(|error| Error::at(sub(at, "json_format"), error.to_string()))?;
            (format, "application/json")
        }
        None => return Err(Error::at(at, "expected one of text_format, text_format_source, json_format")),
    };
    let content_type = match message.content_type.as_str() {
        "" => HeaderValue::from_static(content_type),
        other => HeaderValue::from_str(other)
            .map_err(|_| Error::at(sub(at, "content_type"), format!("\"{other}\" is not a header value")))?,
    };
    Ok(BodyFormat { format, content_type })
}
