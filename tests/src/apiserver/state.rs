//! The objects, what happened to them, and who was told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Fault, Request, Resource, Verb};

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub struct Happened {
    pub version: u64,
    pub kind: &'static str,
    pub resource: Resource,
    pub object: Value,
}

/// What a watch is told next.
#[derive(Debug)]
pub enum Next {
    /// These events, and from where to go on.
    Events(Vec<Happened>, usize),
    /// The server ends it.
    End,
    /// Nothing yet.
    Wait,
}

#[derive(Debug)]
struct Inner {
    version: u64,
    /// Versions before this are forgotten.
    oldest: u64,
    objects: BTreeMap<(Resource, String), Value>,
    log: Vec<Happened>,
    faults: Vec<(Resource, Verb, VecDeque<Fault>)>,
    requests: Vec<Request>,
    watches: BTreeMap<Resource, (usize, usize)>,
    /// Counts how often all watches were ended.
    ended: u64,
}

#[derive(Debug)]
pub struct State {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

impl Default for State {
    fn default() -> Self {
        let inner = Inner {
            version: 1,
            oldest: 1,
            objects: BTreeMap::new(),
            log: Vec::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            watches: BTreeMap::new(),
            ended: 0,
        };
        Self { inner: Mutex::new(inner), changes: watch::Sender::new(0) }
    }
}

fn resource_of(object: &Value) -> Resource {
    match object["kind"].as_str() {
        Some("Pod") => Resource::Pods,
        Some("Namespace") => Resource::Namespaces,
        Some("Node") => Resource::Nodes,
        Some("Event") => Resource::Events,
        other => panic!("objects of kind {other:?} are not served"),
    }
}

fn key_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().expect("an object has a name");
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Follows every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn put(&self, mut object: Value) -> u64 {
        let (resource, key) = (resource_of(&object), key_of(&object));
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let mut kind = "ADDED";
        match inner.objects.insert((resource, key), object.clone()) {
            Some(before) if before["metadata"]["uid"] == object["metadata"]["uid"] => kind = "MODIFIED",
            Some(mut replaced) => {
                // A name is free again only when the one that had it is gone.
                replaced["metadata"]["resourceVersion"] = version.to_string().into();
                inner.log.push(Happened { version, kind: "DELETED", resource, object: replaced });
                inner.version += 1;
                object["metadata"]["resourceVersion"] = inner.version.to_string().into();
            }
            None => {}
        }
        let version = inner.version;
        inner.log.push(Happened { version, kind, resource, object });
        drop(inner);
        self.tell();
        version
    }

    pub fn delete(&self, resource: Resource, key: &str) -> bool {
        let mut inner = self.lock();
        let Some(mut object) = inner.objects.remove(&(resource, key.to_owned())) else { return false };
        inner.version += 1;
        let version = inner.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        inner.log.push(Happened { version, kind: "DELETED", resource, object });
        drop(inner);
        self.tell();
        true
    }

    pub fn bookmark(&self) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let object = json!({"metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
        for resource in [Resource::Pods, Resource::Namespaces, Resource::Nodes] {
            inner.log.push(Happened { version, kind: "BOOKMARK", resource, object: object.clone() });
        }
        drop(inner);
        self.tell();
    }

    pub fn expire(&self) {
        let mut inner = self.lock();
        inner.version += 1;
        inner.oldest = inner.version;
    }

    pub fn end_watches(&self) {
        self.lock().ended += 1;
        self.tell();
    }

    pub fn fail(&self, resource: Resource, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        let mut inner = self.lock();
        inner.faults.push((resource, verb, faults.into_iter().collect()));
    }

    /// The fault for a request that came in.
    pub fn begin(&self, request: Request) -> Option<Fault> {
        let mut inner = self.lock();
        let (resource, verb) = (request.resource, request.verb);
        inner.requests.push(request);
        let queues = inner.faults.iter_mut().filter(|(of, on, _)| (*of, *on) == (resource, verb));
        let fault = queues.filter_map(|(_, _, faults)| faults.pop_front()).next();
        inner.faults.retain(|(_, _, faults)| !faults.is_empty());
        fault
    }

    pub fn faults_left(&self) -> usize {
        self.lock().faults.iter().map(|(_, _, faults)| faults.len()).sum()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    pub fn all(&self, resource: Resource) -> Vec<Value> {
        let inner = self.lock();
        inner.objects.iter().filter(|((of, _), _)| *of == resource).map(|(_, object)| object.clone()).collect()
    }

    /// An object by its name.
    pub fn get(&self, resource: Resource, key: &str) -> Option<Value> {
        self.lock().objects.get(&(resource, key.to_owned())).cloned()
    }

    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Whether a version can still be watched from.
    pub fn remembers(&self, version: u64) -> bool {
        version >= self.lock().oldest
    }

    /// What happened to objects of a kind since a version, from this entry of the log on.
    pub fn since(&self, resource: Resource, version: u64, from: usize, ended: u64) -> Next {
        let inner = self.lock();
        if inner.ended != ended {
            return Next::End;
        }
        let new = inner.log[from.min(inner.log.len())..].iter();
        let events: Vec<Happened> =
            new.filter(|event| event.resource == resource && event.version > version).cloned().collect();
        if events.is_empty() { Next::Wait } else { Next::Events(events, inner.log.len()) }
    }

    /// A watch begins: how often all were ended before.
    pub fn open(&self, resource: Resource) -> u64 {
        let mut inner = self.lock();
        let (open, most) = inner.watches.entry(resource).or_default();
        *open += 1;
        *most = (*most).max(*open);
        inner.ended
    }

    pub fn close(&self, resource: Resource) {
        self.lock().watches.entry(resource).or_default().0 -= 1;
    }

    pub fn watches(&self, resource: Resource) -> usize {
        self.lock().watches.get(&resource).map_or(0, |(open, _)| *open)
    }

    pub fn most_watches(&self, resource: Resource) -> usize {
        self.lock().watches.get(&resource).map_or(0, |(_, most)| *most)
    }
}
