//! weir's client with a consumer that does what Envoy does, on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use weir_proto::envoy::config::core::v3::Node;
use weir_proxy::{
    telemetry::stats,
    xds::{
        backoff::Backoff,
        client::{Client, Settings},
        dial::{Address, Dial, InTurn},
        kind::{self, Kind},
        stats::ControlPlaneStats,
        store::{Status, Store},
        transport::{LONGEST_RESPONSE, Pings, Service, Target},
        update::{Consumer, Origin, Refused, Update},
        wishes::{Handle, Hold, Options, Subscription},
    },
};
use weir_tests::ads::Ads;

use crate::{Protocol, scenario::BAD};

pub const PATIENCE: Duration = Duration::from_secs(60);
/// A server that says nothing for so long is passed over, and tried again.
const SILENCE: Duration = Duration::from_secs(2);

/// How a server is followed, aggregated, at addresses in turn.
pub fn settings(protocol: Protocol, dial: Box<dyn Dial>) -> Settings {
    let protocol = match protocol {
        Protocol::Sotw => kind::Protocol::Sotw,
        Protocol::Delta => kind::Protocol::Delta,
    };
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("authorization", "Bearer token".parse().unwrap());
    Settings {
        target: Target {
            name: "xds".into(),
            dial,
            authority: "xds.example".into(),
            metadata,
            pings: Pings::default(),
            longest: LONGEST_RESPONSE,
            timeout: SILENCE,
        },
        service: Service::Aggregated,
        protocol,
        node: Node { id: "node".into(), ..Node::default() },
        node_once: true,
        backoff: Backoff::default(),
        rate: None,
        stats: ControlPlaneStats::register(&stats::Scope::default()),
        saved: None,
    }
}

/// Addresses in turn.
pub fn in_turn(addresses: impl Into<Vec<Address>>) -> Box<dyn Dial> {
    Box::new(InTurn::new(addresses.into(), PATIENCE))
}

/// Subscribes as Envoy does: to endpoints of clusters that come, to listeners once the first clusters are warm, to the
/// routes `r` of whichever listeners.
pub struct Follower {
    handle: Handle,
    assignments: BTreeMap<Arc<str>, Subscription>,
    /// Clusters that are not warm: meanwhile theirs is not acknowledged.
    cold: BTreeSet<Arc<str>>,
    hold: Option<Hold>,
    _clusters: Subscription,
    listeners: Option<Subscription>,
    routes: Option<Subscription>,
    /// What happened.
    seen: mpsc::Sender<String>,
}

impl Follower {
    fn new(handle: &Handle, seen: mpsc::Sender<String>) -> Self {
        Self {
            handle: handle.clone(),
            assignments: BTreeMap::new(),
            cold: BTreeSet::new(),
            hold: None,
            _clusters: handle.subscribe(Kind::Cluster, None, Options::default()),
            listeners: None,
            routes: None,
            seen,
        }
    }

    fn clusters(&mut self, update: &Update) -> Result<(), Refused> {
        let mut refused = Vec::new();
        for resource in &update.added {
            let name = &resource.name;
            if name.starts_with("bad") {
                refused.push((name.clone(), BAD.to_owned()));
            } else if !self.assignments.contains_key(name) {
                let subscription = self.handle.subscribe(Kind::LoadAssignment, Some(name.clone()), Options::default());
                self.assignments.insert(name.clone(), subscription);
                self.cold.insert(name.clone());
            }
        }
        for name in &update.removed {
            self.assignments.remove(name);
            self.cold.remove(name);
        }
        if !self.cold.is_empty() && self.hold.is_none() {
            self.hold = Some(self.handle.hold(Kind::Cluster));
        }
        if refused.is_empty() { Ok(()) } else { Err(Refused::Some(refused)) }
    }
}

impl Consumer for Follower {
    fn update(&mut self, update: &Update) -> Result<(), Refused> {
        let names =
            |names: &mut dyn Iterator<Item = &Arc<str>>| names.map(|name| &**name).collect::<Vec<_>>().join(",");
        let added = names(&mut update.added.iter().map(|resource| &resource.name));
        let removed = names(&mut update.removed.iter());
        let saved = if update.origin == Origin::Saved { " saved" } else { "" };
        let _ = self.seen.send(format!("{}{saved} +{added} -{removed}", update.kind.short()));
        match update.kind {
            Kind::Cluster => return self.clusters(update),
            Kind::LoadAssignment => {
                update.added.iter().chain(&update.unchanged).for_each(|resource| {
                    self.cold.remove(&resource.name);
                });
                if self.cold.is_empty() {
                    self.hold = None;
                    let listeners = || self.handle.subscribe(Kind::Listener, None, Options::default());
                    self.listeners.get_or_insert_with(listeners);
                }
            }
            Kind::Listener => {
                let routes = || self.handle.subscribe(Kind::Routes, Some("r".into()), Options::default());
                self.routes.get_or_insert_with(routes);
            }
            _ => {}
        }
        Ok(())
    }

    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        let _ = self.seen.send(format!("{} {} timed out", kind.short(), name.map_or("*", |name| name)));
    }
}

/// A client on a thread of its own, ended with this.
pub struct Running {
    pub store: Arc<Store>,
    pub seen: mpsc::Receiver<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// Follows a server, with a consumer of the tests' own.
    pub fn with<C: Consumer>(
        settings: impl FnOnce() -> Settings + Send + 'static,
        consumer: impl FnOnce(&Handle, mpsc::Sender<String>) -> C + Send + 'static,
    ) -> Self {
        let store: Arc<Store> = Arc::default();
        let handle = Handle::new(store.clone());
        let ((told, seen), (stop, stopped)) = (mpsc::channel(), oneshot::channel());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let consumer = consumer(&handle, told);
                let mut client = Client::new(settings(), handle, consumer);
                tokio::select! {
                    _ = client.run() => {}
                    _ = stopped => {}
                }
                client.finish().await;
            });
        });
        Self { store, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Follows a server as Envoy does.
    pub fn start(settings: impl FnOnce() -> Settings + Send + 'static) -> Self {
        Self::with(settings, Follower::new)
    }

    /// Follows the scripted server.
    pub fn following(ads: &Ads, protocol: Protocol) -> Self {
        let address = ads.address();
        Self::start(move || settings(protocol, in_turn([Address::Socket(address)])))
    }

    /// Waits until it has happened; gives what did before.
    pub fn until(&self, wanted: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.seen.recv_timeout(PATIENCE) {
                Ok(seen) if seen == wanted => return before,
                Ok(seen) => before.push(seen),
                Err(error) => panic!("{error} before {wanted:?}; seen: {before:?}"),
            }
        }
    }

    /// What became of a resource.
    pub fn status(&self, kind: Kind, name: &str) -> Option<Status> {
        self.store.of(kind).entries.get(name).map(|entry| entry.status())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
