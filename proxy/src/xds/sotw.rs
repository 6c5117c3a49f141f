//! One type on a state-of-the-world stream: what is to be requested next, and what a response says.
//!
//! A request always has all names that are wanted, the last version that was accepted and the nonce of the last response;
//! so one request says whatever there is to say, however much happened since the last.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};
use weir_proto::{
    envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource as Wrapped},
    google::rpc::Status,
};

use super::{
    interest::{EVERYTHING, Interest},
    kind::{Kind, shortened},
    store::Content,
    ttl::lifetime,
    update::Resource,
};

/// gRPC's status INTERNAL, which every rejection has.
pub(super) const INTERNAL: i32 = 13;
/// What wraps a resource that has a time to live.
const WRAPPED: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// One type on a stream.
#[derive(Debug, Default)]
pub(super) struct Sotw {
    /// Of the last response that was accepted, on whichever stream.
    version: Arc<str>,
    /// Of the last response of this stream.
    nonce: String,
    /// Why that response was rejected.
    error: Option<String>,
    sent: Sent,
    due: bool,
}

/// What this stream's server knows of what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sent {
    #[default]
    Nothing,
    /// A request without names and never one with names: that is everything.
    Everything,
    /// Names: without them, a request means nothing.
    Names,
}

/// What a response has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// What it says.
    pub(super) content: Content,
    /// Resources that came without a body: they live on, for so long.
    pub(super) heartbeats: Vec<Resource>,
}

impl Sotw {
    /// A stream was opened: the server knows nothing.
    pub(super) fn opened(&mut self, interest: &Interest) {
        self.nonce.clear();
        self.error = None;
        self.sent = Sent::Nothing;
        self.due = !interest.is_empty();
        // Of nothing, no version is held: what is wanted later is to come. A stream that goes on claims what it was sent,
        // even so: to a server that compares versions, who claims another one has missed something.
        if interest.is_empty() {
            self.version = Arc::default();
        }
    }

    /// Other things are wanted.
    pub(super) fn interest_changed(&mut self, interest: &Interest) {
        // Who asked for everything by naming nothing can't take it back so.
        self.due = !interest.is_empty() || self.sent == Sent::Names;
    }

    /// There is something to request.
    pub(super) fn due(&self) -> bool {
        self.due
    }

    /// A response was judged.
    pub(super) fn judged(&mut self, nonce: String, version: &Arc<str>, rejected: Option<String>) {
        self.nonce = nonce;
        if rejected.is_none() {
            self.version = version.clone();
        }
        self.error = rejected;
        self.due = true;
    }

    /// The next request, without the node.
    pub(super) fn request(&mut self, kind: Kind, interest: &mut Interest) -> SotwRequest {
        self.due = false;
        let names = interest.encoded();
        let legacy = names.is_empty() && self.sent != Sent::Names;
        let everything = interest.everything() && !legacy;
        let none = names.is_empty() && !everything;
        self.sent = if none && self.sent != Sent::Names { Sent::Everything } else { Sent::Names };
        let request = DiscoveryRequest {
            version_info: self.version.to_string(),
            resource_names: everything.then(|| EVERYTHING.to_owned()).into_iter().collect(),
            type_url: kind.type_url().to_owned(),
            response_nonce: self.nonce.clone(),
            error_detail: self.error.take().map(rejection),
            ..DiscoveryRequest::default()
        };
        SotwRequest { request, names }
    }
}

/// A request whose names were encoded before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SotwRequest {
    /// The request but for those.
    pub request: DiscoveryRequest,
    /// Further `resource_names`, encoded.
    names: Bytes,
}

/// The fields of a message may be in any order, and those of one list in several pieces.
impl Message for SotwRequest {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        self.request.encode_raw(buffer);
        buffer.put_slice(&self.names);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.request.merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.request.encoded_len() + self.names.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A rejection as it is sent.
pub(super) fn rejection(why: String) -> Status {
    Status { code: INTERNAL, message: shortened(why), details: Vec::new() }
}

/// Reads a response: what of it is wanted.
pub(super) fn read(kind: Kind, response: DiscoveryResponse, interest: &Interest) -> Result<Read, String> {
    let mut read = Read {
        content: Content { version: response.version_info.into(), whole: kind.is_whole(), ..Content::default() },
        ..Read::default()
    };
    let mut names = std::collections::HashSet::new();
    for any in response.resources {
        let wrapped = any.type_url == WRAPPED;
        let mut wrapper = match wrapped {
            true => Wrapped::decode(&*any.value).map_err(|error| format!("malformed {WRAPPED}: {error}"))?,
            false => Wrapped { resource: Some(any), ..Wrapped::default() },
        };
        let ttl = wrapper.ttl.as_ref().map(lifetime);
        let aliases = std::mem::take(&mut wrapper.aliases);
        let Some(any) = wrapper.resource else {
            let name: Arc<str> = wrapper.name.into();
            if interest.has(&name) {
                let version = read.content.version.clone();
                read.heartbeats.push(Resource { name, version, body: Bytes::new(), ttl, aliases });
            }
            continue;
        };
        if any.type_url != kind.type_url() {
            return Err(format!(
                "{} does not match the message-wide type URL {} in DiscoveryResponse",
                any.type_url,
                kind.type_url()
            ));
        }
        let name: Arc<str> = kind.name_of(&any.value).map_err(|error| error.to_string())?.into();
        if !interest.has(&name) {
            continue;
        }
        if !names.insert(name.clone()) {
            // Of what is no whole, the first counts.
            if let Some(what) = whole(kind) {
                let why = format!("duplicate {what} {name} found");
                read.content.faults.push((name, why));
            }
            continue;
        }
        let version = read.content.version.clone();
        read.content.resources.push(Resource { name, version, body: any.value.into(), ttl, aliases });
    }
    Ok(read)
}

/// What a resource is called of which a response has all.
fn whole(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Cluster => Some("cluster"),
        Kind::Listener => Some("listener"),
        _ => None,
    }
}
