//! What conversions share.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use prost::{Message, Name};
use weir_proto::envoy::config::listener::v3::FilterChain as FilterChainMessage;

use super::{fields::sub, secrets::Secrets};
use crate::{
    config::{
        cell::{Feed, Registry},
        cluster::{DnsCaches, LocalZones, Locality, NameServers},
        error::Error,
        filter::local_ratelimit::Bucket,
        listener::{Ceiling, FilterChain},
    },
    telemetry::{events::EventLog, stats::Scope},
    view::ViewId,
    wire::socket::SocketSettings,
};

/// The names of clusters that there are, which routes may name. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Clusters(Arc<RwLock<HashSet<String>>>);

impl Clusters {
    /// Whether there is one of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.read().contains(name)
    }

    /// There is one more; whether that is news.
    pub fn add(&self, name: &str) -> bool {
        self.0.write().insert(name.to_owned())
    }

    /// One is gone.
    pub fn remove(&self, name: &str) {
        self.0.write().remove(name);
    }
}

/// A filter chain, and what it was made from.
pub type Kept = (FilterChainMessage, Arc<FilterChain>);

/// Token buckets that several filters share, by key and configuration.
type Buckets = Arc<Mutex<HashMap<(String, Vec<u8>), Bucket>>>;

/// What conversions share.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    /// Whose configuration it is.
    pub view: ViewId,
    /// Its listeners serve connections of pods, and have no sockets whatever they say: several views of a node's control
    /// plane have the same ones.
    pub for_pods: bool,
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
    /// The scope below which objects register their statistics: `cx.stats.scope("cluster.backend")`.
    pub stats: Scope,
    /// The connection manager's own, `http.<stat_prefix>.`, for its filters.
    pub http: Scope,
    /// The listener at hand drains only when it changes (`drain_type` MODIFY_ONLY).
    pub modify_only: bool,
    /// The listener at hand has nothing done under pressure.
    pub bypasses_overload: bool,
    /// The listener at hand is outbound.
    pub outbound: bool,
    /// The proxy's own locality.
    pub local: Option<Arc<Locality>>,
    /// The cluster that this proxy is part of (`local_cluster_name`), and where its hosts are.
    pub local_cluster: Option<Box<str>>,
    /// How its zones and others' compare.
    pub zones: Arc<LocalZones>,
    /// Secrets of the bootstrap.
    pub secrets: Arc<Secrets>,
    /// Where outlier detection writes its events.
    pub outlier_log: Option<Arc<EventLog>>,
    /// How sockets of clusters that do not say so themselves are bound.
    pub bind: SocketSettings,
    /// Connections that the process may have open.
    pub ceiling: Arc<Ceiling>,
    /// Who is asked for names where a cluster does not say so itself.
    pub name_servers: NameServers,
    /// Token buckets that several filters share, by key and configuration.
    pub buckets: Buckets,
    /// Caches of names, which clusters and filters share.
    pub dns_caches: DnsCaches,
    /// Clusters that static routes may name.
    pub clusters: Clusters,
    /// The cluster that this process belongs to: `node.cluster`.
    pub service_cluster: String,
    /// The node's id.
    pub service_node: String,
    /// What comes by itself.
    pub cells: Arc<Registry>,
    /// The cells that what is being converted names: it waits for them.
    pub waits: Vec<Arc<dyn Feed>>,
    /// What is converted may be replaced while the process runs.
    pub changing: bool,
    /// Filter chains that a listener has in common with its predecessor.
    pub kept: Vec<Kept>,
}

/// What a conversion needs that is made once its message comes.
#[derive(Debug)]
pub(super) struct Later(Context);

impl Later {
    /// Converts; fields without effect are told to the log.
    pub fn convert<T>(&self, convert: impl FnOnce(&mut Context) -> Result<T, Error>) -> Result<T, Error> {
        let mut cx = self.0.clone();
        let converted = convert(&mut cx)?;
        for path in cx.ignored {
            tracing::warn!(%path, "field has no effect in this version");
        }
        Ok(converted)
    }
}

impl Context {
    /// This, for later.
    pub fn later(&self) -> Later {
        Later(Self { ignored: Vec::new(), waits: Vec::new(), kept: Vec::new(), ..self.clone() })
    }

    /// Accepts `message` if the fields that are set are all in `supported` or `harmless`; notes the harmless ones.
    pub fn only<M: Message + Name>(
        &mut self,
        message: &M,
        at: &str,
        supported: &[&str],
        harmless: &[&str],
    ) -> Result<(), Error> {
        for field in weir_proto::set_fields(message) {
            if harmless.contains(&&*field) {
                self.ignored.push(sub(at, &field));
            } else if !supported.contains(&&*field) {
                return Err(Error::at(sub(at, &field), "not supported yet"));
            }
        }
        Ok(())
    }

    /// A cluster that a static route names must exist.
    pub fn known_cluster(&self, name: &str, at: &str) -> Result<Arc<str>, Error> {
        if self.clusters.contains(name) {
            Ok(name.into())
        } else {
            Err(Error::at(at, format!("unknown cluster \"{name}\"")))
        }
    }
}
