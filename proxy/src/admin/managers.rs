//! The HTTP connection managers of listeners, as they were given.

use weir_proto::envoy::{
    config::listener::v3::{Listener, filter::ConfigType},
    extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
};

/// The HTTP connection managers of a listener.
pub(super) fn managers(listener: &Listener) -> impl Iterator<Item = HttpConnectionManager> + '_ {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.flat_map(|chain| &chain.filters).filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => weir_proto::unpack(any).ok(),
        _ => None,
    })
}
