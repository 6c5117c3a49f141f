//! Route configurations.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use weir_proto::envoy::config::route::v3 as proto;

use super::{Context, Error, data_source, duration, filter, headers, item, limit, matcher, metadata, retry, sub};
use crate::config::{
    filter::{Override, Overrides},
    header_name,
    retry::RetryPolicy,
    route::{
        Action, Clusters, DirectResponse, Forward, HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath,
        RequireTls, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
    },
};

/// Envoy's default of `max_direct_response_body_size_bytes`.
const MAX_DIRECT_BODY: usize = 4096;

/// Fields that cannot change where a request goes as long as the filters that read them are refused.
const HARMLESS_ACTION: [&str; 5] = ["metadata_match", "flush_timeout", "early_data_policy", "priority", "hash_policy"];

macro_rules! header_fields {
    ($message:expr) => {
        headers::Fields {
            request_add: &$message.request_headers_to_add,
            request_remove: &$message.request_headers_to_remove,
            response_add: &$message.response_headers_to_add,
            response_remove: &$message.response_headers_to_remove,
        }
    };
}

fn with_headers(fields: &[&'static str]) -> Vec<&'static str> {
    fields.iter().copied().chain(headers::Fields::NAMES).collect()
}

/// What routes inherit.
struct Inherited {
    retry: Option<Arc<RetryPolicy>>,
    buffer_limit: Option<usize>,
    max_direct_body: usize,
    check_clusters: bool,
}

/// Converts a route configuration that is part of a connection manager.
pub(super) fn route_table(
    cx: &mut Context,
    message: &proto::RouteConfiguration,
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
    ]);
    cx.only(message, at, &supported, &["metadata"])?;
    let inherited = Inherited {
        retry: None,
        buffer_limit: None,
        max_direct_body: message.max_direct_response_body_size_bytes.map_or(MAX_DIRECT_BODY, |size| size as usize),
        // Envoy's default for routes that are part of the listener.
        check_clusters: message.validate_clusters.unwrap_or(true),
    };
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
    table.internal_only_headers = message
        .internal_only_headers
        .iter()
        .enumerate()
        .map(|(index, name)| header_name(name, &item(at, "internal_only_headers", index)))
        .collect::<Result<_, _>>()?;
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
        "per_request_buffer_limit_bytes",
        "request_body_buffer_limit",
        "typed_per_filter_config",
        "rate_limits",
        "cors",
    ]);
    let harmless = ["virtual_clusters", "metadata", "include_is_timeout_retry_header"];
    cx.only(message, at, &supported, &harmless)?;
    #[expect(deprecated, reason = "published configurations use it")]
    let buffer_limit = buffer_limit(message.request_body_buffer_limit, message.per_request_buffer_limit_bytes);
    #[expect(deprecated, reason = "published configurations use it")]
    let cors = filter::old_policy(cx, message.cors.as_ref(), at)?;
    let inherited = Inherited {
        retry: retry(cx, message.retry_policy.as_ref(), at)?,
        buffer_limit: buffer_limit.or(inherited.buffer_limit),
        ..*inherited
    };
    Ok(VirtualHost {
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

fn retry(cx: &mut Context, message: Option<&proto::RetryPolicy>, at: &str) -> Result<Option<Arc<RetryPolicy>>, Error> {
    message.map(|message| retry::retry_policy(cx, message, &sub(at, "retry_policy")).map(Arc::new)).transpose()
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
    ]);
    cx.only(message, at, &supported, &["decorator", "tracing", "stat_prefix"])?;
    let cors = match &message.action {
        #[expect(deprecated, reason = "published configurations use it")]
        Some(proto::route::Action::Route(action)) => filter::old_policy(cx, action.cors.as_ref(), &sub(at, "route"))?,
        _ => None,
    };
    let matches = message.r#match.as_ref().ok_or_else(|| Error::at(sub(at, "match"), "a match is required"))?;
    let action = match &message.action {
        Some(proto::route::Action::Route(message)) => {
            Action::Forward(Box::new(forward(cx, message, inherited, &sub(at, "route"))?))
        }
        Some(proto::route::Action::Redirect(message)) => Action::Redirect(redirect(message, &sub(at, "redirect"))?),
        Some(proto::route::Action::DirectResponse(message)) => {
            Action::Direct(direct(cx, message, inherited, &sub(at, "direct_response"))?)
        }
        _ => return Err(Error::at(at, "expected one of route, redirect, direct_response")),
    };
    #[expect(deprecated, reason = "published configurations use it")]
    let buffer_limit = buffer_limit(message.request_body_buffer_limit, message.per_request_buffer_limit_bytes);
    Ok(Route {
        name: message.name.as_str().into(),
        matches: route_match(cx, matches, &sub(at, "match"))?,
        action,
        headers: header_fields!(message).convert(cx, at)?,
        buffer_limit: buffer_limit.or(inherited.buffer_limit),
        filters: with_old_cors(cx, &message.typed_per_filter_config, cors, at)?,
        metadata: metadata::metadata(message.metadata.as_ref()),
    })
}

