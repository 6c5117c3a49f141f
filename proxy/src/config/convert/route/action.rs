//! What routes do with requests.

use bytes::Bytes;
use http::StatusCode;
use weir_proto::envoy::{
    config::{core::v3 as core, route::v3 as proto},
    extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig,
};

use super::{
    inherited::Inherited,
    internal_redirect, matching,
    policies::{authority, hash_policies, mirrors, named, named_by},
};
use crate::config::{
    cluster::RoutingPriority,
    convert::{
        connect::proxy_header,
        context::Context,
        fields::{data_source, duration, header_name, item, limit, sub, type_name, unpack},
        filter,
        headers::{header_fields, with_headers},
        local_reply, matcher,
        retry::{hedge, retry},
    },
    error::Error,
    route::{
        ChosenBy, Clusters, Connect, DirectResponse, Forward, GrpcDeadline, HostRewrite, PathRewrite, Redirect,
        RedirectPath, UpgradeRule, WeightedCluster,
    },
};
use crate::wire::proxy_header::ProxyHeader;

/// Fields that cannot change where a request goes as long as the filters that read them are refused.
const HARMLESS_ACTION: [&str; 3] = ["metadata_match", "flush_timeout", "early_data_policy"];

pub(super) fn forward(
    cx: &mut Context,
    message: &proto::RouteAction,
    matched: &proto::RouteMatch,
    inherited: &Inherited,
    at: &str,
) -> Result<Forward, Error> {
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
        "hedge_policy",
        "max_grpc_timeout",
        "upgrade_configs",
        "max_stream_duration",
        "rate_limits",
        "include_vh_rate_limits",
        "cors",
        "hash_policy",
        "request_mirror_policies",
        "grpc_timeout_offset",
        "path_rewrite_policy",
        "internal_redirect_policy",
        "priority",
    ];
    cx.only(message, at, &supported, &HARMLESS_ACTION)?;
    let upgrades = upgrades(cx, &message.upgrade_configs, at)?;
    #[expect(deprecated, reason = "published configurations use them")]
    let (max_grpc_timeout, offset) = (message.max_grpc_timeout.as_ref(), message.grpc_timeout_offset.as_ref());
    let max_grpc_timeout = optional_limit(max_grpc_timeout, &sub(at, "max_grpc_timeout"))?;
    let grpc_timeout_offset = limit(offset, None, &sub(at, "grpc_timeout_offset"))?;
    let (max_stream_duration, grpc_stream) = match &message.max_stream_duration {
        None => (None, None),
        Some(durations) => {
            let at = sub(at, "max_stream_duration");
            let max = durations.grpc_timeout_header_max.as_ref();
            let offset = durations.grpc_timeout_header_offset.as_ref();
            let offset = limit(offset, None, &sub(&at, "grpc_timeout_header_offset"))?;
            let max = optional_limit(max, &sub(&at, "grpc_timeout_header_max"))?;
            (
                optional_limit(durations.max_stream_duration.as_ref(), &sub(&at, "max_stream_duration"))?,
                max.map(|max| GrpcDeadline { max, offset }),
            )
        }
    };
    use proto::route_action::ClusterNotFoundResponseCode as NotFound;
    #[expect(deprecated, reason = "published configurations use it")]
    let include_vhost_rate_limits = message.include_vh_rate_limits.unwrap_or(false);
    Ok(Forward {
        priority: match message.priority() {
            core::RoutingPriority::Default => RoutingPriority::Default,
            core::RoutingPriority::High => RoutingPriority::High,
        },
        rate_limits: filter::rate_limits(cx, &message.rate_limits, at)?,
        include_vhost_rate_limits,
        clusters: clusters(cx, message, inherited, at)?,
        cluster_not_found: match message.cluster_not_found_response_code() {
            NotFound::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            NotFound::NotFound => StatusCode::NOT_FOUND,
            NotFound::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        path_rewrite: match &message.path_rewrite_policy {
            Some(policy) => Some(path_template_rewrite(policy, matched, &sub(at, "path_rewrite_policy"))?),
            None => path_rewrite(message, at)?,
        },
        host_rewrite: host_rewrite(message, at)?,
        append_forwarded_host: message.append_x_forwarded_host,
        timeout: match &message.max_stream_duration {
            None => limit(message.timeout.as_ref(), Some(Forward::DEFAULT_TIMEOUT), &sub(at, "timeout"))?,
            // As in Envoy, who says how long the stream may last says nothing of the response.
            Some(_) => None,
        },
        idle_timeout: optional_limit(message.idle_timeout.as_ref(), &sub(at, "idle_timeout"))?,
        max_grpc_timeout,
        grpc_timeout_offset,
        grpc_stream,
        max_stream_duration,
        retry: retry(cx, message.retry_policy.as_ref(), at)?.or_else(|| inherited.retry.clone()),
        hedge: hedge(cx, message.hedge_policy.as_ref(), at)?.unwrap_or(inherited.hedge),
        internal_redirects: {
            let policy = message.internal_redirect_policy.as_ref();
            let at = sub(at, "internal_redirect_policy");
            policy.map(|policy| internal_redirect::policy(cx, policy, &at)).transpose()?
        },
        upgrades,
        mirrors: match message.request_mirror_policies.as_slice() {
            [] => inherited.mirrors.clone(),
            policies => mirrors(cx, policies, inherited.check_clusters, at)?,
        },
        hash: hash_policies(cx, &message.hash_policy, at)?,
    })
}

