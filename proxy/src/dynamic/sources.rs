//! Where resources come from: the aggregated stream, servers of one type, files. Each is followed from the first time that
//! it is asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::Message;
use weir_proto::envoy::config::core::v3::ApiConfigSource;
use xxhash_rust::xxh64::xxh64;

use super::{resources::Resources, status::Status};
use crate::{
    config::{cell::Source, snapshot::Snapshot},
    queue::Queue,
    xds::{
        budget::Budget,
        kind::Kind,
        shared::Bodies,
        source::{self, Server},
        stats::SubscriptionStats,
        store::Store,
        wishes::Handle,
    },
};

/// What tells sources apart: of one type only, unless it is the aggregated stream.
pub(super) type Key = (Source, Option<Kind>);

/// A source that is to be followed from now on.
#[derive(Clone)]
pub(super) struct Follow {
    pub(super) key: Key,
    pub(super) handle: Handle,
    /// Of the file of a type.
    pub(super) stats: Option<SubscriptionStats>,
}

impl Follow {
    pub(super) fn source(&self) -> &Source {
        &self.key.0
    }
}

/// The sources of a view.
pub(super) struct Sources {
    resources: Resources,
    known: HashMap<Key, Handle>,
    /// To whoever follows them.
    follow: Queue<Follow>,
    status: Arc<Status>,
    /// The clusters of the bootstrap.
    fixed: Arc<Snapshot>,
    /// What the resources of all of them may take.
    memory: Budget,
    /// What they have in common with those of other views.
    bodies: Option<Bodies>,
}

impl Sources {
    pub(super) fn new(
        resources: Resources,
        follow: Queue<Follow>,
        status: Arc<Status>,
        fixed: Arc<Snapshot>,
        memory: Budget,
        bodies: Option<Bodies>,
    ) -> Self {
        Self { resources, known: HashMap::new(), follow, status, fixed, memory, bodies }
    }

    /// Whether it can be followed: nothing is to wait for what can't.
    pub(super) fn is_usable(&self, source: &Source) -> bool {
        let Source::Server(message) = source else { return true };
        let read = ApiConfigSource::decode(message.clone()).ok();
        match read.and_then(|message| source::Source::new(&message, "").ok()).map(|source| source.server) {
            Some(Server::Cluster(name)) => {
                self.resources.pipes.contains_key(&name) || self.fixed.cluster(&name).is_some()
            }
            Some(Server::Address(_)) => true,
            None => false,
        }
    }

    /// What all of them are called, once every server among them has answered.
    pub(super) fn answered(&self) -> Option<HashSet<String>> {
        let servers = self.known.iter().filter(|((source, _), _)| !matches!(source, Source::File(_)));
        let mut stores = servers.map(|(_, handle)| handle.store());
        stores.all(|store| store.is_answered()).then(|| self.known.keys().map(name).collect())
    }

    pub(super) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// A source that nothing is wanted of any more is not followed.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(handle) = self.known.remove(key) {
            self.status.forget(handle.store());
        }
    }

    /// The source, which is followed from now on. `stats` is where a file is counted.
    pub(super) fn handle(&mut self, source: &Source, kind: Kind, stats: Option<SubscriptionStats>) -> Handle {
        let key = (source.clone(), (*source != Source::Ads).then_some(kind));
        if let Some(handle) = self.known.get(&key) {
            return handle.clone();
        }
        let handle = Handle::new(Arc::new(Store::within(self.memory.clone()).sharing(self.bodies.clone())));
        self.status.source(name(&key).into(), handle.store());
        self.known.insert(key.clone(), handle.clone());
        self.follow.leave(Follow { key, handle: handle.clone(), stats });
        handle
    }
}

/// Whether a source might be called so of which something is kept.
pub(super) fn is_name(name: &str) -> bool {
    let hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let of_kind = |(kind, of): (&str, &str)| Kind::ALL.iter().any(|known| known.short() == kind) && hash(of);
    name == "ads" || name.split_once('-').is_some_and(of_kind)
}

/// What a source is called.
pub(super) fn name((source, kind): &Key) -> String {
    let kind = kind.map_or("", Kind::short);
    match source {
        Source::Ads => "ads".to_owned(),
        Source::File(path) => path.to_string(),
        Source::Server(message) => {
            format!("{kind}-{:016x}", xxh64(message, 0))
        }
    }
}