fn route_match(cx: &mut Context, message: &proto::RouteMatch, at: &str) -> Result<RouteMatch, Error> {
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
        _ => return Err(Error::at(at, "expected one of prefix, path, safe_regex, path_separated_prefix")),
    };
    Ok(RouteMatch {
        path,
        case_sensitive,
        headers: matcher::headers(cx, &message.headers, at, "headers")?,
        query: matcher::queries(&message.query_parameters, at)?,
        grpc: message.grpc.is_some(),
        fraction: matcher::runtime_fraction(message.runtime_fraction.as_ref()),
    })
}

fn forward(cx: &mut Context, message: &proto::RouteAction, inherited: &Inherited, at: &str) -> Result<Forward, Error> {
    let supported = [
        "cluster",
        "cluster_header",
        "weighted_clusters",
        "cluster_not_found_response_code",
        "prefix_rewrite",
        "regex_rewrite",
        "host_rewrite_literal",
        "auto_host_rewrite",
        "host_rewrite_header",
        "host_rewrite_path_regex",
        "append_x_forwarded_host",
        "timeout",
        "idle_timeout",
        "retry_policy",
        "max_grpc_timeout",
        "upgrade_configs",
        "max_stream_duration",
        "rate_limits",
        "include_vh_rate_limits",
        "cors",
    ];
    cx.only(message, at, &supported, &HARMLESS_ACTION)?;
    let mut upgrades = Vec::new();
    for (index, upgrade) in message.upgrade_configs.iter().enumerate() {
        let at = item(at, "upgrade_configs", index);
        cx.only(upgrade, &at, &["upgrade_type", "enabled"], &[])?;
        if upgrade.upgrade_type.eq_ignore_ascii_case("connect") && upgrade.enabled.unwrap_or(true) {
            return Err(Error::at(sub(&at, "upgrade_type"), "CONNECT is not supported yet"));
        }
        upgrades.push((upgrade.upgrade_type.to_ascii_lowercase().into(), upgrade.enabled.unwrap_or(true)));
    }
    #[expect(deprecated, reason = "published configurations use it")]
    let max_grpc_timeout = message.max_grpc_timeout.as_ref();
    let (max_stream_duration, max_grpc_timeout) = match &message.max_stream_duration {
        None => (None, optional_limit(max_grpc_timeout, &sub(at, "max_grpc_timeout"))?),
        Some(durations) => {
            let at = sub(at, "max_stream_duration");
            cx.only(durations, &at, &["max_stream_duration"], &[])?;
            (optional_limit(durations.max_stream_duration.as_ref(), &sub(&at, "max_stream_duration"))?, None)
        }
    };
    use proto::route_action::ClusterNotFoundResponseCode as NotFound;
    #[expect(deprecated, reason = "published configurations use it")]
    let include_vhost_rate_limits = message.include_vh_rate_limits.unwrap_or(false);
    Ok(Forward {
        rate_limits: filter::rate_limits(cx, &message.rate_limits, at)?,
        include_vhost_rate_limits,
        clusters: clusters(cx, message, inherited, at)?,
        cluster_not_found: match message.cluster_not_found_response_code() {
            NotFound::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            NotFound::NotFound => StatusCode::NOT_FOUND,
            NotFound::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        path_rewrite: match (message.prefix_rewrite.as_str(), &message.regex_rewrite) {
            ("", None) => None,
            ("", Some(rewrite)) => Some(PathRewrite::Regex(matcher::rewrite(rewrite, &sub(at, "regex_rewrite"))?)),
            (prefix, None) => Some(PathRewrite::Prefix(prefix.into())),
            (_, Some(_)) => {
                return Err(Error::at(sub(at, "regex_rewrite"), "only one of prefix_rewrite and regex_rewrite"));
            }
        },
        host_rewrite: host_rewrite(message, at)?,
        append_forwarded_host: message.append_x_forwarded_host,
        timeout: limit(message.timeout.as_ref(), Some(Forward::DEFAULT_TIMEOUT), &sub(at, "timeout"))?,
        idle_timeout: optional_limit(message.idle_timeout.as_ref(), &sub(at, "idle_timeout"))?,
        max_grpc_timeout,
        max_stream_duration,
        retry: retry(cx, message.retry_policy.as_ref(), at)?.or_else(|| inherited.retry.clone()),
        upgrades,
    })
}

/// A limit that may be absent, or set to "never".
#[expect(clippy::option_option, reason = "not set and set to never differ")]
fn optional_limit(
    message: Option<&prost_types::Duration>,
    at: &str,
) -> Result<Option<Option<std::time::Duration>>, Error> {
    message.map(|message| duration(message, at).map(|duration| (!duration.is_zero()).then_some(duration))).transpose()
}

fn clusters(
    cx: &mut Context,
    message: &proto::RouteAction,
    inherited: &Inherited,
    at: &str,
) -> Result<Clusters, Error> {
    use proto::route_action::ClusterSpecifier;
    match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => named(cx, name, inherited, &sub(at, "cluster")).map(Clusters::One),
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            header_name(name, &sub(at, "cluster_header")).map(Clusters::Header)
        }
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            weighted(cx, message, inherited, &sub(at, "weighted_clusters"))
        }
        _ => Err(Error::at(at, "expected one of cluster, cluster_header, weighted_clusters")),
    }
}

