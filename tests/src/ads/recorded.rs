//! What a real istiod sent (tests/data/istiod), made fit to be served.

use std::path::Path;

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::{
    config::{
        cluster::v3::{Cluster, cluster::ClusterDiscoveryType},
        core::v3::{Address, TypedExtensionConfig, data_source::Specifier},
        listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
    },
    extensions::{
        clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
        common::dynamic_forward_proxy::v3::DnsCacheConfig,
        filters::{
            http::jwt_authn::v3::{JwtAuthentication, jwt_provider::JwksSourceSpecifier},
            network::{
                http_connection_manager::v3::{HttpConnectionManager, HttpFilter, http_filter},
                sni_dynamic_forward_proxy::v3::FilterConfig,
            },
        },
        network::dns_resolver::cares::v3::CaresDnsResolverConfig,
    },
};

use super::directory;

/// What stands in the place of recorded keys of tokens.
const KEYS: &str = r#"{"keys":[{"kty":"oct","kid":"k1","alg":"HS256","k":"c2VjcmV0"}]}"#;

/// The resources of a recorded node, with a usable key in the place of the made-up one.
pub fn of(node: &str) -> Vec<(String, Any)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/istiod").join(node);
    let resources = directory::recorded(&path).unwrap_or_else(|error| panic!("{error}"));
    resources.into_iter().map(|(name, any)| (name, with_a_key(any))).collect()
}

/// The recorded keys are made up, or none at all, and refused for it by Envoy too: others take their place.
fn with_a_key(any: Any) -> Any {
    changed(any, |filters| {
        for filter in filters {
            let Some(http_filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
            if config.type_url.ends_with(".JwtAuthentication") {
                let mut tokens = JwtAuthentication::decode(&*config.value).expect("a recorded filter");
                for provider in tokens.providers.values_mut() {
                    if let Some(JwksSourceSpecifier::LocalJwks(keys)) = &mut provider.jwks_source_specifier {
                        keys.specifier = Some(Specifier::InlineString(KEYS.to_owned()));
                    }
                }
                config.value = tokens.encode_to_vec();
            }
        }
    })
}

/// A listener without HTTP filters of this name; anything else as it is.
pub fn without_http_filter(any: Any, name: &str) -> Any {
    changed(any, |filters| filters.retain(|filter| filter.name != name))
}

/// A listener without network filters of these names; anything else as it is.
pub fn without_network_filters(any: Any, names: &[&str]) -> Any {
    with_chains(any, |chain| chain.filters.retain(|filter| !names.contains(&&*filter.name)))
}

/// A dynamic forward proxy's cluster, or a listener with filters of one, that asks this name server; anything else as it is.
pub fn with_name_server(any: Any, server: &Address) -> Any {
    if !any.type_url.ends_with("/envoy.config.cluster.v3.Cluster") {
        return with_filters(any, |filter| ask_in_filter(filter, server));
    }
    let mut cluster = Cluster::decode(&*any.value).expect("a recorded cluster");
    if let Some(ClusterDiscoveryType::ClusterType(kind)) = &mut cluster.cluster_discovery_type
        && let Some(config) = &mut kind.typed_config
        && config.type_url.ends_with("dynamic_forward_proxy.v3.ClusterConfig")
    {
        let mut proxy = ClusterConfig::decode(&*config.value).expect("a recorded cluster");
        if let Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) = &mut proxy.cluster_implementation_specifier
        {
            ask(cache, server);
        }
        config.value = proxy.encode_to_vec();
    }
    Any { value: cluster.encode_to_vec(), ..any }
}

fn ask_in_filter(filter: &mut Filter, server: &Address) {
    let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if config.type_url.ends_with("sni_dynamic_forward_proxy.v3.FilterConfig") {
        let mut proxy = FilterConfig::decode(&*config.value).expect("a recorded filter");
        if let Some(cache) = &mut proxy.dns_cache_config {
            ask(cache, server);
        }
        config.value = proxy.encode_to_vec();
    }
}

fn ask(cache: &mut DnsCacheConfig, server: &Address) {
    let config = CaresDnsResolverConfig { resolvers: vec![server.clone()], ..CaresDnsResolverConfig::default() };
    let type_url = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
    let config = Any { type_url: type_url.to_owned(), value: config.encode_to_vec() };
    let name = "envoy.network.dns_resolver.cares".to_owned();
    cache.typed_dns_resolver_config = Some(TypedExtensionConfig { name, typed_config: Some(config) });
}

/// A listener with other HTTP filters; anything else as it is.
fn changed(any: Any, mut change: impl FnMut(&mut Vec<HttpFilter>)) -> Any {
    with_filters(any, |filter| {
        let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
        if config.type_url.ends_with(".HttpConnectionManager") {
            let mut manager = HttpConnectionManager::decode(&*config.value).expect("a recorded connection manager");
            change(&mut manager.http_filters);
            config.value = manager.encode_to_vec();
        }
    })
}

/// A listener with other network filters; anything else as it is.
fn with_filters(any: Any, mut change: impl FnMut(&mut Filter)) -> Any {
    with_chains(any, |chain| chain.filters.iter_mut().for_each(&mut change))
}

/// A listener with other filter chains; anything else as it is.
fn with_chains(any: Any, change: impl FnMut(&mut FilterChain)) -> Any {
    if !any.type_url.ends_with("/envoy.config.listener.v3.Listener") {
        return any;
    }
    let mut listener = Listener::decode(&*any.value).expect("a recorded listener");
    let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
    chains.for_each(change);
    Any { value: listener.encode_to_vec(), ..any }
}
