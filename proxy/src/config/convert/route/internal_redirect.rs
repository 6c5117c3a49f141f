//! Redirects that are followed here.

use http::StatusCode;
use weir_proto::envoy::{
    config::route::v3 as proto, extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig,
};

use crate::config::{
    convert::{
        context::Context,
        fields::{header_names, item, sub, type_name, unpack},
    },
    error::Error,
    route::{InternalRedirects, RedirectPredicate},
};

/// The statuses that can be followed.
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

pub(super) fn policy(
    cx: &mut Context,
    message: &proto::InternalRedirectPolicy,
    at: &str,
) -> Result<InternalRedirects, Error> {
    let supported = [
        "max_internal_redirects",
        "redirect_response_codes",
        "predicates",
        "allow_cross_scheme_redirect",
        "response_headers_to_copy",
    ];
    cx.only(message, at, &supported, &[])?;
    let known = message.redirect_response_codes.iter().filter(|code| REDIRECTS.contains(code));
    let mut statuses: Vec<_> = known.filter_map(|code| StatusCode::from_u16(u16::try_from(*code).ok()?).ok()).collect();
    if message.redirect_response_codes.is_empty() {
        statuses.push(StatusCode::FOUND);
    }
    let mut predicates = Vec::with_capacity(message.predicates.len());
    for (index, predicate) in message.predicates.iter().enumerate() {
        let at = sub(&item(at, "predicates", index), "typed_config");
        let any = predicate.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
        predicates.push(match type_name(any) {
            "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
                let listed: AllowListedRoutesConfig = unpack(any, &at)?;
                let names = listed.allowed_route_names.iter();
                RedirectPredicate::Listed(names.map(|name| name.as_str().into()).collect())
            }
            "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => {
                RedirectPredicate::NotFollowedBefore
            }
            "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
                RedirectPredicate::NoUpgradeToTls
            }
            other => return Err(Error::at(at, format!("predicate {other} is not supported yet"))),
        });
    }
    Ok(InternalRedirects {
        max: message.max_internal_redirects.unwrap_or(InternalRedirects::DEFAULT_MAX),
        statuses,
        predicates,
        cross_scheme: message.allow_cross_scheme_redirect,
        copy: header_names(&message.response_headers_to_copy, at, "response_headers_to_copy")?,
    })
}
