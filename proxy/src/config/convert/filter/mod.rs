//! HTTP filters before the router, and what routes say about them.

mod basic;
mod cors;
mod ext_authz;
mod fault;
mod grpc_service;
pub(super) mod header_mutation;
mod http_uri;
mod jwt_authn;
mod local_ratelimit;
mod on_demand;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use prost_types::Any;
use weir_proto::envoy::{config::route::v3 as route, extensions::filters::http};

pub(super) use self::{
    cors::old_policy,
    ext_authz::connection_authz,
    local_ratelimit::{bucket, rate_limits},
};
use self::{grpc_service::grpc_service, http_uri::http_uri};
use super::{
    context::Context,
    fields::{sub, type_name, typed, unpack},
    filter_state, forward, istio, rbac,
    tree::Inputs,
};
use crate::config::{
    error::Error,
    filter::{
        FilterKind, Override, Overrides, RouteFilter,
        rbac::Rbac,
        stats::{self, Counted},
    },
};

/// What a filter of type `kind` does, by its configuration. None: there is no such filter (yet).
pub(super) fn filter(cx: &mut Context, any: &Any, at: &str) -> Result<Option<FilterKind>, Error> {
    let any = &*typed(any, at)?;
    Ok(Some(match type_name(any) {
        "envoy.extensions.filters.http.buffer.v3.Buffer" => {
            let message: http::buffer::v3::Buffer = unpack(any, at)?;
            FilterKind::Buffer(message.max_request_bytes.unwrap_or(0) as usize)
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => {
            FilterKind::Cors(Counted::<stats::Cors>::new(cx.http.scope("cors")))
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig" => {
            FilterKind::DynamicForwardProxy(Arc::new(forward::http_filter(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => {
            FilterKind::ExtAuthz(Arc::new(ext_authz::ext_authz(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            FilterKind::Fault(Arc::new(fault::fault(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
            FilterKind::GrpcStats(Arc::new(basic::grpc_stats(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
            let message: http::header_mutation::v3::HeaderMutation = unpack(any, at)?;
            cx.only(&message, at, &["mutations", "most_specific_header_mutations_wins"], &[])?;
            let mut mutation = header_mutation::mutations(cx, message.mutations.as_ref(), &sub(at, "mutations"))?;
            mutation.most_specific_wins = message.most_specific_header_mutations_wins;
            FilterKind::HeaderMutation(Arc::new(mutation))
        }
        "envoy.extensions.filters.http.health_check.v3.HealthCheck" => {
            FilterKind::HealthCheck(Arc::new(basic::health_check(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
            FilterKind::JwtAuthn(Arc::new(jwt_authn::jwt_authn(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            FilterKind::LocalRateLimit(Arc::new(local_ratelimit::local_ratelimit(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.on_demand.v3.OnDemand" => {
            let message: http::on_demand::v3::OnDemand = unpack(any, at)?;
            FilterKind::OnDemand(Arc::new(on_demand::on_demand(cx, message.odcds.as_ref(), at)?))
        }
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            FilterKind::Rbac(Arc::new(http_rbac(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
            FilterKind::SetFilterState(Arc::new(filter_state::of_requests(cx, &unpack(any, at)?, at)?))
        }
        "io.istio.http.peer_metadata.Config" => {
            FilterKind::PeerMetadata(istio::peer_metadata(cx, &unpack(any, at)?, at)?)
        }
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
            FilterKind::Alpn(Arc::new(istio::alpn(cx, &unpack(any, at)?, at)?))
        }
        "stats.PluginConfig" => {
            istio::stats(cx, &unpack(any, at)?, at)?;
            FilterKind::Measuring
        }
        _ => return Ok(None),
    }))
}

/// What a route says about a filter, by its configuration. None: there is no such filter (yet).
fn route_filter(cx: &mut Context, any: &Any, at: &str) -> Result<Option<RouteFilter>, Error> {
    let any = &*typed(any, at)?;
    Ok(Some(match type_name(any) {
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
            use http::buffer::v3::buffer_per_route::Override::{Buffer, Disabled};
            let message: http::buffer::v3::BufferPerRoute = unpack(any, at)?;
            RouteFilter::Buffer(match message.r#override {
                Some(Buffer(buffer)) => Some(buffer.max_request_bytes.unwrap_or(0) as usize),
                Some(Disabled(_)) => None,
                None => return Err(Error::at(at, "expected one of disabled, buffer")),
            })
        }
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
            RouteFilter::Cors(Arc::new(cors::policy(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig" => {
            RouteFilter::DynamicForwardProxy(Arc::new(forward::of_route(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            RouteFilter::ExtAuthz(Arc::new(ext_authz::of_route(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            RouteFilter::Fault(Arc::new(fault::fault(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            let message: http::header_mutation::v3::HeaderMutationPerRoute = unpack(any, at)?;
            let mutations = header_mutation::mutations(cx, message.mutations.as_ref(), &sub(at, "mutations"))?;
            RouteFilter::HeaderMutation(Arc::new(mutations))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            RouteFilter::JwtAuthn(Arc::new(jwt_authn::of_route(&unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            RouteFilter::LocalRateLimit(Arc::new(local_ratelimit::local_ratelimit(cx, &unpack(any, at)?, at)?))
        }
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig" => {
            let message: http::on_demand::v3::PerRouteConfig = unpack(any, at)?;
            RouteFilter::OnDemand(Arc::new(on_demand::on_demand(cx, message.odcds.as_ref(), at)?))
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            let message: http::rbac::v3::RbacPerRoute = unpack(any, at)?;
            let rbac = message.rbac.as_ref().map(|message| http_rbac(cx, message, &sub(at, "rbac"))).transpose()?;
            RouteFilter::Rbac(Arc::new(rbac.unwrap_or_default()))
        }
        _ => return Ok(None),
    }))
}

/// `typed_per_filter_config`.
pub(super) fn overrides(cx: &mut Context, messages: &HashMap<String, Any>, at: &str) -> Result<Overrides, Error> {
    let mut names: Vec<_> = messages.keys().collect();
    names.sort_unstable();
    let mut list = Vec::with_capacity(names.len());
    for name in names {
        let at = format!("{at}.typed_per_filter_config[\"{name}\"]");
        let mut any = &messages[name];
        let (mut disabled, mut optional) = (false, false);
        let wrapped: route::FilterConfig;
        if type_name(any) == "envoy.config.route.v3.FilterConfig" {
            wrapped = unpack(any, &at)?;
            (disabled, optional) = (wrapped.disabled, wrapped.is_optional);
            match &wrapped.config {
                None if !disabled => {
                    let message = format!("Empty route/virtual host per filter configuration for {name} filter");
                    return Err(Error::at(sub(&at, "config"), message));
                }
                // An empty one only switches a filter that is off by default on.
                Some(config) if !disabled && !config.type_url.is_empty() => any = config,
                _ => {
                    list.push((name.as_str().into(), Override { disabled, config: None }));
                    continue;
                }
            }
        }
        match route_filter(cx, any, &at)? {
            Some(config) => list.push((name.as_str().into(), Override { disabled, config: Some(config) })),
            None if optional => cx.ignored.push(format!("{at}: {} is optional", type_name(any))),
            None => {
                let why = format!("{} is not supported yet", type_name(&*typed(any, &at)?));
                return Err(Error::at(at, why));
            }
        }
    }
    Ok(Overrides::new(list))
}

fn http_rbac(cx: &mut Context, message: &http::rbac::v3::Rbac, at: &str) -> Result<Rbac, Error> {
    let supported = [
        "rules",
        "matcher",
        "shadow_rules",
        "shadow_matcher",
        "rules_stat_prefix",
        "shadow_rules_stat_prefix",
        "track_per_rule_stats",
    ];
    cx.only(message, at, &supported, &[])?;
    let own = cx.http.scope("rbac");
    let scope = |prefix: &str| if prefix.is_empty() { own.clone() } else { own.scope(prefix) };
    let mut engine = |rules: Option<&_>, matcher: Option<&_>, fields: [&str; 2]| {
        let [rules_at, matcher_at] = fields.map(|field| sub(at, field));
        rbac::engine(cx, rules, matcher, Inputs::Request, [&rules_at, &matcher_at])
    };
    Ok(Rbac {
        rules: engine(message.rules.as_ref(), message.matcher.as_ref(), ["rules", "matcher"])?,
        shadow: engine(
            message.shadow_rules.as_ref(),
            message.shadow_matcher.as_ref(),
            ["shadow_rules", "shadow_matcher"],
        )?,
        shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
        prefix: message.rules_stat_prefix.as_str().into(),
        track_policies: message.track_per_rule_stats,
        stats: Counted::<stats::Rbac>::new(scope(&message.rules_stat_prefix)),
        shadow_stats: Counted::<stats::ShadowRbac>::new(scope(&message.shadow_rules_stat_prefix)),
    })
}
