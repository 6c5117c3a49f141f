//! Pods of this node from the API server.
//!
//! Three reflectors (`reflector`) follow the node's pods, all namespaces (their metadata) and the node. One task
//! (`source`) keeps what they hear (`cluster`), chooses who is enrolled (`selection`), looks for their network
//! namespaces (`locations`) and publishes the listing.
//!
//! What was heard stays while the API server is away, however long: nothing is withdrawn because a list failed. What is
//! known is also kept in a file (`record`), from which an agent that starts while the API server is away begins.

mod absent;
mod admission;
mod client;
mod cluster;
mod health;
pub(crate) mod labels;
mod locations;
mod objects;
mod probes;
mod record;
mod reflector;
mod requests;
mod selection;
mod source;
mod unknown;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use kube::Client;
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

pub use self::{
    admission::Admission,
    client::{Error, client},
    objects::Pod,
    record::path as record_path,
    reflector::Timing,
    selection::Rules,
};
use self::{cluster::Cluster, requests::Resource, selection::Choice, source::Message};
use super::{Follower, Listing};
use crate::{
    config::{Config, KubernetesSource},
    locate::Locator,
};

/// Messages of the reflectors that the source has not taken yet.
const QUEUE: usize = 1024;

/// What the source goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this machine's Node.
    pub node: String,
    /// Who is chosen.
    pub rules: Rules,
    /// Name of the agent's own pod.
    pub own_pod: Option<String>,
    /// Where what is known is kept for the next agent.
    pub record: PathBuf,
    /// This boot of the machine.
    pub boot: String,
    /// How patient the reflectors are.
    pub timing: Timing,
    /// How long the API server may take to give the first lists before the record is used.
    pub first_list: Duration,
}

impl Settings {
    /// As configured.
    pub fn of(config: &Config, source: &KubernetesSource) -> Self {
        Self {
            node: config.node.clone(),
            rules: Rules { own_namespace: source.namespace.clone(), istio_labels: source.istio_labels },
            own_pod: source.pod.clone(),
            record: record::path(config.state(), &config.instance),
            boot: record::boot(Path::new("/proc")),
            timing: Timing::default(),
            first_list: Duration::from_secs(2),
        }
    }
}

/// How often an agent that was uninstalled looks whether that was taken back.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long one look may take.
const ASKING: Duration = Duration::from_secs(5);

/// Which namespaces are enrolled; none until they are known.
pub type Namespaces = Option<Arc<BTreeMap<String, bool>>>;

/// Asks the source what it knows. A cheap clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    namespaces: watch::Receiver<Namespaces>,
    uninstall: watch::Receiver<bool>,
    inherited: Arc<BTreeSet<String>>,
}

/// What the source's task and its handles share.
struct Shared {
    client: Client,
    settings: Settings,
    cluster: RwLock<Cluster>,
    /// When the API server last gave something, in seconds since 1970; 0: not yet.
    heard: AtomicU64,
    /// Whether namespaces were listed, and are watched without trouble.
    follows_namespaces: AtomicBool,
    /// To tell the source of pods that were asked for.
    learned: mpsc::Sender<Message>,
}

impl Handle {
    /// The client of the API server.
    pub fn client(&self) -> Client {
        self.shared.client.clone()
    }

    /// When the API server last answered or told a change.
    pub fn heard(&self) -> Option<SystemTime> {
        let seconds = self.shared.heard.load(Ordering::Relaxed);
        (seconds > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Which namespaces are enrolled, and every change of that.
    pub fn namespaces(&self) -> watch::Receiver<Namespaces> {
        self.namespaces.clone()
    }

    /// Whether the DaemonSet of the agent's own pod is being uninstalled.
    pub fn uninstall(&self) -> watch::Receiver<bool> {
        self.uninstall.clone()
    }

    /// Resolves when weir's own namespace does not say any more that the DaemonSet of the agent's own pod is being
    /// uninstalled. Asks for that by itself, as nothing is followed by then.
    pub async fn uninstall_taken_back(&self, client: &Client) {
        let Settings { rules, own_pod, .. } = &self.shared.settings;
        let set = own_pod.as_deref().and_then(|own_pod| self.shared.cluster.read().controller_of(own_pod));
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let asked =
                requests::get::<objects::NamespaceObject>(client, "/api/v1/namespaces", &rules.own_namespace, ASKING);
            match asked.await {
                Ok(namespace) if namespace.object.uninstall != set => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "whether the uninstall was taken back cannot be told now"),
            }
        }
    }

