//! Responses of a management server, whatever they are: a stream never panics, answers each that it can tell the type of,
//! and has nothing left to say after that.

use std::time::{Instant, SystemTime};

use prost::Message;
use weir_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
};

use super::{
    kind::{Kind, Protocol},
    mux::{Mux, Received, Request, Response},
    sotw::SotwRequest,
    update::Refused,
};

/// The first byte chooses the protocol and what is refused. Then responses, each with its length in two bytes before it.
pub(crate) fn responses(input: &[u8]) {
    let Some((first, mut rest)) = input.split_first() else { return };
    let protocol = if first & 1 == 0 { Protocol::Sotw } else { Protocol::Delta };
    let mut mux = Mux::new(protocol, Node::default(), true, std::sync::Arc::default());
    mux.subscribe(Kind::Cluster, None);
    mux.subscribe(Kind::Listener, None);
    for kind in [Kind::LoadAssignment, Kind::Routes, Kind::Extension] {
        mux.subscribe(kind, Some(&"a".into()));
    }
    mux.opened();
    let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
    assert_eq!(std::iter::from_fn(|| mux.next_request()).count(), 5);
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        let response = match protocol {
            Protocol::Sotw => DiscoveryResponse::decode(bytes).map(Response::Sotw),
            Protocol::Delta => DeltaDiscoveryResponse::decode(bytes).map(Response::Delta),
        };
        let Ok(response) = response else { continue };
        let nonce = match &response {
            Response::Sotw(response) => response.nonce.clone(),
            Response::Delta(response) => response.nonce.clone(),
        };
        let rejected = match mux.received(response, time) {
            Received::Unasked(_) => {
                assert!(!mux.ready());
                continue;
            }
            Received::Malformed(..) => true,
            Received::Update(update) => {
                // Names that begin with a byte of the chosen parity are refused.
                let bad = update
                    .added
                    .iter()
                    .filter(|resource| resource.name.bytes().next().unwrap_or_default() & 2 == first & 2);
                let bad: Vec<_> = bad.map(|resource| (resource.name.clone(), "bad".to_owned())).collect();
                let verdict = if bad.is_empty() { Ok(()) } else { Err(Refused::Some(bad)) };
                let told = mux.judged(&update, &verdict, now, time);
                assert!(verdict.is_ok() || told.is_some());
                told.is_some()
            }
        };
        let answers: Vec<_> = std::iter::from_fn(|| mux.next_request()).collect();
        let [answer] = answers.as_slice() else { panic!("{} answers", answers.len()) };
        let (answered, error) = match answer {
            Request::Sotw(SotwRequest { request, .. }) => (&request.response_nonce, &request.error_detail),
            Request::Delta(request) => (&request.response_nonce, &request.error_detail),
        };
        assert_eq!((answered, error.is_some()), (&nonce, rejected));
        assert_eq!(mux.pending(), 0);
    }
    for at in 0..4 {
        mux.expired(now + std::time::Duration::from_secs(1 << (8 * at)), time);
    }
}
