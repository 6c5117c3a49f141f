//! The names that TLS towards an upstream asks for and verifies.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    config::{cluster::Cluster, route::without_port},
    tls::client::Asked,
};

/// The header that TLS towards a cluster takes a name from: `auto_sni` and `auto_san_validation`.
pub(in crate::http) fn naming_header(cluster: &Cluster, headers: &HeaderMap) -> Option<HeaderValue> {
    let auto = cluster.auto_names.as_ref()?;
    headers.get(auto.header.as_ref().unwrap_or(&header::HOST)).cloned()
}

/// What TLS asks for because of that header, and of the endpoint's hostname.
pub(in crate::http) fn asked<'a>(cluster: &Cluster, name: Option<&'a HeaderValue>, hostname: &'a str) -> Asked<'a> {
    let asked = Asked { hostname, ..Asked::default() };
    let (Some(auto), Some(name)) = (&cluster.auto_names, name) else { return asked };
    let host = std::str::from_utf8(without_port(name.as_bytes())).unwrap_or_default();
    // Of an address there is no SNI.
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let server_name = Some(host).filter(|host| auto.server_name && !host.is_empty() && !address);
    Asked { server_name, validate: auto.validate && !host.is_empty(), ..asked }
}
