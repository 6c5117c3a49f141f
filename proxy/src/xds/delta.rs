//! One type on a delta stream: what is to be requested next, and what a response says.
//!
//! The server keeps what this stream subscribed to; a request says what changes of it, or acknowledges a response, or both.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{
    interest::{EVERYTHING, Interest},
    kind::Kind,
    sotw::{Read, rejection},
    store::Content,
    ttl::lifetime,
    update::{Resource, Update},
};

/// One type on a stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// Versions of what was accepted: a new stream's server is told what need not come again.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// Names that this stream's server knows to be wanted.
    told: BTreeSet<Arc<str>>,
    /// Names that it is to be told of. One that was given up and is wanted again before the server heard of it is among
    /// them: it is to come again.
    new: BTreeSet<Arc<str>>,
    /// Names that it knows and nobody wants any more.
    over: BTreeSet<Arc<str>>,
    everything: Everything,
    /// A request was made on this stream.
    begun: bool,
    /// Responses that were judged, oldest first: each is answered.
    answers: VecDeque<(String, Option<String>)>,
    due: bool,
}

/// Whether this stream's server sends whatever there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Everything {
    #[default]
    No,
    /// As the first request had no names, or as one had `*`.
    Told,
}

impl Delta {
    /// A stream was opened: the server knows nothing.
    pub(super) fn opened(&mut self, interest: &Interest) {
        self.told.clear();
        self.new = interest.names().cloned().collect();
        self.over.clear();
        self.everything = Everything::No;
        self.begun = false;
        self.answers.clear();
        self.due = !interest.is_empty();
    }

    /// What was accepted before this process was started is there. Its versions are not claimed, as they may be another
    /// server's: empty ones have the server send what there is and name what is gone.
    pub(super) fn restore(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        self.held.extend(names.into_iter().map(|name| (name, Arc::default())));
    }

    /// A name is wanted, or everything, that was not.
    pub(super) fn wanted(&mut self, name: Option<&Arc<str>>) {
        self.due = true;
        if let Some(name) = name {
            self.over.remove(name);
            self.new.insert(name.clone());
        }
    }

    /// A name is no longer wanted, or not everything.
    pub(super) fn unwanted(&mut self, name: Option<&Arc<str>>, interest: &Interest) {
        match name {
            Some(name) => {
                self.new.remove(name);
                if self.told.contains(name) {
                    self.over.insert(name.clone());
                }
                // It may have come with everything, too: the server will say.
                if !interest.everything() {
                    self.held.remove(name);
                }
            }
            None => self.retain(interest),
        }
        self.due = self.begun || !interest.is_empty();
    }

    /// Nothing is held but what is wanted by name.
    pub(super) fn retain(&mut self, interest: &Interest) {
        self.held.retain(|name, _| interest.names_it(name));
    }

    /// There is something to request.
    pub(super) fn due(&self) -> bool {
        self.due || !self.answers.is_empty()
    }

    /// A response was judged: all of it was accepted but `refused`. `update` is none where nothing of it was.
    pub(super) fn judged(
        &mut self,
        nonce: String,
        update: Option<&Update>,
        refused: &HashSet<&str>,
        rejected: Option<String>,
    ) {
        self.answers.push_back((nonce, rejected));
        let Some(update) = update else { return };
        for resource in update.added.iter().chain(&update.unchanged) {
            if !refused.contains(&*resource.name) {
                self.held.insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in &update.removed {
            self.held.remove(name);
        }
    }

    /// A resource is no longer held.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
    }

    /// The version of a resource that is held.
    pub(super) fn version(&self, name: &str) -> Option<&Arc<str>> {
        self.held.get(name)
    }

    /// The next request, without the node.
    pub(super) fn request(&mut self, kind: Kind, interest: &Interest) -> DeltaDiscoveryRequest {
        self.due = false;
        let (nonce, rejected) = self.answers.pop_front().unwrap_or_default();
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: rejected.map(rejection),
            ..DeltaDiscoveryRequest::default()
        };
        let new = std::mem::take(&mut self.new);
        request.resource_names_subscribe = new.iter().map(|name| name.to_string()).collect();
        self.told.extend(new);
        for name in std::mem::take(&mut self.over) {
            self.told.remove(&name);
            request.resource_names_unsubscribe.push(name.to_string());
        }
        match (interest.everything(), self.everything) {
            (true, Everything::No) => {
                // A first request that names nothing asks for everything, and every server understands it.
                if self.begun || !request.resource_names_subscribe.is_empty() {
                    request.resource_names_subscribe.insert(0, EVERYTHING.to_owned());
                }
                self.everything = Everything::Told;
            }
            (false, Everything::Told) => {
                request.resource_names_unsubscribe.insert(0, EVERYTHING.to_owned());
                self.everything = Everything::No;
            }
            _ => {}
        }
        if !self.begun {
            let held = self.held.iter().map(|(name, version)| (name.to_string(), version.to_string()));
            request.initial_resource_versions = held.collect();
        }
        self.begun = true;
        request
    }
}

/// Reads a response: what of it is wanted. `held` gives the version of what was accepted.
pub(super) fn read<'a>(
    kind: Kind,
    response: DeltaDiscoveryResponse,
    interest: &Interest,
    held: impl Fn(&str) -> Option<&'a Arc<str>>,
) -> Result<Read, String> {
    let mut read = Read {
        content: Content { version: response.system_version_info.into(), ..Content::default() },
        ..Read::default()
    };
    let mut names: HashSet<Arc<str>> = HashSet::new();
    for resource in response.resources {
        let name: Arc<str> = resource.name.into();
        if !names.insert(name.clone()) {
            return Err(format!("duplicate name {name} found among added/updated resources"));
        }
        let version: Arc<str> = resource.version.into();
        let ttl = resource.ttl.as_ref().map(lifetime);
        let aliases = resource.aliases;
        let wanted = interest.has(&name) || aliases.iter().any(|alias| interest.has(alias));
        let Some(any) = resource.resource else {
            // What lives on has the version that is held. Virtual hosts have no lives: theirs says that there is none.
            let lives = kind != Kind::VirtualHost && held(&name) == Some(&version);
            let resource = Resource { name, version, body: Bytes::new(), ttl, aliases };
            match (lives, wanted, resource.aliases.is_empty()) {
                (_, false, _) => {}
                (true, true, _) => read.heartbeats.push(resource),
                (false, true, false) => read.content.resources.push(resource),
                (false, true, true) => return Err(mismatch("", kind)),
            }
            continue;
        };
        if any.type_url != kind.type_url() {
            return Err(mismatch(&any.type_url, kind));
        }
        if wanted {
            read.content.resources.push(Resource { name, version, body: any.value.into(), ttl, aliases });
        }
    }
    for name in response.removed_resources {
        let name: Arc<str> = name.into();
        if !names.insert(name.clone()) {
            return Err(format!("duplicate name {name} found in the union of added+removed resources"));
        }
        if interest.has(&name) {
            read.content.removed.push(name);
        }
    }
    Ok(read)
}

fn mismatch(embedded: &str, kind: Kind) -> String {
    format!(
        "type URL {embedded} embedded in an individual Any does not match the message-wide type URL {} in \
         DeltaDiscoveryResponse",
        kind.type_url()
    )
}
