//! Who the client is, and what the `x-forwarded-*` and `x-envoy-*` headers of its request say afterwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ipnet::IpNet;

use crate::{
    config::http::{Detection, HttpConnectionManager, Trust},
    wire::named::NamedAddress,
};

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(in crate::http) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(in crate::http) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_ENVOY_DOWNSTREAM_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const X_ENVOY_DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
const X_ENVOY_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Headers by which a client of the mesh itself may steer it; from outside they are removed.
const INTERNAL_ONLY: [HeaderName; 15] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-stream-duration-ms"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// Headers that only a proxy behind the edge may set.
const BEHIND_EDGE: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-original-host"),
];

/// Details of requests that do not say who the client is, where they must.
pub(in crate::http) const NOT_DETECTED: &str = "rejecting_because_detection_failed";

/// What is known of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Client {
    /// Its address, as far as headers can be trusted.
    pub address: SocketAddr,
    /// Its address counts as internal.
    pub internal: bool,
    /// This hop is the edge of the trusted network.
    pub edge: bool,
}

/// Finds out who the client is that came to a port, and rewrites the headers that say so. Error: the status for those who do not say it.
pub(in crate::http) fn identify(
    manager: &HttpConnectionManager,
    (peer, port): (SocketAddr, u16),
    headers: &mut HeaderMap,
    scheme: &'static str,
) -> Result<Client, StatusCode> {
    let hops = manager.xff_num_trusted_hops as usize;
    // Whoever says nothing, where the header is trusted, is not known to be internal.
    let mut single = manager.use_remote_address && !headers.contains_key(&X_FORWARDED_FOR);
    let mut address = peer;
    let peer = NamedAddress::ip(&peer);
    if manager.use_remote_address {
        if hops > 0
            && let Some(from_header) = from_xff(headers, hops - 1)
        {
            address = SocketAddr::new(from_header, 0);
        }
        if !manager.skip_xff_append {
            append_xff(headers, manager.node_address, peer);
        }
        if hops == 0 {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        if manager.append_port && hops == 0 {
            headers.insert(X_FORWARDED_PORT, port.into());
        }
    } else if !manager.detection.is_empty() {
        if let Some((detected, trusted)) = detect(manager, peer, headers)? {
            address = SocketAddr::new(detected, 0);
            single = trusted;
        }
    } else if let Some(from_header) = from_xff(headers, hops) {
        address = SocketAddr::new(from_header, 0);
        single = addresses(headers).count() == 1;
    }
    if !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if manager.append_port && !headers.contains_key(&X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, port.into());
    }
    if let Some(scheme) = manager.scheme {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    let ip = NamedAddress::ip(&address);
    let internal = single && ip.is_some_and(|ip| manager.internal_addresses.iter().any(|net| net.contains(&ip)));
    let edge = !internal && manager.use_remote_address;
    sanitize(manager, headers, internal, edge);
    if edge
        && let Some(ip) = ip
        && let Ok(value) = HeaderValue::from_str(&ip.to_string())
    {
        headers.insert(X_ENVOY_EXTERNAL_ADDRESS, value);
    }
    if let Some(name) = &manager.tells_itself {
        tell(name, &manager.service_node, headers);
    }
    Ok(Client { address, internal, edge })
}

/// A request's scheme, where it says none itself (`says`): what it is known to have come with before it `arrived`.
pub(in crate::http) fn scheme(
    manager: &HttpConnectionManager,
    headers: &HeaderMap,
    says: bool,
    arrived: &'static str,
) -> &'static str {
    match (manager.scheme, headers.get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes)) {
        (Some(scheme), _) => scheme,
        (None, Some(b"http")) if !says => "http",
        (None, Some(b"https")) if !says => "https",
        _ => arrived,
    }
}

/// Says who passes a request on.
fn tell(cluster: &HeaderValue, node: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(X_ENVOY_DOWNSTREAM_CLUSTER, cluster.clone());
    if headers.get(header::USER_AGENT).is_none_or(HeaderValue::is_empty) {
        headers.insert(header::USER_AGENT, cluster.clone());
    }
    if !node.is_empty() {
        headers.insert(X_ENVOY_DOWNSTREAM_NODE, node.clone());
    }
}

/// Asks the extensions who the client is, and whether it may count as internal.
fn detect(
    manager: &HttpConnectionManager,
    peer: Option<IpAddr>,
    headers: &mut HeaderMap,
) -> Result<Option<(IpAddr, bool)>, StatusCode> {
    for detection in &manager.detection {
        let detected = match detection {
            Detection::ForwardedFor { trust, append } => {
                let from_peer_itself =
                    matches!(trust, Trust::Networks(networks) if peer.is_none_or(|peer| !within(networks, peer)));
                let detected = match trust {
                    _ if from_peer_itself => None,
                    Trust::Hops(hops) => from_xff(headers, *hops as usize),
                    Trust::Networks(networks) => first_untrusted(headers, networks),
                };
                let detected = detected.map(|address| (address, addresses(headers).count() == 1));
                if *append || from_peer_itself {
                    append_xff(headers, manager.node_address, peer);
                }
                detected
            }
            Detection::Header { name, trusted, reject } => {
                let value = headers.get(name).and_then(|value| value.to_str().ok());
                match value.and_then(|value| value.parse().ok()) {
                    Some(address) => Some((address, *trusted)),
                    None => match reject {
                        Some(status) => return Err(*status),
                        None => None,
                    },
                }
            }
        };
        if detected.is_some() {
            return Ok(detected);
        }
    }
    Ok(None)
}

