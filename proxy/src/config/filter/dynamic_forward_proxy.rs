//! Going where a request says, once its host has been resolved.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::config::cluster::dns_cache::DnsCache;

/// The filter: it acts where a route leads to a cluster of a dynamic forward proxy.
#[derive(Debug)]
pub struct DynamicForwardProxy {
    /// Resolves names.
    pub cache: Arc<DnsCache>,
    /// Filter state may say which host is meant.
    pub from_filter_state: bool,
}

/// Where a request's host comes from, by its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFrom {
    /// The request.
    Request,
    /// The configuration.
    Literal(HeaderValue),
    /// A header, if the request has it.
    Header(HeaderName),
}
