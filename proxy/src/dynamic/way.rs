//! The way to a source: how it is followed.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prost::Message;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use weir_proto::envoy::config::core::v3::{ApiConfigSource, Node};

use super::{
    feed::Feed,
    setup::Setup,
    sources::{Follow, Key, name},
};
use crate::{
    config::{cell::Source, snapshot::Snapshot},
    telemetry::stats::Store as Stats,
    xds::{
        client::{Client, Settings},
        dial::{Address, Dial, InTurn},
        file::{self, Looked},
        kind::Kind,
        saved::Directory,
        source::{self, Server},
        stats::{ControlPlaneStats, SubscriptionStats},
        through::Through,
        transport::{Pings, Service, Target},
        wishes::Handle,
    },
};

/// A connection to a server without a cluster's settings must be made within.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that says nothing for so long once there is a connection is passed over.
const SILENCE: Duration = Duration::from_secs(5);

/// A server of one type that nothing was wanted of for so long is not followed any more.
const UNWANTED: Duration = Duration::from_secs(15);

/// What is needed to follow a source.
pub(super) struct Way {
    node: Node,
    ads: Option<ApiConfigSource>,
    pipes: HashMap<String, Vec<Address>>,
    /// The clusters of the bootstrap, which never change.
    fixed: Arc<Snapshot>,
    stats: Stats,
    state_dir: Option<PathBuf>,
    /// What the view is called that follows; none: it is the process's own.
    view: Option<Arc<str>>,
}

impl Way {
    pub(super) fn new(setup: &Setup) -> Self {
        let resources = &setup.resources;
        Self {
            node: resources.node.clone(),
            ads: resources.ads.clone(),
            pipes: resources.pipes.clone(),
            fixed: setup.snapshot.load_full(),
            stats: setup.stats.clone(),
            state_dir: setup.state_dir.clone(),
            view: setup.name.clone(),
        }
    }

    /// Follows a source until told to stop.
    pub(super) async fn follow(&self, follow: Follow, feed: Feed, mut stop: watch::Receiver<()>) {
        let Follow { key, handle, stats } = follow;
        if let (Source::File(path), Some(kind)) = &key {
            let looked = |looked| self.looked(Path::new(&**path), *kind, &looked, &handle, stats.as_ref(), &feed);
            let mut consumer = feed.clone();
            let following = file::Source::new(PathBuf::from(&**path), *kind);
            tokio::select! {
                () = following.follow(handle.store().clone(), &mut consumer, looked) => {}
                _ = stop.changed() => {}
            }
            return;
        }
        let view = feed.view.clone();
        let mut client = match self.settings(&key) {
            Ok(settings) => Some(Client::new(settings, handle.clone(), feed)),
            Err(why) => {
                tracing::error!(source = name(&key), why, "a management server can't be followed");
                None
            }
        };
        let following = async {
            match &mut client {
                Some(client) => drop(client.run().await),
                None => std::future::pending().await,
            }
        };
        let unwanted = async {
            match &key.0 {
                Source::Server(_) => handle.unwanted(UNWANTED).await,
                Source::Ads | Source::File(_) => std::future::pending().await,
            }
        };
        let ends = tokio::select! {
            () = following => false,
            () = unwanted => true,
            _ = stop.changed() => false,
        };
        if ends {
            tracing::debug!(source = name(&key), "nothing is wanted of a management server any more");
            view.borrow_mut().forget_source(&key);
        }
        if let Some(client) = &mut client {
            client.finish().await;
        }
    }

    /// A file was looked at.
    fn looked(
        &self,
        path: &Path,
        kind: Kind,
        looked: &Looked,
        handle: &Handle,
        stats: Option<&SubscriptionStats>,
        feed: &Feed,
    ) {
        match looked {
            Looked::Same => return,
            Looked::Applied => {
                if let (Some(stats), Some(version)) = (stats, handle.store().version(kind)) {
                    stats.succeeded(&version, SystemTime::now(), None);
                }
            }
            Looked::Refused(why) => {
                if let Some(stats) = stats {
                    stats.rejected();
                }
                tracing::warn!(path = %path.display(), why, "resources are refused");
            }
            Looked::Unreadable(why) => {
                if let Some(stats) = stats {
                    stats.failed();
                }
                tracing::warn!(path = %path.display(), why, "resources can't be read: what was accepted stays in force");
            }
        }
        feed.view.borrow_mut().answered(kind);
    }

    fn settings(&self, key: &Key) -> Result<Settings, String> {
        let (source, kind) = key;
        let message = match source {
            Source::Ads => self.ads.clone().ok_or("there is no ads_config")?,
            Source::Server(message) => ApiConfigSource::decode(message.clone()).map_err(|error| error.to_string())?,
            Source::File(_) => return Err("it is a file".to_owned()),
        };
        let source = source::Source::new(&message, "api_config_source").map_err(|error| error.to_string())?;
        let rate = source.bucket(Instant::now());
        let (dial, name, pings) = self.dial(&source)?;
        let scope = match (kind, &source.server) {
            (Some(_), Server::Cluster(cluster)) => self.stats.root().scope(&format!("cluster.{cluster}.control_plane")),
            _ => self.stats.root().scope("control_plane"),
        };
        let name = match &self.view {
            Some(view) => format!("{name} (view {view})"),
            None => name,
        };
        let target = Target {
            name,
            dial,
            authority: source.authority,
            metadata: MetadataMap::from_headers(source.metadata),
            pings,
            longest: source.longest,
            timeout: SILENCE,
        };
        Ok(Settings {
            target,
            service: kind.map_or(Service::Aggregated, Service::Only),
            protocol: source.protocol,
            node: self.node.clone(),
            node_once: source.node_once,
            backoff: source.backoff,
            rate,
            stats: ControlPlaneStats::register(&scope),
            saved: self.saved(key),
        })
    }

    fn saved(&self, key: &Key) -> Option<Directory> {
        let directory = self.state_dir.as_ref()?.join(name(key));
        let opened = Directory::open(&directory);
        opened.inspect_err(|error| tracing::error!(path = %directory.display(), %error, "nothing is kept there")).ok()
    }

    /// How a server is connected to, what it is called, and how it is asked whether it is there.
    fn dial(&self, source: &source::Source) -> Result<(Box<dyn Dial>, String, Pings), String> {
        match &source.server {
            Server::Address(address) => {
                let dial = InTurn::new(vec![address.clone()], CONNECT_TIMEOUT);
                Ok((Box::new(dial), address.to_string(), Pings::default()))
            }
            Server::Cluster(name) => {
                let cluster = self.fixed.cluster(name);
                let pings = cluster.and_then(|cluster| cluster.http2.keepalive).map(Pings::from).unwrap_or_default();
                if let Some(pipes) = self.pipes.get(name) {
                    return Ok((Box::new(InTurn::new(pipes.clone(), CONNECT_TIMEOUT)), name.clone(), pings));
                }
                let cluster = cluster.ok_or_else(|| format!("Unknown gRPC client cluster '{name}'"))?;
                let through = Through::new(cluster.clone(), &source.authority, self.stats.following());
                Ok((Box::new(through), name.clone(), pings))
            }
        }
    }
}
