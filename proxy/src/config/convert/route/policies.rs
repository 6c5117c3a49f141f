//! Policies that clusters may have instead of routes: hashing and copies.

use std::sync::Arc;

use http::HeaderValue;
use weir_proto::envoy::config::route::v3 as proto;

use crate::config::{
    convert::{
        context::Context,
        fields::{duration, header_name, item, sub},
        filter, matcher,
    },
    error::Error,
    route::{ClusterName, CopyStats, HashInput, HashPolicy, Mirror},
};

/// `request_mirror_policies`. `check`: their clusters must exist.
pub(in crate::config::convert) fn mirrors(
    cx: &mut Context,
    messages: &[proto::route_action::RequestMirrorPolicy],
    check: bool,
    at: &str,
) -> Result<Vec<Mirror>, Error> {
    let mut mirrors = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "request_mirror_policies", index);
        let supported = [
            "cluster",
            "cluster_header",
            "runtime_fraction",
            "disable_shadow_host_suffix_append",
            "host_rewrite_literal",
            "request_headers_mutations",
        ];
        cx.only(message, &at, &supported, &["trace_sampled"])?;
        mirrors.push(Mirror {
            stats: Arc::new(CopyStats::new(&cx.stats)),
            cluster: match (message.cluster.as_str(), message.cluster_header.as_str()) {
                (name, "") if !name.is_empty() => named(cx, name, check, &sub(&at, "cluster"))?,
                ("", header) if !header.is_empty() => named_by(header, &at)?,
                _ => {
                    let message =
                        "Exactly one of cluster or cluster_header in request mirror policy need to be specified";
                    return Err(Error::at(at, message));
                }
            },
            headers: filter::header_mutation::list(
                cx,
                &message.request_headers_mutations,
                &sub(&at, "request_headers_mutations"),
            )?,
            fraction: matcher::runtime_fraction(message.runtime_fraction.as_ref()),
            suffix: !message.disable_shadow_host_suffix_append,
            host: match message.host_rewrite_literal.as_str() {
                "" => None,
                host => Some(authority(host, &sub(&at, "host_rewrite_literal"))?),
            },
        });
    }
    Ok(mirrors)
}

/// `hash_policy`.
pub(in crate::config::convert) fn hash_policies(
    cx: &mut Context,
    messages: &[proto::route_action::HashPolicy],
    at: &str,
) -> Result<Vec<HashPolicy>, Error> {
    let numbered = messages.iter().enumerate();
    numbered.map(|(index, message)| hash_policy(cx, message, &item(at, "hash_policy", index))).collect()
}

fn hash_policy(cx: &mut Context, message: &proto::route_action::HashPolicy, at: &str) -> Result<HashPolicy, Error> {
    use proto::route_action::hash_policy::PolicySpecifier as Specifier;
    let input = match &message.policy_specifier {
        Some(Specifier::Header(header)) => {
            let at = sub(at, "header");
            let rewrite = header.regex_rewrite.as_ref();
            let rewrite = rewrite.map(|rewrite| matcher::rewrite(rewrite, &sub(&at, "regex_rewrite"))).transpose()?;
            HashInput::Header(matcher::matched_header(&header.header_name, &sub(&at, "header_name"))?, rewrite)
        }
        Some(Specifier::Cookie(cookie)) => {
            let at = sub(at, "cookie");
            cx.only(cookie, &at, &["name", "ttl", "path", "attributes"], &[])?;
            HashInput::Cookie {
                name: cookie.name.as_str().into(),
                ttl: cookie.ttl.as_ref().map(|ttl| duration(ttl, &sub(&at, "ttl"))).transpose()?,
                path: cookie.path.as_str().into(),
                attributes: cookie.attributes.iter().map(written).collect::<String>().into(),
            }
        }
        Some(Specifier::ConnectionProperties(properties)) if properties.source_ip => HashInput::SourceIp,
        Some(Specifier::ConnectionProperties(_)) => HashInput::Nothing,
        Some(Specifier::FilterState(state)) => HashInput::FilterState(state.key.as_str().into()),
        Some(Specifier::QueryParameter(query)) => HashInput::Query(query.name.as_str().into()),
        None => return Err(Error::at(at, "expected one of header, cookie, connection_properties, query_parameter")),
    };
    Ok(HashPolicy { input, terminal: message.terminal })
}

/// An attribute as `set-cookie` has it.
fn written(attribute: &proto::route_action::hash_policy::CookieAttribute) -> String {
    match (&*attribute.name, &*attribute.value) {
        (name, "") => format!("; {name}"),
        (name, value) => format!("; {name}={value}"),
    }
}

/// The name of a cluster, which must exist if `check` says so.
pub(super) fn named(cx: &Context, name: &str, check: bool, at: &str) -> Result<ClusterName, Error> {
    let name = if check { cx.known_cluster(name, at)? } else { name.into() };
    Ok(ClusterName::Fixed(name))
}

/// The name of a cluster that the `cluster_header` of requests says.
pub(super) fn named_by(header: &str, at: &str) -> Result<ClusterName, Error> {
    if header == ":authority" {
        return Ok(ClusterName::Header(http::header::HOST));
    }
    header_name(header, &sub(at, "cluster_header")).map(ClusterName::Header)
}

pub(super) fn authority(host: &str, at: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(host).map_err(|_| Error::at(at, format!("\"{host}\" is not a host")))
}
