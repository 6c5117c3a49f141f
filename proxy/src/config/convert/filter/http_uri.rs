//! `HttpUri`: what is asked of a cluster.

use std::time::Duration;

use http::{HeaderValue, Uri, uri::PathAndQuery};
use weir_proto::envoy::config::core::v3::{HttpUri, http_uri::HttpUpstreamType};

use crate::config::{
    convert::fields::{duration, sub},
    error::Error,
};

/// What is asked of a cluster.
pub(super) struct Target {
    pub cluster: Box<str>,
    /// `:authority`.
    pub host: HeaderValue,
    pub scheme: &'static str,
    /// The path and query.
    pub uri: Uri,
    pub timeout: Duration,
}

pub(super) fn http_uri(message: &HttpUri, at: &str) -> Result<Target, Error> {
    let bad = || Error::at(sub(at, "uri"), format!("\"{}\" is not a URI of http or https", message.uri));
    let uri: Uri = message.uri.parse().map_err(|_| bad())?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => return Err(bad()),
    };
    let host = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()).ok_or_else(bad)?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let Some(HttpUpstreamType::Cluster(cluster)) = &message.http_upstream_type else {
        return Err(Error::at(sub(at, "cluster"), "a cluster is required"));
    };
    let timeout = message.timeout.as_ref().map_or(Ok(Duration::ZERO), |limit| duration(limit, &sub(at, "timeout")))?;
    Ok(Target { cluster: cluster.as_str().into(), host, scheme, uri: Uri::from(path), timeout })
}
