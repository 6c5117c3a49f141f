//! What a management server's resources are: accepted, refused, asked for. `/config_dump`, the client status service and
//! `weirctl` read it; the protocol tells by it what a response changes.
//!
//! The thread that follows the server writes; others read copies, which share names and bodies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    budget::{Budget, Share},
    kind::Kind,
    shared::Bodies,
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
    /// It was asked for by name: that there is none is worth knowing.
    pub named: bool,
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
    /// Why nothing has come of a subscription to everything; none: there is no such subscription, or it was answered.
    pub unanswered: Option<Absence>,
    /// Resources by name.
    pub entries: BTreeMap<Arc<str>, Entry>,
}

/// Something that was asked for and has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its type.
    pub kind: Kind,
    /// Its name; none: everything of the type.
    pub name: Option<Arc<str>>,
    /// It was waited for as long as it was to be.
    pub timed_out: bool,
}

/// What one resource takes besides its name and its bytes.
const EACH: usize = 256;

/// What a resource of so many bytes takes once something is made of it: rather more than was measured
/// (`cargo xtask bench xds`), as a server that means harm sends what takes most.
const fn weight(kind: Kind, length: usize) -> usize {
    let (each, times) = match kind {
        Kind::Cluster | Kind::Listener => (28 << 10, 8),
        Kind::LoadAssignment => (1 << 10, 32),
        Kind::ScopedRoutes | Kind::Routes | Kind::VirtualHost => (1 << 10, 16),
        Kind::Secret | Kind::Extension | Kind::Runtime => (1 << 10, 4),
    };
    EACH + each + times * length
}

/// The resources of one source.
#[derive(Debug)]
pub struct Store {
    known: Mutex<Known>,
    /// There is a stream to the server.
    followed: AtomicBool,
    /// Something that the server sent was accepted.
    answered: AtomicBool,
    /// What it has in common with others; none: it is alone.
    shared: Option<Bodies>,
}

#[derive(Debug, Default)]
struct Known {
    kinds: HashMap<Kind, OfKind>,
    /// What all of it takes. What would be too much is refused.
    bytes: Share,
}

impl Entry {
    /// The same once the server says that there is none.
    fn absent(&self) -> Self {
        Self { absence: Absence::Absent, named: self.named, ..Self::default() }
    }

    /// What it takes, in bytes, beside its name.
    fn bytes(&self, kind: Kind) -> usize {
        let accepted = self.accepted.as_ref();
        let accepted = accepted.map_or(0, |accepted| weight(kind, accepted.body.len()) + accepted.version.len());
        let refused = self.refused.as_ref();
        let refused = refused.map_or(0, |refused| refused.body.len() + refused.version.len() + refused.why.len());
        EACH + accepted + refused
    }
}

impl Known {
    /// Whether there is such a resource.
    fn is(&self, kind: Kind, name: &str, such: impl FnOnce(&Entry) -> bool) -> bool {
        self.kinds.get(&kind).and_then(|of| of.entries.get(name)).is_some_and(such)
    }

    /// Changes one resource, which is made if it is not there.
    fn change(&mut self, kind: Kind, name: &Arc<str>, change: impl FnOnce(&mut Entry)) {
        let entry = self.kinds.entry(kind).or_default().entries.entry(name.clone()).or_insert_with(|| {
            self.bytes += name.len() + EACH;
            Entry::default()
        });
        self.bytes -= entry.bytes(kind);
        change(entry);
        self.bytes += entry.bytes(kind);
    }

    /// Changes one resource if it is there.
    fn change_known(&mut self, kind: Kind, name: &str, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.kinds.get_mut(&kind).and_then(|of| of.entries.get_mut(name)) else { return };
        self.bytes -= entry.bytes(kind);
        change(entry);
        self.bytes += entry.bytes(kind);
    }

    /// Forgets one.
    fn forget(&mut self, kind: Kind, name: &str) {
        let gone = self.kinds.get_mut(&kind).and_then(|of| of.entries.remove(name));
        self.bytes -= gone.map_or(0, |entry| name.len() + entry.bytes(kind));
    }

