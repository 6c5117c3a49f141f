//! What every response to a client gets, wherever it comes from.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::{mutate, request_id::X_REQUEST_ID};
use crate::config::http::{HttpConnectionManager, ServerHeader};

/// Gives a status the words that Envoy has for it, where they are not hyper's.
pub(in crate::http) fn set_reason<B>(response: &mut Response<B>) {
    let reason = match response.status() {
        StatusCode::NON_AUTHORITATIVE_INFORMATION => ReasonPhrase::from_static(b"Non-Authoritative Information"),
        StatusCode::IM_A_TEAPOT | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => ReasonPhrase::from_static(b"Unknown"),
        status if status.as_u16() == 599 => ReasonPhrase::from_static(b"Last Unassigned Server Error Code"),
        status if status.canonical_reason().is_none() => ReasonPhrase::from_static(b"Unknown"),
        _ => return,
    };
    response.extensions_mut().get_or_insert(reason);
}

/// What traced requests are called.
pub(in crate::http) const OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");

/// What a response says of its request.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct About {
    /// The request's id, if it is to be sent back.
    pub request_id: Option<HeaderValue>,
    /// What it is called.
    pub operation: Operation,
}

/// What a response says of what its request is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::http) enum Operation {
    /// What the upstream says.
    #[default]
    Upstreams,
    /// This.
    Named(HeaderValue),
    /// Nothing.
    Secret,
}

/// Finishes a response's headers.
pub(in crate::http) fn finish(manager: &HttpConnectionManager, headers: &mut HeaderMap, upgrade: bool, about: About) {
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
    if let Some(id) = about.request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    match about.operation {
        Operation::Upstreams => {}
        Operation::Named(operation) => {
            headers.insert(OPERATION, operation);
        }
        Operation::Secret => {
            headers.remove(OPERATION);
        }
    }
}
