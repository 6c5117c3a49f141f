//! What a management server's resources are: accepted, refused, asked for. `/config_dump`, the client status service and
//! `weirctl` read it; the protocol tells by it what a response changes.
//!
//! The thread that follows the server writes; others read copies, which share names and bodies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    kind::Kind,
    update::{Origin, Refused, Resource, Update},
};

/// What is known of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What is in force.
    pub accepted: Option<Accepted>,
    /// What came last, if it was refused: it stays until something acceptable comes, as a server may never send it again.
    pub refused: Option<Arc<Rejected>>,
    /// Why nothing is in force, if so.
    pub absence: Absence,
}

/// A resource in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The encoded message.
    pub body: Bytes,
    /// Its version.
    pub version: Arc<str>,
    /// When it was taken.
    pub at: SystemTime,
    /// Where it came from.
    pub origin: Origin,
    /// It has a time to live.
    pub fleeting: bool,
}

/// A resource that was refused (`UpdateFailureState`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The encoded message.
    pub body: Bytes,
    /// Its version.
    pub version: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub why: String,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absence {
    /// Nothing has come yet.
    #[default]
    Requested,
    /// Nothing came in time; it may come yet.
    TimedOut,
    /// The server says that there is none.
    Absent,
}

/// `envoy.admin.v3.ClientResourceStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// REQUESTED
    Requested,
    /// DOES_NOT_EXIST
    DoesNotExist,
    /// ACKED
    Acked,
    /// NACKED
    Nacked,
    /// TIMEOUT
    Timeout,
}

impl Entry {
    /// What the client status service says of it.
    pub fn status(&self) -> Status {
        match (&self.refused, &self.accepted, self.absence) {
            (Some(_), ..) => Status::Nacked,
            (None, Some(_), _) => Status::Acked,
            (None, None, Absence::Requested) => Status::Requested,
            (None, None, Absence::TimedOut) => Status::Timeout,
            (None, None, Absence::Absent) => Status::DoesNotExist,
        }
    }
}

/// What is known of all resources of one type.
#[derive(Clone, Debug, Default)]
pub struct OfKind {
    /// The version of the last response that was taken.
    pub version: Option<Arc<str>>,
    /// When that was.
    pub updated: Option<SystemTime>,
    /// What the server was told of the last response, if not all of it was taken, and when.
    pub refused: Option<(String, SystemTime)>,
    /// Resources by name.
    pub entries: BTreeMap<Arc<str>, Entry>,
}

/// The resources of one source.
#[derive(Debug, Default)]
pub struct Store(Mutex<HashMap<Kind, OfKind>>);

/// What a response says, before it is compared with what there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// The response's version.
    pub(super) version: Arc<str>,
    /// Resources with a body, and names that are known to lead nowhere.
    pub(super) resources: Vec<Resource>,
    /// Resources that are gone.
    pub(super) removed: Vec<Arc<str>>,
    /// What is not in it is gone.
    pub(super) whole: bool,
    /// Resources of the response that can't be handed on, with why.
    pub(super) faults: Vec<(Arc<str>, String)>,
}

impl Store {
    /// A copy of all that is known of a type.
    pub fn of(&self, kind: Kind) -> OfKind {
        self.0.lock().get(&kind).cloned().unwrap_or_default()
    }