    /// Forgets those for which `keep` does not hold.
    fn retain(&mut self, kind: Kind, keep: impl Fn(&str) -> bool) {
        let Some(of) = self.kinds.get_mut(&kind) else { return };
        let bytes = &mut self.bytes;
        of.entries.retain(|name, entry| {
            let kept = keep(name);
            if !kept {
                *bytes -= name.len() + entry.bytes(kind);
            }
            kept
        });
    }
}

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

impl Default for Store {
    fn default() -> Self {
        Self::within(Budget::default())
    }
}

impl Store {
    /// One whose resources may take what is left of a budget.
    pub fn within(budget: Budget) -> Self {
        let known = Known { bytes: Share::of(budget), ..Known::default() };
        let [followed, answered] = [false; 2].map(AtomicBool::new);
        Self { known: Mutex::new(known), followed, answered, shared: None }
    }

    /// The same, of which others may have the same resources.
    pub fn sharing(self, bodies: Option<Bodies>) -> Self {
        Self { shared: bodies, ..self }
    }

    /// Whether the server is followed just now.
    pub fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// Whether the server has answered, and nothing that it was asked for is still to come.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) && self.missing().is_empty()
    }

    /// There is a stream to the server, or none.
    pub(super) fn followed(&self, followed: bool) {
        self.followed.store(followed, Ordering::Relaxed);
    }

    /// A copy of all that is known of a type.
    pub fn of(&self, kind: Kind) -> OfKind {
        self.known.lock().kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// The version of the last response of a type that was taken.
    pub fn version(&self, kind: Kind) -> Option<Arc<str>> {
        self.known.lock().kinds.get(&kind)?.version.clone()
    }

    /// What was asked for and has not come, by type and name.
    pub fn missing(&self) -> Vec<Missing> {
        let known = self.known.lock();
        let mut missing = Vec::new();
        for (kind, of) in &known.kinds {
            let one = |name, absence| Missing { kind: *kind, name, timed_out: absence == Absence::TimedOut };
            missing.extend(of.unanswered.map(|absence| one(None, absence)));
            let waiting = |entry: &Entry| matches!(entry.status(), Status::Requested | Status::Timeout);
            let entries = of.entries.iter().filter(|(_, entry)| waiting(entry));
            missing.extend(entries.map(|(name, entry)| one(Some(name.clone()), entry.absence)));
        }
        missing.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        missing
    }

    /// Types that something is known of, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<_> = self.known.lock().kinds.keys().copied().collect();
        kinds.sort_unstable();
        kinds
    }

    /// The body in force of a resource.
    pub fn accepted(&self, kind: Kind, name: &str) -> Option<Accepted> {
        self.known.lock().kinds.get(&kind)?.entries.get(name)?.accepted.clone()
    }

    /// What a response changes; none: it would take too much, for the reason given.
    pub(super) fn changes(&self, kind: Kind, content: Content, origin: Origin) -> Result<Update, String> {
        let mut known = self.known.lock();
        let budget = known.bytes.budget().clone();
        let of = known.kinds.entry(kind).or_default();
        let Content { version, resources, mut removed, whole, .. } = content;
        let (mut added, mut unchanged) = (Vec::new(), Vec::new());
        let mut present = HashSet::new();
        let mut more = 0;
        for resource in resources {
            if whole {
                present.insert(resource.name.clone());
            }
            let accepted = of.entries.get(&resource.name).and_then(|entry| entry.accepted.as_ref());
            match accepted.filter(|accepted| accepted.body == resource.body) {
                // One copy of the bytes is enough.
                Some(accepted) => {
                    more += resource.version.len().saturating_sub(accepted.version.len());
                    unchanged.push(Resource { body: accepted.body.clone(), ..resource });
                }
                None => {
                    more += resource.name.len() + resource.version.len() + weight(kind, resource.body.len()) + EACH;
                    added.push(match &self.shared {
                        Some(bodies) => Resource { body: bodies.share(resource.body), ..resource },
                        None => resource,
                    });
                }
            }
        }
        if budget.is_exceeded_by(more) {
            let most = budget.most() >> 20;
            return Err(format!(
                "resources of management servers would take more than {most} MiB (--discovery-memory-mib)"
            ));
        }
        if whole {
            // Those that were asked for and never came are told so once.
            let gone = of
                .entries
                .iter()
                .filter(|(name, entry)| !present.contains(*name) && entry.status() != Status::DoesNotExist);
            removed.extend(gone.map(|(name, _)| name.clone()));
        }
        Ok(Update { kind, version, added, unchanged, removed, whole, origin })
    }

    /// Notes what became of an update, and what the server was told if not all of it was taken.
    pub(super) fn settle(&self, update: &Update, verdict: &Result<(), Refused>, told: Option<&str>, now: SystemTime) {
        if update.origin == Origin::Server && !matches!(verdict, Err(Refused::All(_))) {
            self.answered.store(true, Ordering::Relaxed);
        }
        let mut known = self.known.lock();
        let kind = update.kind;
        let reasons: HashMap<&str, &str> = match verdict {
            Err(Refused::Some(some)) => some.iter().map(|(name, why)| (&**name, why.as_str())).collect(),
            _ => HashMap::new(),
        };
        let all = match verdict {
            Err(Refused::All(why)) => Some(why.as_str()),
            _ => None,
        };
        let of = known.kinds.entry(kind).or_default();
        of.refused = told.map(|told| (told.to_owned(), now));
        if all.is_none() {
            of.version = Some(update.version.clone());
            of.updated = Some(now);
            of.unanswered = None;
        }
        let rejected = |resource: &Resource, why: &str| {
            let (body, version) = (resource.body.clone(), resource.version.clone());
            Some(Arc::new(Rejected { body, version, at: now, why: why.to_owned() }))
        };
        for resource in &update.added {
            // What all are refused for begins with the name of one.
            let all = all.map(|all| {
                let own = all.strip_prefix(&*resource.name).and_then(|all| all.strip_prefix(": "));
                own.unwrap_or(all)
            });
            let why = all.or_else(|| reasons.get(&*resource.name).copied());
            known.change(kind, &resource.name, |entry| match why {
                Some(why) => entry.refused = rejected(resource, why),
                None if resource.is_absent() => *entry = entry.absent(),
                None => {
                    let accepted = Accepted {
                        body: resource.body.clone(),
                        version: resource.version.clone(),
                        at: now,
                        origin: update.origin,
                        fleeting: resource.ttl.is_some(),
                    };
                    *entry = Entry { accepted: Some(accepted), named: entry.named, ..Entry::default() };
                }
            });
        }
        if all.is_some() {
            return;
        }
        for resource in &update.unchanged {
            known.change_known(kind, &resource.name, |entry| match reasons.get(&*resource.name) {
                // It was taken once and is not now: what it refers to has changed.
                Some(why) => entry.refused = rejected(resource, why),
                None => {
                    entry.refused = None;
                    if let Some(accepted) = &mut entry.accepted {
                        accepted.version = resource.version.clone();
                        accepted.origin = update.origin;
                        accepted.fleeting = resource.ttl.is_some();
                    }
                }
            });
        }
        for name in &update.removed {
            known.change_known(kind, name, |entry| *entry = entry.absent());
        }
        let gone = |entry: &Entry| !entry.named && *entry == entry.absent();
        for name in &update.removed {
            if known.is(kind, name, gone) {
                known.forget(kind, name);
            }
        }
    }

    /// A response was refused before any of it was looked at.
    pub(super) fn refused(&self, kind: Kind, told: &str, now: SystemTime) {
        self.known.lock().kinds.entry(kind).or_default().refused = Some((told.to_owned(), now));
    }

    /// A resource is asked for; one that is known stays what it is.
    pub(super) fn requested(&self, kind: Kind, name: &Arc<str>) {
        self.known.lock().change(kind, name, |entry| entry.named = true);
    }

    /// A resource is asked for with all others only. Whether it is forgotten, as there is none.
    pub(super) fn unnamed(&self, kind: Kind, name: &str) -> bool {
        let mut known = self.known.lock();
        known.change_known(kind, name, |entry| entry.named = false);
        let nothing = known.is(kind, name, |entry| entry.accepted.is_none() && entry.refused.is_none());
        if nothing {
            known.forget(kind, name);
        }
        nothing
    }

    /// Everything of a type is asked for, or no longer.
    pub(super) fn requested_all(&self, kind: Kind, wanted: bool) {
        let mut known = self.known.lock();
        let of = known.kinds.entry(kind).or_default();
        of.unanswered = (wanted && of.version.is_none()).then_some(Absence::Requested);
    }

    /// Nothing came in time, of a name or of everything.
    pub(super) fn timed_out(&self, kind: Kind, name: Option<&str>) {
        let mut known = self.known.lock();
        match name {
            Some(name) => known.change_known(kind, name, |entry| entry.absence = Absence::TimedOut),
            None => {
                if let Some(unanswered) = known.kinds.get_mut(&kind).and_then(|of| of.unanswered.as_mut()) {
                    *unanswered = Absence::TimedOut;
                }
            }
        }
    }

    /// Only what `keep` says is of interest any more.
    pub(super) fn retain(&self, kind: Kind, keep: impl Fn(&str) -> bool) {
        self.known.lock().retain(kind, keep);
    }

    /// Nobody is interested in a resource any more.
    pub(super) fn forget(&self, kind: Kind, name: &str) {
        self.known.lock().forget(kind, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::budget::MOST;

    fn resource(name: &str, body: Bytes) -> Resource {
        Resource { name: name.into(), version: "1".into(), body, ttl: None, aliases: Vec::new() }
    }

    fn content(resources: impl IntoIterator<Item = Resource>) -> Content {
        Content { version: "1".into(), resources: resources.into_iter().collect(), ..Content::default() }
    }

    #[test]
    fn what_it_takes_is_known_and_what_would_be_too_much_is_refused() {
        let store = Store::default();
        let bytes = || store.known.lock().bytes.bytes();
        let now = SystemTime::UNIX_EPOCH;
        let take = |content: Content, verdict: &Result<(), Refused>| {
            let update = store.changes(Kind::Cluster, content, Origin::Server).unwrap();
            store.settle(&update, verdict, None, now);
        };
        take(content([resource("a", Bytes::from_static(b"12345")), resource("b", Bytes::new())]), &Ok(()));
        let both = 2 * (1 + EACH + 1) + weight(Kind::Cluster, 0);
        assert_eq!(bytes(), both + weight(Kind::Cluster, 5));
        let bad = Err(Refused::Some(vec![("a".into(), "why".into())]));
        take(content([resource("a", Bytes::from_static(b"1234567"))]), &bad);
        assert_eq!(bytes(), both + weight(Kind::Cluster, 5) + 7 + 1 + 3);
        take(content([resource("a", Bytes::from_static(b"1"))]), &Ok(()));
        assert_eq!(bytes(), both + weight(Kind::Cluster, 1));
        store.requested(Kind::Secret, &"secret".into());
        assert_eq!(bytes(), both + weight(Kind::Cluster, 1) + 6 + EACH);
        store.forget(Kind::Secret, "secret");
        store.forget(Kind::Secret, "secret");
        let large = Bytes::from(vec![0; MOST / 32 - 4096]);
        let several = (0..4).map(|number| resource(&number.to_string(), large.clone()));
        let refused = store.changes(Kind::Cluster, content(several), Origin::Server).unwrap_err();
        assert_eq!(refused, "resources of management servers would take more than 2048 MiB (--discovery-memory-mib)");
        take(Content { removed: vec!["a".into()], ..Content::default() }, &Ok(()));
        store.retain(Kind::Cluster, |name| name == "b");
        assert_eq!(bytes(), 1 + EACH + 1 + weight(Kind::Cluster, 0));
        store.retain(Kind::Cluster, |_| false);
        assert_eq!(bytes(), 0);
    }

    #[test]
    fn what_two_have_in_common_is_kept_once() {
        let bodies = Bodies::default();
        let [one, other] = [(); 2].map(|()| Store::default().sharing(Some(bodies.clone())));
        let take = |store: &Store, name: &str, text: &str| {
            let body = Bytes::from(text.to_owned().into_bytes());
            let update = store.changes(Kind::Cluster, content([resource(name, body)]), Origin::Server).unwrap();
            store.settle(&update, &Ok(()), None, SystemTime::UNIX_EPOCH);
            store.accepted(Kind::Cluster, name).unwrap().body
        };
        // By what it says, whatever it is called.
        let [first, second] = [take(&one, "a", "same"), take(&other, "b", "same")];
        assert!(first == second && std::ptr::eq(first.as_ptr(), second.as_ptr()));
        let third = take(&other, "b", "changed");
        assert_eq!([&*first, &*third], [b"same".as_slice(), b"changed"]);
    }

    #[test]
    fn what_has_not_come_is_missing() {
        let store = Store::default();
        let missing = || {
            let all = store.missing().into_iter();
            let each = all.map(|missing| {
                let name = missing.name.as_deref().unwrap_or("*").to_owned();
                format!("{} {name}{}", missing.kind.short(), if missing.timed_out { " late" } else { "" })
            });
            each.collect::<Vec<_>>()
        };
        store.requested(Kind::LoadAssignment, &"b".into());
        store.requested(Kind::LoadAssignment, &"a".into());
        store.requested_all(Kind::Cluster, true);
        store.requested_all(Kind::Listener, true);
        store.requested_all(Kind::Listener, false);
        assert_eq!(missing(), ["cds *", "eds a", "eds b"]);
        store.timed_out(Kind::Cluster, None);
        store.timed_out(Kind::LoadAssignment, Some("b"));
        assert_eq!(missing(), ["cds * late", "eds a", "eds b late"]);
        let take = |kind, content, origin| {
            let update = store.changes(kind, content, origin).unwrap();
            store.settle(&update, &Ok(()), None, SystemTime::UNIX_EPOCH);
        };
        // What was saved will do.
        take(Kind::Cluster, content([]), Origin::Saved);
        take(Kind::LoadAssignment, content([resource("a", Bytes::new())]), Origin::Server);
        take(Kind::LoadAssignment, Content { removed: vec!["b".into()], ..Content::default() }, Origin::Server);
        assert_eq!(missing(), [""; 0]);
    }

    #[test]
    fn what_is_told_of_a_resource_is_what_became_of_it() {
        let store = Store::default();
        let name: Arc<str> = "a".into();
        let status = || store.of(Kind::Secret).entries[&name].status();
        store.requested(Kind::Secret, &name);
        assert_eq!(status(), Status::Requested);
        store.timed_out(Kind::Secret, Some(&name));
        assert_eq!(status(), Status::Timeout);
        let take = |content, verdict: &Result<(), Refused>| {
            let update = store.changes(Kind::Secret, content, Origin::Server).unwrap();
            store.settle(&update, verdict, None, SystemTime::UNIX_EPOCH);
        };
        let bad = Err(Refused::All("why".into()));
        take(content([resource("a", Bytes::from_static(b"bad"))]), &bad);
        assert_eq!(status(), Status::Nacked);
        take(content([resource("a", Bytes::from_static(b"good"))]), &Ok(()));
        assert_eq!(status(), Status::Acked);
        take(Content { removed: vec![name.clone()], ..Content::default() }, &Ok(()));
        assert_eq!(status(), Status::DoesNotExist);
        assert_eq!(store.kinds(), [Kind::Secret]);
        // What is no longer good enough, though it did not change.
        take(content([resource("a", Bytes::from_static(b"good"))]), &Ok(()));
        let bad = Err(Refused::Some(vec![(name.clone(), "its peer is gone".into())]));
        take(content([resource("a", Bytes::from_static(b"good"))]), &bad);
        assert_eq!((status(), store.accepted(Kind::Secret, "a").is_some()), (Status::Nacked, true));
    }
}
