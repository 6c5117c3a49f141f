//! The seam between the protocol and what configurations are made of: what came, and whether it was taken.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::kind::{Kind, shortened};

/// One resource as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// Its own version; in the state of the world, that of the response.
    pub version: Arc<str>,
    /// The message, encoded, of the type that its [`Kind`] says. Shared with the [`Store`](super::store::Store).
    pub body: Bytes,
    /// It is to be forgotten unless it comes again within; none: never.
    pub ttl: Option<Duration>,
    /// Other names under which it was asked for (virtual hosts). Without a body: these names are not known.
    pub aliases: Vec<String>,
}

impl Resource {
    /// It says that its names lead nowhere.
    pub fn is_absent(&self) -> bool {
        self.body.is_empty() && !self.aliases.is_empty()
    }
}

/// What a response changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The type of everything in it.
    pub kind: Kind,
    /// The response's version (`version_info`, `system_version_info`).
    pub version: Arc<str>,
    /// Resources that are new, or other than what was accepted, in the response's order.
    pub added: Vec<Resource>,
    /// Resources that came again just as they were accepted: somebody may have waited for them.
    pub unchanged: Vec<Resource>,
    /// Resources that are gone.
    pub removed: Vec<Arc<str>>,
    /// All that there is was in it: [`unchanged`](Self::unchanged), [`added`](Self::added) and nothing else.
    pub whole: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an update comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The management server.
    Server,
    /// A watched file.
    File,
    /// What was accepted before this process was started.
    Saved,
    /// Time: what had a time to live is over.
    Expiry,
}

/// Why an update was not taken. What was in force before stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// None of it was taken.
    All(String),
    /// These were not, by name, with the reason; the others were.
    Some(Vec<(Arc<str>, String)>),
}

impl Refused {
    /// What the server is told of an update of which not all was taken; `faults` are resources that could not even be
    /// handed on.
    pub(super) fn told(verdict: &Result<(), Self>, kind: Kind, faults: &[(Arc<str>, String)]) -> Option<String> {
        let some: &[(Arc<str>, String)] = match verdict {
            Err(Self::All(why)) => return Some(shortened(why.clone())),
            Err(Self::Some(some)) => some,
            Ok(()) => &[],
        };
        let refused = some.iter().chain(faults).map(|(name, why)| (&**name, why.as_str()));
        (!some.is_empty() || !faults.is_empty()).then(|| kind.refusal(refused))
    }
}

/// What a server is told of resources that this program panicked over.
pub(super) const FAULT: &str = "a fault of this proxy: it panicked; its log says where";

/// Offers an update. Who panics over it has refused all of it, and nobody waits for it any more: its source is followed on.
pub(super) fn offer(consumer: &mut dyn Consumer, update: &Update) -> Result<(), Refused> {
    // What is unwound through was changed for this update only: what it shares with others is swapped, or not.
    if let Ok(verdict) = catch_unwind(AssertUnwindSafe(|| consumer.update(update))) {
        return verdict;
    }
    let came = update.added.iter().chain(&update.unchanged).map(|resource| Some(&resource.name));
    for name in came.chain([None]) {
        // A panic over this, too, is counted and told as each is.
        let _ = catch_unwind(AssertUnwindSafe(|| consumer.timed_out(update.kind, name)));
    }
    Err(Refused::All(FAULT.to_owned()))
}

/// What applies updates. Called on the thread that follows the server, one call at a time.
pub trait Consumer {
    /// Takes what it can of an update. What it subscribes to meanwhile is asked for once, before the update is
    /// acknowledged. A resource that is removed is gone from the server: whether it goes here, too, is its type's business.
    fn update(&mut self, update: &Update) -> Result<(), Refused>;

    /// Nothing came within the `initial_fetch_timeout` of a subscription to this name; none: to everything of the type. Or
    /// nothing of use did. It stays subscribed.
    fn timed_out(&mut self, kind: Kind, name: Option<&Arc<str>>);
}