fn named(cx: &Context, name: &str, inherited: &Inherited, at: &str) -> Result<Arc<str>, Error> {
    if inherited.check_clusters { cx.known_cluster(name, at) } else { Ok(name.into()) }
}

fn weighted(
    cx: &mut Context,
    message: &proto::WeightedCluster,
    inherited: &Inherited,
    at: &str,
) -> Result<Clusters, Error> {
    #[expect(deprecated, reason = "published configurations use it")]
    let expected = message.total_weight;
    cx.only(message, at, &["clusters", "total_weight"], &["runtime_key_prefix"])?;
    let mut clusters = Vec::new();
    for (index, entry) in message.clusters.iter().enumerate() {
        let at = item(at, "clusters", index);
        let supported = with_headers(&["name", "weight", "host_rewrite_literal", "typed_per_filter_config"]);
        cx.only(entry, &at, &supported, &["metadata_match"])?;
        use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        clusters.push(WeightedCluster {
            name: named(cx, &entry.name, inherited, &sub(&at, "name"))?,
            weight: entry.weight.unwrap_or(0),
            headers: header_fields!(entry).convert(cx, &at)?,
            filters: filter::overrides(cx, &entry.typed_per_filter_config, &at)?,
            host_rewrite: match &entry.host_rewrite_specifier {
                Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                    Some(authority(host, &sub(&at, "host_rewrite_literal"))?)
                }
                _ => None,
            },
        });
    }
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    if total == 0 {
        return Err(Error::at(at, "sum of weights in the weighted_cluster must be greater than 0"));
    }
    if total > u64::from(u32::MAX) {
        return Err(Error::at(at, format!("sum of weights in the weighted_cluster must not exceed {}", u32::MAX)));
    }
    if expected.is_some_and(|expected| u64::from(expected) != total) {
        return Err(Error::at(sub(at, "total_weight"), format!("the weights sum up to {total}")));
    }
    Ok(Clusters::Weighted { clusters, total })
}

fn authority(host: &str, at: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(host).map_err(|_| Error::at(at, format!("\"{host}\" is not a host")))
}

fn host_rewrite(message: &proto::RouteAction, at: &str) -> Result<Option<HostRewrite>, Error> {
    use proto::route_action::HostRewriteSpecifier as Specifier;
    Ok(match &message.host_rewrite_specifier {
        None | Some(Specifier::AutoHostRewrite(false)) => None,
        Some(Specifier::AutoHostRewrite(true)) => Some(HostRewrite::Auto),
        Some(Specifier::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(authority(host, &sub(at, "host_rewrite_literal"))?))
        }
        Some(Specifier::HostRewriteHeader(name)) => {
            Some(HostRewrite::Header(header_name(name, &sub(at, "host_rewrite_header"))?))
        }
        Some(Specifier::HostRewritePathRegex(rewrite)) => {
            Some(HostRewrite::PathRegex(matcher::rewrite(rewrite, &sub(at, "host_rewrite_path_regex"))?))
        }
        Some(Specifier::HostRewrite(_)) => return Err(Error::at(sub(at, "host_rewrite"), "not supported yet")),
    })
}

fn redirect(message: &proto::RedirectAction, at: &str) -> Result<Redirect, Error> {
    use proto::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let text = |text: &str| (!text.is_empty()).then(|| Box::from(text));
    Ok(Redirect {
        status: match message.response_code() {
            RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            RedirectResponseCode::Found => StatusCode::FOUND,
            RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
            RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        },
        scheme: match &message.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
            _ => None,
        },
        host: text(&message.host_redirect),
        port: match message.port_redirect {
            0 => None,
            port => Some(
                u16::try_from(port)
                    .map_err(|_| Error::at(sub(at, "port_redirect"), format!("{port} is not a port")))?,
            ),
        },
        path: match &message.path_rewrite_specifier {
            Some(PathRewriteSpecifier::PathRedirect(path)) => text(path).map(RedirectPath::Whole),
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(prefix.as_str().into())),
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                Some(RedirectPath::Regex(matcher::rewrite(rewrite, &sub(at, "regex_rewrite"))?))
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(Error::at(sub(at, "path_rewrite"), "not supported yet"));
            }
            None => None,
        },
        strip_query: message.strip_query,
    })
}

fn direct(
    cx: &mut Context,
    message: &proto::DirectResponseAction,
    inherited: &Inherited,
    at: &str,
) -> Result<DirectResponse, Error> {
    cx.only(message, at, &["status", "body"], &[])?;
    let status = u16::try_from(message.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| Error::at(sub(at, "status"), format!("{} is not a status from 200 to 599", message.status)))?;
    let body = match &message.body {
        Some(body) => data_source(body, &sub(at, "body"))?,
        None => Vec::new(),
    };
    if body.len() > inherited.max_direct_body {
        let message = format!("response body size is {} bytes; maximum is {}", body.len(), inherited.max_direct_body);
        return Err(Error::at(sub(at, "body"), message));
    }
    Ok(DirectResponse { status, body: Bytes::from(body) })
}
