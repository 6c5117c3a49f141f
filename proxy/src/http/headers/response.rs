//! What every response to a client gets, wherever it comes from.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::{mutate, request_id::X_REQUEST_ID};
use crate::config::http::{HttpConnectionManager, ServerHeader};

/// Gives a status the words that Envoy has for it, where they are not hyper's.
pub(in crate::http) fn set_reason<B>(response: &mut Response<B>) {
    let reason = match response.status() {
        StatusCode::NON_AUTHORITATIVE_INFORMATION => ReasonPhrase::from_static(b"Non-Authoritative Information"),
        StatusCode::IM_A_TEAPOT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => ReasonPhrase::from_static(b"Unknown"),
        status if status.canonical_reason().is_none() => ReasonPhrase::from_static(b"Unknown"),
        _ => return,
    };
    response.extensions_mut().get_or_insert(reason);
}

/// Finishes a response's headers. `request_id` is the request's, if it is to be sent back.
pub(in crate::http) fn finish(
    manager: &HttpConnectionManager,
    headers: &mut HeaderMap,
    upgrade: bool,
    request_id: Option<HeaderValue>,
) {
    mutate::strip_hop_by_hop(headers, upgrade);
    match manager.server_header {
        ServerHeader::Overwrite => {
            headers.insert(header::SERVER, manager.server_name.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers.entry(header::SERVER).or_insert_with(|| manager.server_name.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &manager.via {
        mutate::append_via(headers, via);
    }
    if let Some(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
}