fn within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Where there are more elements Envoy looks at none of them.
const MOST_ELEMENTS: usize = 20;

/// The last address of `x-forwarded-for` that is in none of the networks, or else its first.
fn first_untrusted(headers: &HeaderMap, networks: &[IpNet]) -> Option<IpAddr> {
    if addresses(headers).filter(|element| !element.is_empty()).nth(MOST_ELEMENTS).is_some() {
        return None;
    }
    let mut last = None;
    for element in addresses(headers) {
        let address = address(element)?;
        last = Some(address);
        if !within(networks, address) {
            break;
        }
    }
    last
}

/// Whether there is any header that Envoys tell each other things by, or clients them: one look at the names that are
/// there is cheaper than looking up each that might be.
pub(in crate::http) fn has_envoys_own(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-envoy-"))
}

fn sanitize(manager: &HttpConnectionManager, headers: &mut HeaderMap, internal: bool, edge: bool) {
    headers.remove(X_ENVOY_INTERNAL);
    if internal {
        headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        return;
    }
    if has_envoys_own(headers) {
        for name in &INTERNAL_ONLY {
            headers.remove(name);
        }
        if edge {
            for name in &BEHIND_EDGE {
                headers.remove(name);
            }
        }
    }
    if let Some(table) = manager.routes.current(headers).table() {
        for name in &table.internal_only_headers {
            headers.remove(name);
        }
    }
}

/// What a request that starts here says of where it comes from.
pub(in crate::http) fn from_here(node: IpAddr, headers: &mut HeaderMap) {
    headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    append_xff(headers, node, Some(node));
}

/// The values of `x-forwarded-for` that say anything.
fn forwarded_for(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &[u8]> {
    headers.get_all(&X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty())
}

/// The elements of `x-forwarded-for`, the last one first. They need not be text: anybody may send the first ones.
fn addresses(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    forwarded_for(headers).rev().flat_map(|value| value.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// An element that is an address, and nothing else: one with a port is none, as in Envoy.
fn address(element: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(element).ok()?.parse().ok()
}

/// The address `skip` elements before the last of `x-forwarded-for`.
fn from_xff(headers: &HeaderMap, skip: usize) -> Option<IpAddr> {
    address(addresses(headers).nth(skip)?)
}

fn append_xff(headers: &mut HeaderMap, node: IpAddr, peer: Option<IpAddr>) {
    // Who has no such address is not added.
    let Some(peer) = peer else { return };
    // The loopback address says nothing to other hosts: Envoy sends its node's own.
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&peer);
    let address = if loopback { node } else { peer };
    let mut value = Vec::new();
    for known in forwarded_for(headers) {
        value.extend_from_slice(known);
        value.push(b',');
    }
    value.extend_from_slice(address.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::manager;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn peer() -> SocketAddr {
        "10.9.9.9:4000".parse().unwrap()
    }

    #[test]
    fn a_middle_hop_trusts_the_header_and_appends_nothing() {
        let mut headers = headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-proto", "https")]);
        let client = identify(&manager(), (peer(), 80), &mut headers, "http").unwrap();
        assert_eq!(client.address, "2.2.2.2:0".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert!(!client.internal && !client.edge);
    }

    #[test]
    fn the_edge_appends_the_peer_and_trusts_nothing() {
        let mut manager = manager();
        manager.use_remote_address = true;
        let mut headers = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-original-path", "/x"),
            ("x-envoy-max-retries", "9"),
        ]);
        let client = identify(&manager, (peer(), 80), &mut headers, "http").unwrap();
        assert_eq!(client.address, peer());
        assert!(client.edge);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1,10.9.9.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-envoy-external-address"], "10.9.9.9");
        assert!(!headers.contains_key("x-envoy-original-path") && !headers.contains_key("x-envoy-max-retries"));
    }

    #[test]
    fn trusted_hops_shift_the_client() {
        let mut manager = manager();
        manager.use_remote_address = true;
        manager.xff_num_trusted_hops = 1;
        let mut headers = headers(&[("x-forwarded-for", "1.1.1.1,2.2.2.2"), ("x-forwarded-proto", "https")]);
        let client = identify(&manager, (peer(), 80), &mut headers, "http").unwrap();
        assert_eq!(client.address.ip(), "2.2.2.2".parse::<IpAddr>().unwrap());
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn internal_clients_keep_their_headers() {
        let mut manager = manager();
        manager.internal_addresses = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = headers(&[("x-envoy-max-retries", "9")]);
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        assert!(identify(&manager, (peer(), 80), &mut headers, "http").unwrap().internal);
        assert_eq!(headers["x-envoy-max-retries"], "9");
        assert_eq!(headers["x-envoy-internal"], "true");
    }
}
