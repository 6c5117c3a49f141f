//! Access log filters.

use prost::Name;
use weir_proto::envoy::{
    config::accesslog::v3::{self as proto, extension_filter::ConfigType},
    data::accesslog::v3::AccessLogType,
    extensions::access_loggers::filters::cel::v3::ExpressionFilter,
};

use super::super::{expression, matcher, metadata};
use crate::{
    access_log::{
        Flag, LogType,
        filter::{Comparison, Filter, Operator},
    },
    config::{
        convert::{
            context::Context,
            fields::{item, sub, type_name, unpack},
        },
        error::Error,
    },
    matcher::fraction::Fraction,
};

pub(in crate::config::convert) fn filter(
    cx: &mut Context,
    message: &proto::AccessLogFilter,
    at: &str,
) -> Result<Filter, Error> {
    use proto::access_log_filter::FilterSpecifier as Specifier;
    let Some(specifier) = &message.filter_specifier else {
        return Err(Error::at(at, "expected one of the filters"));
    };
    Ok(match specifier {
        Specifier::StatusCodeFilter(message) => {
            let at = sub(at, "status_code_filter.comparison");
            Filter::Status(comparison(message.comparison.as_ref(), &at)?)
        }
        Specifier::DurationFilter(message) => {
            let at = sub(at, "duration_filter.comparison");
            Filter::Duration(comparison(message.comparison.as_ref(), &at)?)
        }
        Specifier::NotHealthCheckFilter(_) => Filter::NotHealthCheck,
        Specifier::TraceableFilter(_) => Filter::Traced,
        Specifier::RuntimeFilter(message) => Filter::Sample {
            key: message.runtime_key.as_str().into(),
            share: message.percent_sampled.as_ref().map_or(Fraction::NEVER, matcher::fraction),
            independent: message.use_independent_randomness,
        },
        Specifier::AndFilter(message) => Filter::And(filters(cx, &message.filters, &sub(at, "and_filter"))?),
        Specifier::OrFilter(message) => Filter::Or(filters(cx, &message.filters, &sub(at, "or_filter"))?),
        Specifier::HeaderFilter(message) => {
            let at = sub(at, "header_filter.header");
            let header = message.header.as_ref().ok_or_else(|| Error::at(&at, "a matcher is required"))?;
            Filter::Header(matcher::header(cx, header, &at)?)
        }
        Specifier::ResponseFlagFilter(message) => {
            let at = sub(at, "response_flag_filter");
            let flag = |(index, name): (usize, &String)| {
                let unknown = || Error::at(item(&at, "flags", index), format!("\"{name}\" is no response flag"));
                Flag::named(name).ok_or_else(unknown)
            };
            Filter::Flags(message.flags.iter().enumerate().map(flag).collect::<Result<_, _>>()?)
        }
        Specifier::GrpcStatusFilter(message) => Filter::GrpcStatus {
            statuses: message.statuses.iter().map(|status| i64::from(*status)).collect(),
            exclude: message.exclude,
        },
        Specifier::LogTypeFilter(message) => {
            let types = message.types().filter_map(log_type).collect();
            Filter::LogType { types, exclude: message.exclude }
        }
        Specifier::MetadataFilter(message) => {
            let at = sub(at, "metadata_filter.matcher");
            let matcher = message.matcher.as_ref();
            Filter::Metadata {
                matcher: matcher.map(|matcher| metadata::metadata_matcher(cx, matcher, &at)).transpose()?,
                if_absent: message.match_if_key_not_found.unwrap_or(true),
            }
        }
        Specifier::ExtensionFilter(message) => {
            let at = sub(&sub(at, "extension_filter"), "typed_config");
            let any = message.config_type.as_ref().map(|ConfigType::TypedConfig(any)| any);
            let any = any.ok_or_else(|| Error::at(&at, "a configuration is required"))?;
            if type_name(any) != ExpressionFilter::full_name() {
                return Err(Error::at(at, format!("access log filter {} is not supported yet", type_name(any))));
            }
            let message: ExpressionFilter = unpack(any, &at)?;
            let config = message.cel_config.as_ref();
            Filter::Expression(expression::text(cx, &message.expression, config, &at, "expression")?)
        }
    })
}

fn filters(cx: &mut Context, messages: &[proto::AccessLogFilter], at: &str) -> Result<Vec<Filter>, Error> {
    messages.iter().enumerate().map(|(index, message)| filter(cx, message, &item(at, "filters", index))).collect()
}

fn comparison(message: Option<&proto::ComparisonFilter>, at: &str) -> Result<Comparison, Error> {
    use proto::comparison_filter::Op;
    let message = message.ok_or_else(|| Error::at(at, "a comparison is required"))?;
    let value = message.value.as_ref().ok_or_else(|| Error::at(sub(at, "value"), "a value is required"))?;
    let operator = match message.op() {
        Op::Eq => Operator::Equal,
        Op::Ge => Operator::AtLeast,
        Op::Le => Operator::AtMost,
        Op::Ne => Operator::NotEqual,
    };
    Ok(Comparison { operator, value: value.default_value, key: value.runtime_key.as_str().into() })
}

/// None: nothing is written here for that.
fn log_type(message: AccessLogType) -> Option<LogType> {
    Some(match message {
        AccessLogType::NotSet => LogType::NotSet,
        AccessLogType::TcpUpstreamConnected => LogType::TcpUpstreamConnected,
        AccessLogType::TcpConnectionStart => LogType::TcpConnectionStart,
        AccessLogType::TcpPeriodic => LogType::TcpPeriodic,
        AccessLogType::TcpConnectionEnd => LogType::TcpConnectionEnd,
        AccessLogType::DownstreamStart => LogType::DownstreamStart,
        AccessLogType::DownstreamPeriodic => LogType::DownstreamPeriodic,
        AccessLogType::DownstreamEnd => LogType::DownstreamEnd,
        AccessLogType::DownstreamTunnelSuccessfullyEstablished => LogType::DownstreamTunnelSuccessfullyEstablished,
        AccessLogType::UpstreamPoolReady => LogType::UpstreamPoolReady,
        AccessLogType::UpstreamPeriodic => LogType::UpstreamPeriodic,
        AccessLogType::UpstreamEnd => LogType::UpstreamEnd,
        _ => return None,
    })
}
