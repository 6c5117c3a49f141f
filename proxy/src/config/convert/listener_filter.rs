//! Listener filters.

use prost_types::Any;
use weir_proto::envoy::{
    config::listener::v3::{
        self as proto, ListenerFilterChainMatchPredicate,
        listener_filter::ConfigType,
        listener_filter_chain_match_predicate::{MatchSet, Rule},
    },
    extensions::filters::listener::{
        http_inspector::v3::HttpInspector,
        original_dst::v3::OriginalDst,
        proxy_protocol::v3::{ProxyProtocol as ProxyProto, proxy_protocol},
        tls_inspector::v3::TlsInspector,
    },
};

use super::{
    context::Context,
    discovered::extension,
    fields::{item, sub, type_name, unpack},
};
use crate::{
    config::{
        cell::nothing_further,
        error::Error,
        listener::{
            HttpInspectorStats, ListenerFilter, ListenerFilterKind, Predicate, ProxyProtocol, ProxyProtocolStats,
            TlvRule,
        },
    },
    tls::{fingerprint::Wanted, stats::InspectorStats},
};

/// Where the values of TLVs go by default.
const PROXY_NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

pub(super) fn filters(
    cx: &mut Context,
    messages: &[proto::ListenerFilter],
    at: &str,
) -> Result<Vec<ListenerFilter>, Error> {
    let mut filters = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "listener_filters", index);
        cx.only(message, &at, &["name", "typed_config", "config_discovery", "filter_disabled"], &[])?;
        let disabled_at = sub(&at, "filter_disabled");
        let disabled = message.filter_disabled.as_ref().map(|message| predicate(message, &disabled_at)).transpose()?;
        filters.push(ListenerFilter { kind: kind(cx, message, &at)?, disabled });
    }
    Ok(filters)
}

fn kind(cx: &mut Context, message: &proto::ListenerFilter, at: &str) -> Result<ListenerFilterKind, Error> {
    match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => made(cx, any, &sub(at, "typed_config")),
        None => Err(Error::at(sub(at, "typed_config"), "a configuration is required")),
        Some(ConfigType::ConfigDiscovery(discovery)) => {
            let of = ("tcp_listener_filter", message.name.as_str());
            let slot = extension(cx, of, discovery, &sub(at, "config_discovery"), made, nothing_further)?;
            Ok(ListenerFilterKind::Discovered(slot))
        }
    }
}

fn made(cx: &mut Context, any: &Any, typed_at: &str) -> Result<ListenerFilterKind, Error> {
    match type_name(any) {
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
            cx.only(&unpack::<OriginalDst>(any, typed_at)?, typed_at, &[], &[])?;
            Ok(ListenerFilterKind::OriginalDestination)
        }
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
            let message: TlsInspector = unpack(any, typed_at)?;
            let supported = ["enable_ja3_fingerprinting", "enable_ja4_fingerprinting"];
            // The kernel keeps the bytes that are looked at: there is no buffer to size.
            cx.only(&message, typed_at, &supported, &["initial_read_buffer_size"])?;
            let wanted = Wanted {
                ja3: message.enable_ja3_fingerprinting.unwrap_or(false),
                ja4: message.enable_ja4_fingerprinting.unwrap_or(false),
            };
            Ok(ListenerFilterKind::Tls(InspectorStats::new(&cx.stats), wanted))
        }
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
            cx.only(&unpack::<HttpInspector>(any, typed_at)?, typed_at, &[], &[])?;
            Ok(ListenerFilterKind::Http(HttpInspectorStats::new(&cx.stats)))
        }
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
            let message = unpack(any, typed_at)?;
            Ok(ListenerFilterKind::ProxyProtocol(Box::new(proxy_protocol(cx, &message, typed_at)?)))
        }
        other => Err(Error::at(typed_at, format!("listener filter {other} is not supported yet"))),
    }
}

fn proxy_protocol(cx: &mut Context, message: &ProxyProto, at: &str) -> Result<ProxyProtocol, Error> {
    let supported =
        ["rules", "allow_requests_without_proxy_protocol", "disallowed_versions", "stat_prefix", "tlv_location"];
    // TLVs are passed on by an upstream transport that speaks PROXY, which is not supported.
    cx.only(message, at, &supported, &["pass_through_tlvs"])?;
    if message.tlv_location() == proxy_protocol::TlvLocation::FilterState {
        return Err(Error::at(sub(at, "tlv_location"), "only DYNAMIC_METADATA is supported yet"));
    }
    let mut rules = Vec::with_capacity(message.rules.len());
    for (index, rule) in message.rules.iter().enumerate() {
        let at = item(at, "rules", index);
        cx.only(rule, &at, &["tlv_type", "on_tlv_present"], &[])?;
        let type_at = sub(&at, "tlv_type");
        let kind = u8::try_from(rule.tlv_type)
            .map_err(|_| Error::at(type_at, format!("{} is not a TLV type: expected less than 256", rule.tlv_type)))?;
        let Some(pair) = &rule.on_tlv_present else { continue };
        cx.only(pair, &sub(&at, "on_tlv_present"), &["metadata_namespace", "key", "value_string_encoding"], &[])?;
        let namespace = pair.metadata_namespace.as_str();
        rules.push(TlvRule {
            kind,
            namespace: if namespace.is_empty() { PROXY_NAMESPACE } else { namespace }.into(),
            key: pair.key.as_str().into(),
            base64: pair.value_string_encoding() == proxy_protocol::key_value_pair::ValueStringEncoding::Base64,
        });
    }
    // Envoy's enumeration: V1 is 0, V2 is 1.
    let is_read = |version: i32| !message.disallowed_versions.contains(&version);
    let (v1, v2) = (is_read(0), is_read(1));
    if !v1 && !v2 {
        return Err(Error::at(sub(at, "disallowed_versions"), "all versions are disallowed"));
    }
    Ok(ProxyProtocol {
        optional: message.allow_requests_without_proxy_protocol,
        v1,
        v2,
        rules,
        stats: ProxyProtocolStats::new(&cx.stats, &message.stat_prefix),
    })
}

fn predicate(message: &ListenerFilterChainMatchPredicate, at: &str) -> Result<Predicate, Error> {
    let set = |set: &MatchSet, field: &str| {
        let at = sub(at, field);
        let rules = set.rules.iter().enumerate();
        rules.map(|(index, rule)| predicate(rule, &item(&at, "rules", index))).collect::<Result<_, Error>>()
    };
    Ok(match message.rule.as_ref().ok_or_else(|| Error::at(at, "a rule is required"))? {
        Rule::OrMatch(any) => Predicate::Or(set(any, "or_match")?),
        Rule::AndMatch(all) => Predicate::And(set(all, "and_match")?),
        Rule::NotMatch(rule) => Predicate::Not(Box::new(predicate(rule, &sub(at, "not_match"))?)),
        Rule::AnyMatch(_) => Predicate::Any,
        Rule::DestinationPortRange(range) => Predicate::DestinationPort(range.start, range.end),
    })
}
