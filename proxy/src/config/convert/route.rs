//! Route configurations.

mod action;
mod inherited;
mod internal_redirect;
pub(in crate::config::convert) mod matching;
pub(super) mod policies;

use std::sync::Arc;

use http::HeaderValue;
use weir_proto::envoy::config::route::v3 as proto;

use self::inherited::Inherited;
use super::{
    context::Context,
    fields::{header_name, header_names, item, sub},
    filter,
    headers::{header_fields, with_headers},
    hosts::{self, Discovery},
    matcher, metadata,
    retry::{hedge, retry},
};
use crate::{
    config::{
        error::Error,
        filter::{Override, Overrides},
        route::{Action, RequestStats, RequireTls, Route, RouteTable, VirtualCluster, VirtualHost},
    },
    telemetry::stats::Scope,
};

/// Envoy's default of `max_direct_response_body_size_bytes`.
const MAX_DIRECT_BODY: usize = 4096;

/// Converts a route configuration. With `check_clusters`, the clusters that it names must exist. `discovery` is how it came
/// itself.
pub(super) fn route_table(
    cx: &mut Context,
    message: &proto::RouteConfiguration,
    check_clusters: bool,
    discovery: &Discovery,
    at: &str,
) -> Result<RouteTable, Error> {
    let supported = with_headers(&[
        "name",
        "virtual_hosts",
        "internal_only_headers",
        "most_specific_header_mutations_wins",
        "validate_clusters",
        "max_direct_response_body_size_bytes",
        "ignore_port_in_host_matching",
        "vhost_header",
        "typed_per_filter_config",
        "request_mirror_policies",
        "vhds",
    ]);
    cx.only(message, at, &supported, &["metadata"])?;
    let mut inherited = Inherited {
        retry: None,
        hedge: false,
        mirrors: Vec::new(),
        buffer_limit: None,
        max_direct_body: match message.max_direct_response_body_size_bytes {
            None => MAX_DIRECT_BODY,
            Some(0) => usize::MAX,
            Some(size) => size as usize,
        },
        check_clusters,
        stats: Scope::default(),
    };
    inherited.mirrors = policies::mirrors(cx, &message.request_mirror_policies, inherited.check_clusters, at)?;
    let mut hosts = Vec::new();
    for (index, host) in message.virtual_hosts.iter().enumerate() {
        let at = item(at, "virtual_hosts", index);
        hosts.push((virtual_host(cx, host, &inherited, &at)?, host.domains.clone()));
    }
    let mut table = RouteTable::new(&message.name, hosts).map_err(|duplicate| {
        let at = item(&item(at, "virtual_hosts", duplicate.virtual_host), "domains", duplicate.position);
        Error::at(at, format!("only unique values for domains are permitted: \"{}\"", duplicate.domain))
    })?;
    table.headers = header_fields!(message).convert(cx, at)?;
    table.most_specific_wins = message.most_specific_header_mutations_wins;
    table.ignore_port = message.ignore_port_in_host_matching;
    table.vhost_header = match message.vhost_header.as_str() {
        "" => None,
        name => Some(header_name(name, &sub(at, "vhost_header"))?),
    };
    table.filters = filter::overrides(cx, &message.typed_per_filter_config, at)?;
    table.internal_only_headers = header_names(&message.internal_only_headers, at, "internal_only_headers")?;
    let make = move |cx: &mut Context, host: &proto::VirtualHost| virtual_host(cx, host, &inherited, &host.name);
    table.discovered = hosts::discovered(cx, message, &table, make, discovery, at)?;
    Ok(table)
}

