//! The views of the bootstrap as they are served.

use std::{collections::HashSet, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::config::LoadedView;
use crate::{
    admin,
    config::{
        cell::{self, Feeder, Registry, Source},
        cluster::{Cluster, Discovery, DnsCaches},
        convert::Converter,
        listener::Terminal,
        snapshot::Snapshot,
        views::InForce,
    },
    dynamic::{Following, resources::Resources},
    intake::{bound::BoundListener, claims::Claim, listening::Listening},
    telemetry::{stats::Store, writer::LogFile},
    view::{Gate, ViewId},
};

/// A view that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) id: ViewId,
    /// None: it is the process's own.
    pub(super) name: Option<Arc<str>>,
    /// The configuration in force.
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    /// What connections wait for.
    pub(super) gate: Arc<Gate>,
    pub(super) cells: Arc<Registry>,
    bootstrap: Arc<Bootstrap>,
    pub(super) stats: Store,
    pub(super) dns_caches: DnsCaches,
}

/// What is followed for a view.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) resources: Resources,
    pub(super) converter: Converter,
}

impl Served {
    /// One that was loaded, and what is followed for it, if anything is.
    pub(super) fn new(loaded: LoadedView) -> (Self, Option<Followed>) {
        let LoadedView { id, name, snapshot, stats, resources, converter, bootstrap, cells, dns_caches, .. } = loaded;
        let follows = !resources.is_empty() || follows_by_name(&snapshot, &cells);
        let (snapshot, bootstrap) = (Arc::new(ArcSwap::from_pointee(snapshot)), Arc::new(bootstrap));
        let gate = Arc::new(Gate::closed(resources.follows_listeners()));
        let served = Self { id, name, snapshot, gate, cells, bootstrap, stats, dns_caches };
        (served, follows.then_some(Followed { resources, converter }))
    }

    /// Has every listener there, with its sockets, in the order of the configuration. Their addresses are taken for as long as
    /// what this gives is kept.
    pub(super) fn put_all(&self, listening: &Listening, mut bound: Vec<BoundListener>) -> Vec<Claim> {
        let snapshot = self.snapshot.load();
        for listener in snapshot.listeners() {
            let own = bound.extract_if(.., |bound| bound.name == listener.name).collect();
            listening.put(self.id, listener, own);
        }
        // No two views have bound the same: else they would not have been loaded.
        snapshot.listeners().iter().filter_map(|listener| listening.claim(self.id, listener).ok()).collect()
    }

    /// The configuration that workers serve by.
    pub(super) fn in_force(&self) -> InForce {
        InForce { name: self.name.clone(), snapshot: self.snapshot.clone(), gate: self.gate.clone() }
    }

    /// Lets connections in once what it starts with is there, which `initialized` waits for, and what files say.
    pub(super) fn start<F: Future<Output = ()>>(&self, initialized: F) -> impl Future<Output = ()> + use<F> {
        let (cells, gate) = (self.cells.clone(), self.gate.clone());
        async move {
            initialized.await;
            cell::settled(&cells.all()).await;
            gate.start();
        }
    }

    /// Where what it accepts is kept, below the process's directory.
    pub(super) fn state_dir(&self, directory: &Path) -> std::path::PathBuf {
        match &self.name {
            Some(name) => directory.join("views").join(&**name),
            None => directory.to_owned(),
        }
    }

    /// As the admin server shows it.
    pub(super) fn shown(&self, following: Option<&Following>) -> admin::View {
        admin::View {
            id: self.id,
            name: self.name.clone(),
            snapshot: self.snapshot.clone(),
            cells: self.cells.clone(),
            bootstrap: self.bootstrap.clone(),
            dynamic: following.and_then(|following| following.status(self.id)).cloned(),
        }
    }
}

/// The access logs of a configuration.
pub(super) fn log_files(snapshot: &Snapshot) -> HashSet<LogFile> {
    let listeners = snapshot.listeners().iter();
    listeners
        .flat_map(|listener| {
            let filters = listener.chains().flat_map(|chain| match &chain.terminal {
                Terminal::Http(manager) => [manager.access_log.as_slice(), &manager.router.upstream_log],
                Terminal::Tcp(proxy) => [proxy.access_log.as_slice(), &[]],
                Terminal::Echo | Terminal::DirectResponse(_) | Terminal::Discovered(_) => [[].as_slice(), &[]],
            });
            listener.access_log.iter().chain(filters.flatten())
        })
        .map(|log| log.file.clone())
        .collect()
}

/// Whether something of the bootstrap comes from a management server.
fn follows_by_name(snapshot: &Snapshot, cells: &Registry) -> bool {
    let from_server = |cluster: &Arc<Cluster>| match &cluster.discovery {
        Discovery::Eds(assignments) => !matches!(assignments.source, Source::File(_)),
        _ => false,
    };
    snapshot.clusters().any(from_server)
        || cells.all().iter().any(|cell| cell.subject().source.feeder() == Feeder::Servers)
}