    /// A pod of this node.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.shared.cluster.read().pod(uid).cloned()
    }

    /// Whether a pod is on this node, and not only leaving it.
    pub fn is_present(&self, uid: &str) -> bool {
        self.shared.cluster.read().is_present(uid)
    }

    /// Why a pod of this node is not to be enrolled; none if it is, or is not known.
    pub fn why_not(&self, uid: &str) -> Option<String> {
        if *self.uninstall.borrow() {
            return Some("weir is being taken off the cluster's nodes".to_owned());
        }
        let cluster = self.shared.cluster.read();
        match cluster.choose(cluster.pod(uid)?) {
            Choice::Pass(reason) => Some(reason),
            Choice::Enroll | Choice::Hold(_) => None,
        }
    }

    /// UIDs of pods that an earlier agent had found on this node.
    pub fn inherited(&self) -> &BTreeSet<String> {
        &self.inherited
    }
}

/// Resolves when the DaemonSet of the agent's own pod is not being uninstalled; never where that is not known. Asks by
/// itself, as nothing is followed by then.
pub async fn wanted(client: &Client, source: &KubernetesSource) {
    let Some(own_pod) = &source.pod else { return std::future::pending().await };
    loop {
        match is_wanted(client, &source.namespace, own_pod).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "whether weir is uninstalled cannot be told now"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn is_wanted(client: &Client, own_namespace: &str, own_pod: &str) -> Result<bool, requests::Failure> {
    let pods = format!("/api/v1/namespaces/{own_namespace}/pods");
    let pod = requests::get::<objects::PodObject>(client, &pods, own_pod, ASKING).await?.object;
    let namespace =
        requests::get::<objects::NamespaceObject>(client, "/api/v1/namespaces", own_namespace, ASKING).await?.object;
    Ok(pod.controller.is_some() && namespace.uninstall != pod.controller)
}

/// Follows the pods of this node until the follower is dropped. To be called within a runtime.
pub fn follow(client: Client, settings: Settings, locator: Arc<Locator>) -> (Follower, Handle) {
    let recalled = record::Record::recall(&settings.record, &settings.node);
    let inherited = recalled.iter().flat_map(|record| &record.pods).filter(|pod| pod.netns.is_some());
    let inherited = Arc::new(inherited.map(|pod| pod.pod.uid.clone()).collect());
    let (messages, heard) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared {
        client,
        cluster: RwLock::new(Cluster::new(&settings.node, settings.rules.clone())),
        settings,
        heard: AtomicU64::default(),
        follows_namespaces: AtomicBool::default(),
        learned: messages.clone(),
    });
    let (listing, follower) = watch::channel(Listing::default());
    let (namespaces, follow_namespaces) = watch::channel(None);
    let (uninstall, follow_uninstall) = watch::channel(false);
    let senders = source::Senders { listing, namespaces, uninstall };
    tokio::spawn(source::Source::new(shared.clone(), locator, senders, recalled).run(messages, heard));
    let handle = Handle { shared, namespaces: follow_namespaces, uninstall: follow_uninstall, inherited };
    (follower, handle)
}

fn pods_of(node: &str) -> Resource<objects::PodObject> {
    Resource::new("/api/v1/pods", "pods").fields(format!("spec.nodeName={node}"))
}

fn namespaces() -> Resource<objects::NamespaceObject> {
    Resource::new("/api/v1/namespaces", "namespaces").metadata()
}

fn node(name: &str) -> Resource<objects::NodeObject> {
    Resource::new("/api/v1/nodes", "nodes").fields(format!("metadata.name={name}")).metadata()
}
