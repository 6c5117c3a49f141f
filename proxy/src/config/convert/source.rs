//! `ConfigSource`: where what is named comes from.

use std::time::Duration;

use prost::Message;
use weir_proto::envoy::config::core::v3::{
    ApiConfigSource, ConfigSource, api_config_source::ApiType, config_source::ConfigSourceSpecifier as Specifier,
};

use super::fields::{limit, sub};
use crate::config::{
    cell::{INITIAL_FETCH_TIMEOUT, Source, Sources},
    error::Error,
};

/// Whether what comes from there comes as deltas.
pub(super) fn sends_deltas(followed: Sources, source: &Source) -> bool {
    match source {
        Source::Ads => followed.ads_sends_deltas,
        Source::Server(message) => {
            let message = ApiConfigSource::decode(message.clone());
            message.is_ok_and(|message| message.api_type() == ApiType::DeltaGrpc)
        }
        Source::File(_) => false,
    }
}

/// Where it comes from, and how long is waited for it to come first; none: for ever. It must be one that is `followed`.
pub(crate) fn source(
    followed: Sources,
    message: Option<&ConfigSource>,
    at: &str,
) -> Result<(Source, Option<Duration>), Error> {
    let message = message.ok_or_else(|| Error::at(at, "a source is required"))?;
    if !message.authorities.is_empty() {
        return Err(Error::at(sub(at, "authorities"), "not supported yet"));
    }
    let timeout_at = sub(at, "initial_fetch_timeout");
    let timeout = limit(message.initial_fetch_timeout.as_ref(), Some(INITIAL_FETCH_TIMEOUT), &timeout_at)?;
    #[expect(deprecated, reason = "published configurations use it")]
    let source = match &message.config_source_specifier {
        Some(Specifier::PathConfigSource(source)) => Source::file(&source.path, &sub(at, "path_config_source.path"))?,
        Some(Specifier::Path(path)) => Source::file(path, &sub(at, "path"))?,
        Some(Specifier::Ads(_)) if followed.ads => Source::Ads,
        Some(Specifier::Ads(_)) => {
            return Err(Error::at(sub(at, "ads"), "ADS must be configured to support an ADS config source"));
        }
        Some(Specifier::ApiConfigSource(server)) if followed.servers => Source::Server(server.encode_to_vec().into()),
        Some(Specifier::ApiConfigSource(_)) => {
            return Err(Error::at(sub(at, "api_config_source"), "not supported yet"));
        }
        Some(Specifier::Self_(_)) | None => {
            return Err(Error::at(at, "expected one of path_config_source, ads, api_config_source"));
        }
    };
    Ok((source, timeout))
}
