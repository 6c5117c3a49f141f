//! Which requests a route takes.

use weir_proto::envoy::{
    config::{core::v3 as core, route::v3 as proto},
    extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
};

use crate::config::{
    convert::{
        context::Context,
        fields::{item, sub, type_name, unpack},
        matcher, metadata,
    },
    error::Error,
    route::{CookieMatcher, PathMatch, RouteMatch, TlsMatch},
    template::PathTemplate,
};

pub(in crate::config::convert) fn route_match(
    cx: &mut Context,
    message: &proto::RouteMatch,
    at: &str,
) -> Result<RouteMatch, Error> {
    use proto::route_match::PathSpecifier;
    let supported = [
        "prefix",
        "path",
        "safe_regex",
        "path_separated_prefix",
        "case_sensitive",
        "runtime_fraction",
        "headers",
        "query_parameters",
        "grpc",
        "connect_matcher",
        "path_match_policy",
        "cookies",
        "tls_context",
        "dynamic_metadata",
    ];
    cx.only(message, at, &supported, &[])?;
    let case_sensitive = message.case_sensitive.unwrap_or(true);
    let literal =
        |text: &str| -> Box<str> { if case_sensitive { text.into() } else { text.to_ascii_lowercase().into() } };
    let path = match &message.path_specifier {
        Some(PathSpecifier::Prefix(text)) => PathMatch::Prefix(literal(text)),
        Some(PathSpecifier::Path(text)) => PathMatch::Exact(literal(text)),
        Some(PathSpecifier::SafeRegex(regex)) => PathMatch::Regex(matcher::regex(regex, &sub(at, "safe_regex"))?),
        Some(PathSpecifier::PathSeparatedPrefix(text)) => {
            if text.ends_with('/') || text.contains(['?', '#']) || !text.starts_with('/') {
                let message = format!("\"{text}\" must begin with a slash, must not end with one, and holds no ? or #");
                return Err(Error::at(sub(at, "path_separated_prefix"), message));
            }
            PathMatch::SeparatedPrefix(literal(text))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        Some(PathSpecifier::PathMatchPolicy(policy)) => {
            PathMatch::Regex(template(policy, &sub(at, "path_match_policy"))?.to_regex())
        }
        None => return Err(Error::at(at, "expected one of prefix, path, safe_regex, path_separated_prefix")),
    };
    Ok(RouteMatch {
        path,
        case_sensitive,
        headers: matcher::headers(cx, &message.headers, at, "headers")?,
        query: matcher::queries(&message.query_parameters, at)?,
        cookies: {
            let cookies = message.cookies.iter().enumerate();
            cookies
                .map(|(index, cookie)| self::cookie(cookie, &item(at, "cookies", index)))
                .collect::<Result<_, _>>()?
        },
        tls: message.tls_context.as_ref().map(|tls| TlsMatch { presented: tls.presented, validated: tls.validated }),
        metadata: {
            let matchers = message.dynamic_metadata.iter().enumerate();
            matchers
                .map(|(index, message)| metadata::metadata_matcher(cx, message, &item(at, "dynamic_metadata", index)))
                .collect::<Result<_, _>>()?
        },
        grpc: message.grpc.is_some(),
        fraction: matcher::runtime_fraction(message.runtime_fraction.as_ref()),
    })
}

fn cookie(message: &proto::CookieMatcher, at: &str) -> Result<CookieMatcher, Error> {
    let string_at = sub(at, "string_match");
    let matcher = message.string_match.as_ref().ok_or_else(|| Error::at(&string_at, "a matcher is required"))?;
    Ok(CookieMatcher {
        name: message.name.as_str().into(),
        value: matcher::string(matcher, &string_at)?,
        invert: message.invert_match,
    })
}

/// The path template of `path_match_policy`.
pub(in crate::config::convert) fn template(
    policy: &core::TypedExtensionConfig,
    at: &str,
) -> Result<PathTemplate, Error> {
    let at = sub(at, "typed_config");
    let any = policy.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
    if type_name(any) != "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" {
        return Err(Error::at(at, format!("{} is not supported yet", type_name(any))));
    }
    let config: UriTemplateMatchConfig = unpack(any, &at)?;
    PathTemplate::parse(&config.path_template).map_err(|error| Error::at(sub(&at, "path_template"), error))
}
