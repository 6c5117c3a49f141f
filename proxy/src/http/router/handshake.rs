//! What requests for upgrades ask for, and what answers to them say.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;

/// Whether an upgrade is one to WebSocket.
pub(super) fn to_websocket(request: &HeaderMap) -> bool {
    request.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether an answer to a WebSocket handshake over HTTP/1 is none. What says that something went wrong passes as it is.
pub(super) fn fails_handshake(request: &Parts, status: StatusCode) -> bool {
    request.method == Method::GET
        && to_websocket(&request.headers)
        && status != StatusCode::SWITCHING_PROTOCOLS
        && status.as_u16() < 400
}

/// Gives the head of an answer that accepts an upgrade over HTTP/2 the form that it has in HTTP/1.
pub(super) fn as_http1<B>(response: &mut Response<B>, request: &Parts) {
    if response.extensions().get::<OnUpgrade>().is_some()
        && request.method != Method::CONNECT
        && response.status().is_success()
        && let Some(upgrade) = request.headers.get(header::UPGRADE)
    {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::UPGRADE, upgrade.clone());
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}
