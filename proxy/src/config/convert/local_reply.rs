//! Responses made here.

use http::{HeaderValue, StatusCode};
use weir_proto::envoy::{
    config::{
        accesslog::v3 as accesslog,
        core::v3::{self as core, substitution_format_string::Format as Kind},
    },
    extensions::filters::network::http_connection_manager::v3 as manager,
};

use super::{Context, Error, data_source, headers, item, matcher, metadata, sub};
use crate::{
    config::local_reply::{BodyFormat, Comparison, LocalReplies, Operator, ReplyFilter, ReplyMapper},
    telemetry::{access_log::Flag, format::Format},
};

/// The flags that are raised here.
const FLAGS: [Flag; 21] = [
    Flag::NoHealthyUpstream,
    Flag::UpstreamRequestTimeout,
    Flag::UpstreamRemoteReset,
    Flag::UpstreamConnectionFailure,
    Flag::UpstreamConnectionTermination,
    Flag::UpstreamOverflow,
    Flag::NoRouteFound,
    Flag::DownstreamConnectionTermination,
    Flag::UpstreamRetryLimitExceeded,
    Flag::StreamIdleTimeout,
    Flag::DownstreamProtocolError,
    Flag::UpstreamProtocolError,
    Flag::NoClusterFound,
    Flag::DownstreamRemoteReset,
    Flag::UpstreamMaxStreamDurationReached,
    Flag::DurationTimeout,
    Flag::LocalReset,
    Flag::FailedLocalHealthCheck,
    Flag::DelayInjected,
    Flag::FaultInjected,
    Flag::RateLimited,
];

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
            filter: self::filter(cx, filter, &sub(&at, "filter"))?,
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

fn filter(cx: &mut Context, message: &accesslog::AccessLogFilter, at: &str) -> Result<ReplyFilter, Error> {
    use accesslog::access_log_filter::FilterSpecifier as Specifier;
    let several = |cx: &mut Context, messages: &[accesslog::AccessLogFilter], at: &str| {
        let filters = messages.iter().enumerate();
        filters.map(|(index, message)| filter(cx, message, &item(at, "filters", index))).collect::<Result<_, _>>()
    };
    Ok(match &message.filter_specifier {
        Some(Specifier::StatusCodeFilter(message)) => {
            ReplyFilter::Status(comparison(message.comparison.as_ref(), &sub(at, "status_code_filter"))?)
        }
        Some(Specifier::DurationFilter(message)) => {
            ReplyFilter::Duration(comparison(message.comparison.as_ref(), &sub(at, "duration_filter"))?)
        }
        Some(Specifier::AndFilter(message)) => ReplyFilter::All(several(cx, &message.filters, &sub(at, "and_filter"))?),
        Some(Specifier::OrFilter(message)) => ReplyFilter::Any(several(cx, &message.filters, &sub(at, "or_filter"))?),
        Some(Specifier::HeaderFilter(message)) => {
            let at = sub(at, "header_filter.header");
            let header = message.header.as_ref().ok_or_else(|| Error::at(&at, "a matcher is required"))?;
            ReplyFilter::Header(matcher::header(cx, header, &at)?)
        }
        Some(Specifier::ResponseFlagFilter(message)) => {
            let at = sub(at, "response_flag_filter");
            let named = |(index, name): (usize, &String)| {
                let unknown = || {
                    Error::at(item(&at, "flags", index), format!("\"{name}\" is no response flag that is raised here"))
                };
                FLAGS.into_iter().find(|flag| flag.short() == name).ok_or_else(unknown)
            };
            ReplyFilter::Flags(message.flags.iter().enumerate().map(named).collect::<Result<_, _>>()?)
        }
        Some(_) => {
            let expected = "of a mapper's filters only status_code_filter, duration_filter, header_filter, \
                response_flag_filter, and_filter and or_filter are supported yet";
            return Err(Error::at(at, expected));
        }
        None => return Err(Error::at(at, "a filter is required")),
    })
}

fn comparison(message: Option<&accesslog::ComparisonFilter>, at: &str) -> Result<Comparison, Error> {
    use accesslog::comparison_filter::Op;
    let at = sub(at, "comparison");
    let message = message.ok_or_else(|| Error::at(&at, "a comparison is required"))?;
    let value = message.value.as_ref().ok_or_else(|| Error::at(sub(&at, "value"), "a value is required"))?;
    let operator = match message.op() {
        Op::Eq => Operator::Equal,
        Op::Ge => Operator::AtLeast,
        Op::Le => Operator::AtMost,
        Op::Ne => Operator::NotEqual,
    };
    Ok(Comparison { operator, value: value.default_value })
}
