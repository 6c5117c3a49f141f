//! Taking out the headers by which istio's proxies tell each other who they are: they are not for applications.

use http::{HeaderMap, HeaderName};

use crate::config::filter::peer_metadata::PeerHeaders;

const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-envoy-peer-metadata"), HeaderName::from_static("x-envoy-peer-metadata-id")];

/// They are to be taken out of the response.
#[derive(Debug)]
pub(super) struct OfResponse;

impl OfResponse {
    pub fn on_response(&self, headers: &mut HeaderMap) {
        take_out(headers);
    }
}

pub(super) fn on_request(filter: PeerHeaders, headers: &mut HeaderMap) -> Option<OfResponse> {
    if filter.of_requests {
        take_out(headers);
    }
    filter.of_responses.then_some(OfResponse)
}

fn take_out(headers: &mut HeaderMap) {
    for name in HEADERS {
        headers.remove(name);
    }
}