    /// Types that something is known of, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<_> = self.0.lock().keys().copied().collect();
        kinds.sort_unstable();
        kinds
    }

    /// The body in force of a resource.
    pub fn accepted(&self, kind: Kind, name: &str) -> Option<Accepted> {
        self.0.lock().get(&kind)?.entries.get(name)?.accepted.clone()
    }

    /// Names of resources in force.
    pub(super) fn names_in_force(&self, kind: Kind) -> Vec<Arc<str>> {
        let kinds = self.0.lock();
        let entries = kinds.get(&kind).into_iter().flat_map(|known| &known.entries);
        entries.filter(|(_, entry)| entry.accepted.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// What a response changes.
    pub(super) fn changes(&self, kind: Kind, content: Content, origin: Origin) -> Update {
        let mut kinds = self.0.lock();
        let known = kinds.entry(kind).or_default();
        let Content { version, resources, mut removed, whole, .. } = content;
        let (mut added, mut unchanged) = (Vec::new(), Vec::new());
        let mut present = HashSet::new();
        for resource in resources {
            if whole {
                present.insert(resource.name.clone());
            }
            let accepted = known.entries.get(&resource.name).and_then(|entry| entry.accepted.as_ref());
            match accepted.filter(|accepted| accepted.body == resource.body) {
                // One copy of the bytes is enough.
                Some(accepted) => unchanged.push(Resource { body: accepted.body.clone(), ..resource }),
                None => added.push(resource),
            }
        }
        if whole {
            // Those that were asked for and never came are told so once.
            let gone = known
                .entries
                .iter()
                .filter(|(name, entry)| !present.contains(*name) && entry.status() != Status::DoesNotExist);
            removed.extend(gone.map(|(name, _)| name.clone()));
        }
        Update { kind, version, added, unchanged, removed, whole, origin }
    }

    /// Notes what became of an update, and what the server was told if not all of it was taken.
    pub(super) fn settle(&self, update: &Update, verdict: &Result<(), Refused>, told: Option<&str>, now: SystemTime) {
        let mut kinds = self.0.lock();
        let known = kinds.entry(update.kind).or_default();
        let reasons: HashMap<&str, &str> = match verdict {
            Err(Refused::Some(some)) => some.iter().map(|(name, why)| (&**name, why.as_str())).collect(),
            _ => HashMap::new(),
        };
        let all = match verdict {
            Err(Refused::All(why)) => Some(why.as_str()),
            _ => None,
        };
        known.refused = told.map(|told| (told.to_owned(), now));
        for resource in &update.added {
            let Resource { name, version, body, .. } = resource;
            let entry = known.entries.entry(name.clone()).or_default();
            if resource.is_absent() {
                *entry = Entry { absence: Absence::Absent, ..Entry::default() };
                continue;
            }
            match all.or_else(|| reasons.get(&**name).copied()) {
                Some(why) => {
                    let rejected =
                        Rejected { body: body.clone(), version: version.clone(), at: now, why: why.to_owned() };
                    entry.refused = Some(Arc::new(rejected));
                }
                None => {
                    *entry = Entry {
                        accepted: Some(Accepted {
                            body: body.clone(),
                            version: version.clone(),
                            at: now,
                            origin: update.origin,
                            fleeting: resource.ttl.is_some(),
                        }),
                        ..Entry::default()
                    };
                }
            }
        }
        if all.is_some() {
            return;
        }
        known.version = Some(update.version.clone());
        known.updated = Some(now);
        for resource in &update.unchanged {
            let Some(entry) = known.entries.get_mut(&resource.name) else { continue };
            let version = resource.version.clone();
            match reasons.get(&*resource.name) {
                // It was taken once and is not now: what it refers to has changed.
                Some(why) => {
                    let body = resource.body.clone();
                    entry.refused = Some(Arc::new(Rejected { body, version, at: now, why: (*why).to_owned() }));
                }
                None => {
                    entry.refused = None;
                    if let Some(accepted) = &mut entry.accepted {
                        accepted.version = version;
                        accepted.origin = update.origin;
                        accepted.fleeting = resource.ttl.is_some();
                    }
                }
            }
        }
        for name in &update.removed {
            let Some(entry) = known.entries.get_mut(name) else { continue };
            *entry = Entry { absence: Absence::Absent, ..Entry::default() };
        }
    }

    /// A response was refused before any of it was looked at.
    pub(super) fn refused(&self, kind: Kind, told: &str, now: SystemTime) {
        self.0.lock().entry(kind).or_default().refused = Some((told.to_owned(), now));
    }

    /// A resource is asked for; one that is known stays what it is.
    pub(super) fn requested(&self, kind: Kind, name: &Arc<str>) {
        self.0.lock().entry(kind).or_default().entries.entry(name.clone()).or_default();
    }

    /// Nothing came in time.
    pub(super) fn timed_out(&self, kind: Kind, name: &str) {
        if let Some(entry) = self.0.lock().entry(kind).or_default().entries.get_mut(name) {
            entry.absence = Absence::TimedOut;
        }
    }

    /// Only what `keep` says is of interest any more.
    pub(super) fn retain(&self, kind: Kind, keep: impl Fn(&str) -> bool) {
        if let Some(known) = self.0.lock().get_mut(&kind) {
            known.entries.retain(|name, _| keep(name));
        }
    }

    /// Nobody is interested in a resource any more.
    pub(super) fn forget(&self, kind: Kind, name: &str) {
        if let Some(known) = self.0.lock().get_mut(&kind) {
            known.entries.remove(name);
        }
    }
}
