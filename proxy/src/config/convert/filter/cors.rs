//! Cross-origin resource sharing.

use http::HeaderValue;
use weir_proto::envoy::{config::route::v3 as old, extensions::filters::http::cors::v3 as proto};

use crate::{
    config::{
        convert::{
            context::Context,
            fields::{item, sub},
            matcher,
        },
        error::Error,
        filter::{Override, RouteFilter, cors::CorsPolicy},
    },
    matcher::StringMatcher,
};

/// The name that the filter has in nearly every configuration: what the old policies of routes apply to.
const USUAL_NAME: &str = "envoy.filters.http.cors";

/// What both forms of the policy have.
const FIELDS: [&str; 10] = [
    "allow_origin_string_match",
    "allow_methods",
    "allow_headers",
    "expose_headers",
    "max_age",
    "allow_credentials",
    "filter_enabled",
    "shadow_enabled",
    "allow_private_network_access",
    "forward_not_matching_preflights",
];

pub(super) fn policy(cx: &mut Context, message: &proto::CorsPolicy, at: &str) -> Result<CorsPolicy, Error> {
    cx.only(message, at, &FIELDS, &[])?;
    Ok(CorsPolicy {
        old: false,
        allow_origin: origins(&message.allow_origin_string_match, at)?,
        allow_methods: value(&message.allow_methods, at, "allow_methods")?,
        allow_headers: value(&message.allow_headers, at, "allow_headers")?,
        expose_headers: value(&message.expose_headers, at, "expose_headers")?,
        max_age: value(&message.max_age, at, "max_age")?,
        allow_credentials: message.allow_credentials,
        allow_private_network: message.allow_private_network_access,
        forward_not_matching_preflights: message.forward_not_matching_preflights,
        enabled: matcher::runtime_fraction(message.filter_enabled.as_ref()),
        shadow: matcher::runtime_fraction(message.shadow_enabled.as_ref()),
    })
}

/// The policy that routes and virtual hosts had before filters were configured by type.
pub(in crate::config::convert) fn old_policy(
    cx: &mut Context,
    message: Option<&old::CorsPolicy>,
    at: &str,
) -> Result<Option<(Box<str>, Override)>, Error> {
    let Some(message) = message else { return Ok(None) };
    let at = &sub(at, "cors");
    cx.only(message, at, &FIELDS, &[])?;
    let policy = CorsPolicy {
        old: true,
        allow_origin: origins(&message.allow_origin_string_match, at)?,
        allow_methods: value(&message.allow_methods, at, "allow_methods")?,
        allow_headers: value(&message.allow_headers, at, "allow_headers")?,
        expose_headers: value(&message.expose_headers, at, "expose_headers")?,
        max_age: value(&message.max_age, at, "max_age")?,
        allow_credentials: message.allow_credentials,
        allow_private_network: message.allow_private_network_access,
        forward_not_matching_preflights: message.forward_not_matching_preflights,
        enabled: match &message.enabled_specifier {
            Some(old::cors_policy::EnabledSpecifier::FilterEnabled(share)) => matcher::runtime_fraction(Some(share)),
            None => None,
        },
        shadow: matcher::runtime_fraction(message.shadow_enabled.as_ref()),
    };
    Ok(Some((USUAL_NAME.into(), Override { disabled: false, config: Some(RouteFilter::Cors(policy.into())) })))
}

fn origins(
    messages: &[weir_proto::envoy::r#type::matcher::v3::StringMatcher],
    at: &str,
) -> Result<Vec<StringMatcher>, Error> {
    let messages = messages.iter().enumerate();
    messages.map(|(index, message)| matcher::string(message, &item(at, "allow_origin_string_match", index))).collect()
}

fn value(text: &str, at: &str, field: &str) -> Result<Option<HeaderValue>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text).map(Some).map_err(|_| Error::at(sub(at, field), "not a header value"))
}
