//! Going where a request says: its host is resolved before it is forwarded to a cluster of a dynamic forward proxy.

use http::{HeaderValue, StatusCode, header};

use super::exchange::Exchange;
use crate::{
    access_log::Flag,
    config::{
        cluster::{Authority, CachedName, DYNAMIC_HOST_KEY, DYNAMIC_PORT_KEY, Discovery, ForwardProxy, Load},
        filter::dynamic_forward_proxy::{DynamicForwardProxy, HostFrom},
    },
    http::{
        body::ReadAhead,
        stream::{Stream, reply::Reply},
    },
};

/// Waits until the host has been resolved, or answers the request.
pub(super) async fn on_request(
    filter: &DynamicForwardProxy,
    of_route: Option<&HostFrom>,
    stream: &mut Stream,
    exchange: &mut Exchange<'_>,
) -> Option<Reply> {
    let cluster = stream.cluster.clone()?;
    let Discovery::ForwardProxy(proxy) = &cluster.discovery else { return None };
    rewrite(of_route, exchange);
    let Some(_place) = filter.cache.admit() else {
        return Some(turned_away(
            "Dynamic forward proxy pending request overflow",
            "dynamic_forward_proxy_pending_request_overflow",
        ));
    };
    let load = match authority(filter, proxy, stream, exchange) {
        Some(authority) => filter.cache.load(&authority),
        None => return Some(Reply::new(StatusCode::BAD_REQUEST, "Empty host header", None, "empty_host_header")),
    };
    let failure = match load {
        Load::Known(name) => name.failure(),
        Load::Overflow => return Some(turned_away("DNS cache overflow", "dns_cache_overflow")),
        Load::Wait(answer) => {
            let answered = stream.record.while_logging(exchange.body.ahead_while(answer)).await;
            answered.map_or_else(|_| Some(String::new()), |name| CachedName::failure(&name))
        }
    };
    let flag = Flag::DnsResolutionFailed;
    failure.map(|why| Reply::new(StatusCode::SERVICE_UNAVAILABLE, "DNS resolution failure", flag, why))
}

fn turned_away(body: &'static str, details: &'static str) -> Reply {
    Reply::new(StatusCode::SERVICE_UNAVAILABLE, body, None, details)
}

/// Makes the host what the route says.
fn rewrite(of_route: Option<&HostFrom>, exchange: &mut Exchange<'_>) {
    let headers = &mut exchange.parts.headers;
    let host = match of_route {
        Some(HostFrom::Literal(host)) => Some(host.clone()),
        // The client's to say: only the first counts.
        Some(HostFrom::Header(name)) => headers.get(name).cloned(),
        Some(HostFrom::Request) | None => None,
    };
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
}

/// The host that is meant. A port that filter state has goes before the one that the request names, as in Envoy, whose
/// clusters see that otherwise.
fn authority<'a>(
    filter: &DynamicForwardProxy,
    proxy: &ForwardProxy,
    stream: &'a Stream,
    exchange: &'a Exchange<'_>,
) -> Option<Authority<'a>> {
    let state = stream.record.entry.filter_state.as_deref().filter(|_| filter.from_filter_state);
    let host = exchange.parts.headers.get(header::HOST).map_or(b"".as_slice(), HeaderValue::as_bytes);
    let meant = proxy.authority(state, std::str::from_utf8(host).ok())?;
    let by_state = state.filter(|state| state.text(DYNAMIC_HOST_KEY).is_none());
    Some(match by_state.and_then(|state| state.port(DYNAMIC_PORT_KEY)) {
        Some(port) => Authority { key: format!("{}:{port}", meant.host), port, ..meant },
        None => meant,
    })
}
