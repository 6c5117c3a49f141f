//! What a real istiod sent (tests/data/istiod), made fit to be served.

use std::path::Path;

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::{
    config::listener::v3::{Filter, Listener, filter::ConfigType},
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
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

/// The recorded keys are made up, and refused for it by Envoy too: others take their place, of the same length as the
/// messages around them say. A set without keys is too short for any, and stays.
fn with_a_key(mut any: Any) -> Any {
    let (begin, end) = (br#"{"keys":["#, b"]}");
    let mut at = 0;
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    while let Some(found) = any.value.get(at..).and_then(|rest| find(rest, begin)) {
        let from = at + found;
        let Some(length) = find(&any.value[from..], end) else { break };
        let to = from + length + end.len();
        if to - from >= KEYS.len() {
            let padded = format!("{KEYS:<width$}", width = to - from);
            any.value[from..to].copy_from_slice(padded.as_bytes());
        }
        at = to;
    }
    any
}

/// A listener without HTTP filters of this name; anything else as it is.
pub fn without_http_filter(any: Any, name: &str) -> Any {
    if !any.type_url.ends_with("/envoy.config.listener.v3.Listener") {
        return any;
    }
    let mut listener = Listener::decode(&*any.value).expect("a recorded listener");
    let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
    chains.flat_map(|chain| &mut chain.filters).for_each(|filter| drop_from(filter, name));
    Any { value: listener.encode_to_vec(), ..any }
}

fn drop_from(filter: &mut Filter, name: &str) {
    let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if config.type_url.ends_with(".HttpConnectionManager") {
        let mut manager = HttpConnectionManager::decode(&*config.value).expect("a recorded connection manager");
        manager.http_filters.retain(|filter| filter.name != name);
        config.value = manager.encode_to_vec();
    }
}
