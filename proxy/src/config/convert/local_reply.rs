//! Responses made here.

use http::{HeaderValue, StatusCode};
use weir_proto::envoy::{
    config::core::v3::{self as core, substitution_format_string::Format as Kind},
    extensions::filters::network::http_connection_manager::v3 as manager,
};

use super::{
    access_log,
    context::Context,
    fields::{data_source, item, sub},
    headers, metadata,
};
use crate::{
    access_log::format::Format,
    config::{
        error::Error,
        local_reply::{BodyFormat, LocalReplies, ReplyMapper},
    },
};

pub(super) fn body_format(
    cx: &mut Context,
    message: &core::SubstitutionFormatString,
    at: &str,
) -> Result<BodyFormat, Error> {
    let supported = ["text_format", "json_format", "text_format_source", "content_type", "omit_empty_values"];
    cx.only(message, at, &supported, &["json_format_options"])?;
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
    Ok(BodyFormat { format: format.omitting(message.omit_empty_values), content_type })
}

/// `local_reply_config`.
pub(super) fn local_replies(
    cx: &mut Context,
    message: &manager::LocalReplyConfig,
    at: &str,
) -> Result<LocalReplies, Error> {
    cx.only(message, at, &["mappers", "body_format"], &[])?;
    let mut mappers = Vec::with_capacity(message.mappers.len());
    for (index, mapper) in message.mappers.iter().enumerate() {
        let at = item(at, "mappers", index);
        let supported = ["filter", "status_code", "body", "body_format_override", "headers_to_add"];
        cx.only(mapper, &at, &supported, &[])?;
        let filter = mapper.filter.as_ref().ok_or_else(|| Error::at(sub(&at, "filter"), "a filter is required"))?;
        let format = mapper.body_format_override.as_ref();
        mappers.push(ReplyMapper {
            filter: access_log::filter(cx, filter, &sub(&at, "filter"))?,
            status: mapper.status_code.map(|code| status(code, &sub(&at, "status_code"))).transpose()?,
            body: match &mapper.body {
                Some(body) => Some(data_source(body, &sub(&at, "body"))?.into()),
                None => None,
            },
            format: format.map(|format| body_format(cx, format, &sub(&at, "body_format_override"))).transpose()?,
            headers: headers::additions(cx, &mapper.headers_to_add, &at, "headers_to_add")?,
        });
    }
    let format = message.body_format.as_ref();
    let format = format.map(|format| body_format(cx, format, &sub(at, "body_format"))).transpose()?;
    Ok(LocalReplies { mappers, format })
}

fn status(code: u32, at: &str) -> Result<StatusCode, Error> {
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    status
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Error::at(at, format!("{code} is not a status from 200 to 599")))
}
