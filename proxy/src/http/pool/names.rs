//! The names that TLS towards an upstream asks for and verifies.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    config::{cluster::Cluster, route::without_port},
    tls::client::Asked,
};

/// The header that TLS towards a cluster takes a name from: `auto_sni` and `auto_san_validation`. None: the cluster has
/// neither.
pub(in crate::http) fn naming_header(cluster: &Cluster, headers: &HeaderMap) -> Option<HeaderValue> {
    let auto = cluster.auto_names.as_ref()?;
    let named = auto.header.as_ref().and_then(|name| headers.get(name)).filter(|value| !value.is_empty());
    let value = named.or_else(|| headers.get(header::HOST)).cloned();
    Some(value.unwrap_or(HeaderValue::from_static("")))
}

/// What TLS asks for because of that header, and of the endpoint's hostname.
pub(in crate::http) fn asked<'a>(cluster: &Cluster, name: Option<&'a HeaderValue>, hostname: &'a str) -> Asked<'a> {
    let (Some(auto), Some(name)) = (&cluster.auto_names, name) else { return Asked { hostname, ..Asked::default() } };
    let host = std::str::from_utf8(without_port(name.as_bytes())).unwrap_or_default();
    Asked { hostname, ..auto.asked(host) }
}