fn path_rewrite(message: &proto::RouteAction, at: &str) -> Result<Option<PathRewrite>, Error> {
    Ok(match (message.prefix_rewrite.as_str(), &message.regex_rewrite) {
        ("", None) => None,
        ("", Some(rewrite)) => Some(PathRewrite::Regex(matcher::rewrite(rewrite, &sub(at, "regex_rewrite"))?)),
        (prefix, None) => Some(PathRewrite::Prefix(prefix.into())),
        (_, Some(_)) => {
            return Err(Error::at(sub(at, "regex_rewrite"), "only one of prefix_rewrite and regex_rewrite"));
        }
    })
}

/// `path_rewrite_policy`: the route must match by a template, too.
fn path_template_rewrite(
    policy: &core::TypedExtensionConfig,
    matched: &proto::RouteMatch,
    at: &str,
) -> Result<PathRewrite, Error> {
    let at = sub(at, "typed_config");
    let any = policy.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
    if type_name(any) != "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig" {
        return Err(Error::at(at, format!("{} is not supported yet", type_name(any))));
    }
    let Some(proto::route_match::PathSpecifier::PathMatchPolicy(matched)) = &matched.path_specifier else {
        return Err(Error::at(at, "needs a path_match_policy in the route's match"));
    };
    let template = matching::template(matched, &at)?;
    let config: UriTemplateRewriteConfig = unpack(any, &at)?;
    let rewrite = template.rewrite(&config.path_template_rewrite);
    rewrite.map(PathRewrite::Regex).map_err(|error| Error::at(sub(&at, "path_template_rewrite"), error))
}

/// The upgrades that a route allows or refuses, each once.
fn upgrades(
    cx: &mut Context,
    messages: &[proto::route_action::UpgradeConfig],
    at: &str,
) -> Result<Vec<UpgradeRule>, Error> {
    let mut upgrades = Vec::<UpgradeRule>::new();
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "upgrade_configs", index);
        let upgrade = upgrade(cx, message, &at)?;
        if upgrades.iter().any(|other| other.kind == upgrade.kind) {
            let expected = format!("\"{}\" is there already", message.upgrade_type);
            return Err(Error::at(sub(&at, "upgrade_type"), expected));
        }
        upgrades.push(upgrade);
    }
    Ok(upgrades)
}

