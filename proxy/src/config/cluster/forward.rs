//! A cluster of a dynamic forward proxy: its hosts are the names that its cache has addresses of.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::{
    dns_cache::{Authority, CachedName, DnsCache},
    endpoint::Endpoint,
};
use crate::filter_state::FilterState;

/// The object of filter state that says which host is meant.
pub const DYNAMIC_HOST_KEY: &str = "envoy.upstream.dynamic_host";

/// The object of filter state that says which port is meant.
pub const DYNAMIC_PORT_KEY: &str = "envoy.upstream.dynamic_port";

/// Where the hosts of such a cluster come from, and which there are.
#[derive(Debug)]
pub struct ForwardProxy {
    /// Resolves names.
    pub cache: Arc<DnsCache>,
    /// Of what is named without a port.
    pub default_port: u16,
    /// The hosts by name.
    pub hosts: ArcSwap<HashMap<Arc<str>, ForwardHost>>,
}

/// A host, and the name that it has in the cache.
#[derive(Clone, Debug)]
pub struct ForwardHost {
    /// The name.
    pub name: Arc<CachedName>,
    /// Its address.
    pub endpoint: Arc<Endpoint>,
}

impl ForwardProxy {
    /// Without a host.
    pub fn new(cache: Arc<DnsCache>, default_port: u16) -> Self {
        Self { cache, default_port, hosts: ArcSwap::default() }
    }

    /// The host that is meant: by filter state, or else `host`, which is what a request or a connection asks for.
    pub fn authority<'a>(&self, state: Option<&'a FilterState>, host: Option<&'a str>) -> Option<Authority<'a>> {
        let host = state.and_then(|state| state.text(DYNAMIC_HOST_KEY)).or(host)?;
        let port = state.and_then(|state| state.port(DYNAMIC_PORT_KEY)).unwrap_or(self.default_port);
        Authority::parse(host, port)
    }
}
