//! What a real istiod sent (tests/data/istiod), made fit to be served.

use std::path::Path;

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::{
    config::{
        core::v3::data_source::Specifier,
        listener::v3::{Listener, filter::ConfigType},
    },
    extensions::filters::{
        http::jwt_authn::v3::{JwtAuthentication, jwt_provider::JwksSourceSpecifier},
        network::http_connection_manager::v3::{HttpConnectionManager, HttpFilter, http_filter},
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

/// A listener with other HTTP filters; anything else as it is.
fn changed(any: Any, mut change: impl FnMut(&mut Vec<HttpFilter>)) -> Any {
    if !any.type_url.ends_with("/envoy.config.listener.v3.Listener") {
        return any;
    }
    let mut listener = Listener::decode(&*any.value).expect("a recorded listener");
    let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
    for filter in chains.flat_map(|chain| &mut chain.filters) {
        let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
        if config.type_url.ends_with(".HttpConnectionManager") {
            let mut manager = HttpConnectionManager::decode(&*config.value).expect("a recorded connection manager");
            change(&mut manager.http_filters);
            config.value = manager.encode_to_vec();
        }
    }
    Any { value: listener.encode_to_vec(), ..any }
}