/// One of them.
fn upgrade(cx: &mut Context, message: &proto::route_action::UpgradeConfig, at: &str) -> Result<UpgradeRule, Error> {
    cx.only(message, at, &["upgrade_type", "enabled", "connect_config"], &[])?;
    let connect = match &message.connect_config {
        None => None,
        Some(config) => {
            let at_config = sub(at, "connect_config");
            cx.only(config, &at_config, &["proxy_protocol_config", "allow_post"], &[])?;
            if !message.upgrade_type.eq_ignore_ascii_case("CONNECT") {
                let message = format!("is for CONNECT, and the upgrade_type is {}", message.upgrade_type);
                return Err(Error::at(at_config, message));
            }
            let header = config.proxy_protocol_config.as_ref();
            let header = header.map(|header| proxy_header(cx, header, &sub(&at_config, "proxy_protocol_config")));
            // As in Envoy, its values are for connections of the transport socket only.
            let proxy_header = header.transpose()?.map(|header| match header {
                ProxyHeader::V1 => header,
                ProxyHeader::V2(_) => ProxyHeader::V2([].into()),
            });
            Some(Connect { proxy_header, allow_post: config.allow_post })
        }
    };
    Ok(UpgradeRule {
        kind: message.upgrade_type.to_ascii_lowercase().into(),
        enabled: message.enabled.unwrap_or(true),
        connect,
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
        Some(ClusterSpecifier::Cluster(name)) => {
            named(cx, name, inherited.check_clusters, &sub(at, "cluster")).map(Clusters::One)
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => named_by(name, at).map(Clusters::One),
        Some(ClusterSpecifier::WeightedClusters(message)) => {
            weighted(cx, message, inherited, &sub(at, "weighted_clusters"))
        }
        _ => Err(Error::at(at, "expected one of cluster, cluster_header, weighted_clusters")),
    }
}

fn weighted(
    cx: &mut Context,
    message: &proto::WeightedCluster,
    inherited: &Inherited,
    at: &str,
) -> Result<Clusters, Error> {
    // What they are said to sum up to counts no more, in Envoy either.
    cx.only(message, at, &["clusters", "total_weight", "header_name", "use_hash_policy", "runtime_key_prefix"], &[])?;
    let prefix = &message.runtime_key_prefix;
    use proto::weighted_cluster::RandomValueSpecifier;
    let by = match &message.random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => {
            Some(ChosenBy::Header(header_name(name, &sub(at, "header_name"))?))
        }
        Some(RandomValueSpecifier::UseHashPolicy(true)) => Some(ChosenBy::Hash),
        Some(RandomValueSpecifier::UseHashPolicy(false)) | None => None,
    };
    let mut clusters = Vec::new();
    for (index, entry) in message.clusters.iter().enumerate() {
        let at = item(at, "clusters", index);
        let supported =
            with_headers(&["name", "cluster_header", "weight", "host_rewrite_literal", "typed_per_filter_config"]);
        cx.only(entry, &at, &supported, &["metadata_match"])?;
        use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        clusters.push(WeightedCluster {
            name: match (entry.name.as_str(), entry.cluster_header.as_str()) {
                (name, "") if !name.is_empty() => named(cx, name, inherited.check_clusters, &sub(&at, "name"))?,
                ("", header) if !header.is_empty() => named_by(header, &at)?,
                ("", _) => return Err(Error::at(at, "At least one of name or cluster_header need to be specified")),
                _ => return Err(Error::at(at, "Only one of name or cluster_header can be specified")),
            },
            weight: entry.weight.unwrap_or(0),
            weight_key: if prefix.is_empty() { Box::default() } else { format!("{prefix}.{}", entry.name).into() },
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
    Ok(Clusters::Weighted { clusters, total, by, runtime: !prefix.is_empty() })
}

fn host_rewrite(message: &proto::RouteAction, at: &str) -> Result<Option<HostRewrite>, Error> {
    use proto::route_action::HostRewriteSpecifier as Specifier;
    Ok(match &message.host_rewrite_specifier {
        None | Some(Specifier::AutoHostRewrite(false)) => None,
        Some(Specifier::HostRewriteHeader(name)) if name.is_empty() => None,
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

pub(super) fn redirect(cx: &mut Context, message: &proto::RedirectAction, at: &str) -> Result<Redirect, Error> {
    let supported = [
        "https_redirect",
        "scheme_redirect",
        "host_redirect",
        "port_redirect",
        "path_redirect",
        "prefix_rewrite",
        "regex_rewrite",
        "response_code",
        "strip_query",
        "path_rewrite",
    ];
    cx.only(message, at, &supported, &[])?;
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
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                text(prefix).map(|prefix| RedirectPath::Rewrite(PathRewrite::Prefix(prefix)))
            }
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                let rewrite = matcher::rewrite(rewrite, &sub(at, "regex_rewrite"))?;
                Some(RedirectPath::Rewrite(PathRewrite::Regex(rewrite)))
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(Error::at(sub(at, "path_rewrite"), "not supported yet"));
            }
            None => None,
        },
        strip_query: message.strip_query,
    })
}

pub(super) fn direct(
    cx: &mut Context,
    message: &proto::DirectResponseAction,
    inherited: &Inherited,
    at: &str,
) -> Result<DirectResponse, Error> {
    cx.only(message, at, &["status", "body", "body_format"], &[])?;
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
    let format = message.body_format.as_ref();
    let format = format.map(|format| local_reply::body_format(cx, format, &sub(at, "body_format"))).transpose()?;
    Ok(DirectResponse { status, body: Bytes::from(body), format })
}
