//! What every response to a client gets, wherever it comes from.

use http::{HeaderMap, HeaderValue, header};

use super::{mutate, request::X_REQUEST_ID};
use crate::config::http::{HttpConnectionManager, ServerHeader};

/// Finishes a response's headers. `request_id` is the request's, if it is to be sent back.
pub(super) fn finish(
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