fn virtual_host(
    cx: &mut Context,
    message: &proto::VirtualHost,
    inherited: &Inherited,
    at: &str,
) -> Result<VirtualHost, Error> {
    let supported = with_headers(&[
        "name",
        "domains",
        "routes",
        "require_tls",
        "include_request_attempt_count",
        "include_attempt_count_in_response",
        "retry_policy",
        "hedge_policy",
        "per_request_buffer_limit_bytes",
        "request_body_buffer_limit",
        "typed_per_filter_config",
        "rate_limits",
        "cors",
        "virtual_clusters",
        "include_is_timeout_retry_header",
        "request_mirror_policies",
        "metadata",
    ]);
    cx.only(message, at, &supported, &[])?;
    #[expect(deprecated, reason = "published configurations use it")]
    let buffer_limit = buffer_limit(message.request_body_buffer_limit, message.per_request_buffer_limit_bytes);
    #[expect(deprecated, reason = "published configurations use it")]
    let cors = filter::old_policy(cx, message.cors.as_ref(), at)?;
    let inherited = Inherited {
        retry: retry(cx, message.retry_policy.as_ref(), at)?,
        hedge: hedge(cx, message.hedge_policy.as_ref(), at)?.unwrap_or_default(),
        mirrors: match message.request_mirror_policies.as_slice() {
            [] => inherited.mirrors.clone(),
            messages => policies::mirrors(cx, messages, inherited.check_clusters, at)?,
        },
        buffer_limit: buffer_limit.or(inherited.buffer_limit),
        max_direct_body: inherited.max_direct_body,
        check_clusters: inherited.check_clusters,
        stats: cx.stats.scope(&format!("vhost.{}", message.name)),
    };
    Ok(VirtualHost {
        metadata: metadata::metadata(message.metadata.as_ref()).map(Arc::new),
        name: message.name.as_str().into(),
        routes: message
            .routes
            .iter()
            .enumerate()
            .map(|(index, message)| route(cx, message, &inherited, &item(at, "routes", index)).map(Arc::new))
            .collect::<Result<_, _>>()?,
        require_tls: match message.require_tls() {
            proto::virtual_host::TlsRequirementType::None => RequireTls::None,
            proto::virtual_host::TlsRequirementType::ExternalOnly => RequireTls::ExternalOnly,
            proto::virtual_host::TlsRequirementType::All => RequireTls::All,
        },
        headers: header_fields!(message).convert(cx, at)?,
        attempt_count_in_request: message.include_request_attempt_count,
        attempt_count_in_response: message.include_attempt_count_in_response,
        filters: with_old_cors(cx, &message.typed_per_filter_config, cors, at)?,
        rate_limits: filter::rate_limits(cx, &message.rate_limits, at)?,
        timeout_retry_header: message.include_is_timeout_retry_header,
        virtual_clusters: {
            let clusters = message.virtual_clusters.iter().enumerate();
            clusters
                .map(|(index, cluster)| {
                    let at = item(at, "virtual_clusters", index);
                    if cluster.headers.is_empty() {
                        return Err(Error::at(sub(&at, "headers"), "virtual clusters must define 'headers'"));
                    }
                    let stats = inherited.stats.scope(&format!("vcluster.{}", cluster.name));
                    Ok(VirtualCluster {
                        name: cluster.name.as_str().into(),
                        headers: matcher::headers(cx, &cluster.headers, &at, "headers")?,
                        stats: RequestStats::new(stats),
                    })
                })
                .collect::<Result<_, Error>>()?
        },
        other_requests: (!message.virtual_clusters.is_empty())
            .then(|| RequestStats::new(inherited.stats.scope("vcluster.other"))),
    })
}

/// What is said about filters, and the policy for cors that had a field of its own.
fn with_old_cors(
    cx: &mut Context,
    messages: &std::collections::HashMap<String, prost_types::Any>,
    cors: Option<(Box<str>, Override)>,
    at: &str,
) -> Result<Overrides, Error> {
    let mut overrides = filter::overrides(cx, messages, at)?;
    if let Some((name, policy)) = cors {
        overrides.add_if_absent(name, policy);
    }
    Ok(overrides)
}

fn buffer_limit(new: Option<u64>, old: Option<u32>) -> Option<usize> {
    new.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)).or(old.map(|bytes| bytes as usize))
}

fn route(cx: &mut Context, message: &proto::Route, inherited: &Inherited, at: &str) -> Result<Route, Error> {
    let supported = with_headers(&[
        "name",
        "match",
        "route",
        "redirect",
        "direct_response",
        "per_request_buffer_limit_bytes",
        "request_body_buffer_limit",
        "typed_per_filter_config",
        "metadata",
        "stat_prefix",
        "decorator",
    ]);
    cx.only(message, at, &supported, &["tracing"])?;
    let cors = match &message.action {
        #[expect(deprecated, reason = "published configurations use it")]
        Some(proto::route::Action::Route(action)) => filter::old_policy(cx, action.cors.as_ref(), &sub(at, "route"))?,
        _ => None,
    };
    let matches = message.r#match.as_ref().ok_or_else(|| Error::at(sub(at, "match"), "a match is required"))?;
    let action = match &message.action {
        Some(proto::route::Action::Route(message)) => {
            Action::Forward(Box::new(action::forward(cx, message, matches, inherited, &sub(at, "route"))?))
        }
        Some(proto::route::Action::Redirect(message)) => {
            Action::Redirect(action::redirect(cx, message, &sub(at, "redirect"))?)
        }
        Some(proto::route::Action::DirectResponse(message)) => {
            Action::Direct(action::direct(cx, message, inherited, &sub(at, "direct_response"))?)
        }
        _ => return Err(Error::at(at, "expected one of route, redirect, direct_response")),
    };
    #[expect(deprecated, reason = "published configurations use it")]
    let buffer_limit = buffer_limit(message.request_body_buffer_limit, message.per_request_buffer_limit_bytes);
    Ok(Route {
        name: message.name.as_str().into(),
        matches: matching::route_match(cx, matches, &sub(at, "match"))?,
        action,
        headers: header_fields!(message).convert(cx, at)?,
        buffer_limit: buffer_limit.or(inherited.buffer_limit),
        filters: with_old_cors(cx, &message.typed_per_filter_config, cors, at)?,
        metadata: metadata::metadata(message.metadata.as_ref()).map(Arc::new),
        stats: match message.stat_prefix.as_str() {
            "" => None,
            prefix => Some(RequestStats::new(inherited.stats.scope(&format!("route.{prefix}")))),
        },
        operation: operation(message.decorator.as_ref(), &sub(at, "decorator"))?,
    })
}

/// What a route's requests are called, if others are to know.
fn operation(message: Option<&proto::Decorator>, at: &str) -> Result<Option<HeaderValue>, Error> {
    let Some(message) = message.filter(|message| message.propagate.unwrap_or(true)) else { return Ok(None) };
    let operation = HeaderValue::from_str(&message.operation);
    let operation = operation.map_err(|_| Error::at(sub(at, "operation"), "must fit into a header"))?;
    Ok((!operation.is_empty()).then_some(operation))
}
