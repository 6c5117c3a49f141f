//! Filters of istio's own.
//!
//! What they tell peers and telemetry has no reader here yet; what they change of traffic is done.

use weir_proto::{
    envoy::tcp::metadataexchange::config::MetadataExchange,
    io::istio::http::peer_metadata::{Config as PeerMetadata, config::discovery_method::MethodSpecifier},
    istio::envoy::config::filter::http::alpn::v2alpha1::{FilterConfig as AlpnProto, filter_config::Protocol},
    stats::PluginConfig,
};

use super::{
    context::Context,
    fields::{item, sub},
};
use crate::config::{
    error::Error,
    filter::{alpn::AlpnOverride, peer_metadata::PeerHeaders},
};

/// The protocol by which sidecars agree to tell each other who they are, before all else. It is not spoken here, so
/// nobody is offered it.
pub(super) const PEER_EXCHANGE: &str = "istio-peer-exchange";

pub(super) fn alpn(cx: &mut Context, message: &AlpnProto, at: &str) -> Result<AlpnOverride, Error> {
    cx.only(message, at, &["alpn_override"], &[])?;
    let mut made = AlpnOverride::default();
    for (index, entry) in message.alpn_override.iter().enumerate() {
        let at = item(at, "alpn_override", index);
        let names = entry.alpn_override.iter().filter(|name| **name != *PEER_EXCHANGE);
        let names: Vec<Box<str>> = names.map(|name| name.as_str().into()).collect();
        if let Some(index) = names.iter().position(|name| name.is_empty() || name.len() > 255) {
            return Err(Error::at(item(&at, "alpn_override", index), "expected 1 to 255 bytes"));
        }
        let names = (!names.is_empty()).then(|| names.into());
        match entry.upstream_protocol() {
            Protocol::Http10 => made.http10 = names,
            Protocol::Http11 => made.http11 = names,
            Protocol::Http2 => made.http2 = names,
        }
    }
    Ok(made)
}

pub(super) fn peer_metadata(cx: &mut Context, message: &PeerMetadata, at: &str) -> Result<PeerHeaders, Error> {
    let acting = ["downstream_discovery", "upstream_discovery"];
    let telling = ["downstream_propagation", "upstream_propagation", "shared_with_upstream", "additional_labels"];
    cx.only(message, at, &acting, &telling)?;
    let by_headers = |methods: &[weir_proto::io::istio::http::peer_metadata::config::DiscoveryMethod]| {
        methods.iter().any(|method| matches!(method.method_specifier, Some(MethodSpecifier::IstioHeaders(_))))
    };
    Ok(PeerHeaders {
        of_requests: by_headers(&message.downstream_discovery),
        of_responses: by_headers(&message.upstream_discovery),
    })
}

/// It only measures.
pub(super) fn stats(cx: &mut Context, message: &PluginConfig, at: &str) -> Result<(), Error> {
    let fields = [
        "disable_host_header_fallback",
        "tcp_reporting_duration",
        "metrics",
        "definitions",
        "reporter",
        "rescoping_duration",
        "scope_grace_period_duration",
    ];
    cx.only(message, at, &[], &fields)
}

/// It only tells peers who is there, and those that speak its protocol only.
pub(super) fn metadata_exchange(cx: &mut Context, message: &MetadataExchange, at: &str) -> Result<(), Error> {
    if message.protocol != PEER_EXCHANGE {
        let why = format!("expected {PEER_EXCHANGE}: nobody is offered that, and others may be spoken");
        return Err(Error::at(sub(at, "protocol"), why));
    }
    cx.only(message, at, &["protocol"], &["enable_discovery", "additional_labels"])
}
