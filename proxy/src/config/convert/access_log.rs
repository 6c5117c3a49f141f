//! Access loggers: `file`, `stdout`, `stderr`.

mod filter;

use std::{sync::Arc, time::Duration};

use weir_proto::envoy::{
    config::{accesslog::v3 as accesslog, core::v3 as core},
    extensions::access_loggers::{
        file::v3::{FileAccessLog, file_access_log},
        stream::v3 as stream,
    },
};

pub(super) use self::filter::filter;
use super::{
    context::Context,
    fields::{data_source, duration, item, sub, type_name, unpack},
    metadata,
};
use crate::{
    access_log::{
        AccessLog,
        format::{ENVOY_DEFAULT, Format},
    },
    config::error::Error,
    telemetry::writer::LogFile,
};

/// Lines are written no more often than this while something lasts.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);

/// How often lines are written while something lasts.
pub(super) fn interval(message: Option<&prost_types::Duration>, at: &str) -> Result<Option<Duration>, Error> {
    let Some(interval) = message.map(|message| duration(message, at)).transpose()? else { return Ok(None) };
    if interval < LEAST_INTERVAL { Err(Error::at(at, "expected at least 1ms")) } else { Ok(Some(interval)) }
}

pub(super) fn access_logs(
    cx: &mut Context,
    messages: &[accesslog::AccessLog],
    at: &str,
    field: &str,
) -> Result<Vec<AccessLog>, Error> {
    messages.iter().enumerate().map(|(index, message)| access_log(cx, message, &item(at, field, index))).collect()
}

/// A log of every request in Envoy's default format: what the deprecated `access_log_path` of a bootstrap's admin asks for.
pub(super) fn of_path(path: &str) -> Result<AccessLog, Error> {
    let format = text_format(ENVOY_DEFAULT, "")?;
    Ok(AccessLog { file: LogFile::new(path), format: Arc::new(format), filter: None })
}

fn access_log(cx: &mut Context, message: &accesslog::AccessLog, at: &str) -> Result<AccessLog, Error> {
    cx.only(message, at, &["name", "typed_config", "filter"], &[])?;
    let filter = match &message.filter {
        None => None,
        Some(message) => Some(Arc::new(filter(cx, message, &sub(at, "filter"))?)),
    };
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = &message.config_type else {
        return Err(Error::at(sub(at, "typed_config"), "a logger is required"));
    };
    let at = sub(at, "typed_config");
    let (path, format) = match type_name(any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let file: FileAccessLog = unpack(any, &at)?;
            let format = file_format(cx, file.access_log_format.as_ref(), &at)?;
            (file.path, format)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let log: stream::StdoutAccessLog = unpack(any, &at)?;
            let format =
                log.access_log_format.as_ref().map(|stream::stdout_access_log::AccessLogFormat::LogFormat(f)| f);
            ("/dev/stdout".to_owned(), substitution(cx, format, &sub(&at, "log_format"))?)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let log: stream::StderrAccessLog = unpack(any, &at)?;
            let format =
                log.access_log_format.as_ref().map(|stream::stderr_access_log::AccessLogFormat::LogFormat(f)| f);
            ("/dev/stderr".to_owned(), substitution(cx, format, &sub(&at, "log_format"))?)
        }
        other => return Err(Error::at(at, format!("access logger {other} is not supported yet"))),
    };
    Ok(AccessLog { file: LogFile::new(&path), format: Arc::new(format), filter })
}

fn file_format(cx: &mut Context, format: Option<&file_access_log::AccessLogFormat>, at: &str) -> Result<Format, Error> {
    use file_access_log::AccessLogFormat;
    match format {
        None => substitution(cx, None, at),
        Some(AccessLogFormat::LogFormat(format)) => substitution(cx, Some(format), &sub(at, "log_format")),
        #[expect(deprecated, reason = "published configurations use it")]
        Some(AccessLogFormat::Format(text)) => text_format(text, &sub(at, "format")),
        #[expect(deprecated, reason = "published configurations use it")]
        Some(AccessLogFormat::JsonFormat(json)) => json_format(json, &sub(at, "json_format")),
        #[expect(deprecated, reason = "published configurations use it")]
        Some(AccessLogFormat::TypedJsonFormat(json)) => json_format(json, &sub(at, "typed_json_format")),
    }
}

/// A format; without one Envoy's own. `at`: the format's field.
pub(super) fn substitution(
    cx: &mut Context,
    message: Option<&core::SubstitutionFormatString>,
    at: &str,
) -> Result<Format, Error> {
    use core::substitution_format_string::Format as Kind;
    let Some(message) = message else { return text_format(ENVOY_DEFAULT, at) };
    let supported = ["text_format", "json_format", "text_format_source", "omit_empty_values", "formatters"];
    // Members are in order anyway.
    cx.only(message, at, &supported, &["content_type", "json_format_options"])?;
    formatters(message, at)?;
    let format = match &message.format {
        None => text_format(ENVOY_DEFAULT, at)?,
        #[expect(deprecated, reason = "published configurations use it")]
        Some(Kind::TextFormat(text)) => text_format(text, &sub(at, "text_format"))?,
        Some(Kind::TextFormatSource(source)) => {
            let at = sub(at, "text_format_source");
            let text = String::from_utf8(data_source(source, &at)?).map_err(|_| Error::at(&at, "expected UTF-8"))?;
            text_format(&text, &at)?
        }
        Some(Kind::JsonFormat(json)) => json_format(json, &sub(at, "json_format"))?,
    };
    Ok(format.omitting(message.omit_empty_values))
}

/// `formatters`: extensions that know further operators. Those that are supported are built in.
fn formatters(message: &core::SubstitutionFormatString, at: &str) -> Result<(), Error> {
    const BUILT_IN: [&str; 2] = [
        "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
        "envoy.extensions.formatter.metadata.v3.Metadata",
    ];
    for (index, formatter) in message.formatters.iter().enumerate() {
        let at = sub(&item(at, "formatters", index), "typed_config");
        let any = formatter.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
        if type_name(any) == "envoy.extensions.formatter.cel.v3.Cel" {
            // Without a configuration of its own it is built in.
            match any.value.is_empty() {
                true => continue,
                false => return Err(Error::at(sub(&at, "cel_config"), "is not supported yet")),
            }
        }
        if !BUILT_IN.contains(&type_name(any)) {
            return Err(Error::at(at, format!("formatter {} is not supported yet", type_name(any))));
        }
    }
    Ok(())
}

fn text_format(text: &str, at: &str) -> Result<Format, Error> {
    Format::text(text).map_err(|error| Error::at(at, error.to_string()))
}

fn json_format(message: &prost_types::Struct, at: &str) -> Result<Format, Error> {
    Format::json(&metadata::object(message).into()).map_err(|error| Error::at(at, error.to_string()))
}
